"""Pictures of toys: what the words say must be visible in the pixels."""

from dataclasses import replace

import pytest
import torch

from subjectgen.toybox.renderer import render, render_with_masks, subject_masks
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


def test_what_a_toy_is_changes_nothing_outside_of_its_mask() -> None:
    draw = Draw(4)
    toys = [random_toy(draw) for _ in range(8)]
    views = [random_view(draw) for _ in toys]
    recoloured = [replace(toy, colour="green" if toy.colour != "green" else "purple", shade=0.0) for toy in toys]
    pictures, masks = render_with_masks(toys, views)
    others = render(recoloured, views)
    torch.testing.assert_close(pictures * ~masks, others * ~masks, rtol=0, atol=0)
    changed = ((pictures - others).abs().amax(1, keepdim=True) > 0.02) & masks
    assert (changed.flatten(1).sum(1) > 0.1 * masks.flatten(1).sum(1)).all(), "the body is inside"


def test_masks_alone_are_those_of_the_pictures() -> None:
    draw = Draw(5)
    toys = [random_toy(draw) for _ in range(5)]
    views = [random_view(draw) for _ in toys]
    pictures, masks = render_with_masks(toys, views, size=48, chunk=2)
    assert masks.shape == (5, 1, 48, 48)
    assert torch.equal(subject_masks(toys, views, size=48), masks)
    torch.testing.assert_close(pictures, render(toys, views, size=48))


@pytest.mark.parametrize("accessory", ["hat", "scarf"])
def test_a_mask_has_part_and_accessory(accessory: str) -> None:
    eared = replace(RED_BALL, part="ears", part_colour="blue")
    bare, with_part, dressed = subject_masks(
        [RED_BALL, eared, eared], [IN_SNOW, IN_SNOW, replace(IN_SNOW, accessory=accessory)]
    )
    assert (bare & ~with_part).sum() == 0
    assert (with_part & ~dressed).sum() == 0
    assert bare.sum() + 20 < with_part.sum() < dressed.sum()
