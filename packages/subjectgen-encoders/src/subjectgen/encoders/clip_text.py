"""CLIP's pooled text vector, FLUX's global condition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import CLIPTextModel

from subjectgen.encoders.frozen import Frozen
from subjectgen.encoders.loading import CheckpointConfig, load_model, load_tokenizer


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
            CLIPTextModel,
            config,
            model_types=("clip_text_model", "clip"),
            dtype=dtype,
            subfolder="text_encoder",
        )
        return cls(model, load_tokenizer(config, "tokenizer"))

    @torch.no_grad()
    def pooled(self, prompts: Sequence[str]) -> Float[Tensor, "b p"]:
        """Hidden state at each prompt's end token, after the final norm; longer prompts are cut, as in FLUX."""
        tokens = self.tokenizer(
            list(prompts),
            padding="longest",
            max_length=self.model.config.max_position_embeddings,
            truncation=True,
            return_tensors="pt",
        ).to(self.device)
        return self.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output
