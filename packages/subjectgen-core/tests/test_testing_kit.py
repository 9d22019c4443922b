"""The contracts: parts that keep them pass, parts that break one law fail that law."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
import torch
from torch import Tensor

import subjectgen.testing
from subjectgen.core import Config, Reference, Sample
from subjectgen.testing import DatasetContract, MetricContract
from subjectgen.testing.base import Contract

pytest_plugins = ["pytester"]


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

BROKEN = """
import itertools, pytest, torch
from subjectgen.core import Sample
from subjectgen.testing import DatasetContract, MetricContract

class Data:
    counter = itertools.count()
    def __len__(self): return 4
    def __getitem__(self, index):
        if index >= 4: raise IndexError(index)
        return Sample(prompt=str(index))

class Forgetful(Data):
    def __getitem__(self, index): return Sample(prompt=str(next(self.counter)))

class TooBright(Data):
    def __getitem__(self, index): return Sample(target=torch.full((3, 2, 2), 2.0))

class Endless(Data):
    def __getitem__(self, index): return Sample(prompt=str(index % 4))

class PerCopy(Data):
    def __init__(self): self.copies = 0
    def __getstate__(self): return {"copies": self.copies + 1}
    def __getitem__(self, index): return Sample(prompt=f"{index} {self.copies}")

class Score:
    value = 0.0
    def update(self, samples, images): self.value += float(sum(image.mean() for image in images))
    def merge(self, other): self.value += other.value
    def compute(self): return {"value": self.value}

class LastOne(Score):
    def update(self, samples, images): self.value = float(images[-1].mean())

class PerBatch(Score):
    def update(self, samples, images): self.value += float(max(image.mean() for image in images))

class NoMerge(Score):
    def merge(self, other): pass

class CountsQuestions(Score):
    def compute(self): self.value += 1; return super().compute()

for cls in (Forgetful, TooBright, Endless, PerCopy):
    body = {"dataset": pytest.fixture(lambda self, cls=cls: cls())}
    globals()[f"Test{cls.__name__}"] = type(f"Test{cls.__name__}", (DatasetContract,), body)

for cls in (LastOne, PerBatch, NoMerge, CountsQuestions):
    body = {
        "new_metric": pytest.fixture(lambda self, cls=cls: cls),
        "cases": pytest.fixture(lambda self: [(Sample(), torch.full((3, 1, 1), v)) for v in (0.1, 0.5, 0.9)]),
        "known": pytest.fixture(lambda self: ([(Sample(), torch.ones(3, 1, 1))], {"value": 1.0})),
    }
    globals()[f"Test{cls.__name__}"] = type(f"Test{cls.__name__}", (MetricContract,), body)
"""
"""Parts that are wrong in one way each."""


def failed_tests(pytester: pytest.Pytester, source: str) -> set[str]:
    """Run a test file in a process of its own and return the tests that failed, as ``Class::test``."""
    pytester.makepyfile(source)
    result = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider", "-rfE")
    lines = [line for line in result.outlines if line.startswith(("FAILED", "ERROR"))]
    return {"::".join(line.split()[1].split("::")[1:]) for line in lines}


def test_what_breaks_a_law_fails_that_law(pytester: pytest.Pytester) -> None:
    failed = failed_tests(pytester, BROKEN)
    assert {
        "TestForgetful::test_same_index_same_sample",
        "TestTooBright::test_samples_are_well_formed",
        "TestEndless::test_ends",
        "TestPerCopy::test_is_picklable",
        "TestPerCopy::test_shards_partition_it",
        "TestLastOne::test_order_does_not_matter",
        "TestPerBatch::test_batches_do_not_matter",
        "TestNoMerge::test_merged_parts_equal_the_whole",
        "TestCountsQuestions::test_scores_are_named_numbers",
    } <= failed
    assert "TestNoMerge::test_order_does_not_matter" not in failed


def test_a_failing_law_shows_its_values(pytester: pytest.Pytester) -> None:
    """The kit's asserts are rewritten, or the report would say no more than AssertionError."""
    pytester.makepyfile(
        dedent("""
        import pytest
        from subjectgen.testing import DatasetContract

        class TestBad(DatasetContract):
            @pytest.fixture
            def dataset(self): return []
        """)
    )
    result = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider")
    result.stdout.fnmatch_lines(["*assert 0 > 0*"])


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


def test_plugin_contract_on_a_plugin_outside(install: Any, tmp_path: Path, pytester: pytest.Pytester) -> None:
    """A good plugin passes all; one with an undocumented option, torch at import and a wrong entry fails these."""
    good = """
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
    bad = good.replace('"A rate."', "").replace("class Part", "import torch\n    class Part").replace("good", "bad")
    install("acme-good", good)
    install("acme-bad", bad, entry="other")
    pytester.syspathinsert(tmp_path / "site")
    pytester._monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    contract = "from subjectgen.testing import PluginContract\nclass TestIt(PluginContract): distribution = {!r}"
    assert failed_tests(pytester, contract.format("acme-good")) == set()
    assert failed_tests(pytester, contract.format("acme-bad")) == {
        "TestIt::test_entry_point_is_named_as_the_distribution",
        "TestIt::test_targets_import",
        "TestIt::test_discovery_is_light",
    }
