"""Trained parts remember the features they were trained on, and say what changed when these are others."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from subjectgen.core import Conditioning, InputError
from subjectgen.runner import fingerprint
from subjectgen.runner.fingerprint import FILE, TOLERANCE, distance, fixed_sample, sketch, warn_of_changes


@pytest.fixture
def saved(system: Any, tmp_path: Path) -> Path:
    system().save_trained(tmp_path / "run")
    return tmp_path / "run"


def complaints(loaded: Any, folder: Path) -> list[str]:
    """Warnings of loading, without the libraries' own."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loaded.load_trained(str(folder))
    return [str(one.message) for one in caught if FILE in str(one.message)]


def with_encoder(checkpoints: Path, **options: Any) -> dict[str, Any]:
    encoder = {"name": "internvl3", "checkpoint": str(checkpoints / "internvl3"), "dtype": "float32"}
    return {"branches": {"mllm": {"encoder": {**encoder, **options}}}}


def test_the_same_encoders_load_without_a_word_and_without_running(system: Any, saved: Path) -> None:
    names = {"autoencoder", "branches.mllm.encoder", "branches.vae.encoder"}
    assert set(json.loads((saved / FILE).read_text())["encoders"]) == names
    again = system()
    runs: list[int] = []
    again.branches["mllm"].encoder.model.register_forward_hook(lambda *_: runs.append(1))
    assert complaints(again, saved) == []
    assert runs == []


def test_a_moved_checkpoint_loads_without_a_word_and_without_running(
    system: Any, saved: Path, checkpoints: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(checkpoints / "internvl3", tmp_path / "moved")
    again = system(with_encoder(checkpoints, checkpoint=str(folder)))
    runs: list[int] = []
    again.branches["mllm"].encoder.model.register_forward_hook(lambda *_: runs.append(1))
    assert complaints(again, saved) == []
    assert runs == []


def test_an_encoder_runs_once_however_often_it_is_stored(
    system: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "_FEATURES", {})
    built = system()
    runs: list[str] = []
    for name, part in {"mllm": built.branches["mllm"].encoder.model, "vae": built.autoencoder.model.encoder}.items():
        part.register_forward_hook(lambda *_, name=name: runs.append(name))
    built.save_trained(tmp_path / "one")
    built.save_trained(tmp_path / "two")
    assert sorted(runs) == ["mllm", "vae"]
    assert (tmp_path / "one" / FILE).read_text() == (tmp_path / "two" / FILE).read_text()


@pytest.mark.parametrize("content", ["{", "[]", '{"versions": {}}'])
def test_a_damaged_fingerprint_is_said_to_be_one(system: Any, saved: Path, content: str) -> None:
    (saved / FILE).write_text(content)
    (complaint,) = complaints(system(), saved)
    assert complaint.startswith(f"{saved / FILE}: damaged (")


def test_parts_without_a_fingerprint_load_as_before(system: Any, saved: Path) -> None:
    (saved / FILE).unlink()
    assert complaints(system(), saved) == []


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"template": "plain"}, "option template 'chat' -> 'plain', the token ids (template or tokenizer)"),
        ({"system": "be brief"}, "option system None -> 'be brief', the token ids (template or tokenizer)"),
        ({"fit": "stretch"}, "option fit 'pad' -> 'stretch', the prepared pictures (processor)"),
        ({"raw_last_layer": True}, "option raw_last_layer False -> True"),
    ],
)
def test_what_changed_is_named(
    system: Any, saved: Path, checkpoints: Path, options: dict[str, Any], cause: str
) -> None:
    (complaint,) = complaints(system(with_encoder(checkpoints, **options)), saved)
    assert complaint.startswith(f"{saved / FILE}: branches.mllm.encoder: the features (")
    assert complaint.endswith(f"Changed: {cause}")


def test_options_that_leave_the_features_alone_are_no_matter(system: Any, saved: Path, checkpoints: Path) -> None:
    assert complaints(system(with_encoder(checkpoints, attention_implementation="eager")), saved) == []
    assert complaints(system(with_encoder(checkpoints, dtype="bfloat16")), saved) == []  # rounding of a machine


def test_other_weights_are_named(system: Any, saved: Path, checkpoints: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoints / "internvl3", tmp_path / "other")
    for file in folder.glob("*.safetensors"):
        weights = {name: torch.randn_like(w) * 0.1 if w.ndim > 1 else w for name, w in load_file(file).items()}
        save_file(weights, file, metadata={"format": "pt"})
    (complaint,) = complaints(system(with_encoder(checkpoints, checkpoint=str(folder))), saved)
    assert "differ by" in complaint
    assert "the model's weights or their data type" in complaint


