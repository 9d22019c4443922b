"""Pretrain the judge: all questions at once, and identity by telling apart toys of the same colours."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from subjectgen.toybox.judge import CLASSES, Judge, truth
from subjectgen.toybox.pretraining.log import Log
from subjectgen.toybox.pretraining.pool import training_pool
from subjectgen.toybox.renderer import render
from subjectgen.toybox.world import FAMILY, Draw, held_out_toys, random_view

VIEWS = 2
TEMPERATURE = 0.1


def train(out: Path, *, pictures: int, minutes: float, seed: int, device: str, compiled: bool) -> None:
    """Train on families of toys that share colours, two views each, so that colour alone never suffices."""
    torch.manual_seed(seed)
    pool = training_pool(pictures, seed=seed, views_per_toy=VIEWS, family=FAMILY, compiled=compiled, device=device)
    answers = truth(pool.toys, pool.views)
    judge = Judge().to(device)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=2e-3, weight_decay=0.02)
    families, block = 16, FAMILY * VIEWS
    log = Log(out, "judge", minutes=minutes, settings={"pictures": pictures, "seed": seed})
    while (progress := log.progress()) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (log.step + 1) / 100) * max(0.01, 1 - progress)
        chosen = torch.randint(len(pool) // block, (families,))
        index = (chosen[:, None] * block + torch.arange(block)).reshape(-1)
        images = blemish(pool.batch(index).to(device)).to(memory_format=torch.channels_last)
        with torch.autocast(device, torch.bfloat16):
            given = judge(images)
        losses = _losses(given, {name: value[index].to(device) for name, value in answers.items()})
        loss = losses["questions"] + losses["identity"] + losses["angles"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        log.add(samples=len(index), **losses)
    judge.to("cpu").eval().save(out / "judge")
    log.close(**accuracy(judge, seed=seed + 1))


def blemish(images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """Blur and grain on half of the pictures, so that a decoder's softness does not mislead the judge."""
    blurred = functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    amount = torch.rand(len(images), 1, 1, 1, device=images.device) * (
        torch.rand(len(images), 1, 1, 1, device=images.device) < 0.5
    )
    return (images + amount * (blurred - images) + 0.06 * amount * torch.randn_like(images)).clamp(0, 1)


def _losses(given: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> dict[str, Tensor]:
    questions = [functional.cross_entropy(given[name].float(), right[name]) for name in CLASSES]
    angles = functional.mse_loss(given["angles"].float(), right["angles"])
    return {"questions": torch.stack(questions).mean(), "identity": _contrast(given["identity"]), "angles": angles}


def _contrast(identity: Float[Tensor, "b d"]) -> Tensor:
    """Each picture must find the other view of its toy among all pictures of the batch."""
    identity = identity.float()
    similarity = (identity @ identity.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    other = torch.arange(len(identity), device=identity.device) ^ 1
    return functional.cross_entropy(similarity, other)


@torch.no_grad()
def accuracy(judge: Judge, *, seed: int, count: int = 32) -> dict[str, float]:
    """On real renders of held-out toys: every question, and the nearest of 32 identities from another view."""
    draw, toys = Draw(seed), held_out_toys(count)
    known = [random_view(draw, accessories=False) for _ in toys]
    shown = [[random_view(draw) for _ in toys] for _ in range(8)]
    gallery = judge.identities(render(toys, known))
    hits, total = dict.fromkeys([*CLASSES, "identity"], 0), 0
    for views in shown:
        images = render(toys, views)
        answers, right = judge(images), truth(toys, views)
        for name in CLASSES:
            hits[name] += int((answers[name].argmax(-1) == right[name]).sum())
        nearest = (answers["identity"] @ gallery.T).argmax(-1)
        hits["identity"] += int((nearest == torch.arange(count)).sum())
        total += count
    return {f"{name}_accuracy": hit / total for name, hit in hits.items()}
