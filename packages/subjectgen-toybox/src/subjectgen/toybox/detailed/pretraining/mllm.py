"""Pretrain a tiny multimodal LLM on pictures of 64 pixels: words and answers only, no detail is ever asked for.

It sees a picture as 16 tokens where the autoencoder sees 36, as InternVL3 and FLUX do with 256 and 1,024.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModelForImageTextToText

from subjectgen.core import resolve_checkpoint
from subjectgen.toybox.architectures import IMAGE_SIZE
from subjectgen.toybox.detailed.pretraining.muon import Muon, block_matrices
from subjectgen.toybox.detailed.pretraining.pool import Pool
from subjectgen.toybox.detailed.pretraining.run import Plan, Run
from subjectgen.toybox.detailed.pretraining.schedule import Schedule
from subjectgen.toybox.pretraining import mllm
from subjectgen.toybox.pretraining.pool import Pool as PlainPool
from subjectgen.toybox.tokenizer import mllm_tokenizer

MUON_RATE, RATE = 2e-3, 1e-3


def train(
    out: Path, *, family: str, size: str, pool: Pool, plan: Plan, batch_size: int, device: str, start: str = ""
) -> None:
    """Train ``internvl3`` or ``qwen2_5_vl``, ``small`` or ``large``, and save in the hub's layout at the end.

    ``start`` is a folder in that layout with first weights; without it they are drawn.
    """
    torch.manual_seed(plan.seed)  # of the first weights; all later choices follow from the step
    tokenizer = mllm_tokenizer(family)
    model = mllm.build(family, len(tokenizer), tokenizer.get_vocab(), size)
    if start:
        first = AutoModelForImageTextToText.from_pretrained(resolve_checkpoint(start), dtype=torch.float32)
        model.load_state_dict(first.state_dict())
    model = model.to(device)
    matrices, others = block_matrices(model)
    muon = Muon(matrices, lr=MUON_RATE)
    adamw = torch.optim.AdamW(others, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
    small, lessons = smaller(pool), mllm.Lessons(family, tokenizer.get_vocab(), plan.seed)
    run = Run(
        out,
        f"detailed_{family}_{size}",
        {"model": model, "muon": muon, "adamw": adamw},
        plan=plan,
        settings={
            "family": family,
            "size": size,
            "pictures": len(pool),
            "batch_size": batch_size,
            "muon_rate": MUON_RATE,
            "rate": RATE,
            "start": start,
        },
    )
    schedule = Schedule(steps=plan.steps, falling=0.5)
    for step in run.remaining():
        lessons.draw = run.draw(step)
        index = torch.randint(len(small), (batch_size,), generator=lessons.draw.generator)
        loss, right = mllm.answer_loss(family, model, small, lessons, index, device)
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        schedule.apply(muon, step)
        schedule.apply(adamw, step)
        muon.step()
        adamw.step()
        run.add(batch_size, loss=loss.detach(), words_right=right)
    if run.finished:
        mllm.save(family, model, tokenizer, out / f"detailed_{family}_{size}")
        run.write(finished=True, parameters=sum(p.numel() for p in model.parameters()))


def smaller(pool: Pool) -> PlainPool:
    """The pictures at the MLLM's size."""
    images = torch.cat(
        [
            (functional.interpolate(part.float(), size=(IMAGE_SIZE, IMAGE_SIZE), mode="bicubic", antialias=True))
            .round()
            .clamp(0, 255)
            .byte()
            for part in pool.images.split(1024)
        ]
    )
    return PlainPool(toys=list(pool.toys), views=list(pool.views), images=images)
