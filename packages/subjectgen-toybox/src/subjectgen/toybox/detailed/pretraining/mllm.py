"""Pretrain a tiny multimodal LLM on pictures of 64 pixels: words and answers only, no detail is ever asked for.

It sees a picture as 16 tokens where the autoencoder sees 36, as InternVL3 and FLUX do with 256 and 1,024.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch.nn import functional

from subjectgen.toybox.architectures import IMAGE_SIZE
from subjectgen.toybox.detailed.pretraining.pool import Pool
from subjectgen.toybox.detailed.pretraining.run import Plan, Run
from subjectgen.toybox.pretraining import mllm
from subjectgen.toybox.pretraining.optimizers import TimedOptimizer
from subjectgen.toybox.pretraining.pool import Pool as PlainPool
from subjectgen.toybox.tokenizer import mllm_tokenizer


def train(out: Path, *, family: str, pool: Pool, plan: Plan, batch_size: int, device: str) -> None:
    """Train ``internvl3`` or ``qwen2_5_vl`` and save in the hub's layout when all steps are made."""
    torch.manual_seed(plan.seed)  # of the first weights; all later choices follow from the step
    tokenizer = mllm_tokenizer(family)
    model = mllm.build(family, len(tokenizer), tokenizer.get_vocab()).to(device)
    optimizer = TimedOptimizer(model, warmup=100)
    small, lessons = smaller(pool), mllm.Lessons(family, tokenizer.get_vocab(), plan.seed)
    muon, adamw = optimizer.optimizers
    run = Run(
        out,
        f"detailed_{family}",
        {"model": model, "muon": muon, "adamw": adamw},
        plan=plan,
        settings={"family": family, "pictures": len(pool), "batch_size": batch_size},
    )
    for step in run.remaining():
        lessons.draw = run.draw(step)
        index = torch.randint(len(small), (batch_size,), generator=lessons.draw.generator)
        loss, right = mllm.answer_loss(family, model, small, lessons, index, device)
        loss.backward()
        optimizer.step(step, step / plan.steps)
        run.add(batch_size, loss=loss.detach(), words_right=right)
    if run.finished:
        mllm.save(family, model, tokenizer, out / f"detailed_{family}")
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
