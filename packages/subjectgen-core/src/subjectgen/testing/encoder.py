"""The contract of encoders: prompt and references -> features, latents or conditioning."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from torch import Tensor, nn

from subjectgen.core import (
    Conditioning,
    Encoder,
    Features,
    InputError,
    KnowsWords,
    Latents,
    Modality,
    Reference,
    Sample,
    ShowsInputs,
)
from subjectgen.testing.base import Contract

_EXAMPLES = settings(max_examples=8, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


class EncoderContract(Contract):
    """Laws of every encoder.

    Give a fixture ``encoder``, small, on the CPU, in float32 and without randomness::

        class TestMine(EncoderContract):
            @pytest.fixture
            def encoder(self):
                return Mine(Mine.Config(checkpoint=...))

    Override ``words`` if its tokenizer knows only certain words, ``image_size`` if it needs certain images.
    """

    words: ClassVar[Sequence[str]] = ("a", "red", "toy", "on", "the", "beach")
    """What prompts are made of; the first two must differ for the tokenizer."""
    unknown: ClassVar[Sequence[str]] = ()
    """Words that its tokenizer does not know, if there are any."""
    image_size: ClassVar[tuple[int, int]] = (40, 56)
    """Height and width of the references."""
    tolerance: ClassVar[float] = 1e-4
    """Largest difference that counts as equal."""

    def sample(self, *, seed: int, length: int = 3, references: int = 1) -> Sample:
        """A sample with a prompt of ``length`` words and this many references."""
        prompt = " ".join(self.words[(seed + i) % len(self.words)] for i in range(length))
        return Sample(prompt=prompt, references=self.references(references, seed=seed))

    def references(self, count: int, *, seed: int) -> tuple[Reference, ...]:
        """References of random pixels."""
        generator = torch.Generator().manual_seed(seed)
        return tuple(Reference(image=torch.rand(3, *self.image_size, generator=generator)) for _ in range(count))

    # ------------------------------------------------------------------------------------------ what it is

    def test_it_says_what_it_is(self, encoder: Any) -> None:
        """It is a module with every member of the protocol."""
        assert isinstance(encoder, Encoder)
        assert isinstance(encoder, nn.Module)
        assert encoder.inputs
        assert encoder.inputs <= {"text", "references"}
        assert encoder.width > 0
        assert encoder.depth > 0
        assert encoder.pooled_width is None or encoder.pooled_width > 0

    def test_it_is_frozen(self, encoder: Any) -> None:
        """No weight asks for a gradient, and ``train()`` does not leave evaluation mode."""
        encoder.train()
        assert not any(module.training for module in encoder.modules())
        assert not any(parameter.requires_grad for parameter in encoder.parameters())
        with torch.enable_grad():
            encoded = encoder.encode([self.sample(seed=0)])
        assert not any(tensor.requires_grad for tensor in _tensors(encoded))

    # ------------------------------------------------------------------------------------------ what it gives

    def test_shapes_are_as_promised(self, encoder: Any) -> None:
        """Widths, depth and the reference of each image token are those it announces."""
        batch = [self.sample(seed=seed) for seed in range(3)]
        encoded = encoder.encode(batch)
        if isinstance(encoded, Features):
            _check_features(encoded, batch, encoder)
        elif isinstance(encoded, Conditioning):
            assert encoded.tokens.shape == (3, encoded.mask.shape[1], encoder.width)
            assert encoded.mask.dtype is torch.bool
            _check_pooled(encoded.pooled, encoder)
        else:
            assert isinstance(encoded, Latents)
            assert len(encoded.values) == len(batch[0].references)
            assert all(latents.shape[:2] == (3, encoder.width) for latents in encoded.values)
        assert all(torch.isfinite(tensor).all() for tensor in _tensors(encoded))

    def test_same_input_same_output(self, encoder: Any) -> None:
        """Nothing is drawn: whatever was drawn before, the answer is the same, and nobody else's draws change."""
        batch = [self.sample(seed=seed) for seed in range(2)]
        answers = []
        with torch.random.fork_rng(devices=()):
            for seed in (0, 1):
                torch.manual_seed(seed)
                before = torch.get_rng_state()
                answers.append(_tensors(encoder.encode(batch)))
                assert torch.equal(torch.get_rng_state(), before), "it draws from torch's global generator"
        assert all(torch.equal(a, b) for a, b in zip(*answers, strict=True))

    def test_rows_are_independent_and_padding_does_not_matter(self, encoder: Any) -> None:
        """A row says the same alone and beside longer rows, on whichever side padding is."""
        ragged = isinstance(encoder.encode([self.sample(seed=0)]), Features)
        fewest = 0 if "text" in encoder.inputs else 1  # with nothing to read, a branch is absent and not asked
        row = st.tuples(st.integers(0, 6), st.integers(fewest, 2), st.integers(0, 99))

        @_EXAMPLES
        @given(st.lists(row, min_size=2, max_size=3))
        def check(drawn: list[tuple[int, int, int]]) -> None:
            batch = [
                self.sample(length=length, references=count if ragged else drawn[0][1], seed=seed)
                for length, count, seed in drawn
            ]
            together = encoder.encode(batch)
            for index, sample in enumerate(batch):
                alone = _valid(encoder.encode([sample]), 0)
                for a, b in zip(_valid(together, index), alone, strict=True):
                    torch.testing.assert_close(a, b, rtol=self.tolerance, atol=self.tolerance)

        check()

    def test_unwanted_layers_are_none(self, encoder: Any) -> None:
        """``layers`` drops hidden states and changes nothing else."""
        batch = [self.sample(seed=seed) for seed in range(2)]
        everything = encoder.encode(batch)

        @_EXAMPLES
        @given(st.sets(st.integers(0, encoder.depth - 1)))
        def check(wanted: set[int]) -> None:
            some = encoder.encode(batch, layers=sorted(wanted))
            if not isinstance(some, Features):
                return
            assert {i for i, state in enumerate(some.hidden_states) if state is not None} == wanted
            for state, whole in zip(some.hidden_states, everything.hidden_states, strict=True):
                assert state is None or torch.equal(state, whole)
            assert torch.equal(some.modality, everything.modality)

        check()

    # ------------------------------------------------------------------------------------------ what it reads

    def test_it_reads_its_inputs_and_no_others(self, encoder: Any) -> None:
        """Prompt and reference matter exactly if ``inputs`` names them."""
        base = Sample(prompt=self.words[0], references=self.references(1, seed=1))
        other = {
            "text": Sample(prompt=self.words[1], references=base.references),
            "references": Sample(prompt=base.prompt, references=self.references(1, seed=2)),
        }
        expected = _valid(encoder.encode([base]), 0)
        for name, sample in other.items():
            same = _equal(expected, _valid(encoder.encode([sample]), 0))
            assert same == (name not in encoder.inputs), f"{name} should {'' if same else 'not '}change the output"

    def test_what_it_shows_is_what_it_reads(self, encoder: Encoder) -> None:
        """Samples of which it shows the same get the same answer, and what it does not read it does not show."""
        if not isinstance(encoder, ShowsInputs):
            pytest.skip("it does not show what its model gets")
        base = Sample(prompt=self.words[0], references=self.references(2, seed=1))
        others = [
            replace(base, key="other", facts={"subject": "dog"}),
            replace(base, prompt=self.words[1]),
            *(replace(base, references=self._exchanged(base.references, place)) for place in (0, 1)),
        ]
        shown, answer = encoder.prepared([base]), _valid(encoder.encode([base]), 0)
        for other in others:
            same = _equal(answer, _valid(encoder.encode([other]), 0))
            now = encoder.prepared([other])
            assert (shown.keys() == now.keys() and _equal(shown.values(), now.values())) == same

    def test_words_it_does_not_know_are_named(self, encoder: Any) -> None:
        """As the prompt writes them, each once; its own words are known."""
        if not isinstance(encoder, KnowsWords):
            pytest.skip("it does not say which words it knows")
        known = " ".join(self.words)
        assert encoder.unknown_words(known) == []
        assert encoder.unknown_words("") == []
        for word in self.unknown:
            assert encoder.unknown_words(f"{known} {word}, {known} {word}") == [word]

    def _exchanged(self, references: Sequence[Reference], place: int) -> tuple[Reference, ...]:
        (other,) = self.references(1, seed=7)
        return tuple(other if number == place else one for number, one in enumerate(references))

    def test_mistakes_are_input_errors(self, encoder: Any) -> None:
        """An empty batch, an unknown layer and a reference that is no image are told apart from bugs."""
        with pytest.raises(InputError):
            encoder.encode([])
        sample = self.sample(seed=0)
        if isinstance(encoder.encode([sample]), Features):
            with pytest.raises(InputError):
                encoder.encode([sample], layers=[encoder.depth])
        if "references" in encoder.inputs:
            image = torch.full((3, *self.image_size), float("nan"))
            with pytest.raises(InputError):
                encoder.encode([Sample(prompt=self.words[0], references=(Reference(image=image),))])


