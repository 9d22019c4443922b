"""Every pretraining command for a second, in the order that makes the weights: the files load where users load them."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from subjectgen.core import CheckpointError, resolve_checkpoint
from subjectgen.toybox.pretraining.__main__ import app

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("weights")
    common = ["--out", str(folder), "--minutes", "0.02", "--pictures", "16", "--no-compiled"]
    commands = [
        ["vae", *common, "--batch-size", "4"],
        ["judge", *common],
        ["mllm", *common, "--batch-size", "4"],
        ["mllm", *common, "--batch-size", "4", "--family", "qwen2_5_vl"],
        ["clip", *common, "--batch-size", "8"],
        ["base", *common, "--batch-size", "8"],
    ]
    for command in commands:
        result = CliRunner().invoke(app, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
    return folder


def test_every_model_is_saved_with_its_log(out: Path) -> None:
    assert {path.name for path in out.iterdir()} == {
        "vae",
        "judge",
        "internvl3",
        "qwen2_5_vl",
        "clip",
        "flux_text",
        "transformer",
        "logs",
    }
    for path in (out / "logs").iterdir():
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        assert lines[0]["command"].startswith("python -m subjectgen.toybox.pretraining")
        assert lines[-1]["finished"]


def test_models_load_through_the_hubs_classes(out: Path) -> None:
    from diffusers import AutoencoderKL, FluxTransformer2DModel
    from transformers import AutoTokenizer, CLIPTextModel, InternVLForConditionalGeneration, T5EncoderModel

    assert AutoencoderKL.from_pretrained(out / "vae").config.scaling_factor > 0
    assert FluxTransformer2DModel.from_pretrained(out / "transformer").config.num_layers == 2
    assert InternVLForConditionalGeneration.from_pretrained(out / "internvl3").config.image_seq_length == 16
    assert AutoTokenizer.from_pretrained(out / "internvl3").chat_template
    assert CLIPTextModel.from_pretrained(out / "flux_text" / "text_encoder").config.hidden_size == 64
    assert T5EncoderModel.from_pretrained(out / "flux_text" / "text_encoder_2").config.d_model == 128


def test_only_chosen_models_are_packed(out: Path, tmp_path: Path) -> None:
    shipped = tmp_path / "shipped"
    command = ["pack", "--out", str(out), "--into", str(shipped)]
    assert CliRunner().invoke(app, [*command, "--model", "clip"]).exit_code == 0
    assert {path.name for path in shipped.iterdir()} == {"clip", "logs"}
    assert [path.name for path in (shipped / "logs").iterdir()] == ["clip.jsonl"]
    assert Path(resolve_checkpoint(str(shipped / "clip"))) == shipped / "clip"
    with pytest.raises(CheckpointError, match="no such folder"):
        CliRunner().invoke(app, [*command, "--model", "clop"], catch_exceptions=False)


def test_the_toyboxs_own_models_are_packed_by_default(out: Path, tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["pack", "--out", str(out), "--into", str(tmp_path)]).exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {
        "vae",
        "internvl3",
        "flux_text",
        "transformer",
        "judge",
        "logs",
    }


def test_pack_writes_checksums_that_are_verified(out: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["pack", "--out", str(out), "--into", str(tmp_path / "shipped")])
    assert result.exit_code == 0, result.output
    folder = tmp_path / "shipped" / "vae"
    assert Path(resolve_checkpoint(str(folder))) == folder
    weights = folder / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=weights.name):
        resolve_checkpoint(str(folder))
