"""What every dataset promises."""

from __future__ import annotations

import json
import pickle

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from subjectgen.core import Augments, Dataset, HasSizes, Reference, Sample
from subjectgen.core.samples import KEY
from subjectgen.testing.base import Contract

_SETTINGS = settings(deadline=None, max_examples=10)
_READ = 64
"""Samples that are read to compare them with each other."""


class DatasetContract(Contract):
    """Laws of a dataset.

    Give a fixture ``dataset``; a small one makes the laws quick::

        class TestFolder(DatasetContract):
            @pytest.fixture
            def dataset(self, tmp_path):
                ...
                return Folder(Folder.Config(path=tmp_path))
    """

    def test_is_a_dataset(self, dataset: Dataset) -> None:
        """It has every member of the protocol and is not empty."""
        assert isinstance(dataset, Dataset)
        assert len(dataset) > 0

    def test_samples_are_well_formed(self, dataset: Dataset) -> None:
        """Images (3, h, w) in [0, 1], masks of one channel, the subject's mask of its image's size."""

        @_SETTINGS
        @given(index=st.integers(0, len(dataset) - 1))
        def law(index: int) -> None:
            sample = dataset[index]
            assert isinstance(sample, Sample)
            assert isinstance(sample.prompt, str)
            assert isinstance(sample.references, tuple)
            for reference in sample.references:
                _assert_reference(reference)
            if sample.target is not None:
                _assert_values(sample.target, 3)

        law()

    def test_keys_are_names(self, dataset: Dataset) -> None:
        """Every sample has a key that can name a file, and no other sample has it, whatever the letters' case."""
        keys = [dataset[index].key for index in _some(dataset)]
        for key in keys:
            assert KEY.fullmatch(key), f"{key!r} does not match {KEY.pattern}"
        lowered = [key.lower() for key in keys]
        repeated = sorted({key for key in lowered if lowered.count(key) > 1})
        assert not repeated

    def test_facts_are_json(self, dataset: Dataset) -> None:
        """What is known of a sample comes back from a file of JSON as it was; no infinities, no tuples."""
        for index in _some(dataset):
            facts = dataset[index].facts
            assert json.loads(json.dumps(dict(facts), allow_nan=False)) == dict(facts)

    def test_targets_are_of_one_size_or_say_so(self, dataset: Dataset) -> None:
        """Batches are made of targets of one size: another size is known from ``dataset.sizes`` before it is read."""
        read = {index: dataset[index].target for index in _some(dataset)}
        found = {index: tuple(target.shape[1:]) for index, target in read.items() if target is not None}
        if isinstance(dataset, HasSizes):
            assert len(dataset.sizes) == len(dataset)
            assert {index: tuple(dataset.sizes[index]) for index in found} == found
        else:
            assert len(set(found.values())) <= 1, "targets of several sizes, and no attribute sizes"

    def test_same_index_same_sample(self, dataset: Dataset) -> None:
        """Asked twice, with other samples in between, it gives the same sample, bit by bit."""

        @_SETTINGS
        @given(index=st.integers(0, len(dataset) - 1), between=st.integers(0, len(dataset) - 1))
        def law(index: int, between: int) -> None:
            first = dataset[index]
            dataset[between]
            assert_same_sample(dataset[index], first)

        law()

    def test_the_seed_alone_varies_a_sample(self, dataset: Dataset) -> None:
        """The same seed gives the same sample, whatever was read before; the target keeps the size of the plain one."""
        if not isinstance(dataset, Augments):
            pytest.skip("shows its samples in one way only")

        @_SETTINGS
        @given(index=st.integers(0, len(dataset) - 1), seed=st.integers(0, 2**63 - 1))
        def law(index: int, seed: int) -> None:
            first = dataset.augmented(index, seed)
            torch.rand(3)
            dataset.augmented(index, seed ^ 1)
            assert_same_sample(dataset.augmented(index, seed), first)
            plain = dataset[index]
            assert first.key == plain.key
            assert (first.target is None) == (plain.target is None)
            if first.target is not None and plain.target is not None:
                assert first.target.shape == plain.target.shape

        law()

    def test_is_picklable(self, dataset: Dataset) -> None:
        """A copy in another process has the same samples."""
        copy = pickle.loads(pickle.dumps(dataset))  # noqa: S301  # its own bytes
        assert len(copy) == len(dataset)
        for index in {0, len(dataset) - 1}:
            assert_same_sample(copy[index], dataset[index])

    def test_shards_partition_it(self, dataset: Dataset) -> None:
        """Workers that read every n-th sample from their own copy see together what one reader sees."""
        bytes_of_it = pickle.dumps(dataset)

        @settings(_SETTINGS, max_examples=3)
        @given(workers=st.integers(2, 4), start=st.integers(0, max(0, len(dataset) - 8)))
        def law(workers: int, start: int) -> None:
            indices = range(start, min(start + 8, len(dataset)))
            copies = [pickle.loads(bytes_of_it) for _ in range(workers)]  # noqa: S301  # its own bytes
            read = {i: copies[worker][i] for worker in range(workers) for i in indices[worker::workers]}
            assert sorted(read) == list(indices)
            for index in indices:
                assert_same_sample(read[index], dataset[index])

        law()

    def test_ends(self, dataset: Dataset) -> None:
        """Past the end it raises IndexError, so that a loop over it ends."""
        with pytest.raises(IndexError):
            dataset[len(dataset)]


def assert_same_sample(actual: Sample, expected: Sample) -> None:
    """Equal key, prompt, facts, references and target, bit by bit."""
    assert actual.key == expected.key
    assert dict(actual.facts) == dict(expected.facts)
    assert actual.prompt == expected.prompt
    assert len(actual.references) == len(expected.references)
    for mine, other in zip(actual.references, expected.references, strict=True):
        assert mine.name == other.name
        assert mine.weight == other.weight
        _assert_equal(mine.image, other.image)
        _assert_equal(mine.subject_mask, other.subject_mask)
        _assert_equal(mine.region_mask, other.region_mask)
    _assert_equal(actual.target, expected.target)


def _some(dataset: Dataset) -> list[int]:
    """All indices of a small dataset; of a large one the first, the last and some between."""
    step = max(1, len(dataset) // (_READ // 2))
    return sorted({*range(min(len(dataset), _READ // 2)), *range(0, len(dataset), step), len(dataset) - 1})


def _assert_equal(actual: Tensor | None, expected: Tensor | None) -> None:
    assert (actual is None) == (expected is None)
    assert actual is None or expected is None or torch.equal(actual, expected)


def _assert_reference(reference: Reference) -> None:
    _assert_values(reference.image, 3)
    if reference.subject_mask is not None:
        _assert_values(reference.subject_mask, 1)
        assert reference.subject_mask.shape[1:] == reference.image.shape[1:]
    if reference.region_mask is not None:
        _assert_values(reference.region_mask, 1)


def _assert_values(image: Tensor, channels: int) -> None:
    assert image.ndim == 3
    assert image.shape[0] == channels
    assert image.is_floating_point()
    assert 0 <= image.min() <= image.max() <= 1
