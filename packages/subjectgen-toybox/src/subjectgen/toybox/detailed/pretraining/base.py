"""Pretrain the FLUX-shaped base: single pictures, and as often two pictures of one toy side by side.

FLUX knows that a second picture may show the same thing; a base that never saw two pictures of one toy does not. Both
pictures of a pair are noised alike, and one caption tells both scenes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import cast

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel
from jaxtyping import Float
from rich.progress import track
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPTextModel, T5EncoderModel

from subjectgen.core import resolve_checkpoint
from subjectgen.toybox import architectures
from subjectgen.toybox.captions import random_caption
from subjectgen.toybox.detailed.captions import LONGEST, random_side_by_side_caption
from subjectgen.toybox.detailed.pretraining.muon import Muon, block_matrices
from subjectgen.toybox.detailed.pretraining.pool import Pool
from subjectgen.toybox.detailed.pretraining.run import Plan, Run
from subjectgen.toybox.detailed.pretraining.schedule import Schedule
from subjectgen.toybox.pretraining.base import CAPTION_DROPOUT, TextPath, pack
from subjectgen.toybox.pretraining.optimizers import moving_average
from subjectgen.toybox.world import Draw

TEXT_LENGTHS = {False: architectures.TEXT_LENGTH, True: LONGEST + 1}
"""Tokens of a caption of one picture and of a pair, with its end; what is beyond the caption is masked."""
MUON_RATE, RATE = 2e-3, 1e-3


class Velocity(nn.Module):
    """Text path and transformer together, from captions and noised latents of any size to velocity."""

    def __init__(self) -> None:
        super().__init__()
        self.text = TextPath()
        self.transformer = FluxTransformer2DModel(**architectures.BASE)

    def tokenize(self, captions: list[str], length: int) -> tuple[Tensor, Tensor]:
        """Ids and mask of captions, padded to a fixed length so that compiled code meets few shapes."""
        batch = self.text.tokenizer(
            captions, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        return batch.input_ids, batch.attention_mask

    def load(self, folder: Path) -> None:
        """Take the weights of another base with the same vocabulary and sizes."""
        text, single = folder / "flux_text", {"dtype": torch.float32}
        self.text.clip.load_state_dict(CLIPTextModel.from_pretrained(text / "text_encoder", **single).state_dict())
        self.text.t5.load_state_dict(T5EncoderModel.from_pretrained(text / "text_encoder_2", **single).state_dict())
        transformer = FluxTransformer2DModel.from_pretrained(folder / "transformer", torch_dtype=torch.float32)
        self.transformer.load_state_dict(transformer.state_dict())

    def forward(self, latents: Tensor, t: Tensor, ids: Tensor, mask: Tensor, keep: Tensor) -> Tensor:
        """Velocity of packed latents.

        Args:
            latents: Noised, (b, 16, h, w); of a pair w is twice h.
            t: Share of noise, (b,).
            ids: Tokens of the captions, (b, l).
            mask: Which of them are real, (b, l).
            keep: Whether the caption is seen, (b,).
        """
        x = pack(latents)
        tokens, pooled = self.text(ids, mask)
        attended = functional.pad(mask.bool() & keep[:, None], (0, x.shape[1]), value=True)[:, None, None, :]
        return self.transformer(
            hidden_states=x,
            encoder_hidden_states=tokens,
            pooled_projections=pooled * keep[:, None],
            timestep=t,
            img_ids=positions(latents.shape[-2] // 2, latents.shape[-1] // 2).to(x),
            txt_ids=torch.zeros(ids.shape[1], 3, device=x.device),
            joint_attention_kwargs={"attention_mask": attended},
            return_dict=False,
        )[0]


def positions(rows: int, columns: int) -> Float[Tensor, "tokens 3"]:
    """FLUX's position ids of one picture; the right picture of a pair goes on where the left one ends."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros(rows * columns), row.flatten(), column.flatten()], dim=-1)


