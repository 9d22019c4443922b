"""What travels between the parts: features, latents, conditioning, and the streams that enter a backbone.

Data flows one way: ``Sample`` -> encoder -> ``Features | Latents | Conditioning`` -> aggregator -> ``Conditioning``
-> injector -> ``Streams`` -> backbone -> velocity.

Shape letters: b batch, l tokens of a sequence, c encoder width, d context width, p pooled width, k references of one
sample. Inside attention: n tokens, heads, e width of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor

from subjectgen.core.samples import EVERYTHING, Visibility


class Modality(IntEnum):
    """What a token of an encoder's sequence is."""

    PADDING = 0
    TEXT = 1
    IMAGE = 2


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
    """References as an autoencoder's latents, one tensor per reference; sizes may differ between references."""

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
    """What each branch sees in the negative pass; names every branch of the experiment where ``true_cfg`` is not 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenGroup:
    """Tokens of one source, and what they are. Where they stand in position space is the backbone's own decision."""

    tokens: Float[Tensor, "b l d"]
    mask: Bool[Tensor, "b l"]
    role: Literal["context", "target", "reference"] = "context"
    reference: int | None = None
    """Of a reference: its number, counted from 0 over all groups of references in the streams."""
    grid: tuple[int, int] | None = None
    """Rows and columns of tokens, row by row; of the target and of references."""


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
    """Which tokens of an attention's sequence are what. They may stand in any order; a slice may be empty."""

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
    """Tokens of role ``context``, a text-to-image model's text."""
    references: tuple[TokenGroup, ...] = ()
    """Tokens of role ``reference``, of the target's kind: packed latents."""
    pooled: Float[Tensor, "b p"] | None = None
    """One vector for all of the conditioning, where the backbone takes one; ``None``: its constant."""
    placement: Placement | None = None
    """Regions and weights of the references, for injectors that treat each by itself; ``None``: everywhere, 1."""
    attention: tuple[AttentionAddition, ...] = ()
    """What injectors add inside the attentions, one after another."""


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
