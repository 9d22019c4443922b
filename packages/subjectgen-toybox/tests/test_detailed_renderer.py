"""Pictures of detailed toys: every detail is visible in the pixels, the badge in every view."""

import os
import subprocess
import sys
from dataclasses import replace
from itertools import product

import pytest
import torch

from subjectgen.toybox.detailed.camera import badge_place, to_camera, to_toy
from subjectgen.toybox.detailed.details import BADGES, CELLS, CODE_BITS, CODES
from subjectgen.toybox.detailed.judge import rectify
from subjectgen.toybox.detailed.renderer import Renderer, render
from subjectgen.toybox.detailed.shapes import DetailedBatch
from subjectgen.toybox.detailed.world import MAX_AZIMUTH, DetailedToy, random_toy, random_view
from subjectgen.toybox.world import PATTERNS, POLAR_RANGE, SHAPES, Draw, View


def some(count: int, seed: int = 0) -> tuple[list[DetailedToy], list[View]]:
    draw = Draw(seed)
    return [random_toy(draw) for _ in range(count)], [random_view(draw) for _ in range(count)]


def test_pictures_are_rgb_in_the_unit_range_at_any_size() -> None:
    toys, views = some(2)
    for size in (32, 96):
        pictures = render(toys, views, size=size)
        assert pictures.shape == (2, 3, size, size)
        assert pictures.min() >= 0
        assert pictures.max() <= 1


def test_a_picture_does_not_depend_on_its_batch() -> None:
    toys, views = some(5)
    together, _ = Renderer(chunk=5)(toys, views, size=48)
    chunked, _ = Renderer(chunk=2)(toys, views, size=48)
    torch.testing.assert_close(together, chunked)


COMPILED = """
from functools import partial
import torch
torch.compile = partial(torch.compile, backend="eager")  # traced as a whole; making machine code of it takes minutes
from subjectgen.toybox.detailed.renderer import Renderer
from subjectgen.toybox.detailed.world import random_toy, random_view
from subjectgen.toybox.world import Draw
draw = Draw(0)
toys, views = [random_toy(draw) for _ in range(2)], [random_view(draw) for _ in range(2)]
pictures, masks = Renderer(chunk=2)(toys, views, size=32)
compiled, compiled_masks = Renderer(compiled=True, chunk=2)(toys, views, size=32)
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] >= 3
assert not torch._dynamo.utils.counters["graph_break"]
assert ((pictures - compiled).abs() > 1e-3).float().mean() < 1e-3
assert (masks != compiled_masks).float().mean() < 1e-3
"""


@pytest.mark.slow
def test_compiled_pictures_are_the_same() -> None:
    """In a process of its own: torch.compile does not look through the checks of shapes that stand in tests."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", COMPILED], env=environment, check=True)


def test_frames_of_camera_and_toy_are_inverse() -> None:
    batch = DetailedBatch.of_detailed(*some(4))
    point = tuple(torch.randn(4, 7, generator=torch.Generator().manual_seed(axis)) for axis in range(3))
    for given, back in zip(point, to_camera(batch, *to_toy(batch, *point)), strict=True):
        torch.testing.assert_close(given, back)


def test_every_cell_can_be_read_in_every_view() -> None:
    """The badge, seen from the front through its exact place, is dark in set cells and bright in others."""
    draw = Draw(3)
    toys: list[DetailedToy] = []
    views: list[View] = []
    worst = product(SHAPES, ("wings", "ears"), ("hat", "scarf"), (-MAX_AZIMUTH, MAX_AZIMUTH), POLAR_RANGE)
    for shape, part, accessory, azimuth, polar in worst:
        toy = random_toy(draw)
        size = {name: (0.85, 1.15)[draw.integer(2)] for name in ("width", "height")}
        toys.append(replace(toy, shape=shape, part=part, part_colour="white", **size))
        views.append(replace(random_view(draw), accessory=accessory, azimuth=azimuth, polar=polar))
    seen = rectify(render(toys, views), badge_place(DetailedBatch.of_detailed(toys, views))).mean(1)
    middles = torch.linspace(-2 / 3, 2 / 3, 3).div(1.3).add(1).mul(12).long()
    for toy, front in zip(toys, seen, strict=True):
        bright = front[middles][:, middles].flatten() > 0.5
        assert bright.tolist() == [not toy.details.badge >> cell & 1 for cell in range(CELLS)]


@pytest.mark.parametrize("pattern", PATTERNS[1:])
def test_every_bit_of_the_code_shows_from_every_side(pattern: str) -> None:
    toy = random_toy(Draw(2))
    toy = replace(toy, shape="barrel", pattern=pattern, colour="white", second_colour="blue", width=1.0, height=1.0)
    for azimuth in (-MAX_AZIMUTH, 0.0, MAX_AZIMUTH):
        variants = [replace(toy, details=replace(toy.details, code=63 ^ 1 << bit)) for bit in range(CODE_BITS)]
        full = replace(toy, details=replace(toy.details, code=63))
        pictures = render([full, *variants], [View(scene="snow", azimuth=azimuth)] * 7)
        changed = ((pictures[1:] - pictures[:1]).abs().amax(1) > 0.15).flatten(1).sum(1)
        assert changed.min() >= 8


def test_a_tint_changes_the_colour_of_the_body_and_nothing_outside_of_the_mask() -> None:
    toys, views = some(4, seed=6)
    tinted = [replace(toy, details=replace(toy.details, tint=(1.0, -1.0))) for toy in toys]
    pictures, masks = Renderer()(toys, views)
    others, _ = Renderer()(tinted, views)
    changed = (pictures - others).abs().amax(1, keepdim=True)
    inside = torch.nn.functional.max_pool2d(masks.float(), 3, 1, 1) > 0  # the edge is averaged
    assert (changed * ~inside).max() == 0
    assert ((changed > 0.02) & masks).flatten(1).sum(1).min() > 100


def test_a_badge_changes_nothing_but_the_badge() -> None:
    toys, views = some(4, seed=7)
    badges = [BADGES[(BADGES.index(toy.details.badge) + 1) % len(BADGES)] for toy in toys]
    others = [replace(toy, details=replace(toy.details, badge=badge)) for toy, badge in zip(toys, badges, strict=True)]
    changed = ((render(toys, views) - render(others, views)).abs().amax(1) > 0.01).flatten(1).float().mean(1)
    assert changed.max() < 0.06
    assert changed.min() > 0.002


def test_two_codes_make_two_pictures() -> None:
    toy = random_toy(Draw(2))
    toy = replace(toy, pattern="dotted", second_colour="yellow", colour="purple")
    pair = [replace(toy, details=replace(toy.details, code=code)) for code in CODES[:2]]
    one, other = render(pair, [View(scene="room")] * 2)
    assert ((one - other).abs().amax(0) > 0.2).sum() > 20
