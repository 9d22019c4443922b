"""The loss by who is heard, on the same noise for all, and what each branch is worth with an honest error."""

import json
import math
import statistics

import pytest
import torch
from hypothesis import given, strategies as st

from subjectgen.core import InputError, Reference, Sample
from subjectgen.runner.evaluation.gains import contrasts, gain
from subjectgen.runner.training.heard import NOBODY, heard_losses, who_is_heard
from subjectgen.runner.training.positions import generator

GREYS = (0.2, 0.6, 0.9)
TIMES = (0.25, 0.75)


def samples_for(system, greys=GREYS) -> list[Sample]:
    image = system.experiment.settings.image
    draw = torch.Generator().manual_seed(3)
    return [
        Sample(
            key=f"cup-{number}",
            prompt="a cup",
            references=(Reference(image=torch.full((3, 8, 8), grey)),),
            target=torch.rand(3, image.height, image.width, generator=draw),
        )
        for number, grey in enumerate(greys)
    ]


def losses_of(system, samples, first: int = 0) -> dict[tuple[str, str, float], float]:
    found = heard_losses(system, samples, first=first, times=TIMES, guidance=1.0, seed=5)
    return {(one.heard, one.key, one.t): one.loss for one in found}


def test_losses_are_what_the_formula_says(hearing) -> None:
    samples = samples_for(hearing)
    found = losses_of(hearing, samples)
    for number, sample in enumerate(samples):
        data = hearing.autoencoder.encode_images(sample.target[None])[0].float()
        noise = torch.randn(data.shape, generator=generator(5, "heard", number))
        hears, deaf = math.tanh(1 + math.tanh(2 * GREYS[number] - 1)), math.tanh(1)
        for t in TIMES:
            x = (1 - t) * data + t * noise
            for heard, factor in {"pictures": hears, "words+pictures": hears, "words": deaf, NOBODY: deaf}.items():
                expected = float((x * factor - (noise - data)).square().mean())
                assert found[heard, sample.key, t] == pytest.approx(expected, rel=1e-4)


def test_noise_follows_from_a_samples_number_not_from_its_batch(hearing) -> None:
    samples = samples_for(hearing)
    whole = losses_of(hearing, samples)
    parts = losses_of(hearing, samples[:1]) | losses_of(hearing, samples[1:], first=1)
    assert parts == pytest.approx(whole, rel=1e-5)


def test_stages_silence_nobody(tiny_experiment) -> None:
    """Who is heard is what is asked, at every timestep, whatever the schedule says."""
    heard = who_is_heard(["words", "pictures"])
    assert {name: set(active.names) for name, active in heard.items()} == {
        NOBODY: set(),
        "words": {"words"},
        "pictures": {"pictures"},
        "words+pictures": {"words", "pictures"},
    }
    assert list(who_is_heard(["words"])) == [NOBODY, "words"]


@pytest.mark.parametrize("target", [None, torch.zeros(3, 4, 6)])
def test_a_target_that_is_missing_or_of_another_size_is_named(hearing, target) -> None:
    sample = Sample(key="cup-7", prompt="a cup", target=target)
    with pytest.raises(InputError, match=r"'cup-7'.*target"):
        losses_of(hearing, [sample])


@given(st.lists(st.floats(-1, 1), min_size=2, max_size=20), st.integers(1, 4))
def test_copies_of_a_subject_add_no_certainty(differences: list[float], copies: int) -> None:
    """One sample per subject gives the textbook's error of the mean; copies of all of them give the same."""
    keys = [f"{subject}/{copy}" for subject in range(len(differences)) for copy in range(copies)]
    subjects = {key: key.split("/")[0] for key in keys}
    below = {key: differences[int(subjects[key])] for key in keys}
    found = gain(dict.fromkeys(keys, 0.0), below, subjects)
    expected = statistics.stdev(differences) / math.sqrt(len(differences))
    assert found.mean == pytest.approx(statistics.fmean(differences), abs=1e-12)
    assert found.error == pytest.approx(expected, abs=1e-12)
    assert (found.n, found.subjects) == (len(keys), len(differences))


def test_one_subject_has_no_error_and_contrasts_are_named() -> None:
    assert gain({"a": 0.5}, {"a": 1.0}, {"a": "cup"}).error is None
    assert contrasts(["m"], "nothing", "m") == [("m", "nothing")]
    assert contrasts(["m", "v"], "nothing", "m+v") == [
        ("m", "nothing"),
        ("v", "nothing"),
        ("m+v", "m"),
        ("m+v", "v"),
    ]


def test_the_command_measures_the_demo_and_writes_what_it_found(run, tmp_path) -> None:
    """The shipped toy model hears its MLLM: a gain of many standard errors, told in a table and in files."""
    small = ["--set", "comparisons.toys.dataset.toys=4", "--set", "comparisons.toys.dataset.scenes=1"]
    code, out, err = run("validate", "demo", "--samples", 4, "--t", 0.5, "--t", 0.9, "--out", tmp_path, *small)
    assert code == 0, err
    assert "4 samples of 4 subjects" in out
    assert "mllm+vae against mllm" in out
    rows = [json.loads(line) for line in (tmp_path / "losses.jsonl").read_text().splitlines()]
    assert {row["heard"] for row in rows} == {NOBODY, "mllm", "vae", "mllm+vae"}
    assert len(rows) == 4 * 4 * 2
    gains = json.loads((tmp_path / "gains.json").read_text())
    against = gains["mllm against nothing"]["0.9"]
    assert against["mean"] > 4 * against["error"] > 0
    mean = {
        who: statistics.fmean(row["loss"] for row in rows if row["heard"] == who and row["t"] == 0.9)
        for who in (NOBODY, "mllm")
    }
    assert against["mean"] == pytest.approx(mean[NOBODY] - mean["mllm"], rel=1e-6)


def test_mistakes_are_named_before_anything_is_measured(run) -> None:
    code, _, err = run("validate", "demo", "--t", 0)
    assert (code, "--t: got 0" in err) == (2, True)
    code, _, err = run("validate", "demo", "--comparison", "toy")
    assert code == 2
    assert "did you mean" in err
    assert "toys" in err