def pool_latents(out: Path, pool: Pool, device: str) -> Float[Tensor, "n 16 h w"]:
    """Latents of all pictures by the autoencoder in ``out``, kept beside its checkpoints for the next call."""
    weights = (out / "detailed_vae" / "diffusion_pytorch_model.safetensors").read_bytes()
    digest = hashlib.sha256(weights + pool.images[:: max(1, len(pool) // 64)].numpy().tobytes()).hexdigest()[:16]
    kept = out / "checkpoints" / f"latents-{len(pool)}-{digest}.safetensors"
    if not kept.exists():
        vae = AutoencoderKL.from_pretrained(out / "detailed_vae").float().to(device).eval()
        latents = encode_pool(vae, pool, device).contiguous()
        beside = kept.with_suffix(".partial")
        beside.parent.mkdir(parents=True, exist_ok=True)
        save_file({"latents": latents}, beside)
        beside.replace(kept)
    return load_file(kept)["latents"]


@torch.no_grad()
def encode_pool(vae: AutoencoderKL, pool: Pool, device: str) -> Float[Tensor, "n 16 h w"]:
    """Latents of all pictures, scaled, in half precision on the CPU."""
    latents = []
    for part in track(torch.arange(len(pool)).split(64), description="encoding"):
        mean = vae.encode(pool.batch(part).to(device) * 2 - 1).latent_dist.mean
        latents.append(((mean - vae.config.shift_factor) * vae.config.scaling_factor).half().cpu())
    return torch.cat(latents)


def batch(pool: Pool, latents: Tensor, draw: Draw, size: int, *, pairs: bool) -> tuple[Tensor, list[str]]:
    """Latents and captions of ``size`` rows: single pictures, or the two pictures of a toy in either order."""
    if not pairs:
        index = torch.randint(len(pool), (size,), generator=draw.generator)
        return latents[index], [random_caption(draw, pool.toys[i], pool.views[i]) for i in index.tolist()]
    left = torch.randint(len(pool) // 2 * 2, (size,), generator=draw.generator)
    right = left ^ 1  # pictures 2 k and 2 k + 1 of a pool show one toy
    captions = [
        random_side_by_side_caption(draw, pool.toys[i], pool.views[i], pool.views[j])
        for i, j in zip(left.tolist(), right.tolist(), strict=True)
    ]
    return torch.cat([latents[left], latents[right]], dim=-1), captions


def flow_loss(
    velocity: Velocity, latents: Tensor, captions: list[str], draw: Draw, device: str, *, pairs: bool
) -> Tensor:
    """Rectified flow: the target is noise minus data, timesteps are logit-normal with a uniform fifth."""
    data, generator = latents.float(), draw.generator
    t = torch.randn(len(data), generator=generator).sigmoid()
    uniform, chance = torch.rand(2, len(data), generator=generator)
    t = torch.where(chance < 0.2, uniform, t)
    noise = torch.randn(data.shape, generator=generator)
    keep = torch.rand(len(data), generator=generator) > CAPTION_DROPOUT
    share = t[:, None, None, None]
    ids, mask = velocity.tokenize(captions, TEXT_LENGTHS[pairs])
    noised = (1 - share) * data + share * noise
    predicted = velocity(*(part.to(device) for part in (noised, t, ids, mask, keep)))
    return functional.mse_loss(predicted.float(), pack(noise - data).to(device))


def train(
    out: Path, *, pool: Pool, plan: Plan, batch_size: int, device: str, start: str = "", compiled: bool = True
) -> None:
    """Train, every other step on pairs, and save in diffusers' and transformers' layouts when all steps are made.

    Needs ``detailed_vae`` in ``out``. ``start`` is a folder of first weights, ``transformer`` and ``flux_text``;
    without it they are drawn. ``compiled`` takes two minutes more at the start of every call, and then about half of
    the time.
    """
    torch.manual_seed(plan.seed)  # of the first weights; all later choices follow from the step
    latents = pool_latents(out, pool, device)
    model = Velocity()
    if start:
        model.load(Path(resolve_checkpoint(start)))
    model = model.to(device)
    average = moving_average(model, 0.999)
    if compiled:
        model.transformer.compile(dynamic=False)
    matrices, others = block_matrices(model)
    muon = Muon(matrices, lr=MUON_RATE)
    adamw = torch.optim.AdamW(others, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
    run = Run(
        out,
        "detailed_base",
        {"model": model, "average": average, "muon": muon, "adamw": adamw},
        plan=plan,
        settings={
            "pictures": len(pool),
            "batch_size": batch_size,
            "muon_rate": MUON_RATE,
            "rate": RATE,
            "start": start,
        },
    )
    schedule = Schedule(steps=plan.steps, warmup=200, falling=0.4)
    for step in run.remaining():
        draw, pairs = run.draw(step), step % 2 == 1
        schedule.apply(muon, step)
        schedule.apply(adamw, step)
        loss = flow_loss(model, *batch(pool, latents, draw, batch_size, pairs=pairs), draw, device, pairs=pairs)
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        muon.step()
        adamw.step()
        average.update_parameters(model)
        run.add(batch_size, **{"pairs" if pairs else "single": loss.detach()})
    if run.finished:
        trained = cast(Velocity, average.module)
        trained.text.save(out / "detailed_flux_text")
        trained.transformer.half().save_pretrained(out / "detailed_transformer")
        run.write(finished=True, parameters=sum(p.numel() for p in model.parameters()))
