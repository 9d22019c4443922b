"""Every command through its own door, and every mistake answered in one message with exit code 2."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image, PngImagePlugin

from subjectgen.runner.cli.main import main


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.effect_noise((90, 50), 80).convert("RGB").save(path)
    return path


def test_check_prints_the_resolved_tree(run, write) -> None:
    code, out, _ = run("check", write(), "--json")
    tree = json.loads(out)
    assert code == 0
    assert tree["branches"]["mllm"]["aggregator"]["blocks"] == 1
    assert tree["schedule"]["tau1"] == 0.7


def test_check_can_build_everything(run, write) -> None:
    code, out, _ = run("check", write(), "--build", "--json")
    assert code == 0
    assert json.loads(out)["parts"]["backbone"]["trainable"] > 0


def test_overrides(run, write) -> None:
    _, out, _ = run("check", write(), "--set", "schedule.tau1=0.9", "--json")
    assert json.loads(out)["schedule"]["tau1"] == 0.9


def test_plugins_and_components(run) -> None:
    code, out, _ = run("plugins", "--json")
    assert code == 0
    assert {"subjectgen-aggregators", "subjectgen-toybox"} <= {
        row["distribution"] for row in json.loads(out)["plugins"]
    }
    _, out, _ = run("components", "--kind", "aggregators", "--json")
    rows = {row["name"]: row for row in json.loads(out)["aggregators"]}
    assert {"dla", "lap", "last_layer", "blend_vit", "mix_vit"} <= rows.keys()
    assert any(option["key"] == "blocks" for option in rows["dla"]["options"])
    assert run("plugins")[0] == run("components")[0] == 0


def test_train_then_generate(run, write, tmp_path, photo) -> None:
    code, out, _ = run("train", write(), "--out", tmp_path / "run", "--device", "cpu")
    assert code == 0
    assert "phase 2 (mllm+vae)" in out
    arguments = ["--reference", photo, "--prompt", "the toy in the snow", "--seed", 3, "--seed", 4]
    code, out, _ = run("generate", tmp_path / "run", *arguments, "--out", tmp_path / "images", "--device", "cpu")
    assert code == 0
    paths = [Path(line) for line in out.splitlines()]
    assert len(paths) == 2
    record = json.loads(paths[0].with_suffix(".json").read_text())
    assert (record["prompt"], record["seed"]) == ("the toy in the snow", 3)
    with Image.open(paths[0]) as image:
        assert image.size == (64, 64)
        assert isinstance(image, PngImagePlugin.PngImageFile)
        assert json.loads(image.text["subjectgen"]) == record
        assert image.text["prompt"] == "the toy in the snow"


def test_overrides_reach_a_run_directory(run, write, tmp_path, photo) -> None:
    run("train", write(), "--out", tmp_path / "run", "--device", "cpu")
    arguments = ["--reference", photo, "--prompt", "x", "--out", tmp_path / "images", "--device", "cpu"]
    _, out, _ = run("generate", tmp_path / "run", *arguments, "--set", "schedule.steps=2")
    record = json.loads(Path(out.strip()).with_suffix(".json").read_text())
    assert record["steps"] == 2
    assert record["trained"] == "run/trained"  # no folder of this machine
    code, _, err = run("generate", tmp_path / "run", *arguments, "--set", "schedule.stepps=2")
    assert code == 2
    assert "did you mean 'steps'" in err


def odd_images(folder: Path) -> dict[str, Path]:
    """Files that a user may have: alpha, rotation in EXIF, grey, CMYK, tall, wide."""
    noise = Image.effect_noise((48, 40), 80)
    rotated = Image.Exif()
    rotated[0x0112] = 6
    noise.convert("RGBA").save(folder / "alpha.png")
    noise.convert("RGB").save(folder / "rotated.jpg", exif=rotated)
    noise.save(folder / "grey.png")
    noise.convert("CMYK").save(folder / "cmyk.jpg")
    noise.convert("P").save(folder / "palette.gif")
    Image.effect_noise((9, 300), 80).save(folder / "tall.png")
    Image.effect_noise((300, 9), 80).save(folder / "wide.webp")
    return {path.name: path for path in sorted(folder.iterdir())}


def test_any_image_file_is_a_reference(run, write, tmp_path) -> None:
    folder = tmp_path / "references"
    folder.mkdir()
    path = write({"schedule": {"steps": 2}})
    for name, file in odd_images(folder).items():
        code, out, err = run("generate", path, "--reference", file, "--prompt", "x", "--out", tmp_path / name)
        assert code == 0, (name, err)
        assert Path(out.strip()).is_file()


def truncated(tmp_path: Path) -> Path:
    path = tmp_path / "truncated.png"
    Image.effect_noise((64, 64), 80).save(path)
    path.write_bytes(path.read_bytes()[:400])
    return path


MISTAKES = {
    "unknown component": (
        ["--set", "branches.mllm.aggregator.name=dal"],
        ["aggregator", "'dal'", "did you mean 'dla'"],
    ),
    "misspelt key": (["--set", "schedule.stps=3"], ["schedule.stps", "did you mean 'steps'"]),
    "misspelt key at the top": (["--set", "bakbone={}"], ["bakbone", "did you mean 'backbone'"]),
    "wrong type": (["--set", "schedule.steps=many"], ["schedule.steps", "'many'", "whole number"]),
    "tau1 below tau2": (["--set", "schedule.tau1=0.1"], ["tau1 = 0.1", "tau2 = 0.4"]),
    "layers outside the model": (
        ["--set", "branches.mllm.aggregator.layers.text=0-28"],
        ["layers", "0-28", "9 hidden states", "0-8"],
    ),
    "no aggregator": (
        ["--set", "branches.mllm.aggregator=null"],
        ["branches.mllm.aggregator", "expected an aggregator"],
    ),
    "heads that do not divide": (["--set", "branches.mllm.aggregator.heads=7"], ["heads", "7", "192"]),
    "unknown phase branch": (
        ["--set", "training.phases=[{branches: [mlm], steps: 1}]"],
        ["mlm", "mllm, vae"],
    ),
    "missing checkpoint": (["--set", "backbone.checkpoint=./nowhere"], ["nowhere"]),
    "branch name that is no file name": (["--set", "branches={a/b: {}}"], ["branches", "a/b"]),
    "phase without branches": (["--set", "training.phases=[{branches: [], steps: 1}]"], ["branches"]),
    "bad override": (["--set", "schedule.steps"], ["--set schedule.steps", "key.path=value"]),
}


@pytest.mark.parametrize("mistake", list(MISTAKES))
def test_mistakes_in_the_experiment(run, write, tmp_path, mistake: str) -> None:
    arguments, expected = MISTAKES[mistake]
    code, _, err = run("train", write(), "--out", tmp_path / "run", "--device", "cpu", *arguments)
    assert code == 2
    assert [line for line in err.splitlines() if line.startswith("error: ")]
    assert "Traceback" not in err
    for text in expected:
        assert text in err
    assert not (tmp_path / "run").exists()


def test_mistakes_in_the_input(run, write, tmp_path, photo) -> None:
    text = tmp_path / "text.png"
    text.write_text("not an image")
    out = tmp_path / "out"
    cases = [
        (["--reference", text, "--prompt", "x"], "not an image"),
        (["--reference", truncated(tmp_path), "--prompt", "x"], "truncated.png"),
        (["--reference", tmp_path / "absent.png", "--prompt", "x"], "absent.png"),
        (["--reference", photo], "prompt: got []"),
        (["--reference", photo, "--prompt", " "], "prompt: got"),
        (["--reference", photo, "--prompt", "x", "--height", "50"], "multiple of 16"),
        (["--reference", photo, "--prompt", "x", "--height", "0"], "multiple of 16"),
        (["--reference", photo, "--prompt", "x", "--device", "gpuu"], "gpuu"),
    ]
    for arguments, expected in cases:
        code, _, err = run("generate", write(), *arguments, "--out", out)
        assert (code, expected in err, "Traceback" in err) == (2, True, False), (arguments, err)
        assert not out.exists()


def test_a_file_where_the_folder_should_be(run, write, photo, tmp_path) -> None:
    taken = tmp_path / "taken"
    taken.write_text("mine")
    code, _, err = run("generate", write(), "--reference", photo, "--prompt", "x", "--out", taken)
    assert (code, "is a file" in err, taken.read_text()) == (2, True, "mine")


def test_a_tampered_weight_file_is_refused(run, write, tmp_path, checkpoints, photo) -> None:
    import shutil

    from subjectgen.core.weights import write_checksums

    folder = tmp_path / "vae"
    shutil.copytree(checkpoints / "vae", folder)
    write_checksums(folder)
    weights = folder / "diffusion_pytorch_model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    path = write({"autoencoder": {"checkpoint": str(folder)}})
    code, _, err = run("generate", path, "--reference", photo, "--prompt", "x", "--out", tmp_path / "out")
    assert code == 2
    assert weights.name in err
    assert not (tmp_path / "out").exists()


def test_missing_experiment(run, tmp_path) -> None:
    code, _, err = run("check", tmp_path / "absent.yaml")
    assert code == 2
    assert "absent.yaml" in err


def test_debug_shows_the_traceback(write) -> None:
    from subjectgen.core import ConfigError

    with pytest.raises(ConfigError):
        main(["--debug", "check", str(write()), "--set", "schedule.tau1=0.1"])


def test_a_reader_that_stops_reading_is_no_failure() -> None:
    """``subjectgen components | head -1`` ended with 1 (fault C5)."""
    program = "from subjectgen.runner.cli.main import main; main(['components', '--json'])"
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read().decode()
    assert (process.wait(), said) == (141, "")


def test_what_nobody_reads_is_refused(run, write, photo, tmp_path, checkpoints) -> None:
    """It was recorded as used (fault E3)."""
    text = {"name": "flux_text", "checkpoint": str(checkpoints / "flux_text"), "dtype": "float32"}
    changes = {"branches": {"words": {"encoder": text, "injector": {"name": "context"}}}}
    tree = yaml.safe_load(write(changes).read_text())
    tree["branches"] = {"words": tree["branches"]["words"]}
    tree["schedule"] = {"name": "always_on", "steps": 1}
    tree["training"] = None
    words = tmp_path / "words.yaml"
    words.write_text(yaml.safe_dump(tree))
    out = ["--prompt", "x", "--out", tmp_path / "out", "--device", "cpu"]
    code, _, err = run("generate", words, "--reference", photo, *out)
    assert (code, "references: no encoder of this experiment reads any" in err) == (2, True)
    code, _, err = run("generate", write(), "--reference", photo, "--subject-mask", "0,0,0.5,1", *out)
    assert (code, "subject masks: no encoder of this experiment reads any" in err) == (2, True)
    assert not list((tmp_path / "out").glob("*"))


def test_components_say_what_each_option_changes(run) -> None:
    _, out, _ = run("components", "--kind", "schedule", "--json")
    (row,) = [one for one in json.loads(out)["schedules"] if one["name"] == "three_stage"]
    changes = {option["key"]: option["changes"] for option in row["options"]}
    assert (changes["inactive"], changes["tau1"]) == ("weights", "results")


def test_versions(run) -> None:
    code, out, _ = run("--version")
    assert code == 0
    assert [line.split()[0] for line in out.splitlines()] == ["subjectgen", "subjectgen-core"]
