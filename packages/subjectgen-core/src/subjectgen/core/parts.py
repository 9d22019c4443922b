"""One protocol per kind of part, and one per capability that only some parts have.

A capability is asked for by ``isinstance``; each has a contract of its own in :mod:`subjectgen.testing`. Parts that are
``nn.Module`` are moved to the device by the runner; it never changes a shared part while it is used.

Shape letters: b batch, c channels, h w image or latent size, k masks, n points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from subjectgen.core.samples import JSON, Sample, Visibility
from subjectgen.core.scores import Quantity, Row
from subjectgen.core.streams import (
    ActiveBranches,
    AttentionSite,
    Conditioning,
    Encoded,
    Features,
    Guidance,
    Latents,
    StepConditions,
    Streams,
)


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
        """Encode a batch. ``layers``: the hidden states that are wanted; ``None`` means all. Draws nothing."""
        ...


@runtime_checkable
class ReadsSubjectMasks(Protocol):
    """An encoder that heeds ``Reference.subject_mask``: without one in an experiment, masks are refused."""

    reads_subject_masks: bool
    """True."""


@runtime_checkable
class ShowsInputs(Protocol):
    """An encoder that shows what its model gets: what must be equal for its answers to be equal."""

    def prepared(self, samples: Sequence[Sample]) -> Mapping[str, Tensor]:
        """Token ids, masks and prepared pictures of a batch, by name."""
        ...


@runtime_checkable
class KnowsWords(Protocol):
    """An encoder that can say which words it does not know; worth a warning, for it goes on without them."""

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of a prompt that become its tokenizer's token for the unknown, each once, in the prompt's order."""
        ...


