"""Pretrain the judge: all questions at once, and identity by telling apart toys of the same words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from subjectgen.toybox import judge as words_judge
from subjectgen.toybox.detailed.camera import badge_place
from subjectgen.toybox.detailed.details import CELLS, CODE_BITS, bits
from subjectgen.toybox.detailed.judge import DetailedJudge
from subjectgen.toybox.detailed.pretraining.muon import Muon, hidden_layers
from subjectgen.toybox.detailed.pretraining.pool import RELATIVES, VIEWS, Pool
from subjectgen.toybox.detailed.pretraining.run import Plan, Run
from subjectgen.toybox.detailed.pretraining.schedule import Schedule
from subjectgen.toybox.detailed.pretraining.scores import held_out_pictures, judge_scores, means
from subjectgen.toybox.detailed.renderer import Renderer
from subjectgen.toybox.detailed.shapes import DetailedBatch
from subjectgen.toybox.detailed.world import DetailedToy
from subjectgen.toybox.pretraining.optimizers import moving_average
from subjectgen.toybox.world import Draw, View

RATE = 2e-3
TEMPERATURE = 0.1
PLACE_WEIGHT = 4.0


def train(out: Path, *, pool: Pool, plan: Plan, families: int, device: str, held_out: int = 256) -> None:
    """Train on ``families`` families a step: toys that share all words, two views of each."""
    torch.manual_seed(plan.seed)  # of the first weights; all later choices follow from the step
    judge = DetailedJudge().to(device)
    judge = judge.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
    average = moving_average(judge, 0.998)
    matrices, others = hidden_layers(judge)
    muon, adamw = Muon(matrices, lr=RATE), torch.optim.AdamW(others, lr=RATE, weight_decay=0.0)
    right = truth(pool.toys, pool.views)
    block = RELATIVES * VIEWS
    run = Run(
        out,
        "detailed_judge",
        {"model": judge, "average": average, "muon": muon, "adamw": adamw},
        plan=plan,
        settings={"pictures": len(pool), "families": families, "rate": RATE},
    )
    schedule = Schedule(steps=plan.steps, falling=0.5)
    for step in run.remaining():
        draw = run.draw(step)
        schedule.apply(muon, step)
        schedule.apply(adamw, step)
        chosen = torch.randint(len(pool) // block, (families,), generator=draw.generator)
        index = (chosen[:, None] * block + torch.arange(block)).flatten()
        answers = {name: value[index].to(device) for name, value in right.items()}
        images = blemish(pool.batch(index), draw).to(device, memory_format=torch.channels_last)
        losses = question_losses(judge(images, answers["place"]), answers)
        judge.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        torch.nn.utils.clip_grad_norm_(judge.parameters(), 5.0)
        muon.step()
        adamw.step()
        average.update_parameters(judge)
        run.add(len(index), **{name: loss.detach() for name, loss in losses.items()})
    if run.finished:
        cast(DetailedJudge, average.module.to("cpu")).save(out / "detailed_judge")
        shipped = DetailedJudge.load(str(out / "detailed_judge"))
        shown = held_out_pictures(held_out, seed=plan.seed + 1, renderer=Renderer())
        run.write(finished=True, held_out_pictures=held_out, **means(judge_scores(shipped, shown)))


def blemish(images: Float[Tensor, "b 3 h w"], draw: Draw) -> Float[Tensor, "b 3 h w"]:
    """Blur and grain on half of the pictures, so that a decoder's softness does not mislead the judge."""
    blurred = functional.avg_pool2d(functional.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    amount, chance = torch.rand(2, len(images), 1, 1, 1, generator=draw.generator)
    amount = amount * (chance < 0.5)
    grain = torch.randn(images.shape, generator=draw.generator)
    return (images + amount * (blurred - images) + 0.05 * amount * grain).clamp(0, 1)


def truth(toys: Sequence[DetailedToy], views: Sequence[View]) -> dict[str, Tensor]:
    """The right answers as numbers, in the form of the judge's answers."""
    answers = dict(words_judge.truth(list(toys), list(views)))
    answers["cells"] = torch.tensor([bits(toy.details.badge, CELLS) for toy in toys], dtype=torch.float32)
    answers["code"] = torch.tensor([bits(toy.details.code, CODE_BITS) for toy in toys], dtype=torch.float32)
    answers["patterned"] = torch.tensor([toy.pattern != "plain" for toy in toys])
    answers["tint"] = torch.tensor([toy.details.tint for toy in toys])
    answers["place"] = badge_place(DetailedBatch.of_detailed(toys, views))
    return answers


def question_losses(given: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """One loss per kind of answer; they are summed."""
    words = [functional.cross_entropy(given[name], right[name]) for name in words_judge.CLASSES]
    code = functional.binary_cross_entropy_with_logits(given["code"], right["code"], reduction="none").mean(-1)
    patterned = right["patterned"].float()
    return {
        "words": torch.stack(words).mean(),
        "identity": _contrast(given["identity"]),
        "angles": functional.mse_loss(given["angles"], right["angles"]),
        "place": PLACE_WEIGHT * (given["place"] - right["place"]).abs().mean(),
        "cells": functional.binary_cross_entropy_with_logits(given["cells"], right["cells"]),
        "code": (code * patterned).sum() / patterned.sum().clamp(min=1),
        "tint": functional.mse_loss(given["tint"], right["tint"]),
    }


def _contrast(identity: Float[Tensor, "b d"]) -> Tensor:
    """Each picture must find the other view of its toy among all pictures of the batch."""
    similarity = (identity @ identity.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    other = torch.arange(len(identity), device=identity.device) ^ 1
    return functional.cross_entropy(similarity, other)
