"""Pretrain a tiny multimodal LLM of either family on captions, questions and prompts about toy pictures.

An InternVL (or Qwen2.5-VL) of the same transformers classes as the big ones. Only answers are learned: descriptions,
questions, and "the toy at night" -> "a red striped box ... at night": reading prompt and picture together.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import (
    InternVLConfig,
    InternVLForConditionalGeneration,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
)

from subjectgen.toybox import architectures
from subjectgen.toybox.captions import caption, questions, random_subject_prompt
from subjectgen.toybox.pretraining.log import Log
from subjectgen.toybox.pretraining.optimizers import TimedOptimizer
from subjectgen.toybox.pretraining.pool import Pool
from subjectgen.toybox.tokenizer import mllm_tokenizer
from subjectgen.toybox.world import Draw, Toy, random_view

LENGTH = 64
IMAGE_MEAN, IMAGE_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
MARKS = {
    "internvl3": ("<img>", "<IMG_CONTEXT>", "</img>"),
    "qwen2_5_vl": ("<|vision_start|>", "<|image_pad|>", "<|vision_end|>"),
}


def build(family: str, words: int, ids: dict[str, int], size: str = "large") -> nn.Module:
    """An untrained tiny model of a family, ``small`` or ``large``."""
    text = {
        "vocab_size": words,
        "pad_token_id": ids["<pad>"],
        "bos_token_id": None,
        "eos_token_id": ids["<|im_end|>"],
        **architectures.LANGUAGES[size],
    }
    if family == "internvl3":
        config = InternVLConfig(
            vision_config=architectures.VISION,
            text_config={"model_type": "qwen2", **text},
            image_token_id=ids["<IMG_CONTEXT>"],
            image_seq_length=architectures.IMAGE_TOKENS,
            tie_word_embeddings=True,
        )
        return InternVLForConditionalGeneration(config)
    half = text["head_dim"] // 2
    rope = {"rope_type": "default", "mrope_section": [half // 4, half * 3 // 8, half * 3 // 8], "rope_theta": 10000.0}
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            vision_config={**architectures.QWEN_VISION, "out_hidden_size": text["hidden_size"]},
            text_config={**text, "rope_parameters": rope},
            image_token_id=ids["<|image_pad|>"],
            vision_start_token_id=ids["<|vision_start|>"],
            vision_end_token_id=ids["<|vision_end|>"],
            tie_word_embeddings=True,
        )
    )


class Lessons:
    """Turns pictures into token rows: image, one to three user turns, answers."""

    def __init__(self, family: str, ids: dict[str, int], seed: int) -> None:
        self.ids, self.draw = ids, Draw(seed)
        start, image, end = (ids[mark] for mark in MARKS[family])
        self.image = [start, *[image] * architectures.IMAGE_TOKENS, end]

    def words(self, text: str) -> list[int]:
        """Token ids of a text of the grammar."""
        return [self.ids[word] for word in text.split()]

    def turns(self, toy: Toy, view: Any) -> list[tuple[str, str]]:
        """One conversation: a description, a prompt to be completed, or three questions."""
        kind = self.draw.integer(10)
        if kind < 3:
            return [("describe the picture", caption(toy, view))]
        if kind < 6:
            asked = random_view(self.draw)
            prompt = random_subject_prompt(self.draw, asked)
            return [(prompt, f"{questions(toy, view)[0][1]}{prompt.removeprefix('the toy')}")]
        pairs = questions(toy, view)
        return [pairs[self.draw.integer(len(pairs))] for _ in range(3)]

    def row(self, toy: Toy, view: Any) -> tuple[list[int], list[int]]:
        """Input ids and labels (-100 where nothing is learned)."""
        ids, labels = [], []
        for number, (asked, answer) in enumerate(self.turns(toy, view)):
            question = [self.ids["<|im_start|>"], self.ids["user"], *(self.image if number == 0 else [])]
            question += [*self.words(asked), self.ids["<|im_end|>"], self.ids["<|im_start|>"], self.ids["assistant"]]
            reply = [*self.words(answer), self.ids["<|im_end|>"]]
            ids += question + reply
            labels += [-100] * len(question) + reply
        return ids[:LENGTH], labels[:LENGTH]

    def batch(self, pool: Pool, index: Tensor) -> tuple[Tensor, Tensor]:
        """Rows padded to one length."""
        rows = [self.row(pool.toys[i], pool.views[i]) for i in index.tolist()]
        longest = max(len(tokens) for tokens, _ in rows)
        ids = torch.full((len(rows), longest), self.ids["<pad>"])
        labels = torch.full((len(rows), longest), -100)
        for number, (tokens, targets) in enumerate(rows):
            ids[number, : len(tokens)] = torch.tensor(tokens)
            labels[number, : len(targets)] = torch.tensor(targets)
        return ids, labels


def train(out: Path, *, family: str, pool: Pool, minutes: float, batch_size: int, seed: int, device: str) -> None:
    """Train for a given time and save in the hub's layout."""
    torch.manual_seed(seed)
    tokenizer = mllm_tokenizer(family)
    ids = tokenizer.get_vocab()
    model = build(family, len(tokenizer), ids).to(device)
    optimizer = TimedOptimizer(model, warmup=100)
    lessons = Lessons(family, ids, seed)
    log = Log(out, family, minutes=minutes, settings={"pictures": len(pool), "batch_size": batch_size, "seed": seed})
    while (progress := log.progress()) < 1:
        index = torch.randint(len(pool), (batch_size,))
        loss, right = answer_loss(family, model, pool, lessons, index, device)
        loss.backward()
        optimizer.step(log.step, progress)
        log.add(samples=batch_size, loss=loss, words_right=right)
    save(family, model, tokenizer, out / family)
    log.close(parameters=sum(p.numel() for p in model.parameters()))


