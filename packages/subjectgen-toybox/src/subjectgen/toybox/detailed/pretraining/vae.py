"""Pretrain the ``AutoencoderKL`` of 8 x and 16 channels at 96 pixels: 144 latents of a picture, packed to 36 tokens."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor

from subjectgen.core import resolve_checkpoint
from subjectgen.toybox.detailed.pretraining.muon import Muon, hidden_layers
from subjectgen.toybox.detailed.pretraining.pool import Pool
from subjectgen.toybox.detailed.pretraining.run import Plan, Run
from subjectgen.toybox.detailed.pretraining.schedule import Schedule
from subjectgen.toybox.detailed.pretraining.scores import held_out_pictures
from subjectgen.toybox.detailed.renderer import SIZE, Renderer
from subjectgen.toybox.pretraining.optimizers import moving_average
from subjectgen.toybox.world import Draw

START = "package:subjectgen.toybox/weights/vae"
MUON_RATE, RATE = 1.5e-3, 1e-3
KL_WEIGHT = 3e-4
EDGE_WEIGHT = 0.5
LATENTS = 1024
"""Pictures from which the latents' scale is measured."""


def train(out: Path, *, pool: Pool, plan: Plan, start: str, batch_size: int, device: str, held_out: int = 256) -> None:
    """Train from the weights in ``start``, and save in diffusers' layout when all steps are made."""
    vae = AutoencoderKL.from_pretrained(resolve_checkpoint(start)).float().to(device)
    vae.register_to_config(sample_size=SIZE)
    vae = vae.to(memory_format=torch.channels_last)
    average = moving_average(vae, 0.998)
    matrices, others = hidden_layers(vae)
    muon, adamw = Muon(matrices, lr=MUON_RATE), torch.optim.AdamW(others, lr=RATE, betas=(0.9, 0.95), weight_decay=0.0)
    run = Run(
        out,
        "detailed_vae",
        {"model": vae, "average": average, "muon": muon, "adamw": adamw},
        plan=plan,
        settings={"pictures": len(pool), "batch_size": batch_size, "muon_rate": MUON_RATE, "rate": RATE},
    )
    schedule = Schedule(steps=plan.steps, falling=0.5)
    for step in run.remaining():
        draw = run.draw(step)
        schedule.apply(muon, step)
        schedule.apply(adamw, step)
        index = torch.randint(len(pool), (batch_size,), generator=draw.generator)
        loss, parts = reconstruction_loss(vae, pool.batch(index).to(device) * 2 - 1, draw)
        vae.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        muon.step()
        adamw.step()
        average.update_parameters(vae)
        run.add(batch_size, **parts)
    if run.finished:
        trained: AutoencoderKL = average.module.eval()
        set_scale(trained, pool, device)
        trained.to("cpu", memory_format=torch.contiguous_format).half().save_pretrained(out / "detailed_vae")
        shown = held_out_pictures(held_out, seed=plan.seed + 1, renderer=Renderer()).images
        values = psnr(shown, decode(trained.float(), shown))
        run.write(finished=True, psnr=float(values.mean()), held_out_pictures=held_out)


def reconstruction_loss(
    vae: AutoencoderKL, images: Float[Tensor, "b 3 h w"], draw: Draw
) -> tuple[Tensor, dict[str, Tensor]]:
    """L1, squared error, L1 of the steps between neighbouring pixels, and a small KL; pictures in [-1, 1].

    The steps between neighbours (Mathieu et al. 2016, gradient difference loss) keep badges and edges sharp.
    """
    posterior = vae.encode(images.to(memory_format=torch.channels_last)).latent_dist
    noise = torch.randn(posterior.mean.shape, generator=draw.generator).to(images)
    decoded = vae.decode(posterior.mean + posterior.std * noise).sample
    error = decoded - images
    l1, mse = error.abs().mean(), (error**2).mean()
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
    loss = l1 + 4 * mse + EDGE_WEIGHT * edges + KL_WEIGHT * kl
    return loss, {"l1": l1.detach(), "mse": mse.detach(), "edges": edges.detach(), "kl": kl.detach()}


@torch.no_grad()
def set_scale(vae: AutoencoderKL, pool: Pool, device: str) -> None:
    """One shift and one scale for all channels, so that latents have mean 0 and deviation 1 overall."""
    latents = torch.cat(
        [
            vae.encode(pool.batch(index).to(device) * 2 - 1).latent_dist.mean
            for index in torch.arange(min(LATENTS, len(pool))).split(64)
        ]
    )
    vae.register_to_config(scaling_factor=1 / float(latents.std()), shift_factor=float(latents.mean()))


@torch.no_grad()
def decode(vae: AutoencoderKL, images: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 3 h w"]:
    """What the autoencoder makes of pictures in [0, 1]."""
    parts = [vae.decode(vae.encode(part * 2 - 1).latent_dist.mean).sample / 2 + 0.5 for part in images.split(32)]
    return torch.cat(parts).clamp(0, 1)


def psnr(images: Float[Tensor, "b 3 h w"], others: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
    """Peak signal-to-noise ratio of each picture in dB, for values in [0, 1]."""
    return -10 * ((images - others) ** 2).flatten(1).mean(1).clamp(min=1e-10).log10()
