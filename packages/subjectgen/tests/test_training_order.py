"""Which sample stands where: a pure function of seed, phase and position, with exact shares and no sample lost."""

import pickle
from collections import Counter

import pytest
from hypothesis import given, settings, strategies as st

from subjectgen.core import InputError, Sample
from subjectgen.core.errors import SampleError
from subjectgen.runner.training.loading import Share, load_rows
from subjectgen.runner.training.order import BLOCK, Order, Source
from subjectgen.runner.training.positions import derived_seed
from subjectgen.runner.training.rows import BrokenSamples, Rows

SEEDS = st.integers(0, 2**63 - 1)


def order(*sources: Source, seed: int = 0, phase: int = 0, batch_size: int = 4) -> Order:
    return Order(sources, seed=seed, phase=phase, batch_size=batch_size)


def indices(found: Order, positions) -> list[tuple[int, int]]:
    return [(place.source, place.index) for place in map(found.at, positions)]


@given(samples=st.integers(1, 60), seed=SEEDS, epochs=st.integers(1, 3))
@settings(deadline=None, max_examples=30)
def test_every_sample_comes_once_in_every_epoch(samples: int, seed: int, epochs: int) -> None:
    found = order(Source(name="", samples=samples), seed=seed)
    for epoch in range(epochs):
        places = [found.at(position) for position in range(epoch * samples, (epoch + 1) * samples)]
        assert sorted(place.index for place in places) == list(range(samples))
        assert {place.epoch for place in places} == {epoch}
    assert found.tails == {"": 0}


@given(samples=st.integers(2, 40), seed=SEEDS, positions=st.lists(st.integers(0, 5000), min_size=1, max_size=20))
@settings(deadline=None, max_examples=30)
def test_what_was_asked_before_does_not_matter(samples: int, seed: int, positions: list[int]) -> None:
    sources = [Source(name="a", samples=samples), Source(name="b", samples=3, weight=0.2)]
    one = order(*sources, seed=seed)
    together = indices(one, positions)
    copy = pickle.loads(pickle.dumps(one))  # noqa: S301  # its own bytes
    assert indices(copy, reversed(positions)) == together[::-1]
    assert [indices(order(*sources, seed=seed), [position])[0] for position in positions] == together


def test_seeds_phases_and_epochs_have_orders_of_their_own() -> None:
    source = Source(name="", samples=50)
    orders = [order(source, seed=seed, phase=phase) for seed in (0, 1) for phase in (0, 1)]
    seen = [tuple(indices(one, range(start, start + 50))) for one in orders for start in (0, 50)]
    assert len(set(seen)) == len(seen)


@given(weights=st.lists(st.floats(0.05, 20), min_size=2, max_size=5), seed=SEEDS)
@settings(deadline=None, max_examples=15)
def test_every_block_of_a_mixture_has_its_shares(weights: list[float], seed: int) -> None:
    found = order(*(Source(name=str(n), samples=7, weight=weight) for n, weight in enumerate(weights)), seed=seed)
    for block in range(2):
        counts = Counter(source for source, _ in indices(found, range(block * BLOCK, (block + 1) * BLOCK)))
        for number, weight in enumerate(weights):
            assert abs(counts[number] - BLOCK * weight / sum(weights)) < 1
    for number in range(len(weights)):  # and each source is walked through in epochs of its own
        own = [index for source, index in indices(found, range(BLOCK)) if source == number]
        for start in range(0, len(own) - 6, 7):
            assert sorted(own[start : start + 7]) == list(range(7))


