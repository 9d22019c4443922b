"""Grounding-DINO finds boxes for phrases, SAM turns each box into a mask (DynaIP 4.3 and B.1).

Shape letters: k phrases, q boxes that the detector proposes, l tokens of a phrase, h w the picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias

import torch
from jaxtyping import Bool, Float
from PIL.Image import Image
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor, SamModel, SamProcessor

from subjectgen.core import ChangesNothing, ChangesResults, Config as BaseConfig, InputError, to_pil
from subjectgen.core.weights import Checkpoint, Precision, load_processor, load_transformers

Proposals: TypeAlias = tuple[Float[Tensor, " q"], Bool[Tensor, " q"], Float[Tensor, "q 4"]]
PROCESSOR_FILES = ("processor_config.json", "preprocessor_config.json")
SAME = 0.5
"""Boxes that overlap by more than this (intersection over union) are of one thing."""


class GroundedSam(nn.Module):
    """Finds things by their names: one mask per phrase.

    Each phrase is asked for by itself, so that others do not change its mask. A phrase that comes several times stands
    for several things, from left to right.
    """

    class Config(BaseConfig):
        """Options of ``grounded_sam``."""

        detector: ChangesNothing[str] = Field(default="IDEA-Research/grounding-dino-base", min_length=1)
        """Checkpoint of Grounding-DINO: folder, ``package:...`` or hub id."""
        detector_revision: ChangesNothing[str | None] = None
        """Branch, tag or commit of the detector on the hub."""
        segmenter: ChangesNothing[str] = Field(default="facebook/sam-vit-huge", min_length=1)
        """Checkpoint of SAM: folder, ``package:...`` or hub id."""
        segmenter_revision: ChangesNothing[str | None] = None
        """Branch, tag or commit of the segmenter on the hub."""
        box_threshold: ChangesResults[float] = Field(default=0.3, ge=0, le=1)
        """A box counts if its best token scores more."""
        text_threshold: ChangesResults[float] = Field(default=0.25, ge=0, le=1)
        """A box belongs to its phrase if some word of the phrase scores more."""
        mask: ChangesResults[Literal["best", "largest"]] = "best"
        """Which of SAM's three masks of a box: the one that it trusts most, or the one with most pixels."""
        margin: ChangesResults[float] = Field(default=0.0, ge=0, le=1)
        """Widen each mask on all sides, by this share of the longer side of its box."""
        dtype: ChangesResults[Precision] = "float32"
        """Precision of both models."""

    def __init__(self, config: Config) -> None:
        """Load both models.

        Raises:
            CheckpointError: A checkpoint that is missing, incomplete or of another kind of model.
        """
        super().__init__()
        self.config = config
        detector = Checkpoint(name=config.detector, revision=config.detector_revision)
        segmenter = Checkpoint(name=config.segmenter, revision=config.segmenter_revision)
        options: dict[str, Any] = {"dtype": config.dtype, "exact_blocks": False}
        self.detector: Any = load_transformers(
            AutoModelForZeroShotObjectDetection, detector, model_types=("grounding-dino",), **options
        )
        self.detector_processor: Any = load_processor(AutoProcessor, detector, *PROCESSOR_FILES)
        self.segmenter: Any = load_transformers(SamModel, segmenter, model_types=("sam",), **options)
        self.segmenter_processor: Any = load_processor(SamProcessor, segmenter, *PROCESSOR_FILES)
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> GroundedSam:
        """Stay as it is: a frozen finder has no training mode."""
        return super().train(False)

    @torch.no_grad()
    def find(self, image: Float[Tensor, "3 h w"], phrases: Sequence[str]) -> Float[Tensor, "k h w"]:
        """One mask per phrase, 1 inside.

        Args:
            image: RGB in [0, 1].
            phrases: What to look for, such as ``a red backpack``.

        Raises:
            InputError: A blank phrase, or one that is found nowhere, with the best score of any box.
        """
        texts = [normalized(phrase) for phrase in phrases]
        if not texts:
            return image.new_zeros(0, *image.shape[1:])
        picture = to_pil(image)
        spelt = dict(zip(texts, phrases, strict=True))
        found = {text: self._boxes_of(picture, spelt[text], count) for text, count in Counter(texts).items()}
        boxes = torch.stack([next(found[text]) for text in texts])
        masks = self._masks(picture, boxes, phrases)
        return _widened(masks, boxes, self.config.margin).to(image)

    # ---------------------------------------------------------------------------------------------------- boxes

    def propose(self, picture: Image, phrase: str) -> Proposals:
        """What the detector proposes for one phrase.

        Returns:
            The score of each box, whether a word of the phrase is above ``text_threshold`` there, and the boxes as
            left, top, right, bottom in pixels.
        """
        inputs = self.detector_processor(images=picture, text=normalized(phrase), return_tensors="pt")
        tokens, most = inputs["input_ids"].shape[1], self.detector.config.max_text_len
        if tokens > most:
            raise InputError(f"grounded_sam: {phrase!r:.60} has {tokens} tokens; expected at most {most}")
        outputs = self.detector(**{key: self._moved(value, self.detector) for key, value in inputs.items()})
        scores = outputs.logits[0].float().sigmoid().cpu()
        words = scores[:, 1 : tokens - 2]  # between the token that begins a text, and full stop and end
        centre, size = outputs.pred_boxes[0].float().cpu().split(2, dim=-1)
        corners = torch.cat([centre - size / 2, centre + size / 2], dim=-1).clamp(0, 1)
        named = (words > self.config.text_threshold).any(dim=1)
        return scores.amax(dim=1), named, corners * corners.new_tensor([picture.width, picture.height] * 2)

    def _boxes_of(self, picture: Image, phrase: str, count: int) -> Iterator[Float[Tensor, "4"]]:
        """The best boxes of different things, from left to right."""
        scores, named, boxes = self.propose(picture, phrase)
        allowed = named & (scores > self.config.box_threshold)
        if not bool(allowed.any()):
            raise InputError(
                f"grounded_sam: {phrase!r} is not found in the picture; the best box scores "
                f"{float(scores.max()):.2f}, expected more than {self.config.box_threshold:g} (box_threshold) and a "
                f"word above {self.config.text_threshold:g} (text_threshold)"
            )
        order = [place for place in scores.argsort(descending=True, stable=True).tolist() if allowed[place]]
        chosen = _different(boxes[order], count)
        if len(chosen) < count:
            raise InputError(
                f"grounded_sam: {phrase!r} is asked for {count} times, but found at {len(chosen)} different "
                "places; expected a place for each"
            )
        return iter(sorted(chosen, key=lambda box: float(box[0] + box[2])))

    # ---------------------------------------------------------------------------------------------------- masks

    def _masks(self, picture: Image, boxes: Float[Tensor, "k 4"], phrases: Sequence[str]) -> Bool[Tensor, "k h w"]:
        inputs = self.segmenter_processor(picture, input_boxes=[boxes.tolist()], return_tensors="pt")
        outputs = self.segmenter(
            pixel_values=self._moved(inputs["pixel_values"], self.segmenter),
            input_boxes=inputs["input_boxes"].float().to(self.segmenter.device),
            multimask_output=True,
        )
        sizes = inputs["original_sizes"], inputs["reshaped_input_sizes"]
        masks = self.segmenter_processor.post_process_masks([outputs.pred_masks[0].float().cpu()], *sizes)[0]
        areas = masks.flatten(2).sum(dim=2)
        empty = (areas == 0).all(dim=1)
        if bool(empty.any()):
            phrase = phrases[int(empty.int().argmax())]
            raise InputError(f"grounded_sam: {phrase!r} has a box, but the segmenter sees nothing in it")
        worth = outputs.iou_scores[0].float().cpu() if self.config.mask == "best" else areas
        best = worth.masked_fill(areas == 0, float("-inf") if worth.is_floating_point() else -1).argmax(dim=1)
        return masks[torch.arange(len(masks)), best]

    @staticmethod
    def _moved(value: Tensor, model: Any) -> Tensor:
        """On the model's device, and in its precision where it is no index."""
        return value.to(model.device, model.dtype if value.is_floating_point() else None)


