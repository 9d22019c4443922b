"""CLIP's vision tower: hidden states of every layer for each reference, the subject cut out on white (DynaIP 4.2, B.1).

The class token comes first, then the patches row by row. Hidden state 0 is the embedding after CLIP's first norm, the
last one is before its final norm, as DynaIP's expert for high-level features reads it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor, nn

from subjectgen.core import (
    ChangesNothing,
    ChangesResults,
    ChangesWeights,
    Config as BaseConfig,
    Features,
    InputError,
    Modality,
    Reference,
    Sample,
)
from subjectgen.core.weights import Checkpoint, Precision
from subjectgen_dynaip.background import BackgroundRemover, BackgroundSettings
from subjectgen_dynaip.clip_checkpoint import ClipArchitecture, Statistics, load_statistics, load_tower, new_tower
from subjectgen_dynaip.cut_out import cut_out


class ClipVisionEncoder(nn.Module):
    """Hidden states of a frozen CLIP vision tower.

    A row's references follow each other; each has one class token and one token per patch. ``modality`` is image,
    ``reference`` the number of the reference, ``class_token`` marks the class tokens.
    """

    class Config(BaseConfig):
        """Where the weights come from, and how a reference becomes a picture for CLIP."""

        checkpoint: ChangesNothing[str | None] = None
        """Folder, ``package:...`` or hub id of a CLIP model, such as ``openai/clip-vit-large-patch14-336``."""
        revision: ChangesNothing[str | None] = None
        """Branch, tag or commit of a hub checkpoint."""
        architecture: ChangesWeights[ClipArchitecture | None] = None
        """Size of a tower with random weights, instead of a checkpoint; the defaults are ViT-L/14-336's."""
        dtype: ChangesResults[Precision] = "float32"
        """Precision of the tower."""
        surroundings: ChangesWeights[Literal["white", "keep"]] = "white"
        """What is done with the picture outside of the subject's mask; without a mask the whole picture is kept."""
        margin: ChangesWeights[float | None] = Field(default=None, ge=0, le=1)
        """Crop to the subject's box with this margin, as a share of its longer side; null keeps the frame."""
        background: ChangesResults[BackgroundSettings | None] = None
        """Model that finds the subject in references that come without a mask; null: none."""

        @model_validator(mode="after")
        def _one_source(self) -> ClipVisionEncoder.Config:
            if (self.checkpoint is None) == (self.architecture is None):
                given = "both" if self.checkpoint is not None else "neither"
                raise ValueError(f"checkpoint and architecture: {given} given; expected exactly one of the two")
            return self

    inputs = frozenset({"references"})
    reads_subject_masks = True
    pooled_width = None

    def __init__(self, config: Config) -> None:
        """Build or load the tower.

        Raises:
            CheckpointError: weights that are missing, incomplete or of another kind of model.
        """
        super().__init__()
        self.config = config
        self.statistics = Statistics()
        if config.checkpoint is not None:
            checkpoint = Checkpoint(name=config.checkpoint, revision=config.revision)
            self.tower: Any = load_tower(checkpoint, dtype=config.dtype)
            self.statistics = load_statistics(checkpoint)
        else:
            assert config.architecture is not None  # the Config's own rule
            self.tower = new_tower(config.architecture, dtype=getattr(torch, config.dtype))
        self.remover = None if config.background is None else BackgroundRemover(config.background)
        self.tower.requires_grad_(False)
        self.eval()
        sizes = self.tower.config
        self.width: int = sizes.hidden_size
        self.depth: int = sizes.num_hidden_layers + 1
        self.image_size: int = sizes.image_size
        self.tokens: int = 1 + (sizes.image_size // sizes.patch_size) ** 2

    def train(self, mode: bool = True) -> ClipVisionEncoder:
        """Stay as it is: a frozen encoder has no training mode."""
        return super().train(False)

    @torch.no_grad()
    def encode(self, samples: Sequence[Sample], *, layers: Sequence[int] | None = None) -> Features:
        """Encode a batch of samples; rows with fewer references are padded on the right.

        Args:
            samples: one per row; their prompts are not read.
            layers: hidden states that are wanted, 0 to M; ``None`` means all.

        Raises:
            InputError: no samples, a reference that is no picture, a bad mask, or a layer that the tower does not have.
        """
        if not samples:
            raise InputError("encoder 'clip_vision': got no samples; expected at least one")
        wanted = self._wanted(layers)
        pictures, numbers = _once(samples)
        states = self._hidden_states(pictures)
        count = max((len(row) for row in numbers), default=0)
        index = torch.full((len(samples), count), -1)
        for row, references in enumerate(numbers):
            index[row, : len(references)] = torch.tensor(references, dtype=torch.long)
        index = index.to(self.device)
        return Features(
            hidden_states=tuple(self._rows(state, index) if i in wanted else None for i, state in enumerate(states)),
            modality=_per_token(torch.where(index >= 0, Modality.IMAGE, Modality.PADDING), self.tokens),
            reference=_per_token(torch.where(index >= 0, torch.arange(count, device=index.device), -1), self.tokens),
            class_token=self._class_tokens(index),
            last_layer_normalized=False,
        )

    @torch.no_grad()
    def prepared(self, samples: Sequence[Sample]) -> Mapping[str, Tensor]:
        """What the tower sees of a batch: every reference, cut out and normalised, and how many each sample has."""
        references = [reference for sample in samples for reference in sample.references]
        counts = torch.tensor([len(sample.references) for sample in samples])
        pixels = {"pixels": torch.stack([self._pixels(one) for one in references])} if references else {}
        return {"references": counts, **pixels}

    @property
    def device(self) -> torch.device:
        """Where the tower is."""
        return next(self.tower.parameters()).device

    def _wanted(self, layers: Sequence[int] | None) -> frozenset[int]:
        wanted = frozenset(range(self.depth) if layers is None else layers)
        wrong = sorted(layer for layer in wanted if not 0 <= layer < self.depth)
        if wrong:
            raise InputError(
                f"encoder 'clip_vision': layer {wrong[0]} is asked for; the tower has hidden states 0-{self.depth - 1}"
            )
        return wanted

    def _hidden_states(self, references: Sequence[Reference]) -> tuple[Float[Tensor, "n l c"], ...]:
        """All hidden states of different pictures."""
        if not references:
            empty = torch.zeros(0, self.tokens, self.width, device=self.device, dtype=self.tower.dtype)
            return (empty,) * self.depth
        pixels = torch.stack([self._pixels(reference) for reference in references])
        output = self.tower(pixels.to(self.device, self.tower.dtype), output_hidden_states=True)
        return tuple(output.hidden_states)

    def _pixels(self, reference: Reference) -> Float[Tensor, "3 h w"]:
        mask = reference.subject_mask
        if mask is None and self.remover is not None:
            mask = self.remover.mask(reference.image)
        frame = self.config.surroundings, self.config.margin
        picture = cut_out(reference.image, mask, size=self.image_size, surroundings=frame[0], margin=frame[1])
        return self.statistics.normalize(picture)

    def _rows(self, state: Tensor, index: Tensor) -> Float[Tensor, "b l c"]:
        """Tokens of each row's references one after another; zero at padding."""
        padded = torch.cat([state, state.new_zeros(1, *state.shape[1:])])
        return padded[index].flatten(1, 2)

    def _class_tokens(self, index: Tensor) -> Tensor:
        first = torch.zeros(self.tokens, dtype=torch.bool, device=index.device)
        first[0] = True
        return ((index >= 0)[..., None] & first).flatten(1)


def _once(samples: Sequence[Sample]) -> tuple[list[Reference], list[list[int]]]:
    """Every picture once, however many prompts it goes with, and which ones each row has."""
    found: dict[int, int] = {}
    pictures: list[Reference] = []
    numbers = []
    for sample in samples:
        row = []
        for reference in sample.references:
            if id(reference) not in found:
                found[id(reference)] = len(pictures)
                pictures.append(reference)
            row.append(found[id(reference)])
        numbers.append(row)
    return pictures, numbers


def _per_token(values: Tensor, tokens: int) -> Tensor:
    """Repeat a value per reference for each of its tokens."""
    return values[..., None].expand(-1, -1, tokens).flatten(1)
