"""One word in the YAML swaps a part: it trains and generates without another change."""

import pytest

from subjectgen.core import Sample
from subjectgen.core.plugins import Plugins
from subjectgen.runner.assemble import System
from subjectgen.runner.experiment import Experiment
from subjectgen.runner.pipeline import SubjectPipeline
from subjectgen.runner.training import Trainer


@pytest.mark.parametrize("name", ["dla", "lap", "last_layer", "blend_vit", "mix_vit"])
def test_every_aggregator_trains_and_generates(write, tmp_path, toys, name: str) -> None:
    path = write({"branches": {"mllm": {"aggregator": {"name": name}}}})
    system = System(Experiment.read(path), Plugins.discover())
    result = Trainer(system, tmp_path / "run").train()
    pipeline = SubjectPipeline.from_pretrained(result.folder, device="cpu")
    generated = pipeline.generate(toys[:2], [0, 1])
    assert generated.tensors.isfinite().all()
    other = pipeline.generate([Sample(prompt=toys[0].prompt, references=toys[1].references)], [0])
    assert not other.tensors[0].equal(generated.tensors[0]), "the reference is ignored"


def test_the_other_mllm_family(write, toys, checkpoints) -> None:
    encoder = {"name": "qwen2_5_vl", "checkpoint": str(checkpoints / "qwen2_5_vl"), "dtype": "float32"}
    path = write({"branches": {"mllm": {"encoder": encoder}}})
    generated = SubjectPipeline.from_experiment(path, device="cpu").generate(toys[:2], [0, 1])
    assert generated.tensors.isfinite().all()


def test_branches_of_any_name_and_number(write, toys, checkpoints) -> None:
    text = {"name": "flux_text", "checkpoint": str(checkpoints / "flux_text"), "dtype": "float32"}
    changes = {
        "branches": {"words": {"encoder": text, "injector": {"name": "context"}}},
        "schedule": {"early": ["words", "mllm"], "late": ["vae"]},
    }
    path = write(changes)
    pipeline = SubjectPipeline.from_experiment(path, device="cpu", overrides=["branches.mllm.aggregator.pooled=none"])
    assert pipeline.generate(toys[:1], [0]).tensors.isfinite().all()


def test_several_references_and_none(write, toys) -> None:
    pipeline = SubjectPipeline.from_experiment(write(), device="cpu")
    two = Sample(prompt="the toy at night", references=(toys[0].references[0], toys[1].references[0]))
    none = Sample(prompt="the toy at night")
    generated = pipeline.generate([two, none, toys[0]], [0, 0, 0])
    assert generated.tensors.isfinite().all()
    alone = pipeline.generate([two], [0])
    assert (generated.tensors[0] - alone.tensors[0]).abs().max() < 1e-3