@given(buckets=st.lists(st.sampled_from("abc"), min_size=1, max_size=60), size=st.integers(1, 6), seed=SEEDS)
@settings(deadline=None, max_examples=60)
def test_batches_are_of_one_bucket_and_tails_are_counted(buckets: list[str], size: int, seed: int) -> None:
    full = sum(count // size for count in Counter(buckets).values())
    source = Source(name="set: ", samples=len(buckets), buckets=tuple(buckets))
    if not full:
        with pytest.raises(InputError, match=f"set: no bucket holds the {size} samples of a batch"):
            order(source, batch_size=size)
        return
    found = order(source, seed=seed, batch_size=size)
    seen = []
    for batch in range(full):
        members = [found.at(position).index for position in range(batch * size, (batch + 1) * size)]
        assert len({buckets[member] for member in members}) == 1
        seen += members
    assert len(set(seen)) == len(seen) == len(buckets) - found.tails["set: "]
    assert found.tails["set: "] == sum(count % size for count in Counter(buckets).values())
    assert found.unused["set: "] == sum(count for count in Counter(buckets).values() if count < size)
    instead = found.instead(0, 1).index
    assert buckets[instead] == buckets[found.at(0).index]


def test_a_share_below_a_thousandth_is_refused() -> None:
    with pytest.raises(InputError, match=r"b: weight 0.0001 of 1.0001 is less than a thousandth"):
        order(Source(name="a: ", samples=3), Source(name="b: ", samples=3, weight=1e-4))


def test_no_two_positions_share_a_seed() -> None:
    seeds = {derived_seed(0, "row", phase, position) for phase in range(3) for position in range(20_000)}
    assert len(seeds) == 60_000
    assert all(0 <= seed < 2**63 for seed in seeds)


# ------------------------------------------------------------------------------------------------ rows and loading


class Planted:
    """Samples whose key is their index, some of which cannot be read."""

    def __init__(self, count: int, broken: frozenset[int] = frozenset()) -> None:
        self.count, self.broken = count, broken

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if index in self.broken:
            raise SampleError(f"picture {index}: truncated")
        return Sample(key=f"s{index}", prompt="")


def planted(count: int, broken: frozenset[int] = frozenset()) -> Rows:
    return Rows([Planted(count, broken)], order(Source(name="set: ", samples=count)), seed=0, phase=0)


def keys(rows: Rows, *, processes: int, workers: int, steps: int = 6, first: int = 0, size: int = 4) -> list[list[str]]:
    """Keys of each step in the order of positions, whoever read them."""
    shares = [Share(batch_size=size, rank=rank, processes=processes) for rank in range(processes)]
    loaded = [list(load_rows(rows, share, first=first, steps=steps, workers=workers)) for share in shares]
    steps_of_all = zip(*loaded, strict=True)
    found = [sorted((row for part in step for row in part), key=lambda row: row.position) for step in steps_of_all]
    return [[row.sample.key for row in step] for step in found]


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("processes", "workers"), [(2, 0), (4, 0), (3, 0), (1, 2), (2, 3)])
def test_neither_workers_nor_processes_matter(processes: int, workers: int) -> None:
    expected = keys(planted(9), processes=1, workers=0)
    assert keys(planted(9), processes=processes, workers=workers) == expected
    assert keys(planted(9), processes=processes, workers=workers, first=4) == expected[4:]


@given(broken=st.frozensets(st.integers(0, 39), max_size=8))
@settings(deadline=None, max_examples=20)
def test_what_cannot_be_read_is_passed_over_named_and_counted(broken: frozenset[int]) -> None:
    rows, counted = planted(40, broken), BrokenSamples(0.01)
    told = []
    for position in range(40):
        row = rows[position]
        assert int(row.sample.key[1:]) not in broken
        assert (row.place, row.broken) == (rows[position].place, rows[position].broken)
        told += counted.add([row])
    assert set(counted.names) == {f"set: sample {index}" for index in broken}
    assert len(told) == len(broken)
    assert all("SampleError: picture" in line for line in told)


def test_too_much_that_is_broken_ends_the_run() -> None:
    rows, counted = planted(40, frozenset(range(0, 40, 2))), BrokenSamples(0.01)
    with pytest.raises(InputError, match=r"20 samples of 40 rows cannot be read.*training\.max_broken"):
        counted.add([rows[position] for position in range(40)])
    with pytest.raises(InputError, match="32 samples in a row cannot be read"):
        BrokenSamples(1.0).add([planted(3, frozenset(range(3)))[0]])
