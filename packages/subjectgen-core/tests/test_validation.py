"""Errors about wrong values name key, value, expectation and the nearest valid choice."""

from __future__ import annotations

import enum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, strategies as st
from pydantic import Field, field_validator, model_validator

from subjectgen.core import Config, ConfigError
from subjectgen.core.validation import describe, locate, validate
from subjectgen.core.wording import in_words


class Mode(enum.Enum):
    """Two modes."""

    FAST = "fast"
    SLOW = "slow"


class Phase(Config):
    """One phase."""

    steps: int = Field(ge=1)
    """How many steps."""
    branches: tuple[str, ...] = Field((), max_length=2)
    """Which branches."""


class Schedule(Config):
    """A config with one of everything."""

    tau1: float = Field(0.9, ge=0, le=1)
    """The first boundary."""
    tau2: float | None = Field(0.8, gt=0, le=1)
    """The second boundary."""
    inactive: Literal["drop", "zero"] = "drop"
    """What silent branches do."""
    phases: list[Phase] = Field([])
    """Phases of training."""
    size: int | tuple[int, int] = 64
    """Rows and columns."""
    parts: dict[str, Phase | None] = Field({})
    """Phases by name."""
    prompt: str = "a toy"
    """What to draw."""

    @field_validator("prompt")
    @classmethod
    def _not_empty(cls, value: str) -> str:
        if not value:
            raise ValueError("expected a prompt with at least one word")
        return value

    @model_validator(mode="after")
    def _ordered(self) -> Schedule:
        if self.tau2 is not None and self.tau1 < self.tau2:
            raise ValueError(f"tau1 ({self.tau1}) must not be below tau2 ({self.tau2})")
        return self


def problems(values: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        validate(Schedule, values, file="x.yaml", where="schedule", lines={"schedule": "x.yaml:3"})
    return [line.removeprefix("x.yaml:3: schedule.") for line in str(caught.value).splitlines()]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tau1": "high"}, "tau1: got 'high'; expected a number in [0, 1]"),
        ({"tau1": 1.5}, "tau1: got 1.5; expected a number in [0, 1]"),
        ({"tau1": float("nan")}, "tau1: got nan; expected a number in [0, 1]"),
        ({"tau2": 0}, "tau2: got 0; expected a number in (0, 1] or null"),
        ({"inactive": "dorp"}, "inactive: got 'dorp'; expected one of 'drop', 'zero'; did you mean 'drop'?"),
        ({"phases": 3}, "phases: got 3; expected a list of a mapping with keys steps, branches"),
        ({"phases": [{"steps": 1}, {"steps": 0}]}, "phases.1.steps: got 0; expected a whole number >= 1"),
        ({"phases": [{}]}, "phases.0.steps: missing; expected a whole number >= 1"),
        ({"phases": [{"steps": 2, "branches": list("abc")}]}, "a list of at most 2 items, each text"),
        ({"size": [1, "x"]}, "size.1: got 'x'; expected a whole number"),
        ({"parts": {"steps": {"steps": "x"}}}, "parts.steps.steps: got 'x'; expected a whole number >= 1"),
        ({"prompt": ""}, "prompt: got ''; expected a prompt with at least one word"),
    ],
)
def test_one_mistake_one_line(values: dict[str, Any], message: str) -> None:
    (problem,) = problems(values)
    assert message in problem


def test_an_unknown_key_gets_the_nearest_and_all_keys() -> None:
    (problem,) = problems({"tau": 1})
    assert problem.startswith("tau: unknown key; did you mean 'tau2'? (valid keys: tau1, tau2, inactive,")
    (nested,) = problems({"phases": [{"steps": 1, "brunches": ["a"]}]})
    assert nested == "phases.0.brunches: unknown key; did you mean 'branches'? (valid keys: steps, branches)"


def test_a_mistake_between_keys_is_told_in_the_validators_words() -> None:
    with pytest.raises(ConfigError) as caught:
        validate(Schedule, {"tau1": 0.1}, where="schedule", file="x.yaml")
    assert str(caught.value) == "x.yaml: schedule: tau1 (0.1) must not be below tau2 (0.8)"


def test_all_mistakes_are_told_at_once() -> None:
    assert len(problems({"tau1": "a", "inactive": "b", "phases": [{"steps": 0}]})) == 3


def test_long_values_are_cut() -> None:
    (problem,) = problems({"tau1": "x" * 10_000})
    assert len(problem) < 200


@given(
    st.dictionaries(
        st.sampled_from([*Schedule.model_fields, "tau", "x y", ""]),
        st.recursive(
            st.none() | st.booleans() | st.integers(-2, 2) | st.floats() | st.text(max_size=3),
            lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["steps", "a"]), inner),
            max_leaves=4,
        ),
    )
)
def test_whatever_is_given_the_answer_is_a_config_or_a_config_error(values: dict[str, Any]) -> None:
    try:
        answer: Schedule | ConfigError = validate(Schedule, values, where="schedule")
    except ConfigError as error:
        answer = error
    assert isinstance(answer, Schedule) or all(line.startswith("schedule") for line in str(answer).splitlines())


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "a whole number"),
        (Annotated[int, Field(ge=16, multiple_of=16)], "a whole number >= 16, a multiple of 16"),
        (Annotated[float, Field(gt=0)], "a number > 0"),
        (Annotated[float, Field(lt=2)], "a number < 2"),
        (Annotated[list[int], Field(min_length=2)], "a list of at least 2 items, each a whole number"),
        (Annotated[str, Field(min_length=3, max_length=3)], "text of exactly 3 characters"),
        (int | None, "a whole number or null"),
        (Mode, "one of 'fast', 'slow'"),
        (Literal["a"], "'a'"),
        (tuple[int, str], "a list of 2: a whole number, text"),
        (tuple[float, ...], "a list of a number"),
        (dict[str, bool], "a mapping of text to true or false"),
        (frozenset[str], "a list of text"),
        (Path, "a path"),
        (Any, "any value"),
    ],
)
def test_types_in_words(annotation: Any, words: str) -> None:
    assert in_words(annotation) == words


def test_describe_lists_every_key_with_its_docstring() -> None:
    rows = {row["key"]: row for row in describe(Schedule)}
    assert rows["tau1"] == {
        "key": "tau1",
        "type": "a number in [0, 1]",
        "required": False,
        "default": 0.9,
        "doc": "The first boundary.",
        "changes": None,
    }
    assert rows["phases.steps"]["required"]
    assert rows["phases.steps"]["doc"] == "How many steps."


def test_location_falls_back_to_the_nearest_known_ancestor() -> None:
    lines = {"a": "x.yaml:1", "a.b": "y.yaml:2"}
    assert locate("a.b.c.0", "x.yaml", lines) == "y.yaml:2: a.b.c.0: "
    assert locate("z", "x.yaml", lines) == "x.yaml: z: "
    assert locate("", None) == ""
