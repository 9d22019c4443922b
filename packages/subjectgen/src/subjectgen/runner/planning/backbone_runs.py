"""What the backbone's passes cost: operations, what stays for the backward pass, the most memory while sampling."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from operator import le
from typing import Any

import torch
from diffusers import FluxTransformer2DModel
from torch import nn

from subjectgen.core import Isolates, Streams, TokenGroup
from subjectgen.runner.planning.dry_run import Cost, dry_run
from subjectgen.runner.planning.formulas import Operations, Tokens, flux_work


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Memory of the backbone while it samples; weights are not in it."""

    peak_bytes: int
    """At the worst moment, the cache included."""
    cache_bytes: int
    """Keys and values of isolated references, which stay for all steps."""


class BackboneRuns:
    """Costs of a backbone for images of one size, each counted once."""

    def __init__(self, backbone: Any, grid: tuple[int, int]) -> None:
        self.backbone, self.grid = backbone, grid
        self._forwards: dict[Any, Cost] = {}
        self._caches: dict[Any, tuple[Streams, Cost]] = {}

    @cached_property
    def flux(self) -> Mapping[str, Any] | None:
        """Sizes of a FLUX transformer; ``None`` for any other backbone."""
        transformer = getattr(self.backbone, "transformer", None)
        return transformer.config if isinstance(transformer, FluxTransformer2DModel) else None

    @property
    def isolated(self) -> bool:
        """Whether references attend to themselves alone, in a pass of their own whose keys and values are kept."""
        return isinstance(self.backbone, Isolates) and self.backbone.isolated

    @property
    def width(self) -> int:
        """Channels of a token inside the backbone; 0 where it says nothing of its attentions."""
        sites = self.backbone.attention_sites
        return int(sites[0].width) if sites else 0

    # ------------------------------------------------------------------------------------------------- operations

    def work(self, tokens: Tokens) -> Operations:
        """Operations of one forward pass: by formula for FLUX, counted on shapes for any other backbone."""
        if self.flux is None:
            return Operations(linear=self._forward(tokens).flops, attention=0, adapter=0, other=0)
        if self.isolated and tokens.references:
            return self.with_cache(tokens) + self.extraction(tokens.references)
        return flux_work(self.flux, tokens, adapter=self._adapter)

    def with_cache(self, tokens: Tokens) -> Operations:
        """The same with keys and values of references from a cache; only FLUX has one."""
        if self.flux is None or not tokens.references:
            return self.work(tokens)
        return flux_work(self.flux, tokens.with_cache(), adapter=self._adapter)

    def extraction(self, references: int) -> Operations:
        """Operations of filling the cache."""
        if self.flux is None or not references:
            return Operations(linear=0, attention=0, adapter=0, other=0)
        return flux_work(self.flux, Tokens(context=0, target=0, references=references), adapter=self._adapter)

    @cached_property
    def _adapter(self) -> Mapping[str, int]:
        """Weights of LoRA that a token meets on its way: in double blocks by stream, in single blocks all."""
        found = dict.fromkeys(("double_context", "double_image", "single"), 0)
        for name, parameter in self.backbone.transformer.named_parameters():
            if ".lora_" in name:
                double = "double_context" if ".add_" in name or "to_add_out" in name else "double_image"
                found["single" if "single_transformer_blocks" in name else double] += parameter.numel()
        return found

    # ----------------------------------------------------------------------------------------------------- memory

    def training(self, tokens: Tokens, dtype: torch.dtype | None) -> Cost:
        """One sample's forward pass when no block is computed again.

        As if every block had something to train in or before it; adapters in ``dtype``, which autocast gives them.
        """
        trained = [p for p in self.backbone.parameters() if p.requires_grad]
        with in_type(trained, dtype), _everything_kept(self.backbone):
            return self._forward(tokens, grad=True)

    def sampling(self, calls: Iterable[tuple[Tokens, int]], dtype: torch.dtype | None) -> Sampling:
        """Memory of sampling.

        Args:
            calls: Tokens and rows of all that runs.
            dtype: Of the weights; ``None`` leaves them.
        """
        calls = list(calls)
        filled = {(tokens.references, rows) for tokens, rows in calls if self.isolated and tokens.references}
        peaks, per_token = [], 0
        with in_type(self.backbone.parameters(), dtype):
            for tokens, rows in _largest(calls):
                peaks.append(self._forward(tokens, rows=rows).peak_bytes)
                if (tokens.references, rows) in filled:
                    filling = self._cache(tokens, rows)[1]
                    per_token = filling.live_bytes // (rows * tokens.references)
                    peaks.append(filling.peak_bytes - filling.live_bytes)  # the cache itself is added below
        cache = per_token * sum(references * rows for references, rows in filled)
        return Sampling(peak_bytes=max(peaks) + cache, cache_bytes=cache)

    def _forward(self, tokens: Tokens, *, rows: int = 1, grad: bool = False) -> Cost:
        """Run the backbone itself on shapes; while sampling, isolated references come from their cache."""
        key = (tokens, rows, grad, frozenset(p.dtype for p in self.backbone.parameters()))
        if key not in self._forwards:
            backbone = self.backbone
            height, width = (side * backbone.patch_size for side in self.grid)
            given = self._cache(tokens, rows)[0] if self.isolated and tokens.references and not grad else None
            with torch.set_grad_enabled(grad), dry_run(backbone, forward_only=True) as cost:
                streams = given or self._streams(tokens, rows)
                shape = (rows, backbone.latent_channels, height, width)
                latents = torch.empty(shape, device="meta", dtype=self._dtype).requires_grad_(grad)
                guidance = 1.0 if backbone.guidance_embedded else None
                backbone(latents, torch.ones(rows), streams, guidance=guidance)
            self._forwards[key] = cost
        return self._forwards[key]

    def _cache(self, tokens: Tokens, rows: int) -> tuple[Streams, Cost]:
        key = (tokens, rows, self._dtype)
        if key not in self._caches:
            streams = self._streams(tokens, rows)
            with torch.no_grad(), dry_run(self.backbone) as cost:
                kept: Streams = self.backbone.cache_references(streams)
            self._caches[key] = kept, cost
        return self._caches[key]

    def _streams(self, tokens: Tokens, rows: int) -> Streams:
        def group(role: str, count: int, width: int) -> tuple[TokenGroup, ...]:
            if not count:
                return ()
            values = torch.empty(rows, count, width, device="meta", dtype=self._dtype)
            mask = torch.ones(rows, count, dtype=torch.bool)
            if role == "context":
                return (TokenGroup(tokens=values, mask=mask),)
            return (TokenGroup(tokens=values, mask=mask, role="reference", reference=0, grid=(1, count)),)

        return Streams(
            target_grid=self.grid,
            context=group("context", tokens.context, self.backbone.context_width),
            references=group(
                "reference", tokens.references, self.backbone.latent_channels * self.backbone.patch_size**2
            ),
        )

    @property
    def _dtype(self) -> torch.dtype:
        return next(p.dtype for p in self.backbone.parameters() if p.is_floating_point())