# ------------------------------------------------------------------------------------------------ helpers


def _check_features(features: Features, batch: Sequence[Sample], encoder: Any) -> None:
    length = features.modality.shape[1]
    assert features.depth == encoder.depth
    assert all(s is not None and s.shape == (len(batch), length, encoder.width) for s in features.hidden_states)
    image = features.modality == Modality.IMAGE
    assert (features.reference[~image] == -1).all()
    for row, sample in enumerate(batch):
        present = set(features.reference[row][image[row]].tolist())
        assert present == (set(range(len(sample.references))) if "references" in encoder.inputs else set())
    if features.image_features is not None:
        assert features.image_features.shape == (len(batch), length, encoder.width)
        assert not features.image_features[~image].any()
    _check_pooled(features.pooled, encoder)


def _check_pooled(pooled: Tensor | None, encoder: Any) -> None:
    assert (pooled is None) == (encoder.pooled_width is None)
    assert pooled is None or pooled.shape[1] == encoder.pooled_width


def _tensors(encoded: Features | Latents | Conditioning) -> list[Tensor]:
    """All floating-point tensors."""
    if isinstance(encoded, Latents):
        return list(encoded.values)
    found = [encoded.pooled]
    found += [encoded.tokens] if isinstance(encoded, Conditioning) else [*encoded.hidden_states, encoded.image_features]
    return [tensor for tensor in found if tensor is not None]


def _equal(some: Iterable[Tensor], others: Iterable[Tensor]) -> bool:
    return all(a.shape == b.shape and torch.equal(a, b) for a, b in zip(some, others, strict=True))


def _valid(encoded: Features | Latents | Conditioning, row: int) -> list[Tensor]:
    """What a row says, wherever its padding is."""
    if isinstance(encoded, Latents):
        return [latents[row] for latents in encoded.values]
    mask = encoded.mask[row]
    pooled = [] if encoded.pooled is None else [encoded.pooled[row]]
    if isinstance(encoded, Conditioning):
        return [encoded.tokens[row][mask], *pooled]
    states = [state[row][mask] for state in (*encoded.hidden_states, encoded.image_features) if state is not None]
    return [encoded.modality[row][mask], encoded.reference[row][mask], *states, *pooled]
