"""``python -m subjectgen.toybox.pretraining MODEL --out FOLDER``: make the shipped weights again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__, pretty_exceptions_enable=False)

Out = Annotated[Path, typer.Option(help="Folder that gets the weights and their logs.")]
Minutes = Annotated[float, typer.Option(help="Time budget; learning rates fall to zero within it.")]
Pictures = Annotated[int, typer.Option(help="Rendered training pictures.")]
BatchSize = Annotated[int, typer.Option(help="Pictures per step.")]
Seed = Annotated[int, typer.Option(help="Seed of the world and of the weights.")]
Device = Annotated[str, typer.Option(help="cpu or cuda.")]
Compiled = Annotated[bool, typer.Option(help="Use torch.compile.")]


@app.command()
def vae(
    out: Out, minutes: Minutes = 9, pictures: Pictures = 16000, batch_size: BatchSize = 16,
    seed: Seed = 0, device: Device = "cpu", compiled: Compiled = True,
    resume: Annotated[bool, typer.Option(help="Go on from the weights in OUT.")] = False,
) -> None:  # fmt: skip
    """Pretrain the autoencoder; everything else needs it."""
    from subjectgen.toybox.pretraining import vae as module

    module.train(
        out,
        pictures=pictures,
        minutes=minutes,
        batch_size=batch_size,
        seed=seed,
        device=device,
        compiled=compiled,
        resume=resume,
    )


@app.command()
def judge(
    out: Out, minutes: Minutes = 4, pictures: Pictures = 32000,
    seed: Seed = 1, device: Device = "cpu", compiled: Compiled = True,
) -> None:  # fmt: skip
    """Pretrain the judge."""
    from subjectgen.toybox.pretraining import judge as module

    module.train(out, pictures=pictures, minutes=minutes, seed=seed, device=device, compiled=compiled)


@app.command()
def mllm(
    out: Out, family: Annotated[str, typer.Option(help="internvl3 or qwen2_5_vl.")] = "internvl3",
    minutes: Minutes = 20, pictures: Pictures = 48000, batch_size: BatchSize = 64,
    seed: Seed = 2, device: Device = "cpu", compiled: Compiled = True,
) -> None:  # fmt: skip
    """Pretrain a tiny multimodal LLM."""
    from subjectgen.toybox.pretraining import mllm as module
    from subjectgen.toybox.pretraining.pool import training_pool

    pool = training_pool(pictures, seed=seed, views_per_toy=1, compiled=compiled, device=device)
    module.train(out, family=family, pool=pool, minutes=minutes, batch_size=batch_size, seed=seed, device=device)


@app.command()
def clip(
    out: Out, minutes: Minutes = 16, pictures: Pictures = 32000, batch_size: BatchSize = 128,
    seed: Seed = 4, device: Device = "cpu", compiled: Compiled = True,
) -> None:  # fmt: skip
    """Pretrain a tiny CLIP on pictures and their captions."""
    from subjectgen.toybox.pretraining import clip as module
    from subjectgen.toybox.pretraining.pool import training_pool
    from subjectgen.toybox.world import FAMILY

    pool = training_pool(
        pictures, seed=seed, views_per_toy=1, family=FAMILY, masks=True, compiled=compiled, device=device
    )
    module.train(out, pool=pool, minutes=minutes, batch_size=batch_size, seed=seed, device=device)


@app.command()
def base(
    out: Out, minutes: Minutes = 60, pictures: Pictures = 64000, batch_size: BatchSize = 128,
    seed: Seed = 3, device: Device = "cpu", compiled: Compiled = True,
) -> None:  # fmt: skip
    """Pretrain the FLUX-shaped base with its text path; needs the VAE in OUT."""
    from subjectgen.toybox.pretraining import base as module
    from subjectgen.toybox.pretraining.pool import training_pool

    pool = training_pool(pictures, seed=seed, views_per_toy=1, compiled=compiled, device=device)
    module.train(out, pool=pool, minutes=minutes, batch_size=batch_size, seed=seed, device=device)


@app.command()
def pack(
    out: Out,
    into: Annotated[Path, typer.Option(help="Folder of the shipped weights.")],
    trained: Annotated[
        list[Path], typer.Option(help="Run directory of `subjectgen train`, packed under its name.")
    ] = [],  # noqa: B006
    model: Annotated[
        list[str], typer.Option(help="Model to pack instead of all that the toybox ships, such as clip.")
    ] = [],  # noqa: B006
) -> None:
    """Copy models, run directories and logs into the folder that is shipped, with checksums."""
    from subjectgen.toybox.pretraining.pack import pack as run

    for line in run(out, into, trained, model):
        typer.echo(line)


if __name__ == "__main__":
    torch.set_float32_matmul_precision("high")
    app()
