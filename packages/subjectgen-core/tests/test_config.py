"""Experiment files: what is read, merged, overridden, and how mistakes are answered."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, strategies as st

from subjectgen.core import ConfigError
from subjectgen.core.config import Loaded, load, loads, merge

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text("abcé $'\"#:-{}[]", max_size=8)
)
KEYS = st.text("abcdefgh_", min_size=1, max_size=4)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
)
TREES = st.dictionaries(KEYS, VALUES, max_size=4)


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")


@given(TREES)
def test_json_reads_as_itself(tree: dict[str, Any]) -> None:
    """JSON is YAML: what json writes comes back, with its types."""
    text = json.dumps(tree, ensure_ascii=False)
    if "${" not in text and "???" not in text:
        assert loads(text).values == tree


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("-1E5", -1e5),
        ("1.", 1.0),
        (".5", 0.5),
        ("1_000", 1000),
        ("0x1F", 31),
        ("010", 10),
        (".inf", float("inf")),
        ("~", None),
        ("", None),
        ("true", True),
        ("16:9", "16:9"),
        ("no", "no"),
        ("on", "on"),
        ("0-28", "0-28"),
        ("2024-01-01", "2024-01-01"),
        ("1e", "1e"),
        ("e5", "e5"),
        ("'1e-4'", "1e-4"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    read = loads(f"a: {text}").values["a"]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb:\n  c: 1\n  c: 2", "t.yaml:4: b.c: duplicate key, first given in line 3"),
        ("a: 1\na: 1", "t.yaml:2: a: duplicate key"),
        ("x:\n - {a: 1, a: 2}", "t.yaml:2: x.0.a: duplicate key"),
        ("a: [", "t.yaml:1: not valid YAML"),
        ("a: b: c", "t.yaml:1: not valid YAML"),
        ("- 1", "expected a mapping"),
        ("7", "got 7; expected a mapping"),
        ("a: &x [*x]", "t.yaml:1: a.0: an alias contains itself"),
        ("1: 2", "t.yaml:1: key 1 is not text"),
        ("a: {true: 2}", "t.yaml:1: a: key true is not text"),
        ("a: !!python/object/apply:os.getcwd []", "not valid YAML: could not determine a constructor"),
        ("a: !!int foo", "not valid YAML"),
        ("a: \x07", "not valid YAML"),
        ("a: 1\nb: ${nothing}", "t.yaml:2: b: Interpolation key 'nothing' not found"),
        ("a: ${a}", "t.yaml:1: a:"),
        ("a: ${", "t.yaml:1: a:"),
        ("a: ???", "t.yaml:1: a:"),
        ("extends: 3", "t.yaml:1: extends: got 3; expected a path or a list of paths"),
    ],
)
def test_mistakes_in_the_text(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads(text, file="t.yaml")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_interpolation_keeps_types() -> None:
    loaded = loads("a: {b: 1e-3}\nc: ${a.b}\nd: x${a.b}\ne: ${a}")
    assert loaded.values == {"a": {"b": 1e-3}, "c": 1e-3, "d": "x0.001", "e": {"b": 1e-3}}


def test_merge_keys_and_aliases() -> None:
    assert loads("a: &x {p: 1}\nb: {<<: *x, q: 2}\nc: *x").values == {
        "a": {"p": 1},
        "b": {"p": 1, "q": 2},
        "c": {"p": 1},
    }


# ----------------------------------------------------------------------------------------------- extends, merging


def test_extends_is_relative_recursive_and_keeps_lines(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    write(tmp_path / "base", root="lr: 1\nsteps: 5\n", mid="extends: root.yaml\nsteps: 6\nmodel:\n  width: 3\n")
    write(tmp_path, x="extends: base/mid.yaml\nmodel: {depth: 2}\nrate: ${lr}")
    loaded = load(tmp_path / "x.yaml")
    assert loaded.values == {"lr": 1, "steps": 6, "model": {"width": 3, "depth": 2}, "rate": 1}
    assert loaded.lines["lr"] == f"{tmp_path}/base/root.yaml:1"
    assert loaded.lines["model.width"] == f"{tmp_path}/base/mid.yaml:4"
    assert loaded.lines["model.depth"] == f"{tmp_path}/x.yaml:2"


def test_later_bases_win(tmp_path: Path) -> None:
    write(tmp_path, a="p: 1\nq: 1", b="q: 2", x="extends: [a.yaml, b.yaml]\nr: 3")
    assert load(tmp_path / "x.yaml").values == {"p": 1, "q": 2, "r": 3}


def test_another_name_forgets_the_options_of_the_first(tmp_path: Path) -> None:
    write(tmp_path, base="a: {name: dla, layers: {text: 0-28}}\nb: {name: vae, scale: 2}")
    write(tmp_path, x="extends: base.yaml\na: {name: lap}\nb: {name: vae, shift: 1}")
    loaded = load(tmp_path / "x.yaml")
    assert loaded.values == {"a": {"name": "lap"}, "b": {"name": "vae", "scale": 2, "shift": 1}}
    assert "a.layers.text" not in loaded.lines


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"x": "extends: x.yaml"}, "extend each other: x.yaml -> x.yaml"),
        ({"x": "extends: y.yaml", "y": "extends: x.yaml"}, "x.yaml -> y.yaml -> x.yaml"),
        ({"x": "extends: bose.yaml", "base": "a: 1"}, "x.yaml:1: extends: got 'bose.yaml'; expected an existing file"),
        ({"x": "extends: bose.yaml", "base": "a: 1"}, "did you mean 'base.yaml'"),
    ],
)
def test_mistakes_in_extends(tmp_path: Path, files: dict[str, str], message: str) -> None:
    write(tmp_path, **files)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path / "x.yaml")
    assert message in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    write(tmp_path, base="a: 1")
    with pytest.raises(ConfigError, match=r"did you mean 'base\.yaml'"):
        load(tmp_path / "bse.yaml")
    (tmp_path / "latin.yaml").write_bytes("a: é".encode("latin-1"))
    with pytest.raises(ConfigError, match="not a UTF-8 text file"):
        load(tmp_path / "latin.yaml")


@given(TREES, TREES)
def test_merge_laws(base: dict[str, Any], over: dict[str, Any]) -> None:
    merged = merge(base, over)
    assert merge(base, {}) == base
    assert merge({}, over) == over
    assert merge(merged, over) == merged
    assert set(merged) == set(base) | set(over)


# ------------------------------------------------------------------------------------------------------ overrides


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["lr=1e-3"], {"lr": 1e-3}),
        (["lr="], {"lr": None}),
        (["lr=a=b"], {"lr": "a=b"}),
        (["model.width=7"], {"model": {"name": "dla", "width": 7}}),
        (["model={depth: 2}"], {"model": {"name": "dla", "width": 3, "depth": 2}}),
        (["model.name=lap"], {"model": {"name": "lap"}}),
        (["model.depth=1", "model.name=lap"], {"model": {"name": "lap", "depth": 1}}),
        (["phases.1.steps=9"], {"phases": [{"steps": 1}, {"steps": 9}]}),
        (["new.key.path=[1, 2]"], {"new": {"key": {"path": [1, 2]}}}),
        (["lr=5", "lr=6"], {"lr": 6}),
        (["lr=${model.width}"], {"lr": 3}),
    ],
)
def test_overrides(overrides: list[str], expected: dict[str, Any]) -> None:
    text = "lr: 1\nmodel: {name: dla, width: 3}\nphases: [{steps: 1}, {steps: 2}]"
    loaded = loads(text, overrides)
    assert loaded.values == {**loads(text).values, **expected}


def test_an_overridden_key_says_where_it_came_from() -> None:
    loaded = loads("a: {b: 1}", ["a.b=high", "c={d: 1}"], file="x.yaml")
    assert str(loaded.error("a.b", "wrong")) == "--set: a.b: wrong"
    assert loaded.lines["c.d"] == "--set"
    assert str(loaded.error("a.z", "missing")) == "x.yaml:1: a.z: missing"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("lr", "expected key.path=value"),
        ("=3", "expected key.path=value"),
        ("a..b=3", "expected key.path=value"),
        ("lr.x=1", "'x' lies inside 1, which has no keys"),
        ("list.5=1", "'5' is not an index of a list of 2"),
        ("list.x=1", "'x' is not an index"),
        ("lr=[", "not valid YAML"),
    ],
)
def test_mistakes_in_overrides(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loads("lr: 1\nlist: [1, 2]", [override])
    assert message in str(caught.value)
    assert str(caught.value).startswith("--set")


def test_loading_does_not_change_between_calls(tmp_path: Path) -> None:
    write(tmp_path, base="a: {b: [1]}", x="extends: base.yaml")
    first: Loaded = load(tmp_path / "x.yaml", ["a.b.0=2"])
    assert first == load(tmp_path / "x.yaml", ["a.b.0=2"])
    assert load(tmp_path / "x.yaml").values == {"a": {"b": [1]}}


def test_a_path_starts_at_the_file_that_says_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Used from anywhere, through ``extends``, and in lists; what ``--set`` says starts where the command runs."""
    (tmp_path / "base").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "base" / "base.yaml").write_text("backbone: {name: flux, checkpoint: ./flux}\nmany: [../a, b/c]\n")
    (tmp_path / "use.yaml").write_text("extends: ./base/base.yaml\ntrained: ./run\nprompt: a ../b\nhub: owner/model\n")
    for start in (tmp_path, tmp_path / "elsewhere"):
        monkeypatch.chdir(start)
        values = load(os.path.relpath(tmp_path / "use.yaml"), ["other=./here"]).values
        assert values == {
            "backbone": {"name": "flux", "checkpoint": str(tmp_path / "base" / "flux")},
            "many": [str(tmp_path / "a"), "b/c"],
            "trained": str(tmp_path / "run"),
            "prompt": "a ../b",
            "hub": "owner/model",
            "other": "./here",
        }
