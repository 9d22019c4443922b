"""FLUX's own text path: T5 tokens for the text stream, CLIP's pooled vector for the modulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from subjectgen.core import ChangesNothing, ChangesResults, ChangesWeights, Conditioning, InputError, Sample
from subjectgen.encoders.clip_text import ClipText
from subjectgen.encoders.frozen import Frozen, dtype_of
from subjectgen.encoders.loading import (
    AttentionImplementation,
    CheckpointConfig,
    load_model,
    load_tokenizer,
)
from subjectgen.encoders.planned import Sources, new_model
from subjectgen.encoders.token_limits import checked_prompts, tell_cuts
from subjectgen.encoders.words import unknown_words


class FluxText(Frozen):
    """Prompt -> T5 tokens and CLIP's pooled vector, as FLUX.1 was trained with."""

    class Config(CheckpointConfig):
        """Options of ``flux_text``."""

        checkpoint: ChangesNothing[str] = "black-forest-labs/FLUX.1-dev"
        """A folder with ``text_encoder``, ``tokenizer`` (CLIP), ``text_encoder_2`` and ``tokenizer_2`` (T5)."""
        dtype: ChangesResults[Literal["auto", "float32", "bfloat16"]] = "auto"
        """Data type of the weights; ``auto`` is the one they were saved in. T5 overflows in float16."""
        attention_implementation: ChangesNothing[AttentionImplementation | None] = None
        """Attention kernel of T5; ``None`` lets transformers choose."""
        max_length: ChangesWeights[int] = Field(default=512, ge=1)
        """Most T5 tokens; longer prompts are cut, and a warning says where."""
        attend_padding: ChangesWeights[bool] = False
        """FLUX.1 pads every prompt to ``max_length`` and attends to the padding. ``true`` does so too; ``false`` pads
        to the longest prompt of the batch and masks the padding, in T5 and in the backbone: shorter and the same for
        any batch, but not bit for bit what FLUX.1 saw."""
        output: ChangesWeights[Literal["all", "pooled"]] = "all"
        """``pooled``: CLIP's vector alone, with zero tokens; T5 is not loaded."""

    inputs: frozenset[str] = frozenset({"text"})
    depth: int = 1

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.clip = ClipText.from_config(config, dtype=config.dtype)
        self.pooled_width: int = self.clip.width
        self.width: int = config.located("text_encoder_2").config("model_type", ("t5",))["d_model"]
        self.t5: Any = None
        self.tokenizer: Any = None
        if config.output == "all":
            self.tokenizer = load_tokenizer(config.located("tokenizer_2"))
            self.t5 = load_model(
                "T5EncoderModel",
                config.located("text_encoder_2"),
                model_types=("t5",),
                dtype=config.dtype,
                attention=config.attention_implementation,
            )
        self.freeze()

    @classmethod
    def planned(cls, config: FluxText.Config, sources: Sources) -> FluxText:
        """The encoder without weights and with one token per word, for ``subjectgen plan``."""
        encoder = cls.__new__(cls)
        Frozen.__init__(encoder)
        encoder.config = config
        encoder.clip = ClipText.planned(config.checkpoint, sources, dtype=config.dtype)
        values = sources.config(config.checkpoint, "text_encoder_2")
        encoder.pooled_width, encoder.width = encoder.clip.width, values["d_model"]
        encoder.t5 = encoder.tokenizer = None
        if config.output == "all":
            encoder.tokenizer = sources.tokenizer(end=values.get("eos_token_id", 1))
            encoder.t5 = new_model("T5EncoderModel", values, model_types=("t5",), dtype=config.dtype)
        encoder.freeze()
        return encoder

    @torch.no_grad()
    def encode(self, samples: Sequence[Sample], *, layers: Sequence[int] | None = None) -> Conditioning:
        """Encode the prompts of a batch; references are not read and ``layers`` has no meaning here.

        A warning says what of a prompt is beyond the limits of T5 or CLIP.

        Raises:
            InputError: an empty batch, or a prompt of which one of the two reads no word or that is no valid Unicode.
        """
        if not samples:
            raise InputError("cannot encode an empty batch")
        prompts = checked_prompts(sample.prompt for sample in samples)
        if self.t5 is not None:
            tell_cuts(self.tokenizer, prompts, self.config.max_length, "T5 (max_length)")
        tokens, mask = self._tokens(prompts)
        return Conditioning(tokens=tokens, mask=mask, pooled=self.clip.pooled(prompts))

    def prepared(self, samples: Sequence[Sample]) -> Mapping[str, Tensor]:
        """What the text models see of a batch: token ids of CLIP and, where it is loaded, of T5 (for fingerprints)."""
        prompts = checked_prompts(sample.prompt for sample in samples)
        t5 = {} if self.t5 is None else {"t5_token_ids": self._tokenize(prompts).input_ids}
        return {"clip_token_ids": self.clip.tokenize(prompts).input_ids, **t5}

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of a prompt that T5's tokenizer, or CLIP's, does not know: where one lacks it, half of it is lost."""
        tokenizers = [self.tokenizer] * (self.t5 is not None) + [self.clip.tokenizer]
        return list(dict.fromkeys(word for one in tokenizers for word in unknown_words(one, prompt)))

    def _tokenize(self, prompts: list[str]) -> Any:
        return self.tokenizer(
            prompts,
            padding="max_length" if self.config.attend_padding else "longest",
            max_length=self.config.max_length,
            truncation=True,
            return_tensors="pt",
        )

    def _tokens(self, prompts: list[str]) -> tuple[Float[Tensor, "b l d"], Bool[Tensor, "b l"]]:
        if self.t5 is None:
            empty = torch.zeros(len(prompts), 0, self.width, device=self.device, dtype=dtype_of(self.clip))
            return empty, torch.zeros(len(prompts), 0, device=self.device, dtype=torch.bool)
        encoded = self._tokenize(prompts).to(self.device)
        if self.config.attend_padding:
            tokens = self.t5(input_ids=encoded.input_ids).last_hidden_state
            return tokens, torch.ones(tokens.shape[:2], device=self.device, dtype=torch.bool)
        mask = encoded.attention_mask.bool()
        tokens = self.t5(input_ids=encoded.input_ids, attention_mask=encoded.attention_mask).last_hidden_state
        return tokens.masked_fill(~mask[..., None], 0), mask
