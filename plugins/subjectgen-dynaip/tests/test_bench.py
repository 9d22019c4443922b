"""DynaIP-Bench: the paper's numbers, regions, and what is drawn."""

from __future__ import annotations

import math
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image
from pydantic import ValidationError

from subjectgen.core import InputError, load_reference, place_references
from subjectgen.testing import DatasetContract
from subjectgen_dynaip.bench import Case, DynaIPBench, _spread
from subjectgen_dynaip.bench_prompts import COMBINATIONS, DATA_TYPES

BY_NAME = {combination.name: combination for combination in COMBINATIONS}


def save(path: Path, seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven subjects of each type: enough for all 888 samples without a repetition."""
    root = tmp_path_factory.mktemp("subjects")
    for place, kind in enumerate(DATA_TYPES):
        for number in range(7):
            save(root / kind / f"{kind}_thing-{number}.png", 10 * place + number)
    Image.new("L", (8, 6), 255).save(root / "living" / "living_thing-3.mask.png")
    return root


def bench(folder: Path, **options: Any) -> DynaIPBench:
    return DynaIPBench(DynaIPBench.Config(**{"folder": folder, "height": 48, "width": 48, **options}))


def sets(cases: list[Case]) -> Counter[frozenset[str]]:
    return Counter(frozenset(subject.name for subject in case.subjects) for case in cases)


class TestDynaIPBench(DatasetContract):
    @pytest.fixture
    def dataset(self, folder: Path) -> DynaIPBench:
        return bench(folder, pairs=20, triplets=8)


class TestWithoutRegions(DatasetContract):
    @pytest.fixture
    def dataset(self, folder: Path) -> DynaIPBench:
        return bench(folder, pairs=12, triplets=0, regions="none")


# ------------------------------------------------------------------------------------------ the paper's numbers


def test_there_are_888_samples_nearly_as_many_of_each_type(folder: Path) -> None:
    """642 pairs and 246 triplets; each set of subjects with all six prompts; none twice."""
    dataset = bench(folder)
    counts = Counter(case.combination.name for case in dataset.cases)
    assert len(dataset) == 888
    assert sum(count for name, count in counts.items() if name.count("+") == 1) == 642
    assert set(counts) == set(BY_NAME)
    assert set(counts.values()) == {60, 66}
    for name in BY_NAME:
        assert set(sets([case for case in dataset.cases if case.combination.name == name]).values()) == {6}
    assert len({(case.combination.name, case.prompt, case.subjects) for case in dataset.cases}) == 888


@given(total=st.integers(0, 1000), parts=st.integers(1, 10))
def test_samples_are_spread_evenly(total: int, parts: int) -> None:
    counts = _spread(total, parts)
    assert sum(counts) == total
    whole = total % 6 == 0 and total >= 6 * parts
    assert max(counts) - min(counts) <= (6 if whole else 1)
    assert counts == sorted(counts, reverse=True)
    assert not whole or all(count % 6 == 0 for count in counts)


# --------------------------------------------------------------------------------------------------- regions


def region(folder: Path, name: str, height: int = 48, width: int = 48) -> list[torch.Tensor]:
    size = 2 if name.count("+") == 1 else 3
    sample = bench(folder, types=(name,), **{("pairs", "triplets")[size - 2]: 1}, height=height, width=width)[0]
    return [reference.region_mask for reference in sample.references]


@pytest.mark.parametrize("name", [name for name in BY_NAME if "wearing" not in name])
def test_side_by_side_regions_share_the_picture(name: str, folder: Path) -> None:
    """No pixel is left out or has two owners, and they come from left to right."""
    masks = region(folder, name, 24, 60)
    assert torch.equal(sum(masks), torch.ones(1, 24, 60))
    middles = [float(mask.nonzero()[:, 2].float().mean()) for mask in masks]
    assert middles == sorted(middles)
    assert all(mask.sum() == 24 * 60 / len(masks) for mask in masks)


def test_garments_are_where_they_are_worn(folder: Path) -> None:
    top, middle, bottom = region(folder, "upwearing+midwearing+downwearing", 30, 20)
    for number, mask in enumerate((top, middle, bottom)):
        expected = torch.zeros(1, 30, 20)
        expected[:, 10 * number : 10 * number + 10] = 1
        assert torch.equal(mask, expected)
    assert torch.equal(torch.stack(region(folder, "midwearing+downwearing", 30, 20)), torch.stack([middle, bottom]))
    wearer, whole = region(folder, "living+wholewearing", 30, 20)
    assert torch.equal(wearer, torch.ones(1, 30, 20))
    assert torch.equal(whole, middle + bottom)


def test_regions_fit_a_target(folder: Path) -> None:
    sample = bench(folder, types=("living+object",), pairs=1)[0]
    placement = place_references([sample], (4, 4))
    assert placement.regions[0, 0].tolist() == [[1, 1, 0, 0]] * 4
    assert placement.regions[0, 1].tolist() == [[0, 0, 1, 1]] * 4


# --------------------------------------------------------------------------------------------------- drawing


def test_samples_show_the_subjects_of_their_prompt(folder: Path) -> None:
    dataset = bench(folder, pairs=40, triplets=16, seed=5)
    for case, sample in zip(dataset.cases, dataset, strict=True):
        assert tuple(subject.type for subject in case.subjects) == case.combination.types
        assert sample.facts["subjects"] == [subject.name for subject in case.subjects]
        assert sample.facts["categories"] == list(case.combination.types)
        assert all(word in sample.prompt for word in sample.facts["classes"])
        assert sample.facts["combination"] == case.combination.name
        assert sample.facts["variation"] in sample.prompt
        assert sample.prompt == case.prompt
        assert sample.target is None
        assert len({subject.name for subject in case.subjects}) == len(case.subjects)
        for subject, reference in zip(case.subjects, sample.references, strict=True):
            assert f"{subject.type} thing" in sample.prompt
            assert reference.name == subject.name
            assert torch.equal(reference.image, load_reference(subject.image).image)
            assert (reference.subject_mask is not None) == (subject.name == "living_thing-3")


def test_a_seed_gives_the_same_draw_in_another_process_and_folder_order(folder: Path, tmp_path: Path) -> None:
    """Copied in another order, so that the file system lists it differently; with another seed of ``hash``."""
    for path in sorted(folder.rglob("*.png"), reverse=True):
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / path.parent.name)
    program = (
        "import sys; from pathlib import Path; from subjectgen_dynaip.bench import DynaIPBench as B\n"
        "for case in B(B.Config(folder=Path(sys.argv[1]), seed=3)).cases:\n"
        "    print(case.prompt, *(subject.name for subject in case.subjects), sep='|')"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7"}
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=True, env=environment
    )
    here = [
        "|".join([case.prompt, *(subject.name for subject in case.subjects)]) for case in bench(folder, seed=3).cases
    ]
    assert done.stdout.splitlines() == here
    assert here != ["|".join([c.prompt, *(s.name for s in c.subjects)]) for c in bench(folder, seed=4).cases]


def test_the_draw_does_not_change_between_versions(folder: Path) -> None:
    """A benchmark that draws other subjects after an update is another benchmark."""
    drawn = bench(folder, types=("living+object", "human+human+character"), pairs=1, triplets=1).cases
    assert [[re.sub(r"\D", "", s.name) for s in case.subjects] for case in drawn] == EXPECTED_DRAW


EXPECTED_DRAW = [["0", "0"], ["5", "2", "4"]]


def test_a_type_is_drawn_alike_whatever_else_is_wanted(folder: Path) -> None:
    def of_type(dataset: DynaIPBench) -> list[Case]:
        return [case for case in dataset.cases if case.combination.name == "object+object"]

    alone, among = bench(folder, types=("object+object",), pairs=60), bench(folder)
    assert of_type(alone) == of_type(among)[:60]
    assert [alone[index].key for index in (0, 59)] == ["object-object-001-0", "object-object-010-5"]
    assert len({case.key for case in among.cases}) == 888


def test_keys_differ_where_sets_come_again(tmp_path: Path) -> None:
    for number in range(2):
        save(tmp_path / "object" / f"thing {number}.png", number)
    with pytest.warns(UserWarning, match="repeat"):
        cases = bench(tmp_path, types=("object+object",), pairs=18).cases
    assert len({case.key for case in cases}) == 18


def test_all_sets_are_used_before_one_comes_again(folder: Path) -> None:
    different = math.comb(7, 2)
    dataset = bench(folder, types=("object+object",), pairs=different * 6)
    assert set(sets(dataset.cases).values()) == {6}
    assert len(sets(dataset.cases)) == different
    with pytest.warns(
        UserWarning, match=rf"{different * 6 + 6} samples of {different} different sets of subjects repeat"
    ):
        more = bench(folder, types=("object+object",), pairs=different * 6 + 6)
    assert Counter(sets(more.cases).values()) == {6: different - 1, 12: 1}


def test_who_stands_left_is_drawn(folder: Path) -> None:
    cases = bench(folder, types=("object+object",), pairs=126).cases
    ordered = [case.subjects[0].name < case.subjects[1].name for case in cases]
    assert 20 < sum(ordered) < 106


def test_a_few_samples_have_different_prompts(folder: Path) -> None:
    """Less than six of a type: one set of subjects, with as many different prompts."""
    dataset = bench(folder, pairs=30, triplets=12)
    for name in BY_NAME:
        cases = [case for case in dataset.cases if case.combination.name == name]
        assert len(cases) == 3
        assert len({case.variation for case in cases}) == 3
        assert len(sets(cases)) == 1


# --------------------------------------------------------------------------------------------------- options


def test_options_are_checked(folder: Path) -> None:
    with pytest.raises(
        ValidationError, match=r"'living\+objects' is no combination type; did you mean 'living\+object'"
    ):
        DynaIPBench.Config(folder=folder, types=("living+objects",))
    for options in ({"types": ()}, {"pairs": -1}, {"height": 0}, {"regions": "halves"}, {"seed": -1}):
        with pytest.raises(ValidationError):
            DynaIPBench.Config(folder=folder, **options)
    for options in ({"pairs": 0, "triplets": 0}, {"types": ("living+object",), "pairs": 0}):
        with pytest.raises(InputError, match="no samples; expected pairs or triplets > 0"):
            bench(folder, **options)
