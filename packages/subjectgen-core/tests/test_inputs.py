"""One or several, numbers of any library, text of any locale."""

from __future__ import annotations

import json
import os
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

from subjectgen.core import InputError, as_list, as_seeds, valid_text
from subjectgen.core.errors import nearest
from subjectgen.core.text import json_text

# --------------------------------------------------------------------------------------------------- one or several


def test_one_thing_is_a_list_of_one() -> None:
    for one in ("toy.png", Path("toy.png"), b"data", Image.new("L", (2, 2)), np.zeros((2, 2)), torch.zeros(3, 2, 2), 7):
        (only,) = as_list(one, "references")
        assert only is one


def test_several_keep_their_order() -> None:
    for several in (["b", "a"], ("b", "a"), iter("ba"), {"b": 1, "a": 2}.keys() | set()):
        if isinstance(several, set):
            continue
        assert as_list(several, "references") == ["b", "a"]
    assert as_list(None, "references") == as_list([], "references") == []


@pytest.mark.parametrize("wrong", [{"a", "b"}, {"a": 1}, Counter("ab"), frozenset()])
def test_what_has_no_order_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"references: got a .*; expected one, or a list in order"):
        as_list(wrong, "references")


def test_nothing_is_told_that_it_means_itself() -> None:
    assert nearest("toys", ["toys", "other"]) == ""
    assert nearest("toys", ["toys", "toy"]) == "; did you mean 'toy'?"


# ------------------------------------------------------------------------------------------------------------- seeds


@given(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=4))
def test_seeds_of_every_library(seeds: list[int]) -> None:
    numpy, tensor = np.array(seeds, dtype=np.int64), torch.tensor(seeds)
    for given_ in (seeds, tuple(seeds), iter(seeds), numpy, list(numpy), tensor, list(tensor), np.array(seeds, object)):
        found = as_seeds(given_)
        assert found == seeds
        assert all(type(seed) is int for seed in found)
    assert as_seeds(seeds[0]) == as_seeds(numpy[0]) == as_seeds(tensor[0]) == as_seeds(np.uint64(seeds[0])) == seeds[:1]


def test_a_range_is_seeds() -> None:
    assert as_seeds(range(3, 9, 3)) == as_seeds(np.arange(3, 9, 3)) == [3, 6]


WRONG: list[Any] = [
    1.0,
    np.float32(1),
    torch.tensor(1.0),
    True,
    np.True_,
    torch.tensor([True]),
    "1",
    b"1",
    None,
    [],
    -1,
]
WRONG += [2**63, [1, 2.5], [[1, 2]], np.ones((2, 2), int), np.array([1.0]), {1, 2}, [None], float("nan"), range(0)]


@pytest.mark.parametrize("wrong", WRONG, ids=repr)
def test_what_is_no_seed_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"^--seed: got "):
        as_seeds(wrong, "--seed")


# -------------------------------------------------------------------------------------------------------------- text


@given(st.text(st.characters(codec="utf-8")))
def test_valid_text_stays_and_damaged_text_is_repaired(text: str) -> None:
    assert valid_text(text, "prompt") == text
    damaged = text.encode().decode("ascii", "surrogateescape")  # what LC_ALL=C makes of a command line
    assert valid_text(damaged, "prompt") == text


def test_pairs_of_surrogates_are_one_letter() -> None:
    assert valid_text("a \ud83e\uddf8 toy", "prompt") == "a \U0001f9f8 toy"


@pytest.mark.parametrize("wrong", ["a \udcff toy", "\udcc3", "toy \ud83e"])
def test_text_beyond_repair_is_refused_by_name(wrong: str) -> None:
    with pytest.raises(
        InputError, match=r"^prompt: .* is no valid Unicode at character \d .*\\ud.*; expected UTF-8"
    ) as e:
        valid_text(wrong, "prompt")
    str(e.value).encode("ascii")


@pytest.mark.parametrize("wrong", [None, 3, b"toy", ["toy"]])
def test_what_is_no_text_is_refused(wrong: Any) -> None:
    with pytest.raises(InputError, match=r"^prompt: got .*; expected text"):
        valid_text(wrong, "prompt")


@given(st.text())
def test_json_holds_any_text_and_comes_back(text: str) -> None:
    written = json_text({"prompt": text}, indent=2).encode()
    assert json.loads(written) == {"prompt": text}


def test_json_is_readable_where_it_can_be() -> None:
    assert json_text({"prompt": "Bär"}) == '{"prompt": "Bär"}'


def test_a_narrow_terminal_and_a_narrow_command_line() -> None:
    """From argument to output in a locale of ASCII; before, each of the two ended in a UnicodeEncodeError."""
    program = (
        "import sys; from subjectgen.core.text import tolerate_letters, valid_text; tolerate_letters()\n"
        "text = valid_text(sys.argv[1], 'prompt'); print(len(text), text); print(sys.argv[1], file=sys.stderr)"
    )
    narrow = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONIOENCODING": "latin-1:strict"}
    done = subprocess.run(
        [sys.executable, "-c", program, "\u732b Bär"], env={**os.environ, **narrow}, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, b"5 \\u732b B\xe4r\n"), done.stderr
