"""Where the subject of a picture is, by a segmentation model: for references that come without a mask (DynaIP B.1).

Shape letters: q queries (what the model proposes), n labels, h w the picture.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoImageProcessor, AutoModelForUniversalSegmentation

from subjectgen.core import ChangesNothing, ChangesResults, ComponentError, Config, InputError, nearest, to_pil
from subjectgen.core.weights import Checkpoint, Precision, load_processor, load_transformers

KINDS = ("mask2former", "maskformer", "detr")


class BackgroundSettings(Config):
    """Which model looks for the subject, and what may be one."""

    checkpoint: ChangesNothing[str] = Field(default="facebook/mask2former-swin-large-coco-instance", min_length=1)
    """Mask2Former, MaskFormer or DETR with masks: folder, ``package:...`` or hub id. The first two need scipy."""
    revision: ChangesNothing[str | None] = None
    """Branch, tag or commit of a hub checkpoint."""
    labels: ChangesResults[tuple[str, ...]] = ()
    """Labels of the model that may be the subject, such as ``dog``; none: all of them."""
    things: ChangesResults[int | None] = Field(default=None, ge=1)
    """Only the first so many labels may be the subject: 80 for models of COCO's panoptic task, whose other labels are
    sky, grass and the like; null: all of them."""
    threshold: ChangesResults[float] = Field(default=0.5, ge=0, le=1)
    """The subject must score more: the model's trust in its label, times its mean trust in the mask's pixels."""
    dtype: ChangesResults[Precision] = "float32"
    """Precision of the model."""


class BackgroundRemover(nn.Module):
    """Finds the one main subject of a picture: the most of score times area among what the model sees."""

    def __init__(self, settings: BackgroundSettings) -> None:
        """Load the model.

        Raises:
            CheckpointError: A checkpoint that is missing, incomplete or of another kind of model.
            ComponentError: A label that the model does not have, or a library that it needs.
        """
        super().__init__()
        self.settings = settings
        checkpoint = Checkpoint(name=settings.checkpoint, revision=settings.revision)
        self.model: Any = load_transformers(
            AutoModelForUniversalSegmentation, checkpoint, model_types=KINDS, dtype=settings.dtype, exact_blocks=False
        ).requires_grad_(False)
        self.processor: Any = load_processor(AutoImageProcessor, checkpoint, "preprocessor_config.json")
        self._names = [self.model.config.id2label[index] for index in range(self.model.config.num_labels)]
        self._wanted = self._wanted_labels()

    def train(self, mode: bool = True) -> BackgroundRemover:
        """Stay as it is: a frozen model has no training mode."""
        return super().train(False)

    @torch.no_grad()
    def mask(self, image: Float[Tensor, "3 h w"]) -> Float[Tensor, "1 h w"]:
        """Where the subject is, 1 inside.

        Args:
            image: RGB in [0, 1].

        Raises:
            InputError: Nothing in the picture scores enough; says what came nearest.
        """
        trust, label, masks = self._proposals(image)
        inside = masks > 0.5
        score = trust * _mean_inside(masks, inside)
        subject = main_subject(score, inside, self.settings.threshold)
        if subject is None:
            best = int(score.argmax())
            raise InputError(
                f"no subject is found in the picture; the best is {self._names[int(label[best])]!r} with score "
                f"{float(score[best]):.2f}, expected more than {self.settings.threshold:g} (background.threshold); "
                "give the reference a subject mask"
            )
        return inside[subject][None].to(image)

    def _proposals(
        self, image: Float[Tensor, "3 h w"]
    ) -> tuple[Float[Tensor, " q"], Int[Tensor, " q"], Float[Tensor, "q h w"]]:
        """Trust, label and probability of each pixel, for the queries that may be the subject; at least one."""
        inputs = self.processor(images=to_pil(image), return_tensors="pt")
        pixels, valid, model = inputs["pixel_values"], inputs["pixel_mask"], self.model
        outputs = model(pixel_values=pixels.to(model.device, model.dtype), pixel_mask=valid.to(model.device))
        classes, masks = (
            (outputs.logits, outputs.pred_masks)
            if model.config.model_type == "detr"
            else (outputs.class_queries_logits, outputs.masks_queries_logits)
        )
        each = classes[0].float().cpu().softmax(dim=-1)[:, :-1]  # the last label stands for "nothing"
        trust, label = each.masked_fill(~self._wanted, 0).max(dim=1)
        chosen = trust > min(self.settings.threshold, float(trust.max()) - 1e-6)  # full size is for few of them
        masks = _resized(masks[0, chosen.to(masks.device)].float().cpu(), tuple(pixels.shape[-2:]))
        rows, columns = int(valid[0].any(dim=1).sum()), int(valid[0].any(dim=0).sum())
        inner = masks[:, :rows, :columns]  # without the processor's padding
        return trust[chosen], label[chosen], _resized(inner, tuple(image.shape[-2:])).sigmoid()

    def _wanted_labels(self) -> Bool[Tensor, " n"]:
        for label in self.settings.labels:
            if label not in self._names:
                raise ComponentError(
                    f"background.labels: {self.settings.checkpoint!r} has no label {label!r}"
                    f"{nearest(label, self._names)}; it has {', '.join(self._names[:8])} and others"
                )
        things = len(self._names) if self.settings.things is None else self.settings.things
        allowed = [not self.settings.labels or name in self.settings.labels for name in self._names]
        return torch.tensor([wanted and place < things for place, wanted in enumerate(allowed)])


def main_subject(score: Float[Tensor, " q"], inside: Bool[Tensor, "q h w"], threshold: float) -> int | None:
    """Which proposal has the most of score times area among those above the threshold; ``None`` if none is."""
    area = inside.flatten(1).sum(dim=1)
    allowed = (score > threshold) & (area > 0)
    return int((score * area).masked_fill(~allowed, -1).argmax()) if bool(allowed.any()) else None


def _mean_inside(masks: Float[Tensor, "q h w"], inside: Bool[Tensor, "q h w"]) -> Float[Tensor, " q"]:
    """Mean trust in the pixels of each mask; 0 for empty ones."""
    return (masks * inside).flatten(1).sum(dim=1) / inside.flatten(1).sum(dim=1).clamp(min=1)


def _resized(masks: Float[Tensor, "q _ _"], size: tuple[int, ...]) -> Float[Tensor, "q _ _"]:
    return functional.interpolate(masks[None], size=size, mode="bilinear", align_corners=False)[0]
