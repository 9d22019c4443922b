import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings, strategies as st
from pydantic import ValidationError

from subjectgen.core import EVERYTHING, NOTHING, ConfigError, InputError, Visibility
from subjectgen.schedules.three_stage import ThreeStage

PAPER = ("mllm", "vae")
TIMESTEPS = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.85, 0.95, 1.0]))
BOUNDARIES = st.one_of(TIMESTEPS, st.floats(1, 2))
TAUS = st.tuples(BOUNDARIES, BOUNDARIES).map(lambda pair: (max(pair), min(pair)))


def build(branches=PAPER, **settings):
    return ThreeStage(ThreeStage.Config.model_validate(settings), branches=branches)


def masks(schedule, timestep):
    """(M_mllm, M_vae) of Eq. 5."""
    seen = schedule.active(timestep).visibility
    return tuple(int(seen[name] == EVERYTHING) for name in PAPER)


def single(value):
    return float(torch.tensor(value, dtype=torch.float32))


def formula(timestep, tau1, tau2):
    """Eq. 5, its comparisons in 32 bits as the schedule documents."""
    timestep = single(timestep)
    if tau1 <= 1 and timestep >= single(tau1):
        return (1, 0)
    return (1, 1) if tau2 <= 1 and timestep >= single(tau2) else (0, 1)


@settings(deadline=None)
@given(timestep=TIMESTEPS, taus=TAUS)
def test_masks_are_equation_5(timestep, taus):
    assert masks(build(tau1=taus[0], tau2=taus[1]), timestep) == formula(timestep, *taus)


@settings(deadline=None)
@given(taus=TAUS)
def test_a_boundary_belongs_to_the_stage_before_it(taus):
    tau1, tau2 = taus
    schedule = build(tau1=tau1, tau2=tau2)
    if tau1 <= 1:
        assert schedule.stage(tau1) == "early"
    if single(tau2) < single(tau1) and tau2 <= 1:
        assert schedule.stage(tau2) == "middle"
    if 2e-7 < tau2 <= 1:
        assert schedule.stage(tau2 - 1e-7) == "late", "a number of 32 bits lies between"
    if 2e-7 < tau1 <= 1 and tau1 - tau2 > 2e-7:
        assert schedule.stage(tau1 - 1e-7) == "middle"


@settings(deadline=None)
@given(timestep=TIMESTEPS, taus=TAUS)
def test_a_timestep_that_was_kept_in_32_bits_stays_in_its_stage(timestep, taus):
    """In 64 bits float32's 0.95 is less than 0.95: fault D8."""
    schedule = build(tau1=taus[0], tau2=taus[1])
    for point in (timestep, *(tau for tau in taus if tau <= 1)):
        assert schedule.stage(single(point)) == schedule.stage(point)


def test_the_papers_boundary_in_32_bits():
    assert single(0.95) < 0.95
    assert build().stage(single(0.95)) == build().stage(0.95) == "early"


@pytest.mark.parametrize(
    ("grid", "expected"),
    [("cosine", (6, 3, 16)), ("half_cosine", (4, 3, 18)), ("linear", (2, 2, 21)), ("flux_shift", (3, 4, 18))],
)
def test_steps_per_stage_of_25(grid, expected):
    """The counts of each reading of the paper's schedule, at 512 pixels (1024 tokens) for FLUX's shift."""
    schedule = build(grid=grid, steps=25)
    timesteps = schedule.timesteps(image_tokens=1024).tolist()[:-1]
    counts = Counter(schedule.stage(t) for t in timesteps)
    assert (counts["early"], counts["middle"], counts["late"]) == expected


def test_grid_points_on_a_boundary_are_not_rounded_off_it():
    """20 linear steps meet 0.95 and 0.85 exactly; in float32 both would be smaller than the number in the YAML."""
    schedule = build(grid="linear", steps=20)
    first = [schedule.stage(float(t)) for t in schedule.timesteps()[:5]]
    assert first == ["early", "early", "middle", "middle", "late"]


def test_no_boundaries_means_the_first_branch_alone():
    schedule = build(tau1=0, tau2=0)
    assert {masks(schedule, float(t)) for t in schedule.timesteps()} == {(1, 0)}


