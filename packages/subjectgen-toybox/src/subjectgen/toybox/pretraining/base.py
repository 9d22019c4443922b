"""Pretrain the base: a FLUX-shaped transformer that draws toys from full captions, with its own T5 and CLIP.

Muon on block matrices and AdamW on the rest, rectified flow,
logit-normal timesteps. A dropped caption is an absent one: no context tokens, a zero pooled vector.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, T5Config, T5EncoderModel

from subjectgen.toybox import architectures
from subjectgen.toybox.captions import random_caption
from subjectgen.toybox.pretraining.log import Log
from subjectgen.toybox.pretraining.optimizers import TimedOptimizer, moving_average
from subjectgen.toybox.pretraining.pool import Pool
from subjectgen.toybox.tokenizer import word_tokenizer
from subjectgen.toybox.world import Draw

CAPTION_DROPOUT = 0.1


class TextPath(nn.Module):
    """FLUX's two text encoders; tokens from T5, a pooled vector from CLIP."""

    def __init__(self) -> None:
        super().__init__()
        self.tokenizer = word_tokenizer(end="</s>", max_length=architectures.TEXT_LENGTH)
        words = len(self.tokenizer)
        self.t5 = T5EncoderModel(T5Config(vocab_size=words, **architectures.T5))
        self.clip = CLIPTextModel(CLIPTextConfig(vocab_size=words, **architectures.CLIP_TEXT))

    def tokenize(self, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Ids and mask, padded to one fixed length so that shapes never change."""
        batch = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=architectures.TEXT_LENGTH, return_tensors="pt"
        )
        return batch.input_ids, batch.attention_mask

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (b, l, 128) and pooled vector (b, 64)."""
        tokens = self.t5(input_ids=ids, attention_mask=mask).last_hidden_state
        pooled = self.clip(input_ids=ids, attention_mask=mask).pooler_output
        return tokens, pooled

    def save(self, folder: Path) -> None:
        """Save in the layout of FLUX.1-dev's repository."""
        self.clip.half().save_pretrained(folder / "text_encoder")
        self.t5.half().save_pretrained(folder / "text_encoder_2")
        self.tokenizer.save_pretrained(folder / "tokenizer")
        self.tokenizer.save_pretrained(folder / "tokenizer_2")


class Velocity(nn.Module):
    """Text path and transformer together, from token ids to velocity."""

    def __init__(self) -> None:
        super().__init__()
        self.text = TextPath()
        self.transformer = FluxTransformer2DModel(**architectures.BASE)
        rows, columns = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
        ids = torch.stack([torch.zeros(16), rows.reshape(-1), columns.reshape(-1)], dim=-1)
        self.register_buffer("image_ids", ids, persistent=False)
        self.register_buffer("text_ids", torch.zeros(architectures.TEXT_LENGTH, 3), persistent=False)

    def forward(self, x: Tensor, t: Tensor, ids: Tensor, mask: Tensor, keep: Tensor) -> Tensor:
        """X (b, 16, 64), t (b,), ids and mask (b, l), keep (b,): whether the caption is seen."""
        tokens, pooled = self.text(ids, mask)
        seen = mask.bool() & keep[:, None]
        attended = functional.pad(seen, (0, x.shape[1]), value=True)[:, None, None, :]
        return self.transformer(
            hidden_states=x,
            encoder_hidden_states=tokens,
            pooled_projections=pooled * keep[:, None],
            timestep=t,
            img_ids=self.image_ids,
            txt_ids=self.text_ids,
            joint_attention_kwargs={"attention_mask": attended},
            return_dict=False,
        )[0]


def pack(latents: Float[Tensor, "b 16 h w"]) -> Float[Tensor, "b tokens 64"]:
    """FLUX's 2 x 2 packing."""
    b, c, h, w = latents.shape
    return latents.reshape(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(b, h * w // 4, c * 4)


@torch.no_grad()
def encode_pool(vae: AutoencoderKL, pool: Pool, device: str, *, batch_size: int = 128) -> Float[Tensor, "n 16 8 8"]:
    """Latents of the whole pool, scaled, as half precision on the CPU."""
    latents = []
    for start in range(0, len(pool), batch_size):
        images = pool.images[start : start + batch_size].to(device).float() / 127.5 - 1
        with torch.autocast(device, torch.bfloat16):
            mean = vae.encode(images.to(memory_format=torch.channels_last)).latent_dist.mean
        latents.append(((mean.float() - vae.config.shift_factor) * vae.config.scaling_factor).half().cpu())
    return torch.cat(latents)


def train(out: Path, *, pool: Pool, minutes: float, batch_size: int, seed: int, device: str) -> None:
    """Train for a given time and save transformer and text path in diffusers' and transformers' layouts."""
    torch.manual_seed(seed)
    vae = AutoencoderKL.from_pretrained(out / "vae").float().to(device).to(memory_format=torch.channels_last).eval()
    latents = encode_pool(vae, pool, device)
    draw = Draw(seed)
    captions = [random_caption(draw, toy, view) for toy, view in zip(pool.toys, pool.views, strict=True)]
    model = Velocity().to(device)
    ids, mask = model.text.tokenize(captions)
    average = moving_average(model, 0.999)
    optimizer = TimedOptimizer(model)
    settings = {"pictures": len(pool), "batch_size": batch_size, "seed": seed}
    log = Log(out, "base", minutes=minutes, settings=settings)
    saved = 0
    while (progress := log.progress()) < 1:
        index = torch.randint(len(pool), (batch_size,))
        loss = _loss(model, latents[index], ids[index], mask[index], device)
        loss.backward()
        optimizer.step(log.step, progress)
        average.update_parameters(model)
        log.add(samples=batch_size, loss=loss)
        if int(progress * 10) > saved:
            saved = int(progress * 10)
            save(cast(Velocity, average.module), out)
    save(cast(Velocity, average.module), out)
    log.close(parameters=sum(p.numel() for p in model.transformer.parameters()))


def save(model: Velocity, out: Path) -> None:
    """Write copies in half precision; the model itself stays as it is."""
    transformer = FluxTransformer2DModel(**architectures.BASE)
    transformer.load_state_dict(model.transformer.state_dict())
    transformer.half().save_pretrained(out / "transformer")
    text = TextPath()
    text.load_state_dict(model.text.state_dict())
    text.save(out / "flux_text")


def _loss(velocity: Velocity, latents: Tensor, ids: Tensor, mask: Tensor, device: str) -> Tensor:
    """Rectified flow: target is noise minus data; no weighting."""
    data = pack(latents.float()).to(device)
    t = torch.randn(len(data), device=device).sigmoid()
    t = torch.where(torch.rand_like(t) < 0.2, torch.rand_like(t), t)
    noise = torch.randn_like(data)
    x = (1 - t[:, None, None]) * data + t[:, None, None] * noise
    keep = torch.rand_like(t) > CAPTION_DROPOUT
    with torch.autocast(device, torch.bfloat16):
        predicted = velocity(x, t, ids.to(device), mask.to(device), keep)
    return functional.mse_loss(predicted.float(), noise - data)
