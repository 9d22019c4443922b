"""Untrained checkpoints of every tiny model in the hubs' own layouts: for tests, and to try code without weights."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, FluxTransformer2DModel

from subjectgen.toybox import architectures
from subjectgen.toybox.judge import Judge
from subjectgen.toybox.pretraining import mllm
from subjectgen.toybox.pretraining.base import TextPath
from subjectgen.toybox.tokenizer import mllm_tokenizer


def write_untrained(folder: Path, *, seed: int = 0) -> Path:
    """Write ``vae``, ``internvl3``, ``qwen2_5_vl``, ``flux_text``, ``transformer`` and ``judge``, all random."""
    torch.manual_seed(seed)
    AutoencoderKL(**architectures.VAE).half().save_pretrained(folder / "vae")
    for family in ("internvl3", "qwen2_5_vl"):
        tokenizer = mllm_tokenizer(family)
        model = mllm.build(family, len(tokenizer), tokenizer.get_vocab())
        mllm.save(family, model, tokenizer, folder / family)
    TextPath().save(folder / "flux_text")
    transformer = FluxTransformer2DModel(**architectures.BASE)
    torch.nn.init.normal_(transformer.proj_out.weight, std=0.02)  # an untrained output of zero would show no condition
    transformer.half().save_pretrained(folder / "transformer")
    Judge().save(folder / "judge")
    return folder
