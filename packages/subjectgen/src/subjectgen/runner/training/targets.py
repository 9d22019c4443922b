"""Targets of a step as latents."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from subjectgen.core import InputError
from subjectgen.runner.generation.batches import image_size
from subjectgen.runner.generation.passes import grouped
from subjectgen.runner.generation.request import Case
from subjectgen.runner.system.system import System
from subjectgen.runner.training.cache_keys import picture_key
from subjectgen.runner.training.cache_store import Store
from subjectgen.runner.training.order import Order
from subjectgen.runner.training.positions import generator
from subjectgen.runner.training.rows import Row


class Targets:
    """Encodes the targets of a phase's rows."""

    def __init__(self, system: System, order: Order, *, phase: int, cache: Store | None = None) -> None:
        """``cache``: latents by their picture's content, filled as they are made; ``None``: keep none."""
        self._system, self._order, self._phase, self._cache = system, order, phase, cache
        settings = system.experiment.settings
        self._seed, self._image = settings.seed, (settings.image.height, settings.image.width)
        self._mixed = settings.training is not None and settings.training.buckets

    @torch.no_grad()
    def latents(self, rows: Sequence[Row]) -> list[Float[Tensor, "c _ _"]]:
        """Latents of each row's target on the system's device, float32.

        Those of one size are encoded together, and what an autoencoder draws follows from the row's position. For a
        cache each is encoded alone, without a draw, so that it follows from its picture and from nothing else.

        Raises:
            InputError: A sample without a target, or with one whose size does not fit; names its key.
        """
        targets = [self._target(row) for row in rows]
        if self._cache is not None:
            return [self._remembered(target, self._cache) for target in targets]
        found: dict[int, Tensor] = {}
        for numbers in grouped([target.shape for target in targets]):
            images = torch.stack([targets[number] for number in numbers])
            draws = [generator(self._seed, "target", self._phase, rows[number].position) for number in numbers]
            found |= dict(zip(numbers, self._encoded(images, draws), strict=True))
        return [found[number] for number in range(len(rows))]

    def _remembered(self, target: Float[Tensor, "3 h w"], cache: Store) -> Float[Tensor, "c _ _"]:
        key = picture_key(target)
        entry = cache.get(key)
        if entry is None:
            entry = cache.put(key, {"latents": self._encoded(target[None], None)[0]})
        return entry["latents"].to(self._system.device)

    def _encoded(
        self, images: Float[Tensor, "b 3 h w"], draws: Sequence[torch.Generator] | None
    ) -> Float[Tensor, "b c _ _"]:
        return self._system.autoencoder.encode_images(images.to(self._system.device), generators=draws).float()

    def _target(self, row: Row) -> Float[Tensor, "3 h w"]:
        sample = row.sample
        assert sample is not None  # or the rows would have been refused
        name = f"{self._order.sources[row.place.source].name}sample {sample.key or row.place.index!r}"
        if sample.target is None:
            raise InputError(f"{name} has no target image; expected one in every sample that is trained on")
        height, width = sample.target.shape[1:]
        try:
            image_size(self._system, Case(sample=sample, seed=0, size=(height, width)))
        except InputError as error:
            raise InputError(f"{name}: target of {width}x{height} pixels: {error}") from None
        if (height, width) != self._image and not self._mixed:
            raise InputError(
                f"{name}: its target has {width}x{height} pixels, and the experiment's image: says "
                f"{self._image[1]}x{self._image[0]}; expected that size, or training.buckets: true to train on several"
            )
        return sample.target
