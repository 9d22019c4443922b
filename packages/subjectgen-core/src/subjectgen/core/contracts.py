"""What travels between the parts, and one protocol per kind of part.

Shape letters: b batch, l tokens of a sequence, c encoder width, d context width, p pooled width,
h w image or latent size, k references of one sample.
Inside attention: n tokens, heads, e width of a head.

Data flows one way: ``Sample`` -> encoder -> ``Features | Latents | Conditioning`` -> aggregator -> ``Conditioning``
-> injector -> ``Streams`` -> backbone -> velocity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class Modality(IntEnum):
    """What a token of an encoder's sequence is."""

    PADDING = 0
    TEXT = 1
    IMAGE = 2


@dataclass(frozen=True, slots=True)
class Visibility:
    """Which inputs of a sample one branch may see.

    One notion serves stage masks (off = sees nothing), dropout in training and the negative pass of
    classifier-free guidance. A branch that sees nothing is absent: not computed, not in the sequence.
    """

    text: bool = True
    references: bool = True

    @property
    def nothing(self) -> bool:
        """Whether the branch is absent."""
        return not (self.text or self.references)

    def __and__(self, other: Visibility) -> Visibility:
        """What both allow."""
        return Visibility(self.text and other.text, self.references and other.references)


EVERYTHING = Visibility(True, True)
NOTHING = Visibility(False, False)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """One reference image of a subject."""

    image: Float[Tensor, "3 h w"]
    """RGB in [0, 1]."""
    subject_mask: Float[Tensor, "1 h w"] | None = None
    """Where the subject is in ``image``, 1 inside."""
    region_mask: Float[Tensor, "1 h2 w2"] | None = None
    """Where the subject shall appear in the target; of any size, with the target's aspect ratio."""
    weight: float = 1.0
    """How strongly this reference speaks, for injectors that treat each reference by itself (λ_i)."""
    name: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """Everything known of one request or one training pair; nothing else travels beside it."""

    prompt: str = ""
    references: tuple[Reference, ...] = ()
    target: Float[Tensor, "3 h w"] | None = None
    """RGB in [0, 1]; only in training and evaluation."""

    def seen(self, visibility: Visibility) -> Sample:
        """The sample as a branch with this visibility sees it."""
        return replace(
            self,
            prompt=self.prompt if visibility.text else "",
            references=self.references if visibility.references else (),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """Hidden states of an encoder, all layers, with what each token is."""

    hidden_states: tuple[Float[Tensor, "b l c"] | None, ...]
    """F_0..F_M (paper 3.2); index 0 is the embedding output. Layers nobody asked for are ``None``."""
    modality: Int[Tensor, "b l"]
    """A :class:`Modality` per token."""
    reference: Int[Tensor, "b l"]
    """Which reference an image token belongs to; -1 elsewhere."""
    class_token: Bool[Tensor, "b l"] | None = None
    """Image tokens that stand for their whole reference (a ViT's class token), where the encoder has them."""
    image_features: Float[Tensor, "b l c"] | None = None
    """The vision tower's features after the projector, at image positions; zero elsewhere."""
    pooled: Float[Tensor, "b p"] | None = None
    """A pooled text vector where the encoder has one (CLIP)."""
    last_layer_normalized: bool = True
    """Whether F_M is after the final norm, as in transformers' ``hidden_states[-1]``."""

    @property
    def depth(self) -> int:
        """Number of hidden states, M + 1."""
        return len(self.hidden_states)

    @property
    def mask(self) -> Bool[Tensor, "b l"]:
        """True at tokens that are not padding."""
        return self.modality != Modality.PADDING


@dataclass(frozen=True, kw_only=True, eq=False)
class Latents:
    """References as VAE latents, one tensor per reference; sizes may differ between references."""

    values: tuple[Float[Tensor, "b c _ _"], ...]
    """Scaled and shifted as the backbone expects them. All rows of a batch have the same references."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Conditioning:
    """Tokens for the backbone; zero tokens are allowed."""

    tokens: Float[Tensor, "b l d"]
    mask: Bool[Tensor, "b l"]
    pooled: Float[Tensor, "b p"] | None = None
    reference: Int[Tensor, "b l"] | None = None
    """Which reference each token tells of, as in ``Features``; -1 for none. ``None`` where nobody knows."""


Encoded: TypeAlias = Features | Latents | Conditioning
"""What an encoder may return. Only ``Features`` need an aggregator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveBranches:
    """Which branches speak at one timestep, and how the silent ones are treated.

    ``visibility`` names every branch of the experiment.
    """

    visibility: Mapping[str, Visibility]
    inactive: Literal["drop", "zero"] = "drop"
    """``drop``: an absent branch leaves the sequence. ``zero``: its tokens stay and are multiplied by 0 (Eq. 4)."""

    @property
    def names(self) -> frozenset[str]:
        """Branches that see something."""
        return frozenset(name for name, seen in self.visibility.items() if not seen.nothing)

    def restricted(self, by: Mapping[str, Visibility]) -> ActiveBranches:
        """The same, thinned by a dropout outcome or by the negative pass. A missing name means everything."""
        return replace(self, visibility={n: v & by.get(n, EVERYTHING) for n, v in self.visibility.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class Guidance:
    """Guidance at one timestep."""

    embedded: float | None = None
    """Value for the backbone's own guidance input; ``None`` where it has none."""
    true_cfg: float = 1.0
    """Scale of two-pass classifier-free guidance; 1 means one pass."""
    negative: Mapping[str, Visibility] = field(default_factory=dict)
    """What each branch sees in the negative pass; a missing name means nothing."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenGroup:
    """Tokens of one source in one of the backbone's sequences."""

    tokens: Float[Tensor, "b l d"]
    mask: Bool[Tensor, "b l"]
    position_ids: Float[Tensor, "l 3"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Placement:
    """Where in the target, and how strongly, each reference of each row speaks, in the order of the sample."""

    regions: Float[Tensor, "b k rows columns"]
    """Share of each target token that the reference's region mask covers, in [0, 1]. 1 everywhere for a reference
    without a mask; 0 everywhere for references that a row does not have. Overlapping regions both count."""
    weights: Float[Tensor, "b k"]
    """``Reference.weight``; 0 for references that a row does not have."""

    def rows(self, index: Int[Tensor, " n"]) -> Placement:
        """Chosen rows."""
        return Placement(regions=self.regions[index], weights=self.weights[index])


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSite:
    """One attention layer of a backbone, in which an injector may add something."""

    name: str
    """Name of the module in the backbone."""
    heads: int
    head_width: int

    @property
    def width(self) -> int:
        """Channels of all heads together."""
        return self.heads * self.head_width


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionLayout:
    """Which tokens of an attention's sequence are what; the order is context, target, references."""

    context: slice
    target: slice
    references: slice


@runtime_checkable
class AttentionAddition(Protocol):
    """What an injector adds inside the backbone's attentions. Called once per attention and step."""

    def __call__(
        self,
        site: int,
        query: Float[Tensor, "b n heads e"],
        output: Float[Tensor, "b n heads e"],
        layout: AttentionLayout,
    ) -> Float[Tensor, "b n heads e"]:
        """Return the attention's output with something added; with gradients off, ``output`` may be written to.

        Args:
            site: index into ``Backbone.attention_sites``.
            query: normalized and position-encoded queries of all tokens.
            output: what the attention gave, before its output projection.
            layout: which tokens are what.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Streams:
    """What enters the backbone beside the noisy image. Injectors take one and return a longer one."""

    target_grid: tuple[int, int]
    """Rows and columns of the target in backbone tokens."""
    context: tuple[TokenGroup, ...] = ()
    """Text stream."""
    image: tuple[TokenGroup, ...] = ()
    """Image tokens that follow the target."""
    image_grids: tuple[tuple[int, int], ...] = ()
    """Rows and columns of each group of references in ``image``, for diagonal position ids."""
    pooled: Float[Tensor, "b p"] | None = None
    placement: Placement | None = None
    """Regions and weights of the references, for injectors that treat each by itself; ``None``: everywhere, 1."""
    attention: tuple[AttentionAddition, ...] = ()
    """What injectors add inside the attentions, one after another."""


# ------------------------------------------------------------------------------------------------ protocols


@runtime_checkable
class Encoder(Protocol):
    """Prompt and/or references -> features. An ``nn.Module``, frozen. Built as ``Class(config)``."""

    inputs: frozenset[str]
    """What it reads: ``{"text"}``, ``{"references"}`` or both. Without any of them the branch is absent."""
    width: int
    """c of Features, d of Conditioning, channels of Latents."""
    depth: int
    """M + 1 hidden states; 1 for encoders that do not return Features."""
    pooled_width: int | None
    """Width of the pooled vector it gives, if any."""

    def encode(self, samples: Sequence[Sample], *, layers: Sequence[int] | None = None) -> Encoded:
        """Encode a batch. ``layers``: the hidden states that are wanted; ``None`` means all."""
        ...


@runtime_checkable
class Aggregator(Protocol):
    """Features -> Conditioning. An ``nn.Module`` built as
    ``Class(config, width=c, depth=M + 1, context_width=d, pooled_width=p)``.
    """

    layers: tuple[int, ...]
    """Hidden states it reads, so that an encoder need not keep the others."""

    def __call__(self, features: Features) -> Conditioning:
        """Aggregate. Token order is kept; tokens that are not used are cut or masked."""
        ...


@runtime_checkable
class Injector(Protocol):
    """How a conditioning enters the backbone. An ``nn.Module`` built as ``Class(config, backbone=backbone)``;
    parameters of its own are trained and saved. The backbone stays as it is, for variants of an experiment share it;
    to act inside the blocks there is ``Streams.attention``.
    """

    accepts: type[Conditioning] | type[Latents]
    """What it takes. An injector that heeds ``Streams.placement`` also has ``places_references = True``: without one,
    region masks and weights of references are refused. One that takes tokens of its own width has ``width``."""

    def __call__(self, streams: Streams, conditioning: Conditioning | Latents) -> Streams:
        """Return the streams with this conditioning added."""
        ...


@dataclass(frozen=True, eq=False)
class StepConditions:
    """What a backbone is asked with beside tokens; what follows from it can be computed before the first step."""

    timestep: float
    """In [0, 1]."""
    pooled: Float[Tensor, "b p"] | None = None
    """As ``Streams.pooled``; ``None``: the backbone's constant."""
    guidance: float | None = None
    """As the backbone's ``guidance``; ``None`` where it has no such input."""

    def __str__(self) -> str:
        pooled = "the constant" if self.pooled is None else f"of shape {tuple(self.pooled.shape)}"
        return f"timestep {self.timestep:g}, guidance {self.guidance}, pooled vector {pooled}"


@runtime_checkable
class Backbone(Protocol):
    """Velocity model. An ``nn.Module`` built as ``Class(config)``.

    What a sampler asks for where a backbone has it, and what makes sampling cheaper:

    - ``prepare(requests: Sequence[StepConditions], *, release: bool)``, a context: conditions of all steps to come,
      whose consequences are computed once; with ``release`` the weights for that may leave the device meanwhile;
    - ``cache_references(streams, *, like: Sequence[Streams]) -> Streams``: the same streams, keeping what does not
      change over steps; ``like`` are streams cached before, to share with;
    - ``merge_lora()``: fold an adapter into the weights.
    """

    context_width: int
    pooled_width: int
    latent_channels: int
    patch_size: int
    """Latent pixels per token along one axis."""
    guidance_embedded: bool
    attention_sites: tuple[AttentionSite, ...]
    """Attentions that run ``Streams.attention``, in the order in which they run; empty if it has none."""

    def __call__(
        self,
        latents: Float[Tensor, "b c h w"],
        timestep: Float[Tensor, " b"],
        streams: Streams,
        *,
        guidance: float | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Velocity (noise - data) at ``timestep`` in [0, 1]; 1 is pure noise."""
        ...


@runtime_checkable
class Schedule(Protocol):
    """The one object that training, sampling and stage masks share.
    Built as ``Class(config, branches=names)``, names in the experiment's order.
    """

    steps: int

    def timesteps(self, steps: int | None = None, *, image_tokens: int | None = None) -> Float[Tensor, " n"]:
        """Return ``steps + 1`` points, strictly falling from 1 to 0."""
        ...

    def active(self, timestep: float) -> ActiveBranches:
        """Branches that speak at this timestep; at least one does."""
        ...

    def stage(self, timestep: float) -> str:
        """Name of the stage, for progress bars and logs."""
        ...

    def guidance(self, timestep: float) -> Guidance:
        """Guidance at this timestep."""
        ...

    def sample_timesteps(
        self, count: int, *, image_tokens: int | None = None, generator: torch.Generator | None = None
    ) -> Float[Tensor, " n"]:
        """Draw training timesteps in (0, 1]."""
        ...

    def sample_dropout(self, count: int, *, generator: torch.Generator | None = None) -> list[Mapping[str, Visibility]]:
        """Draw what each branch sees, per row, from the dropout table."""
        ...


@runtime_checkable
class Dataset(Protocol):
    """Samples by index: same index, same sample; picklable. Built as ``Class(config)``."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@runtime_checkable
class Finder(Protocol):
    """Finds things in a picture by their names. Built as ``Class(config)``."""

    def find(self, image: Float[Tensor, "3 h w"], phrases: Sequence[str]) -> Float[Tensor, "k h w"]:
        """One mask per phrase, 1 inside.

        Raises:
            InputError: a phrase that is found nowhere; says which.
        """
        ...


@runtime_checkable
class Metric(Protocol):
    """A score over many images. Built as ``Class(config)``; order-free, mergeable."""

    def update(self, samples: Sequence[Sample], images: Sequence[Float[Tensor, "3 h w"]]) -> None:
        """Take in generated images with the samples they were generated for."""
        ...

    def merge(self, other: Any) -> None:
        """Take in another metric's state."""
        ...

    def compute(self) -> Mapping[str, float]:
        """Scores by name."""
        ...
