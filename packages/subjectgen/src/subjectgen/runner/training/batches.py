"""From a data set to the samples of a step and the latents of their targets."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from subjectgen.core import Dataset, InputError, Sample
from subjectgen.core.part import Part
from subjectgen.runner.generation.batches import image_size
from subjectgen.runner.generation.passes import grouped
from subjectgen.runner.generation.request import Case
from subjectgen.runner.system.system import System

OnSample = Callable[[int, int], None]
"""Told after each sample that is read: how many were, and of how many."""


def sample_order(samples: int, batch_size: int, generator: torch.Generator) -> Iterator[list[int]]:
    """Endless batches of indices, each index once per pass through the data, in an order that the generator decides.

    What does not fill a batch is left out of its pass; a data set smaller than a batch is one batch.
    """
    size = min(batch_size, samples)
    while True:
        order = torch.randperm(samples, generator=generator).tolist()
        for start in range(0, samples - size + 1, size):
            yield order[start : start + size]


class TrainingData:
    """A data set of training, and latents of its targets."""

    def __init__(self, system: System, part: Part, *, cache: bool = False) -> None:
        """``cache``: keep all latents in the CPU's memory after their first use.

        Raises:
            InputError: No samples.
        """
        self.part, self._system, self._cache = part, system, cache
        self.dataset: Dataset = part.build()
        self._kept: dict[int, Tensor] = {}
        self._warned = False
        if len(self.dataset) == 0:
            raise InputError(f"{part.place}holds no samples")

    def check(self) -> None:
        """Read one sample and encode its target, to find what would fail later.

        Raises:
            InputError: No target, or one whose size does not fit.
        """
        sample = self.dataset[0]
        self._system.autoencoder.encode_images(self._target(0, sample)[None].to(self._system.device))

    def samples(self, indices: Sequence[int], on_sample: OnSample = lambda _done, _of: None) -> list[Sample]:
        """Read some samples."""
        found = []
        for index in indices:
            found.append(self.dataset[index])
            on_sample(len(found), len(indices))
        return found

    @torch.no_grad()
    def latents(
        self, indices: Sequence[int], samples: Sequence[Sample], *, generator: torch.Generator | None = None
    ) -> list[Float[Tensor, "c _ _"]]:
        """Latents of the targets on the system's device, float32; those of one size are encoded together.

        ``generator``: for an autoencoder that draws.

        Raises:
            InputError: A sample without a target, or with one whose size does not fit; names its key.
        """
        missing = [place for place, index in enumerate(indices) if index not in self._kept]
        targets = [self._target(indices[place], samples[place]) for place in missing]
        fresh: dict[int, Tensor] = {}
        for together in grouped([target.shape for target in targets]):
            images = torch.stack([targets[number] for number in together]).to(self._system.device)
            encoded = self._system.autoencoder.encode_images(images, generator=generator).float()
            fresh |= {indices[missing[number]]: row for number, row in zip(together, encoded, strict=True)}
        if self._cache:
            self._kept |= {index: row.cpu() for index, row in fresh.items()}
        return [(self._kept[index] if self._cache else fresh[index]).to(self._system.device) for index in indices]

    def release(self) -> None:
        """Forget the latents that were kept."""
        self._kept.clear()

    def _target(self, index: int, sample: Sample) -> Float[Tensor, "3 h w"]:
        name = f"{self.part.place}sample {sample.key or index!r}"
        if sample.target is None:
            raise InputError(f"{name} has no target image; expected one in every sample that is trained on")
        height, width = sample.target.shape[1:]
        try:
            image_size(self._system, Case(sample=sample, seed=0, size=(height, width)))
        except InputError as error:
            raise InputError(f"{name}: target of {width}x{height} pixels: {error}") from None
        self._warn_of_another_size(name, height, width)
        return sample.target

    def _warn_of_another_size(self, name: str, height: int, width: int) -> None:
        """Once: training on several sizes is allowed, but hardly meant where the experiment generates none of them."""
        image = self._system.experiment.settings.image
        if self._warned or (height, width) == (image.height, image.width):
            return
        self._warned = True
        warnings.warn(
            f"{name}: its target has {width}x{height} pixels, and the experiment's image: says "
            f"{image.width}x{image.height}; targets are trained on in their own sizes",
            stacklevel=3,
        )


def training_data(system: System, *, cache: bool = False) -> list[TrainingData]:
    """The data of each phase; phases that say the same share theirs.

    Raises:
        ConfigError: No training, or a phase without a data set.
        InputError: An empty data set.
    """
    made: dict[str, TrainingData] = {}
    found = []
    for part in system.experiment.training_datasets():
        if part.identity not in made:
            made[part.identity] = TrainingData(system, part, cache=cache)
        found.append(made[part.identity])
    return found