def normalized(phrase: str) -> str:
    """A phrase as Grounding-DINO reads it: lower case, with one full stop, at its end.

    Raises:
        InputError: A phrase without words.
    """
    text = " ".join(phrase.lower().replace(".", " ").split())
    if not text:
        raise InputError(f"grounded_sam: got the phrase {phrase!r}; expected some words")
    return f"{text}."


def _different(boxes: Float[Tensor, "n 4"], count: int) -> list[Float[Tensor, "4"]]:
    """The first ``count`` boxes that do not cover one another."""
    chosen: list[Tensor] = []
    for box in boxes:
        if len(chosen) < count and all(_overlap(box, other) <= SAME for other in chosen):
            chosen.append(box)
    return chosen


def _overlap(box: Float[Tensor, "4"], other: Float[Tensor, "4"]) -> float:
    """Intersection over union."""
    shared = (torch.minimum(box[2:], other[2:]) - torch.maximum(box[:2], other[:2])).clamp(min=0).prod()
    union = (box[2:] - box[:2]).prod() + (other[2:] - other[:2]).prod() - shared
    return float(shared / union) if union > 0 else 0.0


def _widened(masks: Bool[Tensor, "k h w"], boxes: Float[Tensor, "k 4"], margin: float) -> Float[Tensor, "k h w"]:
    """Every pixel within a square around one inside, as far as the margin reaches."""
    wide = masks.float()
    for number, box in enumerate(boxes):
        reach = round(margin * float((box[2:] - box[:2]).max()))
        for kernel in ((2 * reach + 1, 1), (1, 2 * reach + 1)) if reach else ():
            padding = kernel[0] // 2, kernel[1] // 2
            wide[number] = functional.max_pool2d(wide[number][None], kernel, stride=1, padding=padding)[0]
    return wide
