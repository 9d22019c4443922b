"""InternVL3 as an encoder (arXiv 2504.10479), through transformers' own classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import InternVLModel

from subjectgen.core import CheckpointError
from subjectgen.core.images import fit_image
from subjectgen.encoders.mllm import ImageBatch, MultimodalConfig, MultimodalEncoder


class InternVL3(MultimodalEncoder):
    """InternVL3: every reference is one tile, 256 tokens at 448 px.

    Needs a checkpoint in transformers' format, the ones whose names end in ``-hf``.
    """

    class Config(MultimodalConfig):
        """Options of ``internvl3``."""

        checkpoint: str = "OpenGVLab/InternVL3-8B-hf"
        """A ``-hf`` checkpoint; the plain ones would need code from the hub."""
        fit: Literal["pad", "crop", "stretch"] = "pad"
        """How a reference becomes square: ``pad`` shows all of it on white, ``stretch`` is the checkpoint's own way."""

    model_class: ClassVar[Any] = InternVLModel
    model_type: ClassVar[str] = "internvl"
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        vision, ratio = self.model.config.vision_config, self.model.config.downsample_ratio
        height, width = vision.image_size
        self.image_size: tuple[int, int] = (height, width)
        rows, columns = (
            int(side // patch * ratio) for side, patch in zip(vision.image_size, vision.patch_size, strict=True)
        )
        self.tokens_per_image = rows * columns
        self._check_size()

    def prepare_images(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> ImageBatch:
        """One tile per image."""
        tiles = torch.stack([fit_image(image, self.image_size, self.config.fit) for image in images])
        return ImageBatch(
            inputs={"pixel_values": self.preprocessing.normalize(tiles)},
            tokens=(self.tokens_per_image,) * len(images),
        )

    def image_markers(self, tokenizer: Any) -> tuple[int, int]:
        """``<img>`` and ``</img>``."""
        names = getattr(tokenizer, "start_image_token", "<img>"), getattr(tokenizer, "end_image_token", "</img>")
        known = tokenizer.get_vocab()
        missing = [name for name in names if name not in known]
        if missing:
            raise CheckpointError(f"the tokenizer of {self.config.checkpoint!r} has no token {missing[0]!r}")
        return known[names[0]], known[names[1]]

    def _check_size(self) -> None:
        """The preprocessor and the vision tower must speak of the same tile."""
        size = self.preprocessing.values.get("size", {})
        stated = (size.get("height"), size.get("width")) if isinstance(size, dict) else (size, size)
        if stated != self.image_size:
            raise CheckpointError(
                f"checkpoint {self.config.checkpoint!r}: preprocessor_config.json resizes to {size}, "
                f"the vision tower takes {self.image_size}"
            )