def _largest(calls: Iterable[tuple[Tokens, int]]) -> list[tuple[Tokens, int]]:
    """Those that no other exceeds in every respect: it needs at least as much."""
    sizes = {(rows, tokens.context, tokens.references): (tokens, rows) for tokens, rows in calls}
    less = {one for one in sizes for other in sizes if one != other and all(map(le, one, other))}
    return [call for size, call in sizes.items() if size not in less]


@contextmanager
def in_type(parameters: Iterable[nn.Parameter], dtype: torch.dtype | None) -> Iterator[None]:
    """Parameters in another type for a while; ``None`` leaves them."""
    changed: Sequence[nn.Parameter] = [p for p in parameters if dtype is not None and p.is_floating_point()]
    before = [p.data for p in changed]
    for parameter in changed:
        parameter.data = parameter.data.to(dtype)
    try:
        yield
    finally:
        for parameter, data in zip(changed, before, strict=True):
            parameter.data = data


@contextmanager
def _everything_kept(backbone: nn.Module) -> Iterator[None]:
    """Without gradient checkpointing, which transformers and diffusers note in their modules."""
    switched = [module for module in backbone.modules() if vars(module).get("gradient_checkpointing")]
    for module in switched:
        setattr(module, "gradient_checkpointing", False)  # noqa: B010  # a plain attribute, not a submodule
    try:
        yield
    finally:
        for module in switched:
            setattr(module, "gradient_checkpointing", True)  # noqa: B010
