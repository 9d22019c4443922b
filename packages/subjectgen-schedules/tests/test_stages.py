"""Stages of a schedule of one's own, and schedules that break a law of the contract."""

from __future__ import annotations

import pytest

from subjectgen.core import EVERYTHING, ConfigError, Guidance
from subjectgen.schedules.always_on import AlwaysOn
from subjectgen.schedules.base import BranchSchedule, Stage
from subjectgen.testing import ScheduleContract

BRANCHES = ("layout", "detail")


class Halves(BranchSchedule):
    """As the docstring of ``schedules.base`` shows it."""

    class Config(BranchSchedule.Config):
        """Nothing more."""

    def stages(self):
        first, *others = self.branches
        return [Stage(name="first", until=0.5, sees=self.only(first)), Stage(name="others", sees=self.only(*others))]


class TestHalves(ScheduleContract):
    @pytest.fixture
    def schedule(self):
        return Halves(Halves.Config(grid="linear"), branches=BRANCHES)


def test_stages_of_ones_own():
    schedule = Halves(Halves.Config.model_validate({"guidance": {"stages": {"first": {"true_cfg": 2}}}}), branches="ab")
    assert [schedule.active(t).names for t in (1.0, 0.5, 0.49, 0.0)] == [{"a"}, {"a"}, {"b"}, {"b"}]
    assert [schedule.guidance(t).true_cfg for t in (0.5, 0.4)] == [2, 1]


ALL = dict.fromkeys(BRANCHES, EVERYTHING)
RISING = ((0.2, "a"), (0.5, "b"), (0.0, "c"))
WRONG = {
    "different names": [Stage(name="a", until=0.5, sees=ALL), Stage(name="a", sees=ALL)],
    "boundaries that fall": [Stage(name=name, until=until, sees=ALL) for until, name in RISING],
    "reaches t = 0": [Stage(name="a", until=0.5, sees=ALL)],
    "expected all of layout, detail": [Stage(name="a", sees={"layout": EVERYTHING})],
}


@pytest.mark.parametrize(("message", "stages"), [*WRONG.items(), ("reaches t = 0", [])], ids=str)
def test_wrong_stages_are_refused(message, stages, monkeypatch):
    monkeypatch.setattr(Halves, "stages", lambda self: stages)
    with pytest.raises(ConfigError, match=message):
        Halves(Halves.Config(), branches=BRANCHES)


# ------------------------------------------------------------------------------------- laws that are broken


class Single(AlwaysOn):
    """Its grid is in 32 bits."""

    def timesteps(self, steps=None, *, image_tokens=None):
        return super().timesteps(steps, image_tokens=image_tokens).float()


class Literal(Halves):
    """Compares with the number in the YAML."""

    def stage(self, timestep):
        return "first" if timestep >= 0.95 else "others"


class Half(AlwaysOn):
    """Its negative pass does not say what the second branch sees."""

    def guidance(self, timestep):
        return Guidance(true_cfg=2.0, negative={"layout": EVERYTHING})


class Silent(Halves):
    """Nobody speaks at the very first step."""

    def active(self, timestep):
        return super().active(timestep).restricted(self.guidance(timestep).negative if timestep == 1 else {})


BROKEN = [
    (Single, "test_grid_falls_strictly_from_one_to_zero", True),
    (Literal, "test_a_timestep_kept_in_32_bits_is_in_its_own_stage", True),
    (Half, "test_guidance_is_defined_everywhere", False),
    (Silent, "test_somebody_always_speaks", False),
]


@pytest.mark.parametrize(("broken", "law", "needs_tokens"), BROKEN, ids=[cls.__name__ for cls, *_ in BROKEN])
def test_what_breaks_a_law_fails_it(broken, law, needs_tokens):
    schedule = broken(broken.Config(grid="linear"), branches=BRANCHES)
    check = getattr(ScheduleContract(), law)
    with pytest.raises(AssertionError):
        check(schedule, *([1024] if needs_tokens else []))
