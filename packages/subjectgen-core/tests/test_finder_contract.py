"""The contract of finders: one that keeps it passes, those that break one law fail that law."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from subjectgen.core import Config, InputError
from subjectgen.testing import FinderContract

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


# ------------------------------------------------------------------------------------- laws that are broken


class Stripes:
    """Each phrase has a row of its own: as many as it has letters."""

    known = ("a", "bb", "ccc")

    def find(self, image: Tensor, phrases: Sequence[str]) -> Tensor:
        masks = image.new_zeros(len(phrases), *image.shape[1:])
        for mask, phrase in zip(masks, phrases, strict=True):
            if phrase not in self.known:
                raise InputError(f"no {phrase!r}")
            mask[len(phrase)] = 1
        return masks


class Sorted(Stripes):
    def find(self, image: Tensor, phrases: Sequence[str]) -> Tensor:
        return super().find(image, sorted(phrases))


class TooFew(Stripes):
    def find(self, image: Tensor, phrases: Sequence[str]) -> Tensor:
        return super().find(image, list(phrases)[:1])


class TooBig(Stripes):
    def find(self, image: Tensor, phrases: Sequence[str]) -> Tensor:
        return super().find(image, phrases) * 255


class Everywhere(Stripes):
    def find(self, image: Tensor, phrases: Sequence[str]) -> Tensor:
        return torch.ones_like(super().find(image, phrases))


class Random(Stripes):
    def find(self, image: Tensor, phrases: Sequence[str]) -> Tensor:
        return (super().find(image, phrases) - torch.rand(()) / 4).clamp(min=0)


class Paints(Stripes):
    def find(self, image: Tensor, phrases: Sequence[str]) -> Tensor:
        image += 1
        return super().find(image, phrases)


class Blank(Stripes):
    known = ("a", "bb", "ccc", "", "   ")


class AtLeastOne(Stripes):
    def find(self, image: Tensor, phrases: Sequence[str]) -> Tensor:
        if not phrases:
            raise InputError("no phrases")
        return super().find(image, phrases)


class BlamesAll(Stripes):
    def find(self, image: Tensor, phrases: Sequence[str]) -> Tensor:
        try:
            return super().find(image, phrases)
        except InputError:
            raise InputError(f"not found: {phrases}") from None


class StripesContract(FinderContract):
    nowhere = "nothing"


def failed(broken_laws: Callable[..., set[str]], finder: type[Stripes]) -> set[str]:
    picture, phrases = torch.zeros(3, 5, 5), ["bb", "a", "ccc"]
    return broken_laws(StripesContract(), finder=finder(), picture=picture, phrases=phrases)


@pytest.mark.parametrize(
    ("finder", "law"),
    [
        (Sorted, "test_masks_are_in_the_order_of_the_phrases"),
        (TooFew, "test_one_mask_per_phrase"),
        (TooBig, "test_one_mask_per_phrase"),
        (Everywhere, "test_each_phrase_has_its_own_place"),
        (Random, "test_same_question_same_answer"),
        (Paints, "test_same_question_same_answer"),
        (Blank, "test_blank_phrases_are_refused"),
        (AtLeastOne, "test_no_phrases_no_masks"),
        (BlamesAll, "test_what_is_found_nowhere_is_named"),
    ],
)
def test_what_breaks_a_law_fails_that_law(
    broken_laws: Callable[..., set[str]], finder: type[Stripes], law: str
) -> None:
    assert law in failed(broken_laws, finder)


def test_what_breaks_no_law_fails_none(broken_laws: Callable[..., set[str]]) -> None:
    assert failed(broken_laws, Stripes) == set()
    assert "test_one_mask_per_phrase" not in failed(broken_laws, Sorted)
