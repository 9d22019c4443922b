"""CLIP's pooled text vector, FLUX's global condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from subjectgen.encoders.frozen import Frozen
from subjectgen.encoders.loading import CheckpointConfig, load_model, load_tokenizer
from subjectgen.encoders.planned import Sources, new_model
from subjectgen.encoders.token_limits import checked_prompts, tell_cuts

MODEL_TYPES = ("clip_text_model", "clip")


class ClipText(Frozen):
    """CLIP text model of a pipeline folder: ``text_encoder`` and ``tokenizer``."""

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.width: int = model.config.hidden_size
        self.freeze()

    @classmethod
    def from_config(cls, config: CheckpointConfig, *, dtype: str) -> ClipText:
        """Load from the folders ``text_encoder`` and ``tokenizer`` of a checkpoint."""
        model = load_model(
            "CLIPTextModel",
            config.located("text_encoder"),
            model_types=MODEL_TYPES,
            dtype=dtype,
        )
        return cls(model, load_tokenizer(config.located("tokenizer")))

    @classmethod
    def planned(cls, checkpoint: str, sources: Sources, *, dtype: str) -> ClipText:
        """The model without weights and with one token per word, for ``subjectgen plan``."""
        values = sources.config(checkpoint, "text_encoder")
        model = new_model("CLIPTextModel", values, model_types=MODEL_TYPES, dtype=dtype)
        return cls(model, sources.tokenizer(end=model.config.eos_token_id))

    @property
    def limit(self) -> int:
        """Most tokens of a prompt, its first and last included."""
        return self.model.config.max_position_embeddings

    def tokenize(self, prompts: Sequence[str]) -> Any:
        """Token ids and mask of prompts; longer ones are cut, as in FLUX."""
        return self.tokenizer(
            checked_prompts(prompts),
            padding="longest",
            max_length=self.limit,
            truncation=True,
            return_tensors="pt",
        )

    @torch.no_grad()
    def pooled(self, prompts: Sequence[str]) -> Float[Tensor, "b p"]:
        """Hidden state at each prompt's end token, after the final norm; a warning says what of a prompt is cut.

        Raises:
            InputError: A prompt of which no word is read, or that is no valid Unicode.
        """
        tell_cuts(self.tokenizer, checked_prompts(prompts), self.limit, "CLIP")
        tokens = self.tokenize(prompts).to(self.device)
        return self.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output
