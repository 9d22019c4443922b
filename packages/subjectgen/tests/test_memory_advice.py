"""What is said when memory runs out."""

import shlex
from dataclasses import replace

import pytest
import torch

from subjectgen.core import ComponentError, Config, InputError
from subjectgen.runner.cli.main import main
from subjectgen.runner.cli.memory_advice import (
    explained_memory,
    generating_choices,
    is_out_of_memory,
    training_choices,
)
from subjectgen.runner.system.experiment import Experiment

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def too_much(*_: object, **__: object) -> None:
    """More than an address can name, so that no machine has it."""
    torch.empty(2**52)


@pytest.mark.parametrize(
    ("device", "expected"),
    [
        (CPU, ["dtype=bfloat16", "weights=int8", "weights=int4"]),
        (
            CUDA,
            [
                "offload=encoders",
                "release_modulation=true",
                "weights=int8",
                "weights=int4",
                "offload=group",
                "weights=int8",
            ],
        ),
    ],
    ids=str,
)
def test_advice_that_is_followed_leads_to_other_advice(write, device: torch.device, expected: list[str]) -> None:
    """What is suggested can be pasted, one after another, until there is nothing left."""
    path, taken, overrides = write(), [], []
    while choices := generating_choices(Experiment.read(path, overrides), device, 1):
        words = shlex.split(choices[0])
        taken.append(words[1].removeprefix("memory."))
        overrides += words[1::2]
    assert taken == expected
    assert generating_choices(Experiment.read(path, overrides), device, 8) == ["--batch-size 4"]


def test_training_has_advice_of_its_own(write) -> None:
    path = write()
    choices = training_choices(Experiment.read(path))
    assert choices[0] == "--set backbone.gradient_checkpointing=true"
    for choice in choices:
        Experiment.read(path, shlex.split(choice)[1::2])


def test_the_message_says_what_to_turn_on(write) -> None:
    experiment = Experiment.read(write())
    with pytest.raises(InputError) as told, explained_memory(experiment, device=CUDA, batch_size=1):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it.")
    said = str(told.value)
    assert said.startswith(
        "out of memory (CUDA out of memory. Tried to allocate 2.00 GiB.); next: --set memory.offload=encoders"
    )
    assert "`subjectgen plan " in said
    assert "\n" not in said


def test_only_options_that_the_backbone_has_are_named(write) -> None:
    """A third party's backbone has options of its own (fault P17)."""
    experiment = Experiment.read(write())

    class Bare(Config):
        """Nothing to set."""

    backbone = replace(experiment.parts.backbone, config=Bare())
    experiment.parts = replace(experiment.parts, backbone=backbone)
    assert not [choice for choice in training_choices(experiment) if "backbone." in choice]
    assert "--set memory.dtype=bfloat16" not in generating_choices(experiment, CPU, 1)


def test_other_errors_pass(write) -> None:
    with pytest.raises(RuntimeError, match="shape"), explained_memory(Experiment.read(write()), device=CPU):
        torch.zeros(3).view(2, 2)


def test_a_part_that_failed_to_build_is_looked_into() -> None:
    failed, without = ComponentError("a part failed to build"), ComponentError("a part failed to build")
    failed.__cause__ = MemoryError()
    assert is_out_of_memory(failed)
    assert not is_out_of_memory(without)


def test_training_without_memory_is_one_message_and_leaves_nothing(write, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("subjectgen.runner.training.losses.flow_matching_loss", too_much)
    with pytest.raises(SystemExit) as ended:
        main(["train", str(write()), "--out", str(tmp_path / "run"), "--device", "cpu"])
    said = capsys.readouterr().err
    assert ended.value.code == 2
    assert "error: out of memory" in said
    assert "next: --set backbone.gradient_checkpointing=true (`subjectgen plan" in said
    assert not (tmp_path / "run").exists()
