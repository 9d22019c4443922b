"""Measure the gates of autoencoder and judge, and draw the pictures of docs/results/toybox.md."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from subjectgen.toybox.detailed.judge import DetailedJudge
from subjectgen.toybox.detailed.pretraining.scores import (
    Measured,
    held_out_families,
    held_out_pictures,
    identity_scores,
    judge_scores,
    measured,
)
from subjectgen.toybox.detailed.pretraining.vae import decode, psnr
from subjectgen.toybox.detailed.renderer import Renderer
from subjectgen.toybox.detailed.world import FAMILY, held_out_toys, random_view
from subjectgen.toybox.world import Draw


def measure(out: Path, *, pictures: int, families: int, seed: int, compiled: bool) -> dict[str, Measured]:
    """G1 and G2 on renders of held-out toys; also writes ``gates.json`` and ``reconstructions.png`` into ``out``.

    Scores ``decoded_...`` are those of the judge on what the autoencoder makes of the same pictures.
    """
    renderer = Renderer(compiled=compiled)
    shown = held_out_pictures(pictures, seed=seed, renderer=renderer)
    vae = AutoencoderKL.from_pretrained(out / "detailed_vae").float().eval()
    decoded = dataclasses.replace(shown, images=decode(vae, shown.images))
    judge = DetailedJudge.load(str(out / "detailed_judge"))
    gallery, asked = held_out_families(families, seed=seed + 1, renderer=renderer)
    family = torch.arange(len(asked.toys)) // FAMILY
    values = {"psnr": measured(psnr(shown.images, decoded.images))}
    values |= {name: measured(score) for name, score in judge_scores(judge, shown).items()}
    values |= {f"decoded_{name}": measured(score) for name, score in judge_scores(judge, decoded).items()}
    values["identity"] = measured(identity_scores(judge, gallery, asked), family)
    seen = (dataclasses.replace(one, images=decode(vae, one.images)) for one in (gallery, asked))
    values["decoded_identity"] = measured(identity_scores(judge, *seen), family)
    rows = {name: dataclasses.asdict(value) for name, value in values.items()}
    (out / "gates.json").write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    save_sheet([shown.images[:8], decoded.images[:8]], out / "reconstructions.png")
    return values


def world_sheet(path: Path, *, seed: int) -> None:
    """Six held-out families: a toy in four views, then two of its relatives as the last view shows it."""
    draw, rows = Draw(seed), []
    for first, second, third in zip(*(held_out_toys(6 * FAMILY, seed=seed)[i::FAMILY] for i in range(3)), strict=True):
        views = [random_view(draw) for _ in range(4)]
        rows.append(Renderer()([first] * 4 + [second, third], [*views, views[3], views[3]])[0])
    save_sheet(rows, path, scale=2)


def save_sheet(rows: Sequence[Float[Tensor, "columns 3 h w"]], path: Path, *, scale: int = 2) -> None:
    """Rows of pictures as one PNG, every pixel drawn ``scale`` times."""
    sheet = torch.cat([torch.cat(list(row), dim=-1) for row in rows], dim=-2)
    pixels = (sheet.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    image = Image.fromarray(pixels)
    image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST).save(path, optimize=True)
