"""``python -m subjectgen.toybox.detailed.pretraining MODEL --out FOLDER --pool FOLDER``; again to go on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)

Out = Annotated[Path, typer.Option(help="Folder that gets the weights, logs and checkpoints.")]
PoolFolder = Annotated[Path, typer.Option(help="Folder of rendered pictures; missing ones are rendered into it.")]
Pictures = Annotated[int, typer.Option(help="Rendered training pictures.")]
Steps = Annotated[int, typer.Option(help="All steps; the learning rate falls in the last part of them.")]
Minutes = Annotated[float, typer.Option(help="Time budget of this call; the same command goes on later.")]
BatchSize = Annotated[int, typer.Option(help="Pictures per step.")]
Seed = Annotated[int, typer.Option(help="Seed of weights and order.")]
PoolSeed = Annotated[int, typer.Option(help="Seed of the rendered world.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Compiled = Annotated[bool, typer.Option(help="Render through torch.compile.")]


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
    pictures: Pictures = 8192, steps: Steps = 2800, minutes: Minutes = 60, batch_size: BatchSize = 8,
    seed: Seed = 0, pool_seed: PoolSeed = 0, device: Device = "cpu", compiled: Compiled = True,
) -> None:  # fmt: skip
    """Pretrain the autoencoder from that of the first world."""
    from subjectgen.toybox.detailed.pretraining import vae as module
    from subjectgen.toybox.detailed.pretraining.pool import open_pool

    module.train(
        out,
        pool=open_pool(pool, pictures, seed=pool_seed, compiled=compiled, device=device),
        start=start or module.START,
        steps=steps,
        minutes=minutes,
        batch_size=batch_size,
        seed=seed,
        device=device,
    )


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    app()
