"""What every schedule promises."""

from __future__ import annotations

import struct

import pytest
import torch
from hypothesis import given, settings, strategies as st

from subjectgen.core import EVERYTHING, Schedule
from subjectgen.testing.base import Contract

TIMESTEPS = st.one_of(st.floats(0.0, 1.0), st.sampled_from([0.0, 1.0]), st.integers(0, 1000).map(lambda k: k / 1000))
"""All of [0, 1]; its ends and round numbers, where stage boundaries usually lie, are frequent."""

SEEDS = st.integers(0, 2**31 - 1)


class ScheduleContract(Contract):
    """Laws of a schedule.

    Give a fixture ``schedule``, built for any branches. Override ``image_tokens`` if the schedule needs a certain
    number of tokens to know its shift.

    ``subjectgen.schedules.base.BranchSchedule`` keeps them all; a schedule that inherits it only says its stages.
    """

    @pytest.fixture
    def image_tokens(self) -> int:
        """Tokens of the target image: 512 by 512 pixels of FLUX."""
        return 1024

    def test_is_a_schedule(self, schedule: Schedule) -> None:
        """It has every member of the protocol."""
        assert isinstance(schedule, Schedule)
        assert schedule.steps >= 1

    def test_grid_falls_strictly_from_one_to_zero(self, schedule: Schedule, image_tokens: int) -> None:
        """N steps are N + 1 points in float64, both ends exact.

        A float32 grid is refused: its 0.95 is smaller than the number 0.95, and thus in another stage.
        """

        @settings(deadline=None, max_examples=50)
        @given(steps=st.one_of(st.none(), st.integers(1, 1000)))
        def law(steps: int | None) -> None:
            grid = schedule.timesteps(steps, image_tokens=image_tokens)
            assert grid.dtype == torch.float64
            assert grid.shape == ((schedule.steps if steps is None else steps) + 1,)
            assert grid[0] == 1
            assert grid[-1] == 0
            assert (grid[1:] < grid[:-1]).all()

        law()

    def test_somebody_always_speaks(self, schedule: Schedule) -> None:
        """At every t, both ends included, at least one branch sees something, and every branch is named."""
        branches = set(schedule.active(1.0).visibility)

        @settings(deadline=None)
        @given(timestep=TIMESTEPS)
        def law(timestep: float) -> None:
            active = schedule.active(timestep)
            assert active.names
            assert set(active.visibility) == branches
            assert active.inactive in ("drop", "zero")
            assert schedule.stage(timestep)

        law()

    def test_a_timestep_kept_in_32_bits_is_in_its_own_stage(self, schedule: Schedule, image_tokens: int) -> None:
        """``float(torch.tensor(t, dtype=torch.float32))`` gets the branches and guidance of t, on boundaries too."""

        def same(timestep: float) -> None:
            rounded = struct.unpack("f", struct.pack("f", timestep))[0]
            assert schedule.stage(rounded) == schedule.stage(timestep)
            assert schedule.active(rounded) == schedule.active(timestep)
            assert schedule.guidance(rounded) == schedule.guidance(timestep)

        for steps in (None, 20, 100):
            for timestep in schedule.timesteps(steps, image_tokens=image_tokens).tolist():
                same(timestep)
        settings(deadline=None)(given(timestep=TIMESTEPS)(same))()

    def test_guidance_is_defined_everywhere(self, schedule: Schedule) -> None:
        """At every t there is guidance; with two passes it says of every branch what the negative one sees."""
        branches = set(schedule.active(1.0).visibility)

        @settings(deadline=None)
        @given(timestep=TIMESTEPS)
        def law(timestep: float) -> None:
            guidance = schedule.guidance(timestep)
            assert guidance.true_cfg >= 0
            assert set(guidance.negative) <= branches
            if guidance.true_cfg != 1:
                assert set(guidance.negative) == branches

        law()

    def test_training_timesteps_are_in_range(self, schedule: Schedule, image_tokens: int) -> None:
        """As many as asked for, in (0, 1]; the same for the same seed."""

        @settings(deadline=None, max_examples=50)
        @given(count=st.integers(1, 64), seed=SEEDS)
        def law(count: int, seed: int) -> None:
            drawn, again = (
                schedule.sample_timesteps(
                    count, image_tokens=image_tokens, generator=torch.Generator().manual_seed(seed)
                )
                for _ in range(2)
            )
            assert drawn.shape == (count,)
            assert ((drawn > 0) & (drawn <= 1)).all()
            assert torch.equal(drawn, again)

        law()

    def test_dropout_names_known_branches(self, schedule: Schedule) -> None:
        """One outcome per row, the same for the same seed; it can thin any stage."""
        active = schedule.active(1.0)

        @settings(deadline=None, max_examples=50)
        @given(count=st.integers(1, 64), seed=SEEDS)
        def law(count: int, seed: int) -> None:
            drawn, again = (
                schedule.sample_dropout(count, generator=torch.Generator().manual_seed(seed)) for _ in range(2)
            )
            assert len(drawn) == count
            assert drawn == again
            for outcome in drawn:
                assert set(outcome) <= set(active.visibility)
                assert active.restricted(outcome).names <= active.names

        law()

    def test_dropout_leaves_something_to_learn_from(self, schedule: Schedule) -> None:
        """Of 2,000 rows at least one lets some branch see something."""
        branches = schedule.active(1.0).visibility
        drawn = schedule.sample_dropout(2000, generator=torch.Generator().manual_seed(0))
        assert any(not outcome.get(name, EVERYTHING).nothing for outcome in drawn for name in branches)

    def test_training_and_sampling_agree(self, schedule: Schedule, image_tokens: int) -> None:
        """Stage, branches and guidance follow from t alone: drawing for training changes nothing."""
        points = [float(t) for t in schedule.timesteps(100, image_tokens=image_tokens)]
        points += [float(t) for t in schedule.sample_timesteps(100, image_tokens=image_tokens)]
        before = [(schedule.stage(t), schedule.active(t), schedule.guidance(t)) for t in points]
        schedule.sample_timesteps(3, image_tokens=image_tokens)
        schedule.sample_dropout(3)
        assert [(schedule.stage(t), schedule.active(t), schedule.guidance(t)) for t in points] == before
