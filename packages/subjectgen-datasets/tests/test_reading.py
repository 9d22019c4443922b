"""What happens to masks and regions when pictures are cut and made smaller."""

import io

import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

from subjectgen.core import SampleError
from subjectgen.datasets.entries import Entry, ReferenceEntry, as_key
from subjectgen.datasets.reading import read_sample
from subjectgen.datasets.sizing import Framing, SizedConfig
from subjectgen.datasets.sources import BytesSource


def png(picture: Image.Image) -> bytes:
    content = io.BytesIO()
    picture.save(content, format="PNG")
    return content.getvalue()


def patch(size: tuple[int, int], box: tuple[int, int, int, int]) -> bytes:
    """White in a box, black elsewhere."""
    made = Image.new("L", size[::-1], 0)
    made.paste(255, box)
    return png(made)


def entry(size=(20, 30), box=(3, 4, 21, 17), small=(1, 1, 2, 2)) -> Entry:
    """The target shows its region: the same patch in both; the reference its subject likewise."""
    target, reference = patch(size, box), patch((40, 60), (10, 10, 10 + 10 * small[2], 10 + 10 * small[3]))
    one = ReferenceEntry(
        picture=BytesSource("r.png", reference),
        subject_mask=BytesSource("m.png", reference),
        region_mask=BytesSource("g.png", target),
    )
    return Entry(key="k", prompt="p", target=BytesSource("t.png", target), references=(one,), place="x:1")


@settings(max_examples=40)
@given(
    height=st.integers(2, 24),
    width=st.integers(2, 24),
    seed=st.integers(0, 10**6),
    crop=st.booleans(),
    mirror=st.booleans(),
)
def test_regions_follow_the_target_whatever_is_cut_and_mirrored(height, width, seed, crop, mirror) -> None:
    config = SizedConfig(size=(height, width), random_crop=crop, mirror=mirror)
    sample = read_sample(entry(), config, Framing.drawn(seed, config))
    assert torch.equal(sample.references[0].region_mask, sample.target[:1])


def test_a_mirror_alone_moves_the_region_too_and_nothing_else() -> None:
    sample = read_sample(entry(), SizedConfig(mirror=True), Framing(mirror=True))
    plain = read_sample(entry(), SizedConfig(), Framing())
    assert torch.equal(sample.references[0].region_mask, plain.references[0].region_mask.flip(-1))
    assert torch.equal(sample.target, plain.target.flip(-1))
    assert torch.equal(sample.references[0].image, plain.references[0].image)


@pytest.mark.parametrize("area", [24, 150, 2399, 2400, 10**6])
def test_masks_are_made_smaller_with_their_references(area) -> None:
    sample = read_sample(entry(small=(0, 0, 4, 2)), SizedConfig(reference_area=area), Framing())
    (reference,) = sample.references
    assert reference.image.shape[1] * reference.image.shape[2] <= area
    assert reference.subject_mask.shape[1:] == reference.image.shape[1:]
    assert torch.allclose(reference.subject_mask, reference.image[:1], atol=1e-6)


def test_a_subject_that_vanishes_in_a_small_reference_is_a_sample_error() -> None:
    with pytest.raises(SampleError, match="x:1: mask, made smaller with its reference, is empty") as caught:
        read_sample(entry(small=(0, 0, 1, 1)), SizedConfig(reference_area=4), Framing())
    assert caught.value.reason == "mask: empty once it is made smaller"


@given(names=st.lists(st.text(min_size=1), min_size=2, max_size=2, unique=True))
def test_keys_of_different_names_differ(names) -> None:
    one, other = map(as_key, names)
    assert one != other
