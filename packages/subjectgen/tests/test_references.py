"""What is known of a reference: masks, regions and weights, from the command line to the refusal."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from subjectgen.core import InputError
from subjectgen.runner.generation.reference_files import ReferenceFiles


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two pictures of 40 x 30 pixels."""
    paths = []
    for name in ("one", "two"):
        path = tmp_path / f"{name}.png"
        Image.effect_noise((40, 30), 60).convert("RGB").save(path)
        paths.append(path)
    return paths


def test_each_option_belongs_to_the_reference_at_its_place(files, tmp_path) -> None:
    mask = tmp_path / "mask.png"
    Image.new("L", (40, 30), 255).save(mask)
    given = ReferenceFiles(
        pictures=tuple(files), subject_masks=(str(mask), "0,0,20,30"), regions=("", "0.5,0,1,1"), weights=(0.5,)
    )
    one, two = given.placed(given.read(), (64, 128))
    assert one.subject_mask is not None
    assert two.subject_mask is not None
    assert one.region_mask is None
    assert two.region_mask is not None
    assert (one.weight, two.weight) == (0.5, 1.0)
    assert bool((one.subject_mask == 1).all())
    assert two.subject_mask.sum() == 20 * 30
    assert two.region_mask.shape == (1, 64, 128)
    assert two.region_mask[:, :, 64:].sum() == two.region_mask.sum() == 64 * 64


@pytest.mark.parametrize("option", ["subject_masks", "regions", "weights"])
def test_more_of_anything_than_references_is_refused(files, option) -> None:
    values = (1.0, 2.0, 3.0) if option == "weights" else ("0,0,1,1",) * 3
    with pytest.raises(InputError, match=r"got 3, but there are 2 references"):
        ReferenceFiles(pictures=tuple(files), **{option: values}).read()


def test_phrases_are_left_to_a_finder(files) -> None:
    given = ReferenceFiles(pictures=tuple(files), subject_masks=("find: a dog",), regions=("", "find:the cat"))
    assert given.phrases("subject_masks") == {0: "a dog"}
    assert given.phrases("regions") == {1: "the cat"}
    assert all(reference.subject_mask is None for reference in given.read())


def test_regions_are_refused_where_no_injector_heeds_them(system, files) -> None:
    """Better than an image in which the region was quietly ignored."""
    from subjectgen.runner.generation.pipeline import SubjectPipeline

    given = ReferenceFiles(pictures=tuple(files), regions=("0,0,0.5,1",))
    references = given.placed(given.read(), (64, 64))
    with pytest.raises(InputError, match="no injector of this experiment heeds them"):
        SubjectPipeline(system())(prompt="the toy", references=references, steps=1)
    weighted = ReferenceFiles(pictures=tuple(files[:1]), weights=(0.5,)).read()
    with pytest.raises(InputError, match="no injector of this experiment heeds them"):
        SubjectPipeline(system())(prompt="the toy", references=weighted, steps=1)


def test_a_phrase_needs_a_finder(system, files) -> None:
    from subjectgen.core import Sample
    from subjectgen.runner.generation.pipeline import SubjectPipeline
    from subjectgen.runner.generation.regions import placed
    from subjectgen.runner.generation.request import Request

    references = tuple(ReferenceFiles(pictures=tuple(files)).read())
    with pytest.raises(InputError, match="names no finder"):
        placed(
            SubjectPipeline(system()),
            Request.of([Sample(prompt="the toy", references=references)], [0]),
            {0: "the toy"},
        )


def test_conditioning_keeps_whose_a_token_is(system) -> None:
    """From the encoder through the aggregator and the choice of rows."""
    from subjectgen.core import Reference, Sample, Visibility
    from subjectgen.runner.generation.conditions import rows

    built = system()
    picture = Reference(image=torch.rand(3, 64, 64))
    samples = [Sample(prompt="the toy", references=(picture,) * count) for count in (1, 2)]
    seen = [sample.seen(Visibility()) for sample in samples]
    said = built.branches["mllm"].encode(seen).conditions
    assert [set(row[mask].tolist()) for row, mask in zip(said.reference, said.mask, strict=True)] == [
        {-1, 0},
        {-1, 0, 1},
    ]
    assert torch.equal(rows(said, torch.tensor([1, 1])).reference, said.reference[[1, 1]])
