"""The contracts: parts that keep them pass, parts that break one law fail that law."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor

import subjectgen.testing
from subjectgen.core import Config, Reference, Sample
from subjectgen.core.plugins import Plugins
from subjectgen.testing import DatasetContract, MetricContract, PluginContract
from subjectgen.testing.base import Contract

BrokenLaws: TypeAlias = Callable[..., set[str]]


class Noise:
    """Samples of random pixels, a generator per index."""

    class Config(Config):
        """Its size."""

        size: int = 10
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
        return Sample(prompt=f"sample {index}", references=(reference,), target=1 - image)


class Brightness:
    """Mean of all pixels of all images."""

    class Config(Config):
        """Nothing to set."""

    def __init__(self, config: Brightness.Config) -> None:
        self.total, self.count = 0.0, 0

    def update(self, samples: Sequence[Sample], images: Sequence[Tensor]) -> None:
        self.total += sum(float(image.double().sum()) for image in images)
        self.count += sum(image.numel() for image in images)

    def merge(self, other: Brightness) -> None:
        self.total += other.total
        self.count += other.count

    def compute(self) -> Mapping[str, float]:
        return {"brightness": self.total / self.count}


class TestNoise(DatasetContract):
    @pytest.fixture
    def dataset(self) -> Noise:
        return Noise(Noise.Config())


class TestBrightness(MetricContract):
    @pytest.fixture
    def new_metric(self) -> Callable[[], Brightness]:
        return lambda: Brightness(Brightness.Config())

    @pytest.fixture
    def cases(self) -> list[tuple[Sample, Tensor]]:
        generator = torch.Generator().manual_seed(0)
        return [(Sample(), torch.rand(3, size, 2, generator=generator)) for size in (1, 2, 3, 4)]

    @pytest.fixture
    def known(self) -> tuple[list[tuple[Sample, Tensor]], dict[str, float]]:
        return [(Sample(), torch.zeros(3, 4, 4)), (Sample(), torch.ones(3, 4, 4))], {"brightness": 0.5}


# ------------------------------------------------------------------------------------- laws that are broken


class Numbers:
    """Four samples that differ by their prompt."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        if index >= 4:
            raise IndexError(index)
        return Sample(prompt=str(index))


class Forgetful(Numbers):
    counter = itertools.count()

    def __getitem__(self, index: int) -> Sample:
        return Sample(prompt=str(next(self.counter)))


class TooBright(Numbers):
    def __getitem__(self, index: int) -> Sample:
        return Sample(target=torch.full((3, 2, 2), 2.0))


class Endless(Numbers):
    def __getitem__(self, index: int) -> Sample:
        return Sample(prompt=str(index % 4))


class PerCopy(Numbers):
    def __init__(self) -> None:
        self.copies = 0

    def __reduce__(self) -> tuple[Any, ...]:
        return copied, (self.copies + 1,)

    def __getitem__(self, index: int) -> Sample:
        return Sample(prompt=f"{index} {self.copies}")


def copied(copies: int) -> PerCopy:
    copy = PerCopy()
    copy.copies = copies
    return copy


@pytest.mark.parametrize(
    ("dataset", "laws"),
    [
        (Forgetful, {"test_same_index_same_sample"}),
        (TooBright, {"test_samples_are_well_formed"}),
        (Endless, {"test_ends"}),
        (PerCopy, {"test_is_picklable", "test_shards_partition_it"}),
    ],
)
def test_a_dataset_that_breaks_a_law_fails_that_law(
    broken_laws: BrokenLaws, dataset: Callable[[], Numbers], laws: set[str]
) -> None:
    assert laws <= broken_laws(DatasetContract(), dataset=dataset())


class Score:
    """Sum of the means of all images."""

    value = 0.0

    def update(self, samples: Sequence[Sample], images: Sequence[Tensor]) -> None:
        self.value += float(sum(image.mean() for image in images))

    def merge(self, other: Score) -> None:
        self.value += other.value

    def compute(self) -> Mapping[str, float]:
        return {"value": self.value}


class LastOne(Score):
    def update(self, samples: Sequence[Sample], images: Sequence[Tensor]) -> None:
        self.value = float(images[-1].mean())


class PerBatch(Score):
    def update(self, samples: Sequence[Sample], images: Sequence[Tensor]) -> None:
        self.value += float(max(image.mean() for image in images))


class NoMerge(Score):
    def merge(self, other: Score) -> None:
        pass


