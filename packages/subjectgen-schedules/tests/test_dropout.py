import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings, strategies as st
from pydantic import ValidationError

from subjectgen.core import EVERYTHING, NOTHING, ConfigError, Visibility
from subjectgen.schedules.always_on import AlwaysOn
from subjectgen.schedules.dropout import DropoutConfig, default_table

BRANCHES = ("mllm", "vae")
NO_TEXT = Visibility(text=False, references=True)
NO_REFERENCES = Visibility(text=True, references=False)


def build(**dropout):
    return AlwaysOn(AlwaysOn.Config.model_validate({"dropout": dropout}), branches=BRANCHES)


def frequencies(schedule, count=20_000):
    drawn = schedule.sample_dropout(count, generator=torch.Generator().manual_seed(0))
    counts = Counter((outcome["mllm"], outcome["vae"]) for outcome in drawn)
    return {outcome: n / count for outcome, n in counts.items()}


def within_five_deviations(measured, probability, count=20_000):
    return abs(measured - probability) <= 5 * math.sqrt(probability * (1 - probability) / count)


def test_default_table_is_drawn_as_often_as_it_says():
    expected = {
        (NO_TEXT, NO_TEXT): 0.1,
        (NO_REFERENCES, EVERYTHING): 0.05,
        (EVERYTHING, NO_REFERENCES): 0.05,
        (NOTHING, NOTHING): 0.05,
        (EVERYTHING, EVERYTHING): 0.75,
    }
    measured = frequencies(build())
    assert set(measured) == set(expected)
    for outcome, probability in expected.items():
        assert within_five_deviations(measured[outcome], probability)


@settings(deadline=None, max_examples=10)
@given(weights=st.lists(st.integers(0, 10), min_size=1, max_size=4), rest=st.integers(0, 10))
def test_any_table_is_drawn_as_often_as_it_says(weights, rest):
    total = (sum(weights) + rest) or 1
    choices = [{"mllm": ["text"]}, {"mllm": ["references"]}, {"vae": ["references"]}, {"vae": ["text", "references"]}]
    outcomes = [(NO_TEXT, EVERYTHING), (NO_REFERENCES, EVERYTHING), (EVERYTHING, NO_REFERENCES), (EVERYTHING, NOTHING)]
    table = [{"probability": w / total, "hide": hide} for w, hide in zip(weights, choices, strict=False)]
    measured = frequencies(build(table=table))
    for weight, outcome in zip(weights, outcomes, strict=False):
        assert within_five_deviations(measured.get(outcome, 0.0), weight / total)


def test_an_empty_table_hides_nothing():
    assert frequencies(build(table=[])) == {(EVERYTHING, EVERYTHING): 1.0}


@given(branches=st.integers(2, 6))
def test_the_default_never_takes_the_references_of_two_branches_alone(branches):
    names = [f"branch{index}" for index in range(branches)]
    for row in default_table(names):
        blind = [name for name, hidden in row.hide.items() if "references" in hidden]
        everything = len(blind) == branches and all(
            set(hidden) == {"text", "references"} for hidden in row.hide.values()
        )
        assert len(blind) <= 1 or everything


def test_too_much_probability_is_refused():
    row = {"probability": 0.6, "hide": {"mllm": ["text"]}}
    with pytest.raises(ValidationError, match=r"add up to 1\.2; expected at most 1"):
        DropoutConfig.model_validate({"table": [row, row]})
    with pytest.raises(ConfigError, match="write a table"):
        default_table([str(index) for index in range(40)])


def test_unknown_branch_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"dropout\.table\.hide: unknown branch 'mlm'.*did you mean 'mllm'"):
        build(table=[{"probability": 0.1, "hide": {"mlm": ["text"]}}])


def test_a_row_may_hide_one_branch_wholly():
    """The vae alone, as a system has to know it that silences the first branch."""
    drawn = build(table=[{"probability": 1, "hide": {"mllm": ["text", "references"]}}]).sample_dropout(3)
    assert drawn == [{"mllm": NOTHING, "vae": EVERYTHING}] * 3
    assert {AlwaysOn(AlwaysOn.Config(), branches=BRANCHES).active(0.5).restricted(row).names for row in drawn} == {
        frozenset({"vae"})
    }


@pytest.mark.parametrize("shares", [(1.0,), (0.5, 0.5), (0.1,) * 10])
def test_a_table_that_always_hides_everything_is_refused(shares):
    everything = {name: ["text", "references"] for name in BRANCHES}
    with pytest.raises(ConfigError, match=r"schedule\.dropout\.table: hides everything from every branch"):
        build(table=[{"probability": share, "hide": everything} for share in shares])
    assert build(table=[{"probability": 0.99, "hide": everything}])
