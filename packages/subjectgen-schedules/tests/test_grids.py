import math

import pytest
import torch
from hypothesis import given, settings, strategies as st

from subjectgen.core import InputError
from subjectgen.schedules.grids import (
    cosine,
    flux_mu,
    flux_shift,
    half_cosine,
    linear,
    make_grid,
    shift_timestep,
)

FORMULAS = {
    "cosine": (cosine, lambda u: math.cos(math.pi * u / 2)),
    "half_cosine": (half_cosine, lambda u: (1 + math.cos(math.pi * u)) / 2),
    "linear": (linear, lambda u: 1 - u),
}


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("steps", [1, 2, 25, 50])
def test_grid_is_its_formula(name, steps):
    grid, formula = FORMULAS[name]
    expected = [formula(k / steps) for k in range(steps + 1)]
    torch.testing.assert_close(grid(steps), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
    assert torch.equal(make_grid(name, steps), grid(steps))


@settings(deadline=None, max_examples=50)
@given(steps=st.integers(1, 10_000), mu=st.floats(-10, 10))
def test_every_grid_falls_strictly_even_with_many_steps(steps, mu):
    for grid in (cosine(steps), half_cosine(steps), linear(steps), flux_shift(steps, mu)):
        assert grid[0] == 1
        assert grid[-1] == 0
        assert (grid[1:] < grid[:-1]).all()


@pytest.mark.parametrize("tokens", [64, 256, 1024, 4096])
def test_flux_shift_is_diffusers_own(tokens):
    diffusers = pytest.importorskip("diffusers")
    flux = pytest.importorskip("diffusers.pipelines.flux.pipeline_flux")
    steps = 25
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    mu = flux.calculate_shift(tokens)
    sigmas = [1 - k / steps for k in range(steps)]
    scheduler.set_timesteps(sigmas=sigmas, mu=mu)
    assert flux_mu(tokens) == pytest.approx(mu)
    torch.testing.assert_close(flux_shift(steps, flux_mu(tokens)).float(), scheduler.sigmas, rtol=0, atol=1e-6)


@settings(deadline=None)
@given(timestep=st.floats(0, 1), alpha=st.floats(0.1, 10))
def test_shift_is_undone_by_its_inverse(timestep, alpha):
    there = shift_timestep(torch.tensor(timestep, dtype=torch.float64), alpha)
    assert shift_timestep(there, 1 / alpha).item() == pytest.approx(timestep, abs=1e-9)


def test_shift_to_four_times_the_pixels_keeps_the_signal():
    """SD3 2.2: averaging n = 4 pixels divides the noise by alpha = 2, so t/(1-t) must double."""
    timestep, alpha = torch.tensor(0.6, dtype=torch.float64), math.sqrt(4)
    shifted = shift_timestep(timestep, alpha)
    assert (shifted / (1 - shifted)).item() == pytest.approx(alpha * (timestep / (1 - timestep)).item())


def test_flux_shift_without_a_shift_says_what_it_needs():
    with pytest.raises(InputError, match="image tokens"):
        make_grid("flux_shift", 10)


def test_no_steps_are_refused():
    with pytest.raises(InputError, match="at least 1"):
        make_grid("cosine", 0)
