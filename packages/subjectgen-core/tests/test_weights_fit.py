"""Models from a checkpoint in the hub's layout, as a third party reads them: all of the weights, or one clear line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from subjectgen.core import CheckpointError
from subjectgen.core.weights import Checkpoint, check_fit, check_report, model_shapes, tensor_shapes

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
INDEX = "model.safetensors.index.json"


class Acme(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(2))
        self.head = nn.Linear(width, 1, dtype=torch.bfloat16)


def load(folder: Path | str, subfolder: str = "") -> Acme:
    """What a third party writes."""
    checkpoint = Checkpoint(name=str(folder), subfolder=subfolder)
    values = checkpoint.config("model_type", ["acme"])
    with torch.device("meta"):
        model = Acme(values["width"])
    weights = checkpoint.weights("model")
    check_fit(str(checkpoint), weights.shapes(), model_shapes(model))
    model.load_state_dict(weights.tensors(), assign=True)
    return model


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two shards with an index."""
    torch.manual_seed(0)
    state = Acme(4).state_dict()
    halves = [{name: value for name, value in state.items() if name.startswith("blocks") == first} for first in (1, 0)]
    for name, tensors in zip(SHARDS, halves, strict=True):
        save_file(tensors, tmp_path / name)
    places = {tensor: name for name, tensors in zip(SHARDS, halves, strict=True) for tensor in tensors}
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": places}))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "acme", "width": 4}))
    return tmp_path


def test_all_weights_find_their_place(folder: Path) -> None:
    torch.manual_seed(0)
    expected, found = Acme(4).state_dict(), load(folder).state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_one_file_by_itself_is_read_too(folder: Path, tmp_path: Path) -> None:
    file = folder / "alone.safetensors"
    save_file(Acme(4).state_dict(), file)
    weights = Checkpoint(name=str(file)).weights("model")
    assert weights.shapes() == tensor_shapes(file) == model_shapes(Acme(4))


def edit(shard: str, change: Callable[[dict[str, Any]], None]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / shard)
        change(tensors)
        save_file(tensors, folder / shard)

    return damage


def rename_all(folder: Path) -> None:
    for file in folder.glob("*.safetensors*"):
        file.rename(file.with_suffix(".bin"))


def listed(folder: Path, **places: str | None) -> None:
    found = json.loads((folder / INDEX).read_text())["weight_map"] | places
    kept = {name: shard for name, shard in found.items() if shard}
    (folder / INDEX).write_text(json.dumps({"weight_map": kept}))


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing shard": (lambda folder: (folder / SHARDS[1]).unlink(), rf"{SHARDS[1]} is missing: {INDEX} lists 2 files"),
    "truncated": (
        lambda folder: (folder / SHARDS[0]).write_bytes((folder / SHARDS[0]).read_bytes()[:-3]),
        rf"{SHARDS[0]} is truncated or damaged \(\d+ bytes\)",
    ),
    "not in its shard": (edit(SHARDS[1], lambda t: t.pop("head.bias")), r"has no head\.bias, which .* says it has"),
    "another shape": (
        edit(SHARDS[1], lambda t: t.update({"head.bias": torch.zeros(3)})),
        r"does not fit its config\.json: head\.bias has shape \[3\], expected \[1\]",
    ),
    "missing": (lambda folder: listed(folder, **{"head.bias": None}), r"lacks 1 weights of the model.*'head\.bias'"),
    "surplus": (
        lambda folder: (
            edit(SHARDS[1], lambda t: t.update(tail=torch.zeros(3)))(folder),
            listed(folder, tail=SHARDS[1]),
        ),
        r"has no place for 1 of its weights, the first is 'tail'",
    ),
    "pickles alone": (rename_all, "may be a pickle"),
    "no weights": (
        lambda folder: [file.unlink() for file in folder.glob("model*")],
        r"has no weights: expected model\.safetensors or \S+, found config\.json; pickles are never read",
    ),
    "no config": (
        lambda folder: (folder / "config.json").unlink(),
        "has no config.json, found .*; expected a model of type 'acme'",
    ),
    "config of another": (
        lambda folder: (folder / "config.json").write_text('{"model_type": "bert"}'),
        "holds a model of type 'bert', expected 'acme'",
    ),
    "config no JSON": (lambda folder: (folder / "config.json").write_text("{"), "config.json is damaged"),
    "config a list": (lambda folder: (folder / "config.json").write_text("[]"), "expected a JSON object, found a list"),
    "index no map": (lambda folder: (folder / INDEX).write_text("{}"), "expected a weight_map from names to files"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_is_wrong_is_one_clear_line(folder: Path, damage: str) -> None:
    harm, message = DAMAGES[damage]
    harm(folder)
    with pytest.raises(CheckpointError, match=message) as raised:
        load(folder)
    assert "\n" not in str(raised.value)
    assert str(folder) in str(raised.value)


def test_a_pickle_that_nobody_reads_is_no_danger(folder: Path) -> None:
    """A repository on the hub often has both; its copy on disk loads as the hub id does."""
    (folder / "pytorch_model.bin").write_bytes(b"anything")
    load(folder)


def test_the_folder_inside_is_suggested(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    pipeline = tmp_path_factory.mktemp("pipeline")
    folder.rename(pipeline / "tower")
    load(pipeline, "tower")
    with pytest.raises(CheckpointError, match="did you mean subfolder 'tower'"):
        load(pipeline)
    with pytest.raises(CheckpointError, match=r"has no folder 'twoer'; folders there: \['tower'\]"):
        load(pipeline, "twoer")


SHAPES = st.dictionaries(st.sampled_from("abcdef"), st.tuples(st.integers(1, 3)))


def test_only_equal_names_and_shapes_fit() -> None:
    @given(SHAPES, SHAPES)
    def law(found: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]]) -> None:
        if found == expected:
            check_fit("here", found, expected)
        else:
            with pytest.raises(CheckpointError, match="here"):
                check_fit("here", found, expected)

    law()


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        ({"missing_keys": {"head.bias"}}, "lacks 1 weights"),
        ({"mismatched_keys": {("head.bias", (3,), (1,))}}, r"has shape \[3\], expected \[1\]"),
        ({"unexpected_keys": {"blocks.2.weight"}}, "no place for 1 of its weights"),
        ({"unexpected_keys": {"model.blocks.2.weight"}}, "no place for 1 of its weights"),
    ],
)
def test_a_loading_report_with_gaps_is_refused(problem: dict[str, Any], message: str) -> None:
    report = {"missing_keys": set(), "mismatched_keys": set(), "unexpected_keys": {"lm_head.weight"}}
    check_report("here", report, Acme(4))
    with pytest.raises(CheckpointError, match=f"here.*{message}"):
        check_report("here", {**report, **problem}, Acme(4))
