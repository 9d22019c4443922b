"""An encoder that remembers keeps the contract of encoders, and gives what the one inside it gives."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from subjectgen.core import (
    Conditioning,
    Features,
    InputError,
    KnowsWords,
    Latents,
    Modality,
    ReadsSubjectMasks,
    Reference,
    Sample,
    ShowsInputs,
)
from subjectgen.encoders.flux_text import FluxText
from subjectgen.encoders.internvl3 import InternVL3
from subjectgen.encoders.vae import VAE
from subjectgen.runner.training.cache_folder import FolderStore
from subjectgen.runner.training.cache_identity import Identity
from subjectgen.runner.training.cache_rows import joined, only_row
from subjectgen.runner.training.cache_store import MemoryStore
from subjectgen.runner.training.cached_encoder import CachedEncoder, pads_left
from subjectgen.testing import EncoderContract


class Written(EncoderContract):
    """Whatever it gives has been on the disk."""

    @pytest.fixture
    def encoder(self, inner: Any, tmp_path: Path) -> CachedEncoder:
        store = FolderStore(tmp_path / "cache", Identity(values={"test": True}), pytest.fail)
        put = store.put

        def written(key: str, entry: Any) -> Any:
            put(key, entry)
            store.flush()
            return store.get(key)

        store.put = written
        return CachedEncoder(inner, store)


class TestMultimodal(Written):
    """Layers, left padding, image features."""

    @pytest.fixture
    def inner(self, checkpoints: Path) -> Any:
        return InternVL3(InternVL3.Config(checkpoint=str(checkpoints / "internvl3"), dtype="float32"))


class TestLatents(Written):
    """One tensor for each reference."""

    @pytest.fixture
    def inner(self, checkpoints: Path) -> Any:
        return VAE(VAE.Config(checkpoint=str(checkpoints / "vae"), subfolder="", size=64))


class TestConditioning(Written):
    """Tokens, a mask and a pooled vector."""

    @pytest.fixture
    def inner(self, checkpoints: Path) -> Any:
        return FluxText(FluxText.Config(checkpoint=str(checkpoints / "flux_text"), dtype="float32"))


# --------------------------------------------------------------------------------------------- what the runner asks


def test_capabilities_are_those_of_the_encoder_inside(checkpoints, tiny) -> None:
    inner = InternVL3(InternVL3.Config(checkpoint=str(checkpoints / "internvl3"), dtype="float32"))
    cached, plain = CachedEncoder(inner, MemoryStore()), CachedEncoder(tiny.Words(tiny.Words.Config()), MemoryStore())
    assert isinstance(cached, ShowsInputs)
    assert isinstance(cached, KnowsWords)
    for capability in (ShowsInputs, KnowsWords, ReadsSubjectMasks):
        assert isinstance(cached, capability) == isinstance(inner, capability)
        assert not isinstance(plain, capability)
    assert next(cached.parameters()) is next(inner.parameters())  # where branches look for the device


def test_layers_that_are_not_kept_are_made_each_time(tiny) -> None:
    store = MemoryStore()
    encoder = CachedEncoder(tiny.Words(tiny.Words.Config()), store, layers=[1])
    sample = Sample(prompt="a")
    kept, both = encoder.encode([sample], layers=[1]), encoder.encode([sample])
    assert kept.hidden_states[0] is None
    assert torch.equal(kept.hidden_states[1], both.hidden_states[1])
    assert both.hidden_states[0] is not None
    (entry,) = store._entries.values()
    assert "state.0" not in entry


def test_nothing_is_kept_in_another_precision(tiny) -> None:
    class Half(tiny.Words):
        def encode(self, samples: Any, *, layers: Any = None) -> Features:
            found = super().encode(samples)
            return replace(found, hidden_states=tuple(state.bfloat16() for state in found.hidden_states))

    for encoder, dtype in ((tiny.Words, torch.float32), (Half, torch.bfloat16)):
        cached = CachedEncoder(encoder(encoder.Config()), MemoryStore())
        for _ in range(2):
            assert cached.encode([Sample(prompt="a")]).hidden_states[1].dtype is dtype


# -------------------------------------------------------------------------------------------------------- padding


class Ragged(nn.Module):
    """One token per word, and of each reference; padding on a side, or before and after."""

    inputs = frozenset({"text", "references"})
    width, depth, pooled_width = 2, 2, 3

    def __init__(self, *, left: bool) -> None:
        super().__init__()
        self.left = left

    def encode(self, samples: Any, *, layers: Any = None) -> Features:
        rows = [self.row(sample) for sample in samples]
        longest = max(len(modality) for modality, *_ in rows)
        columns = [
            torch.stack([self.pad(value, longest, fill) for value in column])
            for column, fill in zip(zip(*rows, strict=True), (int(Modality.PADDING), -1, 7.0, False, 0.0), strict=True)
        ]
        modality, reference, state, class_token, image = columns
        return Features(
            hidden_states=(state, -state),
            modality=modality,
            reference=reference,
            class_token=class_token if image.any() else None,
            image_features=image if image.any() else None,
            pooled=torch.tensor([[float(len(sample.prompt))] * 3 for sample in samples]),
            last_layer_normalized=False,
        )

    def row(self, sample: Sample) -> tuple[Tensor, ...]:
        words = sample.prompt.split()
        count = len(sample.references)
        modality = torch.tensor([int(Modality.IMAGE)] * count + [int(Modality.TEXT)] * len(words))
        reference = torch.tensor([*range(count), *[-1] * len(words)])
        values = [float(one.image.mean()) for one in sample.references] + [float(len(word)) for word in words]
        state = torch.tensor([[value, 2 * value] for value in values])
        image = state * (modality == Modality.IMAGE)[:, None]
        return modality, reference, state, modality == Modality.IMAGE, image

    def pad(self, value: Tensor, longest: int, fill: float) -> Tensor:
        padding = value.new_full((longest - len(value), *value.shape[1:]), fill)
        return torch.cat((padding, value) if self.left else (value, padding))


def picture(value: float) -> Reference:
    return Reference(image=torch.full((3, 4, 4), value))


RAGGED = [
    Sample(prompt="one"),
    Sample(prompt="a much longer prompt", references=(picture(0.25), picture(0.5))),
    Sample(prompt="two words", references=(picture(0.75),)),
]


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("rows", [[0, 1, 2], [1], [0], [2, 2], [2, 0]])
def test_padding_is_put_back_where_the_encoder_puts_it(left: bool, rows: list[int]) -> None:
    encoder = Ragged(left=left)
    assert pads_left(encoder) == left
    cached, samples = CachedEncoder(encoder, MemoryStore()), [RAGGED[row] for row in rows]
    plain = encoder.encode(samples)
    for _ in range(2):
        found = cached.encode(samples)
        for name in ("modality", "reference", "class_token", "image_features", "pooled"):
            one, other = getattr(found, name), getattr(plain, name)
            assert (one is None) == (other is None), name
            assert one is None or torch.equal(one, other), name
        for one, other in zip(found.hidden_states, plain.hidden_states, strict=True):
            assert torch.equal(one[found.mask], other[plain.mask])
        assert not found.last_layer_normalized


def test_holes_between_tokens_are_padding_too() -> None:
    """An encoder that joins two sequences may pad in the middle; order is kept."""
    tokens = torch.arange(8.0).reshape(1, 4, 2)
    mask = torch.tensor([[True, False, True, True]])
    row = only_row(Conditioning(tokens=tokens, mask=mask, reference=torch.tensor([[0, -1, -1, 1]])), ())
    found = joined([row, row], layers=(), depth=1, left=False, device="cpu")
    assert found.mask.all()
    assert torch.equal(found.tokens, tokens[:, [0, 2, 3]].expand(2, 3, 2))
    assert torch.equal(found.reference, torch.tensor([[0, -1, 1]] * 2))


def test_latents_of_different_numbers_or_sizes_are_told() -> None:
    def row(*sides: int) -> dict[str, Tensor]:
        return only_row(Latents(values=tuple(torch.zeros(1, 3, side, side) for side in sides)), ())

    for rows, said in (([row(2), row(2, 2)], "different numbers"), ([row(2), row(4)], "different sizes")):
        with pytest.raises(InputError, match=said):
            joined(rows, layers=(), depth=1, left=False, device="cpu")
