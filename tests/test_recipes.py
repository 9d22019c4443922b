"""The recipes of training run end to end on the toybox: one stage, two stages, several subjects, isolation."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from subjectgen.runner.cli.main import main

TOYBOX = Path(__file__).parents[1] / "experiments" / "toybox"
PHASES = {"single_stage": 1, "demo": 2, "multi_subject": 3, "isolate": 1}
SMALL = "{name: toy_pairs, toys: 4, views: 3, block: 4}"

pytestmark = pytest.mark.slow


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert not ended.value.code


@pytest.mark.parametrize("recipe", PHASES)
def test_a_recipe_trains_and_generates(recipe: str, tmp_path: Path) -> None:
    changes = ["training.batch_size=2", "training.log_every=1", "schedule.steps=2", "training.curves=false"]
    changes += [f"training.phases.{number}.steps=2" for number in range(PHASES[recipe])]
    if recipe == "multi_subject":
        changes += [f"training.phases.0.dataset={SMALL}", f"training.phases.2.mixture.0.dataset={SMALL}"]
    else:
        changes += [f"training.dataset={SMALL}"]
    words = [word for change in changes for word in ("--set", change)]
    run("train", str(TOYBOX / f"{recipe}.yaml"), "--out", str(tmp_path / "run"), "--device", "cpu", *words)
    weights = load_file(tmp_path / "run" / "trained" / "lora.safetensors")
    assert all(value.isfinite().all() for value in weights.values())
    picture = str(TOYBOX.parents[1] / "docs" / "tutorial" / "toy.png")
    references = ["--reference", picture] * (2 if recipe == "multi_subject" else 1)
    run("generate", str(tmp_path / "run"), "--prompt", "the toy", *references, "--out", str(tmp_path / "pictures"))
    assert list((tmp_path / "pictures").glob("*.png"))
