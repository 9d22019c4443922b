"""Gradient checkpointing: what blocks keep for the backward pass, and what they compute again.

Attention is the dearest thing to compute again: its cost grows with the square of the tokens, while its output is as
small as a block's input. Selective checkpointing (arXiv 2205.05198) keeps it and computes the rest of each block again.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import diffusers
import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from subjectgen.backbones.options import Checkpointing

ATTENTION = (
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
    "_scaled_dot_product_fused_attention_overrideable",
    "_scaled_dot_product_flash_attention_for_cpu",
)
"""Kernels that torch's ``scaled_dot_product_attention`` chooses from. Where it takes none of them, as for float64 on
some devices, attention is plain products and is computed again with the rest."""


def enable_checkpointing(transformer: diffusers.FluxTransformer2DModel, mode: Checkpointing) -> None:
    """Have these blocks computed again in the backward pass; ``False``: none."""
    if mode == "selective":
        transformer.enable_gradient_checkpointing(_all_but_attention)
    elif mode is True:
        transformer.enable_gradient_checkpointing(_all)
    elif mode:
        blocks = (*transformer.transformer_blocks, *transformer.single_transformer_blocks)
        transformer.enable_gradient_checkpointing(partial(_if_chosen, frozenset(blocks[::mode])))


def _all_but_attention(block: nn.Module, *inputs: Any) -> Any:
    kept = [getattr(torch.ops.aten, name).default for name in ATTENTION]
    contexts: Callable[[], Any] = partial(create_selective_checkpoint_contexts, kept)
    return checkpoint(block.__call__, *inputs, use_reentrant=False, context_fn=contexts, early_stop=_may_stop(block))


def _all(block: nn.Module, *inputs: Any) -> Any:
    return checkpoint(block.__call__, *inputs, use_reentrant=False, early_stop=_may_stop(block))


def _if_chosen(chosen: frozenset[nn.Module], block: nn.Module, *inputs: Any) -> Any:
    return _all(block, *inputs) if block in chosen else block(*inputs)


def _may_stop(block: nn.Module) -> bool:
    """Whether computing again may end as soon as nothing more is needed: not where weights were gathered from other
    devices, which the end of the block gives back.
    """
    return not isinstance(block, FSDPModule)
