"""The contract of encoders: one that keeps it passes, those that draw, hide inputs or misname words fail that law."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor, nn

from subjectgen.core import Conditioning, Config, InputError, Sample
from subjectgen.testing import EncoderContract

WORDS = ("a", "red", "toy", "on", "the", "beach")


class Letters(nn.Module):
    """One token per word, its number in a vocabulary; a row of zeros for others."""

    class Config(Config):
        """Nothing to set."""

    inputs = frozenset({"text"})
    width, depth, pooled_width = len(WORDS), 1, None

    def __init__(self) -> None:
        super().__init__()
        self.eval()

    def train(self, mode: bool = True) -> Letters:
        return super().train(False)

    def encode(self, samples: Sequence[Sample], *, layers: Sequence[int] | None = None) -> Conditioning:
        if not samples:
            raise InputError("got no samples")
        words = [sample.prompt.split() for sample in samples]
        tokens = torch.zeros(len(samples), max(map(len, words)), self.width)
        for row, own in enumerate(words):
            for place, word in enumerate(own):
                tokens[row, place] = torch.tensor([float(word == known) for known in WORDS])
        lengths = torch.tensor([len(own) for own in words])[:, None]
        return Conditioning(tokens=tokens, mask=torch.arange(tokens.shape[1]) < lengths)

    def prepared(self, samples: Sequence[Sample]) -> Mapping[str, Tensor]:
        return {"letters": torch.tensor([ord(letter) for sample in samples for letter in f"{sample.prompt}\n"])}

    def unknown_words(self, prompt: str) -> list[str]:
        return list(dict.fromkeys(word for word in prompt.replace(",", "").split() if word not in WORDS))


class LettersContract(EncoderContract):
    unknown = ("zebra",)


class TestLetters(LettersContract):
    @pytest.fixture
    def encoder(self) -> Letters:
        return Letters()


# ------------------------------------------------------------------------------------- laws that are broken


class Draws(Letters):
    def encode(self, samples: Sequence[Sample], *, layers: Sequence[int] | None = None) -> Conditioning:
        encoded = super().encode(samples)
        return Conditioning(tokens=encoded.tokens + torch.rand(()), mask=encoded.mask)


class ThrowsADrawAway(Letters):
    def encode(self, samples: Sequence[Sample], *, layers: Sequence[int] | None = None) -> Conditioning:
        torch.rand(())
        return super().encode(samples)


class HidesText(Letters):
    def prepared(self, samples: Sequence[Sample]) -> Mapping[str, Tensor]:
        return {"rows": torch.tensor([len(samples)])}


class ShowsWhatItDoesNotRead(Letters):
    def prepared(self, samples: Sequence[Sample]) -> Mapping[str, Tensor]:
        first = samples[0].references[0].image
        return {**super().prepared(samples), "pixels": first}


class KnowsEverything(Letters):
    def unknown_words(self, prompt: str) -> list[str]:
        return []


class KnowsNothing(Letters):
    def unknown_words(self, prompt: str) -> list[str]:
        return prompt.split()


class CountsTwice(Letters):
    def unknown_words(self, prompt: str) -> list[str]:
        return [word for word in prompt.replace(",", "").split() if word not in WORDS]


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (Draws, "same_input_same_output"),
        (ThrowsADrawAway, "same_input_same_output"),
        (HidesText, "what_it_shows_is_what_it_reads"),
        (ShowsWhatItDoesNotRead, "what_it_shows_is_what_it_reads"),
        (KnowsEverything, "words_it_does_not_know_are_named"),
        (KnowsNothing, "words_it_does_not_know_are_named"),
        (CountsTwice, "words_it_does_not_know_are_named"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_what_breaks_a_law_fails_that_law(broken: type[Letters], law: str) -> None:
    with pytest.raises(AssertionError):
        getattr(LettersContract(), f"test_{law}")(broken())