def save(family: str, model: Any, tokenizer: Any, folder: Path) -> None:
    """Write model, tokenizer and image settings in the hub's layout, in half precision."""
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _write_preprocessor(family, folder)


def answer_loss(
    family: str, model: nn.Module, pool: Pool, lessons: Lessons, index: Tensor, device: str
) -> tuple[Tensor, Tensor]:
    """Cross entropy of the answers' words about the chosen pictures, and the share of right words."""
    ids, labels = lessons.batch(pool, index)
    ids = ids.to(device)
    images = pool.batch(index).to(device)
    mask = (ids != lessons.ids["<pad>"]).long()
    vision = _vision_inputs(family, images, ids, lessons.ids[MARKS[family][1]])
    logits = model(input_ids=ids, attention_mask=mask, **vision).logits
    targets = labels[:, 1:].to(device)
    logits = logits[:, :-1].float()
    learned = targets != -100
    loss = functional.cross_entropy(logits[learned], targets[learned])
    return loss, (logits[learned].argmax(-1) == targets[learned]).float().mean()


def _vision_inputs(family: str, images: Tensor, ids: Tensor, image_token: int) -> dict[str, Tensor]:
    mean = torch.tensor(IMAGE_MEAN, device=images.device)[:, None, None]
    std = torch.tensor(IMAGE_STD, device=images.device)[:, None, None]
    pixels = (images - mean) / std
    if family == "internvl3":
        return {"pixel_values": pixels}
    vision = architectures.QWEN_VISION
    patch, merge = vision["patch_size"], vision["spatial_merge_size"]
    b, c, h, w = pixels.shape
    rows, columns = h // patch // merge, w // patch // merge
    patches = pixels.reshape(b, c, rows, merge, patch, columns, merge, patch).permute(0, 2, 5, 3, 6, 1, 4, 7)
    patches = patches.reshape(b * rows * columns * merge**2, c, 1, patch, patch)
    patches = patches.expand(-1, -1, vision["temporal_patch_size"], -1, -1).reshape(len(patches), -1)
    grid = torch.tensor([[1, h // patch, w // patch]], device=images.device).expand(b, -1)
    return {"pixel_values": patches, "image_grid_thw": grid, "mm_token_type_ids": (ids == image_token).long()}


def _write_preprocessor(family: str, folder: Path) -> None:
    common = {"image_mean": IMAGE_MEAN, "image_std": IMAGE_STD, "do_rescale": True, "rescale_factor": 1 / 255}
    size = architectures.IMAGE_SIZE
    if family == "internvl3":
        config: dict[str, Any] = {
            **common,
            "image_processor_type": "GotOcr2ImageProcessor",
            "crop_to_patches": False,
            "size": {"height": size, "width": size},
        }
        processor = {"processor_class": "InternVLProcessor", "image_seq_length": architectures.IMAGE_TOKENS}
    else:
        vision = architectures.QWEN_VISION
        config = {
            **common,
            "image_processor_type": "Qwen2VLImageProcessor",
            "patch_size": vision["patch_size"],
            "merge_size": vision["spatial_merge_size"],
            "temporal_patch_size": vision["temporal_patch_size"],
            "min_pixels": size * size,
            "max_pixels": size * size,
        }
        processor = {"processor_class": "Qwen2_5_VLProcessor"}
    (folder / "preprocessor_config.json").write_text(json.dumps(config, indent=2))
    (folder / "processor_config.json").write_text(json.dumps(processor, indent=2))
