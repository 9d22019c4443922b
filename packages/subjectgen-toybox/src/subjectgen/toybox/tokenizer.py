"""A word-level tokenizer for the closed grammar, saved in the hub's layout."""

from __future__ import annotations

from collections.abc import Mapping

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from subjectgen.toybox.vocabulary import UNKNOWN, vocabulary

SPECIAL = (
    "<pad>",
    UNKNOWN,
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<img>",
    "</img>",
    "<IMG_CONTEXT>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
)

INTERNVL_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<IMG_CONTEXT>\n"
    "{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN_TEMPLATE = INTERNVL_TEMPLATE.replace("<IMG_CONTEXT>\n", "<|vision_start|><|image_pad|><|vision_end|>")
INTERNVL_NAMES = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<|image_pad|>",  # no toy reads videos; a token that this family's conversations never hold
}
"""What transformers' ``InternVLProcessor`` asks its tokenizer for."""


def mllm_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """The tokenizer of ``internvl3`` or ``qwen2_5_vl``, with the family's chat template."""
    if family == "internvl3":
        return word_tokenizer(chat_template=INTERNVL_TEMPLATE, names=INTERNVL_NAMES)
    return word_tokenizer(chat_template=QWEN_TEMPLATE)


def word_tokenizer(
    *,
    end: str | None = None,
    chat_template: str | None = None,
    max_length: int = 256,
    names: Mapping[str, str] | None = None,
) -> PreTrainedTokenizerFast:
    """Build it.

    Args:
        end: One of :data:`SPECIAL`; it is appended, as T5's and CLIP's tokenizers end their texts.
        chat_template: Jinja template of a conversation.
        max_length: Tokens that fit a model.
        names: Attributes by which a processor asks for some of :data:`SPECIAL`.
    """
    tokens = [*SPECIAL, *vocabulary()]
    tokenizer = Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    if end is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {end}", special_tokens=[(end, tokens.index(end))]
        )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        unk_token=UNKNOWN,
        eos_token=end or "<|im_end|>",
        model_max_length=max_length,
        additional_special_tokens=list(SPECIAL[3:]),
        **({"model_specific_special_tokens": dict(names)} if names else {}),
    )
    fast.chat_template = chat_template
    return fast
