"""Pictures of toys: what the words say must be visible in the pixels."""

from dataclasses import replace

import pytest
import torch

from subjectgen.toybox.renderer import render
from subjectgen.toybox.world import PARTS, PATTERNS, SCENES, SHAPES, Draw, Toy, View, random_toy, random_view

RED_BALL = Toy(shape="ball", colour="red", second_colour=None, pattern="plain", part="nothing", part_colour=None)
IN_SNOW = View(scene="snow", seed=3)


def test_pictures_are_rgb_in_the_unit_range_at_any_size() -> None:
    for size in (32, 64, 80):
        picture = render([RED_BALL], [IN_SNOW], size=size)
        assert picture.shape == (1, 3, size, size)
        assert picture.min() >= 0
        assert picture.max() <= 1


def test_a_picture_does_not_depend_on_its_batch() -> None:
    draw = Draw(0)
    toys = [random_toy(draw) for _ in range(5)]
    views = [random_view(draw) for _ in toys]
    together, chunked = render(toys, views), render(toys, views, chunk=2)
    torch.testing.assert_close(together, chunked)
    torch.testing.assert_close(together[3:4], render(toys[3:4], views[3:4]))


def test_the_middle_of_a_red_ball_is_red_and_the_corner_is_snow() -> None:
    side = replace(IN_SNOW, azimuth=100.0)
    picture = render([RED_BALL], [side])[0]
    red, green, blue = picture[:, 36, 32]
    assert red > 2 * green
    assert red > 2 * blue
    assert picture[:, 62, 2].min() > 0.8


def test_the_face_turns_to_the_side_that_the_view_says() -> None:
    dark = []
    for azimuth in (-60.0, 60.0):
        picture = render([RED_BALL], [replace(IN_SNOW, azimuth=azimuth)])[0]
        columns = (picture.sum(0) < 0.45).float().sum(0)
        dark.append(float((columns * torch.arange(64)).sum() / columns.sum()))
    assert dark[0] < 32 < dark[1]


@pytest.mark.parametrize(("attribute", "values"), [("shape", SHAPES), ("pattern", PATTERNS[1:]), ("part", PARTS[1:])])
def test_every_attribute_changes_the_picture(attribute: str, values: tuple[str, ...]) -> None:
    base = replace(RED_BALL, second_colour="blue", pattern="striped", part="ears", part_colour="green")
    pictures = render([replace(base, **{attribute: value}) for value in values], [IN_SNOW] * len(values))
    for one in range(len(values)):
        for other in range(one):
            assert (pictures[one] - pictures[other]).abs().amax(0).gt(0.2).sum() > 20


def test_every_scene_looks_different() -> None:
    pictures = render([RED_BALL] * len(SCENES), [View(scene=scene) for scene in SCENES])
    corners = pictures[:, :, :8, :8].mean((-1, -2))
    grounds = pictures[:, :, -8:, :8].mean((-1, -2))
    signatures = torch.cat([corners, grounds], dim=1)
    assert torch.pdist(signatures).min() > 0.1


def test_a_hat_covers_the_top() -> None:
    bare, hatted = render([RED_BALL] * 2, [IN_SNOW, replace(IN_SNOW, accessory="hat")])
    assert (hatted[:, 4:18, 24:40].sum(0) < 0.8).sum() > (bare[:, 4:18, 24:40].sum(0) < 0.8).sum() + 20
