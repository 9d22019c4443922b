"""InternVL3 as an encoder (arXiv 2504.10479), through transformers' own classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from pydantic import Field, model_validator
from torch import Tensor

from subjectgen.core import ChangesNothing, ChangesResults, ChangesWeights, CheckpointError
from subjectgen.encoders.mllm import ImageBatch, MultimodalConfig, MultimodalEncoder


class InternVL3(MultimodalEncoder):
    """InternVL3: every reference is one tile, 256 tokens at 448 px, unless ``crop_to_patches`` says otherwise.

    Needs a checkpoint in transformers' format, the ones whose names end in ``-hf``.
    """

    class Config(MultimodalConfig):
        """Options of ``internvl3``."""

        checkpoint: ChangesNothing[str] = "OpenGVLab/InternVL3-8B-hf"
        """A ``-hf`` checkpoint; the plain ones would need code from the hub."""
        fit: ChangesWeights[Literal["pad", "crop", "stretch"]] = "pad"
        """How a reference becomes square: ``pad`` shows all of it on white, ``stretch`` is the checkpoint's own way."""
        crop_to_patches: ChangesWeights[bool] = False
        """Cut large references into several tiles and a thumbnail of the whole, each 256 tokens, as the checkpoint's
        processor does by default: a picture of 1024 px becomes 2,560 tokens. It is stretched to the tiles."""
        max_patches: ChangesResults[int] = Field(default=12, ge=2)
        """Most tiles of one reference, without the thumbnail, when ``crop_to_patches`` is on."""

        @model_validator(mode="after")
        def _tiles_are_stretched(self) -> InternVL3.Config:
            if self.crop_to_patches and "fit" in self.model_fields_set and self.fit != "stretch":
                raise ValueError(f"crop_to_patches stretches references to their tiles; remove fit: {self.fit}")
            return self

    model_class: ClassVar[str] = "InternVLModel"
    model_type: ClassVar[str] = "internvl"
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._read_sizes()

    def _read_sizes(self) -> None:
        vision, ratio = self.model.config.vision_config, self.model.config.downsample_ratio
        height, width = vision.image_size
        self.image_size: tuple[int, int] = (height, width)
        rows, columns = (
            int(side // patch * ratio) for side, patch in zip(vision.image_size, vision.patch_size, strict=True)
        )
        self.tokens_per_image = rows * columns
        self._check_size()

    def prepare_images(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> ImageBatch:
        """One tile per image, or several."""
        tiles = [self._tiles(image) for image in images]
        return ImageBatch(
            inputs={"pixel_values": self.preprocessing.normalize(torch.cat(tiles))},
            tokens=tuple(self.tokens_per_image * len(cut) for cut in tiles),
        )

    def _tiles(self, image: Float[Tensor, "3 h w"]) -> Float[Tensor, "tiles 3 _ _"]:
        """Tiles of one image row by row, then the whole where there are several (arXiv 2404.16821, section 3.2)."""
        if not self.config.crop_to_patches:
            return self.preprocessing.fit(image, self.image_size, self.config.fit)[None]
        from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

        (height, width), (size_y, size_x) = self.image_size, image.shape[-2:]
        columns, rows = get_optimal_tiled_canvas((size_y, size_x), self.image_size, 1, self.config.max_patches)
        canvas = self.preprocessing.fit(image, (rows * height, columns * width), "stretch")
        cut = canvas.reshape(3, rows, height, columns, width).permute(1, 3, 0, 2, 4).reshape(-1, 3, height, width)
        whole = self.preprocessing.fit(image, self.image_size, "stretch")[None]
        return torch.cat([cut, whole]) if len(cut) > 1 else cut

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
