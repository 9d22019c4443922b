"""Pretrain a tiny CLIP: each toy picture must find its caption among those of the batch, and each caption its picture.

Batches are made of families of toys that share their colours, so that colour alone never suffices. Half of the
families are cut out on white, without scene in the caption, so that the tower also knows subjects that stand alone.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPConfig, CLIPModel, PreTrainedTokenizerFast

from subjectgen.core import InputError
from subjectgen.toybox import architectures
from subjectgen.toybox.captions import caption, random_caption
from subjectgen.toybox.pretraining.log import Log
from subjectgen.toybox.pretraining.optimizers import TimedOptimizer
from subjectgen.toybox.pretraining.pool import Pool
from subjectgen.toybox.renderer import render_with_masks
from subjectgen.toybox.tokenizer import word_tokenizer
from subjectgen.toybox.world import FAMILY, Draw, held_out_toys, random_view

CUT_OUT_SHARE = 0.5
HELD_OUT = 128
"""Pictures that are matched with each other's captions at the end."""
END = "<|im_end|>"
"""What the text tower is pooled at; not id 2, which transformers takes for an old mistake in CLIP's configs."""
IMAGE_MEAN, IMAGE_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
HIGHEST_SCALE = math.log(100)


def build(tokenizer: PreTrainedTokenizerFast) -> CLIPModel:
    """An untrained tiny CLIP for a tokenizer."""
    ids = tokenizer.get_vocab()
    text = {
        "vocab_size": len(tokenizer),
        "pad_token_id": ids["<pad>"],
        "bos_token_id": None,
        "eos_token_id": ids[END],
        **architectures.CLIP["text_config"],
    }
    return CLIPModel(CLIPConfig(**{**architectures.CLIP, "text_config": text}))


class Lessons:
    """Draws whole families from a pool, each either in its scenes or cut out on white, and a caption per picture."""

    def __init__(self, pool: Pool, tokenizer: PreTrainedTokenizerFast, seed: int) -> None:
        """Take a pool of whole families.

        Raises:
            InputError: The pool has no masks, or less than one family.
        """
        if pool.masks is None or len(pool) < FAMILY:
            raise InputError(f"pool of {len(pool)} pictures: expected at least {FAMILY}, drawn with masks")
        self.masks, self.pool, self.tokenizer, self.draw = pool.masks, pool, tokenizer, Draw(seed)

    def batch(self, size: int) -> tuple[Float[Tensor, "b 3 h w"], dict[str, Int[Tensor, "b l"]]]:
        """Standardized pictures, and token ids with their mask; ``size`` is cut to whole families."""
        count = size // FAMILY
        families = torch.randint(len(self.pool) // FAMILY, (count,), generator=self.draw.generator)
        index = (families[:, None] * FAMILY + torch.arange(FAMILY)).flatten()
        alone = torch.rand(count, generator=self.draw.generator) < CUT_OUT_SHARE
        alone = alone.repeat_interleave(FAMILY)
        images = torch.where(alone[:, None, None, None] & ~self.masks[index], 1.0, self.pool.batch(index))
        texts = [self._caption(number, bare) for number, bare in zip(index.tolist(), alone.tolist(), strict=True)]
        return normalize(images), tokens(self.tokenizer, texts)

    def _caption(self, number: int, alone: bool) -> str:
        toy, view = self.pool.toys[number], self.pool.views[number]
        if alone:
            return caption(toy, view, direction=self.draw.uniform(0.0, 1.0) < 0.7, scene=False)
        return random_caption(self.draw, toy, view)


def tokens(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> dict[str, Int[Tensor, "b l"]]:
    """Token ids and mask as the text tower takes them, padded to one length so that shapes never change."""
    length = architectures.TEXT_LENGTH
    batch = tokenizer(texts, padding="max_length", truncation=True, max_length=length, return_tensors="pt")
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}


def train(out: Path, *, pool: Pool, minutes: float, batch_size: int, seed: int, device: str) -> None:
    """Train for a given time, save in the hub's layout and measure retrieval among held-out pictures."""
    torch.manual_seed(seed)
    tokenizer = word_tokenizer(end=END, max_length=architectures.TEXT_LENGTH)
    lessons = Lessons(pool, tokenizer, seed)
    model = build(tokenizer).to(device)
    model.set_attn_implementation("eager")  # twice as fast on a CPU for 65 tokens, mostly in the backward pass
    optimizer = TimedOptimizer(model)
    log = Log(out, "clip", minutes=minutes, settings={"pictures": len(pool), "batch_size": batch_size, "seed": seed})
    while (progress := log.progress()) < 1:
        images, text = lessons.batch(batch_size)
        loss, right = _loss(model, images.to(device), {name: value.to(device) for name, value in text.items()})
        loss.backward()
        optimizer.step(log.step, progress)
        with torch.no_grad():
            model.logit_scale.clamp_(max=HIGHEST_SCALE)
        log.add(samples=len(images), loss=loss, matched=right, scale=model.logit_scale.exp())
    model = model.to("cpu").eval()
    scores = retrieval(model, tokenizer, seed=seed + 1)
    save(model, tokenizer, out / "clip")
    log.close(parameters=sum(p.numel() for p in model.parameters()), **scores)


def normalize(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Standardize RGB in [0, 1] as the saved preprocessor does."""
    mean, std = (images.new_tensor(values)[:, None, None] for values in (IMAGE_MEAN, IMAGE_STD))
    return (images - mean) / std


def _loss(model: nn.Module, images: Tensor, text: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Symmetric InfoNCE, and the share of pictures that find their caption."""
    with torch.autocast(images.device.type, torch.bfloat16):
        logits = model(pixel_values=images, **text).logits_per_image.float()
    own = torch.arange(len(logits), device=logits.device)
    loss = (functional.cross_entropy(logits, own) + functional.cross_entropy(logits.T, own)) / 2
    return loss, (logits.argmax(-1) == own).float().mean()


@torch.no_grad()
def retrieval(model: nn.Module, tokenizer: PreTrainedTokenizerFast, *, seed: int) -> dict[str, float]:
    """Top-1 shares among held-out pictures with full captions, in their scenes and cut out."""
    toys, draw = held_out_toys(HELD_OUT, seed=seed), Draw(seed)
    views = [random_view(draw) for _ in toys]
    images, masks = render_with_masks(toys, views)
    scores = {}
    for prefix, pictures, scene in (("", images, True), ("cut_out_", torch.where(masks, images, 1.0), False)):
        texts = [caption(toy, view, scene=scene) for toy, view in zip(toys, views, strict=True)]
        logits = model(pixel_values=normalize(pictures), **tokens(tokenizer, texts)).logits_per_image
        own = torch.arange(len(logits))
        scores[f"{prefix}image_to_caption_top1"] = float((logits.argmax(1) == own).float().mean())
        scores[f"{prefix}caption_to_image_top1"] = float((logits.argmax(0) == own).float().mean())
    return scores


def save(model: CLIPModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write model, tokenizer and image settings in the hub's layout, in half precision."""
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = architectures.IMAGE_SIZE
    config: dict[str, Any] = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": size},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": size, "width": size},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": IMAGE_MEAN,
        "image_std": IMAGE_STD,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(config, indent=2))