def test_another_processor_is_named(system: Any, saved: Path, checkpoints: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoints / "internvl3", tmp_path / "other")
    file = folder / "preprocessor_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "image_mean": [0.1, 0.2, 0.3]}))
    (complaint,) = complaints(system(with_encoder(checkpoints, checkpoint=str(folder))), saved)
    assert complaint.endswith("the prepared pictures (processor)")


def test_another_library_is_named_only_where_features_differ(system: Any, saved: Path) -> None:
    file = saved / FILE
    stored = json.loads(file.read_text())
    stored["versions"]["transformers"] = "5.0.0"
    file.write_text(json.dumps(stored))
    assert complaints(system(), saved) == []
    last = max(stored["encoders"]["branches.mllm.encoder"]["features"])
    values = stored["encoders"]["branches.mllm.encoder"]["features"][last]["values"]
    stored["encoders"]["branches.mllm.encoder"]["features"][last]["values"] = [-value for value in values]
    file.write_text(json.dumps(stored))
    (complaint,) = complaints(system(), saved)
    assert "Changed: transformers 5.0.0 -> " in complaint


class Foreign(nn.Module):
    """An encoder of someone else's: no config, nothing prepared."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def encode(self, samples: list[Any], *, layers: Any = None) -> Conditioning:
        tokens = torch.stack([sample.references[0].image.mean(0)[:4] for sample in samples]) - self.shift
        return Conditioning(tokens=tokens, mask=torch.ones(tokens.shape[:2], dtype=torch.bool))


class Pooled(Foreign):
    def encode(self, samples: list[Any], *, layers: Any = None) -> Conditioning:
        found = super().encode(samples)
        return Conditioning(tokens=found.tokens, mask=found.mask, pooled=found.tokens[:, 0])


class Picky(Foreign):
    def encode(self, samples: list[Any], *, layers: Any = None) -> Conditioning:
        raise InputError("needs a subject mask")


def test_any_encoder_has_features_to_compare(tmp_path: Path) -> None:
    fingerprint.write_fingerprint({"one": Foreign(0.0), "two": Picky(0.0)}, tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_changes({"one": Foreign(0.0), "two": Picky(1.0)}, tmp_path)
    with pytest.warns(UserWarning, match=r"one: the features \(tokens\) differ .* nothing that is known of"):
        warn_of_changes({"one": Foreign(0.5)}, tmp_path)
    with pytest.warns(UserWarning, match=r"differ by inf"):
        warn_of_changes({"one": Foreign(math.nan)}, tmp_path)
    with pytest.warns(UserWarning, match=r"are tokens, pooled vector, not tokens as .* the encoder Foreign -> Pooled"):
        warn_of_changes({"one": Pooled(0.0)}, tmp_path)
    with pytest.warns(UserWarning, match=r"are none, not tokens as .* the encoder Foreign -> Picky"):
        warn_of_changes({"one": Picky(0.0)}, tmp_path)


@pytest.mark.parametrize("size", [0.0, 0.003, 0.1, 1.0])
def test_the_distance_of_sketches_is_that_of_the_tensors(size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(20):
        one, noise = torch.randn(2, 50, 64, generator=generator)
        other = one + size * noise
        found.append(distance(sketch(one), sketch(other)))
    squash = lambda x: x / (x.abs() + x.abs().median())  # noqa: E731
    direction = float((squash(one) / squash(one).norm() - squash(other) / squash(other).norm()).norm())
    scale = math.log(float(one.abs().median() / other.abs().median()))
    assert sum(found) / len(found) == pytest.approx(math.hypot(direction, scale), rel=0.25, abs=1e-3)


def test_rounding_to_bfloat16_is_no_difference_and_another_order_is() -> None:
    values = torch.randn(1, 40, 96, generator=torch.Generator().manual_seed(0))
    values[0, 0, 0] = 1e4  # as language models have them
    assert distance(sketch(values), sketch(values.bfloat16())) < TOLERANCE / 2
    assert distance(sketch(values), sketch(values.flip(1))) > 0.5
    assert distance(sketch(values), sketch(values * 1.1)) == pytest.approx(math.log(1.1), rel=0.01)
    assert distance(sketch(values), sketch(values[:, :39])) == float("inf")


def test_the_fixed_picture_is_in_range_and_not_symmetric() -> None:
    image = fixed_sample().references[0].image
    assert 0 <= image.min() < 0.05
    assert 0.95 < image.max() <= 1
    assert all(not torch.allclose(image, image.flip(axis), atol=0.1) for axis in (1, 2))
