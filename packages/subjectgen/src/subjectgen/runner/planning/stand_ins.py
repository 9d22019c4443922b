"""What stands in for a checkpoint's files while an experiment is planned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from subjectgen.core import CheckpointError
from subjectgen.runner.planning.shipped import Shipped

_UNKNOWN, _END, _PADDING = "<unk>", "</s>", "<pad>"
_CHAT = (
    "{% for message in messages %}<|im_start|> {{ message['role'] }} \n "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}IMAGE\n"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %} <|im_end|> \n {% endfor %}"
    "{% if add_generation_prompt %}<|im_start|> assistant \n {% endif %}"
)


class StandIns:
    """Given to ``planned`` of a component: sizes from files, and a tokenizer that takes one token per word."""

    def __init__(self, shipped: Shipped) -> None:
        self._shipped = shipped

    def config(self, checkpoint: str, subfolder: str = "") -> dict[str, Any]:
        """``config.json`` of a checkpoint or one of its folders.

        Raises:
            CheckpointError: Its sizes are not known without a download, or the file is missing.
        """
        return self._shipped.read(checkpoint, subfolder)

    def preprocessor(self, checkpoint: str) -> dict[str, Any]:
        """``preprocessor_config.json``, or the image processor in ``processor_config.json``.

        Raises:
            CheckpointError: The checkpoint has neither.
        """
        found = self._shipped.find(checkpoint, filename="preprocessor_config.json")
        if found is None:
            found = (self._shipped.find(checkpoint, filename="processor_config.json") or {}).get("image_processor")
        if found is None:
            raise CheckpointError(f"checkpoint {checkpoint!r} has no preprocessor_config.json")
        return found

    def tokenizer(self, *, names: Mapping[str, int] | None = None, image: str = "", end: int | None = None) -> Any:
        """A tokenizer that takes one token per word.

        Args:
            names: Control tokens and their ids.
            image: Which of them stands for an image in the chat template.
            end: Id of the token that ends every text; none by default.
        """
        # The end token has an id that no other has; it may well be the model's 0, 1 or 2.
        free = iter(number for number in range(3) if number != end)
        vocabulary = {_UNKNOWN: next(free), _PADDING: next(free), **(names or {})}
        if end is not None:
            vocabulary[_END] = end
        tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=_UNKNOWN))
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        if end is not None:
            tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {_END}", special_tokens=[(_END, end)])
        made = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer,
            unk_token=_UNKNOWN,
            pad_token=_PADDING,
            additional_special_tokens=list(names or ()),
        )
        made.chat_template = _CHAT.replace("IMAGE", image) if image else None
        return made