class CountsQuestions(Score):
    def compute(self) -> Mapping[str, float]:
        self.value += 1
        return super().compute()


CASES = [(Sample(), torch.full((3, 1, 1), value)) for value in (0.1, 0.5, 0.9)]
KNOWN = ([(Sample(), torch.ones(3, 1, 1))], {"value": 1.0})


@pytest.mark.parametrize(
    ("metric", "law"),
    [
        (LastOne, "test_order_does_not_matter"),
        (PerBatch, "test_batches_do_not_matter"),
        (NoMerge, "test_merged_parts_equal_the_whole"),
        (CountsQuestions, "test_scores_are_named_numbers"),
    ],
)
def test_a_metric_that_breaks_a_law_fails_that_law(broken_laws: BrokenLaws, metric: type[Score], law: str) -> None:
    assert law in broken_laws(MetricContract(), new_metric=metric, cases=CASES, known=KNOWN)


def test_what_breaks_no_law_fails_none(broken_laws: BrokenLaws) -> None:
    assert broken_laws(DatasetContract(), dataset=Numbers()) == set()
    assert broken_laws(MetricContract(), new_metric=Score, cases=CASES, known=KNOWN) == set()
    assert "test_order_does_not_matter" not in broken_laws(
        MetricContract(), new_metric=NoMerge, cases=CASES, known=KNOWN
    )


def test_a_failing_law_shows_its_values(tmp_path: Path) -> None:
    """The kit's asserts are rewritten, or the report would say no more than AssertionError.

    Only a process of its own shows it: here jaxtyping's import hook takes the place of pytest's.
    """
    test = 'from subjectgen.testing import PluginContract\nclass TestIt(PluginContract): distribution = "nobody"\n'
    (tmp_path / "test_it.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "discovered", "test_it.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert "assert 'nobody' in " in done.stdout


# ------------------------------------------------------------------------------------------------- the guard


class Law(Contract):
    """A contract of one test."""

    def test_law(self) -> None:
        """It holds."""


def test_a_contract_test_cannot_be_replaced() -> None:
    def nothing(self: object) -> None: ...

    with pytest.raises(TypeError, match=r"Sub\.test_law overrides a test of Law"):
        type("Sub", (Law,), {"test_law": lambda self: None})
    with pytest.raises(TypeError, match="test_law"):
        type("Sub", (Law,), {"test_law": None})
    with pytest.raises(TypeError, match="test_law"):
        type("Sub", (type("Middle", (Law,), {}),), {"test_law": pytest.mark.xfail(nothing)})


def test_an_expected_failure_with_a_reason_is_allowed() -> None:
    class Sub(Law):
        @pytest.mark.xfail(reason="the model has no padding")
        def test_law(self) -> None: ...

        def test_more(self) -> None: ...

    assert Sub.test_law is not Law.test_law


def test_every_public_name_exists() -> None:
    for name in subjectgen.testing.__all__:
        assert getattr(subjectgen.testing, name) is not None
    with pytest.raises(AttributeError, match="Nothing"):
        subjectgen.testing.Nothing  # noqa: B018


PART = """
from subjectgen.core import Config
class Part:
    "A part."
    class Config(Config):
        "Options."
        rate: float = 1.0
        "A rate."
@hookimpl
def subjectgen_metrics(): return [Component(name="part", target="acme_good:Part", summary="s")]
"""


def test_plugin_contract_on_a_plugin_outside(
    install: Any, broken_laws: BrokenLaws, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A good plugin passes all; one with an undocumented option, torch at import and a wrong entry fails these."""
    bad = PART.replace('"A rate."', "").replace("class Part", "import torch\nclass Part").replace("good", "bad")
    install("acme-good", PART)
    install("acme-bad", bad, entry="other")
    (tmp_path / "site" / "torch.py").touch()  # the law starts a process: there, this one is found and is quick
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"), prepend=os.pathsep)
    assert plugin_laws(broken_laws, "acme-good") == set()
    assert plugin_laws(broken_laws, "acme-bad") == {
        "test_entry_point_is_named_as_the_distribution",
        "test_targets_import",
        "test_discovery_is_light",
    }


def plugin_laws(broken_laws: BrokenLaws, name: str) -> set[str]:
    contract = type("Named", (PluginContract,), {"distribution": name})()
    (entry,) = distribution(name).entry_points
    host = Plugins.empty()
    host.register(entry.load(), distribution=name)
    return broken_laws(contract, entry=entry, plugin=host.plugins[0])
