import math

import pytest
import torch

from subjectgen.core import InputError
from subjectgen.schedules.always_on import AlwaysOn
from subjectgen.schedules.grids import flux_mu, flux_shift

COUNT = 20_000


def draw(count=COUNT, image_tokens=1024, **settings):
    schedule = AlwaysOn(AlwaysOn.Config.model_validate(settings), branches=["text"])
    return schedule.sample_timesteps(count, image_tokens=image_tokens, generator=torch.Generator().manual_seed(0))


def largest_gap(drawn, distribution):
    """Kolmogorov's distance between the draws and a distribution function."""
    ranks = (torch.arange(len(drawn), dtype=torch.float64) + 0.5) / len(drawn)
    return (distribution(drawn.sort().values) - ranks).abs().max().item()


KOLMOGOROV = 2.0 / math.sqrt(COUNT)
"""Exceeded once in 1500 seeds (2 exp(-2 · 2²)); the seed is fixed."""


def test_uniform():
    assert largest_gap(draw(training_timesteps="uniform"), lambda t: t) < KOLMOGOROV


def test_logit_normal():
    drawn = draw(training_timesteps="logit_normal", logit_mean=0.5, logit_std=0.8)
    normal = torch.distributions.Normal(torch.tensor(0.5, dtype=torch.float64), 0.8)
    assert largest_gap(drawn, lambda t: normal.cdf(torch.logit(t))) < KOLMOGOROV


def test_grid_is_a_uniform_index_into_the_shifted_grid():
    entries = flux_shift(1000, flux_mu(1024))[:-1]
    drawn = draw(training_timesteps="grid")
    assert torch.isin(drawn, entries).all()
    index = torch.searchsorted(entries.flip(0), drawn).double()
    assert largest_gap(index, lambda i: (i + 0.5) / 1000) < KOLMOGOROV + 1 / 1000


def test_an_explicit_shift_wins_over_the_image():
    assert torch.equal(draw(mu=0.63, image_tokens=64), draw(mu=0.63, image_tokens=4096))
    assert not torch.equal(draw(image_tokens=64), draw(image_tokens=4096))


def test_grid_without_a_shift_says_what_it_needs():
    with pytest.raises(InputError, match=r"image tokens.*schedule\.mu"):
        draw(image_tokens=None)


def test_the_draw_never_reaches_zero():
    drawn = draw(training_timesteps="logit_normal", logit_mean=-1e6)
    assert (drawn > 0).all()
