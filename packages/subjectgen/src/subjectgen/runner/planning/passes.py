"""What runs when: conditioning once, then the backbone's passes, stage by stage, with tokens and operations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import nn

from subjectgen.core import (
    EVERYTHING,
    ActiveBranches,
    AttentionLayout,
    Conditioning,
    Latents,
    Reference,
    Sample,
    Streams,
    Visibility,
)
from subjectgen.runner.generation.passes import Pass, row_pass, step_passes
from subjectgen.runner.planning.backbone_runs import BackboneRuns
from subjectgen.runner.planning.dry_run import Cost, dry_run
from subjectgen.runner.planning.formulas import Operations, Tokens
from subjectgen.runner.system.system import System


@dataclass(frozen=True, kw_only=True, eq=False)
class Made:
    """One branch's conditioning as shapes, and what making it costs."""

    conditioning: Conditioning | Latents
    encoder: Cost
    aggregator: Cost
    training: Cost
    """The aggregator forward and backward."""
    feature_bytes: int
    """Hidden states that the aggregator reads."""


@dataclass(frozen=True, kw_only=True)
class BackbonePass:
    """One pass of the backbone for one image."""

    tokens: Tokens
    work: Operations
    """As in training: all of it."""
    step: Operations
    """As in sampling, where what isolated references say comes from a cache, and adapters may be merged."""
    cached: Operations
    """As if references' keys and values came from a cache; exact where they are isolated."""
    added: Cost
    """Of what injectors add inside the attentions, forward."""
    injection: Cost
    """Of injectors before the backbone, such as keys and values of added attentions; as in training."""
    branch_passes: Pass
    """Who speaks, and what each sees."""

    @property
    def branches(self) -> tuple[str, ...]:
        """Names of those who speak."""
        return tuple(one.branch for one in self.branch_passes)

    @property
    def flops(self) -> int:
        """All operations of one step."""
        return self.step.total + self.added.flops

    @property
    def cached_flops(self) -> int:
        """The same with references' keys and values from a cache."""
        return self.cached.total + self.added.flops


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Steps that are alike."""

    name: str
    steps: int
    positive: BackbonePass
    negative: BackbonePass | None

    @property
    def passes(self) -> tuple[BackbonePass, ...]:
        """Passes of one step."""
        return (self.positive,) if self.negative is None else (self.positive, self.negative)

    @property
    def calls(self) -> tuple[tuple[Tokens, int], ...]:
        """What the sampler runs at once: tokens, and how many passes in one batch (equal ones share a batch)."""
        if self.negative is None:
            return ((self.positive.tokens, 1),)
        one, other = self.positive, self.negative
        if (one.branches, one.tokens) == (other.branches, other.tokens):
            return ((one.tokens, 2),)
        return ((one.tokens, 1), (other.tokens, 1))


class Passes:
    """Passes of an experiment for one prompt with references."""

    def __init__(self, system: System, sample: Sample, size: tuple[int, int]) -> None:
        self.system, self.sample = system, sample
        factor = system.autoencoder.scale_factor * system.backbone.patch_size
        self.grid = (size[0] // factor, size[1] // factor)
        self.runs = BackboneRuns(system.backbone, self.grid)
        self._made: dict[tuple[str, Visibility], Made] = {}
        self._injected: dict[tuple[str, Visibility], Cost] = {}
        self._passes: dict[Pass, BackbonePass] = {}

    # ------------------------------------------------------------------------------------------------- sampling

    def stages(self) -> list[Stage]:
        """The schedule's stages in order; a stage that returns is listed again."""
        schedule = self.system.schedule
        times = [float(t) for t in schedule.timesteps(image_tokens=self.target_tokens)]
        stages: list[Stage] = []
        for t, _ in pairwise(times):
            name = schedule.stage(t)
            if stages and stages[-1].name == name:
                stages[-1] = replace(stages[-1], steps=stages[-1].steps + 1)
            else:
                stages.append(self._stage(name, t))
        return stages

    @property
    def target_tokens(self) -> int:
        """Backbone tokens of the image."""
        return self.grid[0] * self.grid[1]

    def _stage(self, name: str, t: float) -> Stage:
        schedule = self.system.schedule
        passes = step_passes(self.system.branches, self.sample, schedule.active(t), schedule.guidance(t))
        negative = None if passes.negative is None else self._one(passes.negative)
        return Stage(name=name, steps=1, positive=self._one(passes.positive), negative=negative)

    @property
    def extraction(self) -> int:
        """Operations of filling a cache with the references' keys and values, once per image."""
        return self.runs.extraction(max((one.tokens.references for one in self._passes.values()), default=0)).total

    @property
    def injection(self) -> int:
        """Operations of injectors, once per prompt, such as keys and values of added attentions."""
        return sum(cost.flops for cost in self._injected.values())

    @property
    def injected_bytes(self) -> int:
        """Memory of what injectors make, which stays during denoising."""
        return sum(cost.live_bytes for cost in self._injected.values())

    def one(self, active: ActiveBranches) -> BackbonePass:
        """The pass in which these branches speak."""
        return self._one(row_pass(self.system.branches, self.sample, active))

    def _one(self, key: Pass) -> BackbonePass:
        if key not in self._passes:
            with torch.no_grad():
                streams, _ = self._streams(key)
            with torch.enable_grad():
                trained, injection = self._streams(key)
            tokens = Tokens(
                context=sum(group.tokens.shape[1] for group in streams.context),
                target=self.target_tokens,
                references=sum(group.tokens.shape[1] for group in streams.references),
            )
            work, cached = self.runs.work(tokens), self.runs.with_cache(tokens)
            step = cached if self.runs.isolated else work
            if self.system.experiment.settings.memory.merge_adapters:
                step, cached = replace(step, adapter=0), replace(cached, adapter=0)
            self._passes[key] = BackbonePass(
                tokens=tokens,
                work=work,
                step=step,
                cached=cached,
                added=self._added(trained, tokens),
                injection=injection,
                branch_passes=key,
            )
        return self._passes[key]

    # --------------------------------------------------------------------------------------------- conditioning

    def made(self, name: str, seen: Visibility = EVERYTHING) -> Made:
        """Run one branch on shapes."""
        key = (name, seen)
        if key not in self._made:
            self._made[key] = self._make(name, self.sample.seen(seen))
        return self._made[key]

    def conditioned(self) -> dict[str, list[Made]]:
        """All that was computed for the passes, by branch: one entry for each way the branch sees the sample."""
        return {name: [s for (n, _), s in self._made.items() if n == name] for name in self.system.branches}

    def _make(self, name: str, sample: Sample) -> Made:
        branch = self.system.branches[name]
        layers = getattr(branch.aggregator, "layers", None)
        with torch.no_grad(), dry_run(branch.encoder) as encoder:
            encoded = branch.encoder.encode([sample], layers=layers)
        if branch.aggregator is None:
            return Made(conditioning=encoded, encoder=encoder, aggregator=Cost(), training=Cost(), feature_bytes=0)
        with torch.no_grad(), dry_run(branch.aggregator) as aggregator:
            conditioning = branch.aggregator(encoded)
        with torch.enable_grad(), dry_run(branch.aggregator) as training:
            tokens = branch.aggregator(encoded).tokens
            if tokens.requires_grad:
                tokens.sum().backward()
        states = [state for state in encoded.hidden_states if state is not None]
        return Made(
            conditioning=conditioning,
            encoder=encoder,
            aggregator=aggregator,
            training=training,
            feature_bytes=sum(state.numel() * state.element_size() for state in states),
        )

    def _streams(self, passes: Pass) -> tuple[Streams, Cost]:
        """What enters the backbone, and what the injectors take together."""
        streams, total = Streams(target_grid=self.grid), Cost()
        for one in passes:
            injector, made = self.system.branches[one.branch].injector, self.made(one.branch, one.seen)
            with dry_run(*_modules(injector), forward_only=True) as cost:
                streams = injector(streams, made.conditioning)
            if not torch.is_grad_enabled():
                self._injected[one.branch, one.seen] = cost
            total.flops += cost.flops
            total.saved_bytes += cost.saved_bytes
        return streams, total

    def _added(self, streams: Streams, tokens: Tokens) -> Cost:
        if not streams.attention:
            return Cost()
        start, end = tokens.context, tokens.context + tokens.target
        layout = AttentionLayout(context=slice(0, start), target=slice(start, end), references=slice(end, tokens.all))
        injectors = [branch.injector for branch in self.system.branches.values()]
        dtype = next(p.dtype for p in self.system.backbone.parameters() if p.is_floating_point())
        with torch.enable_grad(), dry_run(*_modules(*injectors), forward_only=True) as cost:
            for number, site in enumerate(self.system.backbone.attention_sites):
                query = torch.empty(1, tokens.all, site.heads, site.head_width, device="meta", dtype=dtype)
                output = query.requires_grad_()
                for addition in streams.attention:
                    output = addition(number, query, output, layout)
        return cost


def _modules(*parts: Any) -> list[nn.Module]:
    return [part for part in parts if isinstance(part, nn.Module)]


def request(prompt_tokens: int, references: int, reference_size: int) -> Sample:
    """A prompt of so many words and white square references."""
    picture = Reference(image=torch.ones(3, reference_size, reference_size))
    return Sample(prompt=" ".join(["word"] * prompt_tokens), references=(picture,) * references)
