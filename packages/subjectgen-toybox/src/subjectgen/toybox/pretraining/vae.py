"""Pretrain the tiny ``AutoencoderKL``; its latents get one scale, so that no invisible detail is blown up."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL
from torch import Tensor
from torch.nn import functional

from subjectgen.toybox import architectures
from subjectgen.toybox.pretraining.log import Log
from subjectgen.toybox.pretraining.optimizers import moving_average
from subjectgen.toybox.pretraining.pool import Pool, training_pool

KL_WEIGHT = 1e-3


def train(
    out: Path, *, pictures: int, minutes: float, batch_size: int, seed: int, device: str, compiled: bool, resume: bool
) -> None:
    """Train for a given time and save in diffusers' layout. ``resume`` goes on from the weights in ``out``."""
    torch.manual_seed(seed)
    pool = training_pool(pictures, seed=seed, compiled=compiled, device=device)
    vae = AutoencoderKL.from_pretrained(out / "vae").float() if resume else AutoencoderKL(**architectures.VAE)
    vae = vae.to(device).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3, betas=(0.9, 0.95), weight_decay=1e-3)
    average = moving_average(vae, 0.998)
    name = "vae-resumed" if resume else "vae"
    log = Log(
        out,
        name,
        minutes=minutes,
        settings={"pictures": pictures, "batch_size": batch_size, "seed": seed, "resume": resume},
    )
    while (progress := log.progress()) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 2e-3 * min(1.0, (log.step + 1) / 100) * max(0.02, 1 - progress)
        images = pool.batch(torch.randint(len(pool), (batch_size,))).to(device) * 2 - 1
        with torch.autocast(device, torch.bfloat16):
            loss, parts = reconstruction_loss(vae, images)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        average.update_parameters(vae)
        log.add(samples=batch_size, **parts)
    trained: AutoencoderKL = average.module.train(False)
    _set_scale(trained, pool, device)
    trained.to(memory_format=torch.contiguous_format).half().save_pretrained(out / "vae")
    log.close(parameters=sum(p.numel() for p in vae.parameters()), scaling_factor=trained.config.scaling_factor)


def reconstruction_loss(vae: AutoencoderKL, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """L1 + squared error + a small KL; pictures in [-1, 1]."""
    posterior = vae.encode(images.to(memory_format=torch.channels_last)).latent_dist
    decoded = vae.decode(posterior.sample()).sample
    l1, mse = functional.l1_loss(decoded, images), functional.mse_loss(decoded, images)
    kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
    return l1 + 2 * mse + KL_WEIGHT * kl, {"l1": l1.detach(), "mse": mse.detach(), "kl": kl.detach()}


@torch.no_grad()
def _set_scale(vae: AutoencoderKL, pool: Pool, device: str) -> None:
    """One shift and one scale for all channels, so that latents have mean 0 and deviation 1 overall."""
    images = pool.batch(torch.arange(min(1024, len(pool)))).to(device) * 2 - 1
    latents = vae.encode(images).latent_dist.mean
    vae.register_to_config(scaling_factor=1 / float(latents.std()), shift_factor=float(latents.mean()))