@runtime_checkable
class Autoencoder(Protocol):
    """Images <-> latents. An ``nn.Module``, frozen. Built as ``Class(config)``."""

    latent_channels: int
    scale_factor: int
    """Image pixels per latent pixel along one axis."""

    def encode_images(
        self, images: Float[Tensor, "b 3 h w"], *, generators: Sequence[torch.Generator] | None = None
    ) -> Float[Tensor, "b c h2 w2"]:
        """Latents of images in [0, 1], scaled and shifted as the backbone expects them.

        ``generators``: one for each row, for autoencoders that draw from a posterior; the mode without.
        """
        ...

    def decode(self, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h2 w2"]:
        """Images in [0, 1], float32."""
        ...


@runtime_checkable
class Aggregator(Protocol):
    """Features -> Conditioning. An ``nn.Module`` built as
    ``Class(config, width=c, depth=M + 1, context_width=d, pooled_width=p)``; ``pooled_width`` is ``None`` where the
    backbone takes no pooled vector.
    """

    layers: tuple[int, ...]
    """Hidden states it reads, so that an encoder need not keep the others."""

    def __call__(self, features: Features) -> Conditioning:
        """Aggregate. Token order is kept; tokens that are not used are cut or masked."""
        ...


@runtime_checkable
class Defines(Protocol):
    """A part whose trained weights depend on what its options come to mean once sizes are known: ``layers: late`` are
    hidden states 20-28 of one encoder and 26-36 of another.
    """

    @property
    def defining(self) -> Mapping[str, JSON]:
        """By dotted key of the config: the value meant, in place of the one written, for every such option."""
        ...


@runtime_checkable
class Explains(Protocol):
    """An aggregator that says of each row what it did, such as a router's weights; kept beside the image."""

    def explain(self, features: Features) -> Sequence[Mapping[str, Any]]:
        """One mapping per row, of what JSON can hold."""
        ...


@runtime_checkable
class Injector(Protocol):
    """How a conditioning enters the backbone. An ``nn.Module`` built as ``Class(config, backbone=backbone)``;
    parameters of its own are trained and saved. The backbone stays as it is, for variants of an experiment share it;
    to act inside the blocks there is ``Streams.attention``.
    """

    accepts: type[Conditioning] | type[Latents]
    """What it takes."""

    def __call__(self, streams: Streams, conditioning: Conditioning | Latents) -> Streams:
        """Return the streams with this conditioning added."""
        ...


@runtime_checkable
class HasWidth(Protocol):
    """An injector that takes tokens of its own width instead of the backbone's ``context_width``."""

    width: int


@runtime_checkable
class PlacesReferences(Protocol):
    """An injector that heeds ``Streams.placement``: without one, regions and weights of references are refused."""

    places_references: bool
    """True."""


@runtime_checkable
class Backbone(Protocol):
    """Velocity model. An ``nn.Module`` built as ``Class(config)``. Where tokens stand is its own decision, from the
    role, number and grid of each :class:`~subjectgen.core.streams.TokenGroup`.
    """

    context_width: int
    pooled_width: int | None
    """``None`` where it takes no pooled vector."""
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
class Trainable(Protocol):
    """A backbone with parameters that training changes; without this it is frozen, and only branches are trained."""

    def trainable_parameters(self) -> Mapping[str, nn.Parameter]:
        """By name; empty if its config leaves nothing to train."""
        ...

    def save_trained(self, folder: Path, values: Mapping[str, Tensor] | None = None) -> None:
        """Write what training changes into this folder, which exists.

        ``values``: written in place of the parameters' own, by name: averages, or what was gathered from many devices.
        """
        ...

    def load_trained(self, folder: Path) -> None:
        """Read what :meth:`save_trained` wrote; a CheckpointError names what does not fit."""
        ...


@runtime_checkable
class Prepares(Protocol):
    """A backbone for which much follows from the conditions of the steps alone."""

    def prepare(self, conditions: Sequence[StepConditions]) -> Backbone:
        """The backbone for one denoising, with what follows from these conditions computed once.

        It is called as the backbone is, shares its weights, and changes nothing of it: any number may be in use at
        once. Conditions that were not given are computed as usual.
        """
        ...

    def only_prepares(self) -> Sequence[nn.Module]:
        """Modules that :meth:`prepare` alone needs: they may stay on another device, if all conditions are given."""
        ...


@runtime_checkable
class KeepsArguments(Protocol):
    """A backbone whose blocks get arguments that group offloading must hand on as they are, for they are filled."""

    unmoved_arguments: tuple[str, ...]
    """Their keywords."""


@runtime_checkable
class CachesReferences(Protocol):
    """A backbone that can keep what references say, where it does not change over steps."""

    def cache_references(self, streams: Streams, *, like: Sequence[Streams] = ()) -> Streams:
        """The same streams, keeping what does not change. ``like``: streams cached before, to share with."""
        ...


@runtime_checkable
class Merges(Protocol):
    """A backbone whose adapter can be folded into its weights, once and for good."""

    def merge_adapter(self) -> None:
        """Same function, less work per step."""
        ...


@runtime_checkable
class Isolates(Protocol):
    """A backbone whose config may isolate references from the rest."""

    isolated: bool
    """Whether its config does."""

    def full_attention(self) -> Backbone:
        """The backbone with the same weights, in which all tokens attend to all, whatever its config says."""
        ...


@runtime_checkable
class Checkpoints(Protocol):
    """A backbone that can compute activations again in the backward pass instead of keeping them."""

    gradient_checkpointing: bool | int | str
    """What it does: false, true (every block), or a name or number of its own."""


@runtime_checkable
class Schedule(Protocol):
    """The one object that training, sampling and stage masks share.
    Built as ``Class(config, branches=names)``, names in the experiment's order.
    """

    steps: int

    def timesteps(self, steps: int | None = None, *, image_tokens: int | None = None) -> Float[Tensor, " n"]:
        """Return ``steps + 1`` points in float64, strictly falling from 1 to 0."""
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
    """Samples by index: same index, same sample; keys are unique; picklable. Built as ``Class(config)``.

    A sample that cannot be read raises :class:`~subjectgen.core.errors.SampleError`; past the end comes ``IndexError``.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample: ...


@runtime_checkable
class ListsKeys(Protocol):
    """A data set that knows the keys of all samples without reading them; runs keep a hash of them."""

    def keys(self) -> Sequence[str]:
        """In the order of the samples."""
        ...


@runtime_checkable
class HasSizes(Protocol):
    """A dataset whose targets differ in size: says so before they are read, so that batches can be made of one size.
    Targets of a dataset without this are all of one size.
    """

    sizes: Sequence[tuple[int, int]]
    """Height and width of the target, by index."""


@runtime_checkable
class Augments(Protocol):
    """A data set that shows its samples in varied ways to training (crops, mirrors); indexing gives the plain one."""

    def augmented(self, index: int, seed: int) -> Sample:
        """The sample as this seed varies it, in the target's size of the plain one; draws from nothing else.

        Raises:
            IndexError: Past the end.
            SampleError: It cannot be read.
        """
        ...


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
    """Numbers for each image. Built as ``Class(config)``. Pure: an image's row does not depend on the others.

    One with a network is an ``nn.Module`` whose submodule the network is: the runner moves it to the device, and
    ``measure`` takes images from wherever they are to its own.
    """

    scores: Mapping[str, Quantity]
    """Every number that a row may hold."""

    def measure(self, samples: Sequence[Sample], images: Sequence[Float[Tensor, "3 _ _"]]) -> Sequence[Row]:
        """One row per image, in order.

        Raises:
            InputError: a sample that lacks a fact which this metric needs; names the sample's key and the fact.
        """
        ...


@runtime_checkable
class Calibrated(Protocol):
    """A metric that knows how good it is."""

    def calibrate(self) -> Mapping[str, float]:
        """The scores it gives to pictures whose truth is known, reduced as its ``scores`` say; not all need one."""
        ...


@runtime_checkable
class SetMetric(Protocol):
    """Numbers for a whole set of images, such as FID or diversity; of kind ``metrics`` too."""

    scores: Mapping[str, Quantity]

    def measure_set(
        self, samples: Sequence[Sample], images: Sequence[Float[Tensor, "3 _ _"]], rows: Sequence[Row]
    ) -> Mapping[str, float]:
        """One number per score. ``rows``: what the experiment's other metrics said of each image."""
        ...