def test_boundaries_at_one_leave_the_others_after_the_first_step():
    schedule = build(tau1=1, tau2=1)
    first, *later = (masks(schedule, float(t)) for t in schedule.timesteps())
    assert first == (1, 0)
    assert set(later) == {(0, 1)}


@pytest.mark.parametrize("tau", [1.0000000001, 1.1, 2])
def test_boundaries_above_one_silence_the_first_branch_at_every_step(tau):
    schedule = build(tau1=tau, tau2=tau)
    assert {masks(schedule, float(t)) for t in schedule.timesteps()} == {(0, 1)}


def test_a_first_boundary_above_one_leaves_out_the_early_stage():
    schedule = build(tau1=1.1, tau2=0.85)
    assert [masks(schedule, t) for t in (1.0, 0.85, 0.84, 0.0)] == [(1, 1), (1, 1), (0, 1), (0, 1)]


def test_a_stage_that_never_comes_may_be_empty():
    schedule = build(early=[], tau1=1.1, tau2=0)
    assert schedule.stage(1.0) == "middle"
    assert build(branches=("mllm",), tau1=0, tau2=0).active(0.0).names == {"mllm"}


@pytest.mark.parametrize("tau", [-0.1, 2.1, 95])
def test_boundaries_out_of_their_range_are_refused(tau):
    with pytest.raises(ValidationError):
        ThreeStage.Config(tau1=tau, tau2=0)


def test_defaults_work_for_any_branches():
    schedule = build(branches=("layout", "style", "detail"))
    spoken = {stage: schedule.active(t).names for stage, t in (("early", 1.0), ("middle", 0.9), ("late", 0.1))}
    assert spoken == {
        "early": {"layout"},
        "middle": {"layout", "style", "detail"},
        "late": {"style", "detail"},
    }


def test_explicit_stages_replace_the_defaults():
    schedule = build(early=["vae"], middle=["mllm"], late=["mllm", "vae"])
    assert [schedule.active(t).names for t in (1.0, 0.9, 0.1)] == [{"vae"}, {"mllm"}, {"mllm", "vae"}]


def test_keep_text_keeps_the_text_of_the_first_branch_only():
    late = build(keep_text=True).active(0.1).visibility
    assert late == {"mllm": Visibility(text=True, references=False), "vae": EVERYTHING}
    early = build(keep_text=True).active(1.0).visibility
    assert early == {"mllm": EVERYTHING, "vae": NOTHING}


def test_keep_text_of_listed_branches():
    early = build(keep_text=True, text_branches=["vae"]).active(1.0).visibility
    assert early["vae"] == Visibility(text=True, references=False)


def test_inactive_is_passed_on():
    assert {build(inactive=way).active(0.5).inactive for way in ("drop", "zero")} == {"drop", "zero"}


def test_swapped_boundaries_are_refused_by_name():
    with pytest.raises(ValidationError, match=r"tau1 = 0\.5 is below tau2 = 0\.9"):
        ThreeStage.Config(tau1=0.5, tau2=0.9)


@pytest.mark.parametrize("key", ["early", "middle", "late", "text_branches"])
def test_unknown_branch_is_answered_with_the_nearest(key):
    with pytest.raises(ConfigError, match=rf"schedule\.{key}: unknown branch 'mlm'.*mllm, vae.*did you mean 'mllm'"):
        build(**{key: ["mlm"]})


@pytest.mark.parametrize("key", ["early", "middle", "late"])
def test_empty_stage_is_refused(key):
    with pytest.raises(ConfigError, match=rf"schedule\.{key}: .*at least one"):
        build(**{key: []})


def test_one_branch_alone_is_sent_to_always_on():
    with pytest.raises(ConfigError, match=r"schedule\.late: .*always_on"):
        build(branches=("mllm",))


@pytest.mark.parametrize(("branches", "message"), [((), "at least one branch"), (("a", "a"), "used twice")])
def test_bad_branches_are_refused(branches, message):
    with pytest.raises(ConfigError, match=message):
        build(branches=branches)


@pytest.mark.parametrize("timestep", [-0.1, 1.1, math.nan])
def test_timestep_outside_its_range_is_refused(timestep):
    with pytest.raises(InputError, match="outside"):
        build().active(timestep)
