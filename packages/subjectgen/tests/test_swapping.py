"""One word in the YAML swaps a part: it trains and generates without another change."""

import pytest

from subjectgen.core import Sample
from subjectgen.runner.generation.pipeline import SubjectPipeline
from subjectgen.runner.generation.request import Request
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.training.run import train


@pytest.mark.parametrize("name", ["dla", "lap", "last_layer", "blend_vit", "mix_vit"])
def test_every_aggregator_trains_and_generates(write, tmp_path, toys, name: str) -> None:
    path = write({"branches": {"mllm": {"aggregator": {"name": name}}}})
    result = train(Experiment.read(path), tmp_path / "run", device="cpu")
    pipeline = SubjectPipeline.from_pretrained(result.folder, device="cpu")
    generated = pipeline.generate(Request.of(toys[:2], [0, 1]))
    assert all(image.isfinite().all() for image in generated.tensors)
    other = pipeline.generate(Request.of([Sample(prompt=toys[0].prompt, references=toys[1].references)], [0]))
    assert not other.tensors[0].equal(generated.tensors[0]), "the reference is ignored"


def test_the_other_mllm_family(write, toys, checkpoints) -> None:
    encoder = {"name": "qwen2_5_vl", "checkpoint": str(checkpoints / "qwen2_5_vl"), "dtype": "float32"}
    path = write({"branches": {"mllm": {"encoder": encoder}}})
    generated = SubjectPipeline.from_experiment(path, device="cpu").generate(Request.of(toys[:2], [0, 1]))
    assert all(image.isfinite().all() for image in generated.tensors)


def test_branches_of_any_name_and_number(write, toys, checkpoints) -> None:
    text = {"name": "flux_text", "checkpoint": str(checkpoints / "flux_text"), "dtype": "float32"}
    changes = {
        "branches": {"words": {"encoder": text, "injector": {"name": "context"}}},
        "schedule": {"early": ["words", "mllm"], "late": ["vae"]},
    }
    path = write(changes)
    pipeline = SubjectPipeline.from_experiment(path, device="cpu", overrides=["branches.mllm.aggregator.pooled=none"])
    assert pipeline.generate(Request.of(toys[:1], [0])).tensors[0].isfinite().all()


def test_several_references_and_none(write, toys) -> None:
    pipeline = SubjectPipeline.from_experiment(write(), device="cpu")
    two = Sample(prompt="the toy at night", references=(toys[0].references[0], toys[1].references[0]))
    none = Sample(prompt="the toy at night")
    generated = pipeline.generate(Request.of([two, none, toys[0]], [0, 0, 0]))
    assert all(image.isfinite().all() for image in generated.tensors)
    alone = pipeline.generate(Request.of([two], [0]))
    assert (generated.tensors[0] - alone.tensors[0]).abs().max() < 1e-3
