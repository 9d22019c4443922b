"""The contract of finders: one that keeps it passes, those that break one law fail that law."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from subjectgen.core import Config, InputError
from subjectgen.testing import FinderContract

pytest_plugins = ["pytester"]

COLOURS = {"red": (1.0, 0.0, 0.0), "blue": (0.0, 0.0, 1.0), "green": (0.0, 1.0, 0.0)}


class Colours:
    """Finds areas of one colour by its name."""

    class Config(Config):
        """Nothing to set."""

    def __init__(self, config: Colours.Config) -> None:
        self.config = config

    def find(self, image: Tensor, phrases: Sequence[str]) -> Tensor:
        masks = [self._mask(image, phrase) for phrase in phrases]
        return torch.stack(masks) if masks else image.new_zeros(0, *image.shape[1:])

    def _mask(self, image: Tensor, phrase: str) -> Tensor:
        if not phrase.strip():
            raise InputError("blank")
        mask = (image == torch.tensor(COLOURS[phrase])[:, None, None]).all(dim=0)
        if not mask.any():
            raise InputError(f"{phrase!r} is nowhere")
        return mask.float()


def halves() -> Tensor:
    """Red on the left, blue on the right."""
    picture = torch.zeros(3, 4, 6)
    picture[0, :, :2], picture[2, :, 2:] = 1, 1
    return picture


class TestColours(FinderContract):
    nowhere = "green"

    @pytest.fixture
    def finder(self) -> Colours:
        return Colours(Colours.Config())

    @pytest.fixture
    def picture(self) -> Tensor:
        return halves()

    @pytest.fixture
    def phrases(self) -> list[str]:
        return ["red", "blue"]


BROKEN = """
import itertools, pytest, torch
from subjectgen.core import InputError
from subjectgen.testing import FinderContract

class Stripes:
    "Each phrase has a row of its own: as many as it has letters."
    known = ("a", "bb", "ccc")
    def find(self, image, phrases):
        masks = image.new_zeros(len(phrases), *image.shape[1:])
        for mask, phrase in zip(masks, phrases):
            if phrase not in self.known: raise InputError(f"no {phrase!r}")
            mask[len(phrase)] = 1
        return masks

class Sorted(Stripes):
    def find(self, image, phrases): return super().find(image, sorted(phrases))

class TooFew(Stripes):
    def find(self, image, phrases): return super().find(image, list(phrases)[:1])

class TooBig(Stripes):
    def find(self, image, phrases): return super().find(image, phrases) * 255

class Everywhere(Stripes):
    def find(self, image, phrases): return torch.ones_like(super().find(image, phrases))

class Random(Stripes):
    def find(self, image, phrases):
        return (super().find(image, phrases) - torch.rand(()) / 4).clamp(min=0)

class Paints(Stripes):
    def find(self, image, phrases):
        image += 1
        return super().find(image, phrases)

class Blank(Stripes):
    known = ("a", "bb", "ccc", "", "   ")

class AtLeastOne(Stripes):
    def find(self, image, phrases):
        if not phrases: raise InputError("no phrases")
        return super().find(image, phrases)

class BlamesAll(Stripes):
    def find(self, image, phrases):
        try: return super().find(image, phrases)
        except InputError: raise InputError(f"not found: {phrases}")

for cls in (Stripes, Sorted, TooFew, TooBig, Everywhere, Random, Paints, Blank, AtLeastOne, BlamesAll):
    body = {
        "finder": pytest.fixture(lambda self, cls=cls: cls()),
        "picture": pytest.fixture(lambda self: torch.zeros(3, 5, 5)),
        "phrases": pytest.fixture(lambda self: ["bb", "a", "ccc"]),
        "nowhere": "nothing",
    }
    globals()[f"Test{cls.__name__}"] = type(f"Test{cls.__name__}", (FinderContract,), body)
"""
"""A finder that is right and several that are wrong in one way each."""


def test_what_breaks_a_law_fails_that_law(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(BROKEN)
    result = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider", "-rfE")
    lines = [line for line in result.outlines if line.startswith(("FAILED", "ERROR"))]
    failed = {"::".join(line.split()[1].split("::")[1:]) for line in lines}
    assert {
        "TestSorted::test_masks_are_in_the_order_of_the_phrases",
        "TestTooFew::test_one_mask_per_phrase",
        "TestTooBig::test_one_mask_per_phrase",
        "TestEverywhere::test_each_phrase_has_its_own_place",
        "TestRandom::test_same_question_same_answer",
        "TestPaints::test_same_question_same_answer",
        "TestBlank::test_blank_phrases_are_refused",
        "TestAtLeastOne::test_no_phrases_no_masks",
        "TestBlamesAll::test_what_is_found_nowhere_is_named",
    } <= failed
    assert not any(name.startswith("TestStripes::") for name in failed)
    assert "TestSorted::test_one_mask_per_phrase" not in failed
