"""Qwen2.5-VL as an encoder (arXiv 2502.13923), through transformers' own classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from subjectgen.core import ChangesNothing, ChangesResults, CheckpointError
from subjectgen.encoders.batching import TokenBatch
from subjectgen.encoders.mllm import ImageBatch, MultimodalConfig, MultimodalEncoder
from subjectgen.encoders.preprocessing import native_size, patchify


class Qwen25VL(MultimodalEncoder):
    """Qwen2.5-VL: references keep their aspect ratio, one token per 28x28 pixels."""

    class Config(MultimodalConfig):
        """Options of ``qwen2_5_vl``."""

        checkpoint: ChangesNothing[str] = "Qwen/Qwen2.5-VL-7B-Instruct"
        """A Qwen2.5-VL checkpoint."""
        max_tokens: ChangesResults[int] = Field(default=256, ge=1)
        """Most tokens of one reference; larger images are shrunk. 256 is what InternVL3 has."""

    model_class: ClassVar[str] = "Qwen2_5_VLModel"
    model_type: ClassVar[str] = "qwen2_5_vl"
    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._read_sizes()

    def _read_sizes(self) -> None:
        vision, values = self.model.config.vision_config, self.preprocessing.values
        self.patch: int = vision.patch_size
        self.merge: int = vision.spatial_merge_size
        self.temporal: int = vision.temporal_patch_size
        self._check_patches()
        size, config = values.get("size") or {}, self.config
        lowest = values.get("min_pixels", size.get("shortest_edge", 0))
        highest = values.get("max_pixels", size.get("longest_edge"))
        allowed = config.max_tokens * self.multiple**2
        self.max_pixels: int = min(highest or allowed, allowed)
        self.min_pixels: int = min(lowest, self.max_pixels)

    @property
    def multiple(self) -> int:
        """Pixels of one token along one axis."""
        return self.patch * self.merge

    def prepare_images(self, images: Sequence[Float[Tensor, "3 _ _"]]) -> ImageBatch:
        """Each image at the nearest size its patches allow."""
        cut = [self._patches(image) for image in images]
        grids = [grid for _, grid in cut]
        return ImageBatch(
            inputs={
                "pixel_values": torch.cat([patches for patches, _ in cut]),
                "image_grid_thw": torch.tensor(grids, device=self.device),
            },
            tokens=tuple(rows * columns // self.merge**2 for _, rows, columns in grids),
        )

    def _patches(self, image: Float[Tensor, "3 h w"]) -> tuple[Float[Tensor, "rows values"], tuple[int, int, int]]:
        height, width = image.shape[-2:]
        size = native_size(
            height, width, multiple=self.multiple, min_pixels=self.min_pixels, max_pixels=self.max_pixels
        )
        normalized = self.preprocessing.normalize(self.preprocessing.fit(image, size, "stretch")[None])[0]
        return patchify(normalized, patch=self.patch, merge=self.merge, temporal=self.temporal)

    def position_inputs(self, tokens: TokenBatch, images: ImageBatch | None) -> Mapping[str, Tensor]:
        """Without ``mm_token_type_ids`` transformers silently gives up M-RoPE for one-dimensional positions."""
        if images is None:
            return {}
        is_image = (tokens.ids == self.model.config.image_token_id).int()
        return {"mm_token_type_ids": is_image, "image_grid_thw": images.inputs["image_grid_thw"]}

    def image_markers(self, tokenizer: Any) -> tuple[int, int]:
        """``<|vision_start|>`` and ``<|vision_end|>``."""
        return self.model.config.vision_start_token_id, self.model.config.vision_end_token_id

    def _check_patches(self) -> None:
        expected = {"patch_size": self.patch, "merge_size": self.merge, "temporal_patch_size": self.temporal}
        for key, value in expected.items():
            if self.preprocessing.values.get(key, value) != value:
                raise CheckpointError(
                    f"checkpoint {self.config.checkpoint!r}: preprocessor_config.json has {key} "
                    f"{self.preprocessing.values[key]}, the vision tower {value}"
                )
