"""The contract of datasets: one that keeps it passes, each that breaks one law fails that law."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from subjectgen.core import ChangesResults, Config, Reference, Sample
from subjectgen.testing import DatasetContract


class Noise:
    """Samples of random pixels, a generator per index."""

    class Config(Config):
        """Its size."""

        size: ChangesResults[int] = 10
        """How many samples."""

    def __init__(self, config: Noise.Config) -> None:
        self.config = config

    def __len__(self) -> int:
        return self.config.size

    def __getitem__(self, index: int) -> Sample:
        if index >= len(self):
            raise IndexError(index)
        image = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(index))
        reference = Reference(image=image, subject_mask=image[:1].round(), name=f"noise {index}")
        return Sample(
            key=f"noise-{index}", prompt="noise", references=(reference,), target=1 - image, facts={"index": index}
        )


class TestNoise(DatasetContract):
    @pytest.fixture
    def dataset(self) -> Noise:
        return Noise(Noise.Config())


# ------------------------------------------------------------------------------------- laws that are broken


class Data(Noise):
    """Ten samples that are as they should be, but for what a subclass changes."""

    def __init__(self) -> None:
        super().__init__(Noise.Config())
        self.reads = 0

    def changed(self, index: int) -> dict[str, Any]:
        return {}

    def __getitem__(self, index: int) -> Sample:
        self.reads += 1
        return replace(super().__getitem__(index), **self.changed(index))


class Forgetful(Data):
    def changed(self, index: int) -> dict[str, Any]:
        return {"prompt": str(self.reads)}


class ForgetfulFacts(Data):
    def changed(self, index: int) -> dict[str, Any]:
        return {"facts": {"reads": self.reads}}


class TooBright(Data):
    def changed(self, index: int) -> dict[str, Any]:
        return {"target": torch.full((3, 2, 2), 2.0)}


class Endless(Data):
    def __getitem__(self, index: int) -> Sample:
        return super().__getitem__(index % 10)


class PerCopy(Data):
    copies = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "copies": self.copies + 1}

    def changed(self, index: int) -> dict[str, Any]:
        return {"facts": {"copies": self.copies}}


class Keyless(Data):
    def changed(self, index: int) -> dict[str, Any]:
        return {"key": ""}


class Slashed(Data):
    def changed(self, index: int) -> dict[str, Any]:
        return {"key": f"noise/{index}"}


class Repeated(Data):
    def changed(self, index: int) -> dict[str, Any]:
        return {"key": f"noise-{index // 2}"}


class OnlyTheCaseDiffers(Data):
    def changed(self, index: int) -> dict[str, Any]:
        return {"key": ("a" * index + "A" + "a" * 10)[:10]}


class Tuples(Data):
    def changed(self, index: int) -> dict[str, Any]:
        return {"facts": {"angles": (1, 2)}}


class Infinite(Data):
    def changed(self, index: int) -> dict[str, Any]:
        return {"facts": {"angle": float("inf")}}


class Mixed(Data):
    """P5: targets of two sizes, and nobody knows before they are read."""

    def changed(self, index: int) -> dict[str, Any]:
        return {"target": torch.zeros(3, 4 + index % 2, 4)}


class WrongSizes(Mixed):
    sizes: Sequence[tuple[int, int]] = [(4, 4)] * 10


class Sized(Mixed):
    sizes: Sequence[tuple[int, int]] = [(4, 4), (5, 4)] * 5


DATA = [
    (Forgetful, "same_index_same_sample"),
    (ForgetfulFacts, "same_index_same_sample"),
    (TooBright, "samples_are_well_formed"),
    (Endless, "ends"),
    (PerCopy, "is_picklable"),
    (PerCopy, "shards_partition_it"),
    (Keyless, "keys_are_names"),
    (Slashed, "keys_are_names"),
    (Repeated, "keys_are_names"),
    (OnlyTheCaseDiffers, "keys_are_names"),
    (Tuples, "facts_are_json"),
    (Infinite, "facts_are_json"),
    (Mixed, "targets_are_of_one_size_or_say_so"),
    (WrongSizes, "targets_are_of_one_size_or_say_so"),
]


@pytest.mark.usefixtures("first_counterexample")
@pytest.mark.parametrize(("broken", "law"), DATA, ids=[f"{cls.__name__}-{law}" for cls, law in DATA])
def test_a_dataset_that_breaks_a_law_fails_it(broken: type[Data], law: str) -> None:
    with pytest.raises((AssertionError, ValueError, TypeError, pytest.fail.Exception)):
        getattr(DatasetContract(), f"test_{law}")(broken())
    getattr(DatasetContract(), f"test_{law}")(Sized())
