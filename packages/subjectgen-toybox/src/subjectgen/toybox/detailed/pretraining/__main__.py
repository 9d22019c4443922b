"""``python -m subjectgen.toybox.detailed.pretraining MODEL --out FOLDER --pool FOLDER``; again to go on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

from subjectgen.toybox.detailed.pretraining.run import Plan

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)

Out = Annotated[Path, typer.Option(help="Folder that gets the weights, logs and checkpoints.")]
Start = Annotated[str, typer.Option(help="Folder of first weights; drawn at random without it.")]
PoolFolder = Annotated[Path, typer.Option(help="Folder of rendered pictures; missing ones are rendered into it.")]
Pictures = Annotated[int, typer.Option(help="Rendered training pictures.")]
Steps = Annotated[int, typer.Option(help="All steps; the learning rate falls in the last part of them.")]
Minutes = Annotated[float, typer.Option(help="Time budget of this call; the same command goes on later.")]
BatchSize = Annotated[int, typer.Option(help="Pictures per step.")]
Seed = Annotated[int, typer.Option(help="Seed of weights and order.")]
PoolSeed = Annotated[int, typer.Option(help="Seed of the rendered world.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Compiled = Annotated[bool, typer.Option(help="Render, and run the base, through torch.compile.")]
SaveEvery = Annotated[float, typer.Option(help="Seconds between checkpoints.")]
HeldOut = Annotated[int, typer.Option(help="Held-out toys of the closing evaluation.")]


@app.command()
def pool(
    pool: PoolFolder, pictures: Pictures = 51200, pool_seed: PoolSeed = 0, device: Device = "cpu",
    compiled: Compiled = True,
) -> None:  # fmt: skip
    """Render training pictures; every other command does so itself where they are missing."""
    from subjectgen.toybox.detailed.pretraining.pool import render_pool

    render_pool(pool, pictures, seed=pool_seed, compiled=compiled, device=device)


@app.command()
def vae(
    out: Out, pool: PoolFolder, start: Annotated[str, typer.Option(help="Folder of first weights.")] = "",
    pictures: Pictures = 6144, steps: Steps = 2000, minutes: Minutes = 60, batch_size: BatchSize = 8,
    seed: Seed = 0, pool_seed: PoolSeed = 0, device: Device = "cpu", compiled: Compiled = True,
    save_every: SaveEvery = 60, held_out: HeldOut = 256,
) -> None:  # fmt: skip
    """Pretrain the autoencoder from that of the first world."""
    from subjectgen.toybox.detailed.pretraining import vae as module
    from subjectgen.toybox.detailed.pretraining.pool import open_pool

    module.train(
        out,
        pool=open_pool(pool, pictures, seed=pool_seed, compiled=compiled, device=device),
        start=start or module.START,
        plan=Plan(steps=steps, minutes=minutes, seed=seed, save_every=save_every),
        batch_size=batch_size,
        device=device,
        held_out=held_out,
    )


@app.command()
def judge(
    out: Out, pool: PoolFolder, pictures: Pictures = 51200, steps: Steps = 6000, minutes: Minutes = 60,
    families: Annotated[int, typer.Option(help="Families of eight pictures per step.")] = 8,
    seed: Seed = 1, pool_seed: PoolSeed = 0, device: Device = "cpu", compiled: Compiled = True,
    save_every: SaveEvery = 60, held_out: HeldOut = 256,
) -> None:  # fmt: skip
    """Pretrain the judge."""
    from subjectgen.toybox.detailed.pretraining import judge as module
    from subjectgen.toybox.detailed.pretraining.pool import open_pool

    module.train(
        out,
        pool=open_pool(pool, pictures, seed=pool_seed, compiled=compiled, device=device),
        plan=Plan(steps=steps, minutes=minutes, seed=seed, save_every=save_every),
        families=families,
        device=device,
        held_out=held_out,
    )


@app.command()
def mllm(
    out: Out, pool: PoolFolder, family: Annotated[str, typer.Option(help="internvl3 or qwen2_5_vl.")] = "internvl3",
    size: Annotated[str, typer.Option(help="small or large.")] = "large",
    pictures: Pictures = 51200, steps: Steps = 6000, minutes: Minutes = 60, batch_size: BatchSize = 32,
    seed: Seed = 2, pool_seed: PoolSeed = 0, device: Device = "cpu", compiled: Compiled = True,
    save_every: SaveEvery = 60, start: Start = "",
) -> None:  # fmt: skip
    """Pretrain a tiny multimodal LLM, which sees pictures at 64 pixels."""
    from subjectgen.toybox.detailed.pretraining import mllm as module
    from subjectgen.toybox.detailed.pretraining.pool import open_pool

    module.train(
        out,
        family=family,
        size=size,
        pool=open_pool(pool, pictures, seed=pool_seed, compiled=compiled, device=device),
        plan=Plan(steps=steps, minutes=minutes, seed=seed, save_every=save_every),
        batch_size=batch_size,
        device=device,
        start=start,
    )


@app.command()
def base(
    out: Out, pool: PoolFolder, pictures: Pictures = 51200, steps: Steps = 20000, minutes: Minutes = 300,
    batch_size: BatchSize = 96, seed: Seed = 3, pool_seed: PoolSeed = 0, device: Device = "cpu",
    compiled: Compiled = True,
    save_every: SaveEvery = 60, start: Start = "",
) -> None:  # fmt: skip
    """Pretrain the FLUX-shaped base with its text path; needs the autoencoder in OUT."""
    from subjectgen.toybox.detailed.pretraining import base as module
    from subjectgen.toybox.detailed.pretraining.pool import open_pool

    module.train(
        out,
        pool=open_pool(pool, pictures, seed=pool_seed, compiled=compiled, device=device),
        plan=Plan(steps=steps, minutes=minutes, seed=seed, save_every=save_every),
        batch_size=batch_size,
        device=device,
        start=start,
        compiled=compiled,
    )


@app.command()
def gates(
    out: Out, pictures: Annotated[int, typer.Option(help="Held-out toys, one picture each.")] = 1024,
    families: Annotated[int, typer.Option(help="Held-out families of eight.")] = 64,
    seed: Seed = 1000, compiled: Compiled = True,
) -> None:  # fmt: skip
    """Measure autoencoder and judge in OUT on held-out toys, and draw sheets of the world and of reconstructions."""
    from subjectgen.toybox.detailed.pretraining import gates as module

    module.world_sheet(out / "world.png", seed=seed)
    values = module.measure(out, pictures=pictures, families=families, seed=seed, compiled=compiled)
    for name, value in values.items():
        typer.echo(f"{name}: {value.mean:.4f} [{value.low:.4f}, {value.high:.4f}], n {value.n} in {value.groups}")


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    app()
