"""Checkpoints that cannot be used: one clear message each, and never weights drawn at random."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from subjectgen.core import CheckpointError
from subjectgen.encoders.flux_text import FluxText
from subjectgen.encoders.internvl3 import InternVL3
from subjectgen.encoders.qwen2_5_vl import Qwen25VL
from subjectgen.encoders.vae import VAE

Edit = Callable[[Path], object]


@pytest.fixture(params=["internvl3", "qwen2_5_vl", "vae", "flux_text"])
def victim(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Any, Path, Path]:
    """An encoder class, a copy of its checkpoint, and the folder of its weights in there."""
    name, encoder, inside = {
        "internvl3": ("internvl3_checkpoint", InternVL3, "."),
        "qwen2_5_vl": ("qwen_checkpoint", Qwen25VL, "."),
        "vae": ("pipeline_checkpoint", VAE, "vae"),
        "flux_text": ("pipeline_checkpoint", FluxText, "text_encoder_2"),
    }[request.param]
    folder = shutil.copytree(request.getfixturevalue(name), tmp_path / "copy")
    return encoder, folder, folder / inside


def weights_file(folder: Path) -> Path:
    return next(folder.glob("*.safetensors"))


def remove_weights(folder: Path) -> None:
    weights_file(folder).unlink()


def truncate_weights(folder: Path) -> None:
    file = weights_file(folder)
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def leave_one_weight_out(folder: Path) -> None:
    weights = load_file(weights_file(folder))
    # Not tied to another one: an attention projection.
    name = next(key for key in sorted(weights) if ("attn" in key or "Attention" in key) or "mid_block" in key)
    del weights[name]
    save_file(weights, weights_file(folder), metadata={"format": "pt"})


def break_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize("edit", [remove_weights, truncate_weights, leave_one_weight_out, break_config])
def test_damaged_checkpoints_are_refused(victim: tuple[Any, Path, Path], edit: Edit) -> None:
    encoder, checkpoint, folder = victim
    encoder(encoder.Config(checkpoint=str(checkpoint)))
    edit(folder)
    with pytest.raises(CheckpointError, match="checkpoint"):
        encoder(encoder.Config(checkpoint=str(checkpoint)))


def test_the_missing_weight_is_named(internvl3_checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(internvl3_checkpoint, tmp_path / "copy")
    leave_one_weight_out(folder)
    with pytest.raises(CheckpointError, match=r"lacks 1 weights.*language_model\.layers\.0\.self_attn\.k_proj\.bias"):
        InternVL3(InternVL3.Config(checkpoint=str(folder)))


def test_another_architecture_is_named(
    internvl3_checkpoint: Path, qwen_checkpoint: Path, pipeline_checkpoint: Path
) -> None:
    with pytest.raises(CheckpointError, match="type 'qwen2_5_vl', expected 'internvl'"):
        InternVL3(InternVL3.Config(checkpoint=str(qwen_checkpoint)))
    with pytest.raises(CheckpointError, match="type 'internvl', expected 'qwen2_5_vl'"):
        Qwen25VL(Qwen25VL.Config(checkpoint=str(internvl3_checkpoint)))
    with pytest.raises(CheckpointError, match="expected an 'AutoencoderKL'"):
        VAE(VAE.Config(checkpoint=str(pipeline_checkpoint), subfolder="text_encoder"))
    with pytest.raises(CheckpointError, match="has no folder 'text_encoder'"):
        FluxText(FluxText.Config(checkpoint=str(internvl3_checkpoint)))
    with pytest.raises(CheckpointError, match="has no folder 'vae'"):
        VAE(VAE.Config(checkpoint=str(internvl3_checkpoint)))


def test_the_autoencoder_may_lie_at_the_top(pipeline_checkpoint: Path) -> None:
    VAE(VAE.Config(checkpoint=str(pipeline_checkpoint / "vae"), subfolder=""))


def test_internvl_in_its_own_format_needs_the_converted_checkpoint(internvl3_checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(internvl3_checkpoint, tmp_path / "copy")
    original = {"model_type": "internvl_chat", "auto_map": {"AutoConfig": "configuration_internvl_chat.Config"}}
    (folder / "config.json").write_text(json.dumps(original))
    with pytest.raises(CheckpointError, match="'-hf' checkpoint"):
        InternVL3(InternVL3.Config(checkpoint=str(folder)))


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"size": {"height": 64, "width": 64}}, "the vision tower takes"),
        ({"image_mean": None}, "lacks image_mean"),
    ],
)
def test_preprocessing_must_fit_the_model(
    internvl3_checkpoint: Path, tmp_path: Path, change: dict[str, Any], complaint: str
) -> None:
    folder = shutil.copytree(internvl3_checkpoint, tmp_path / "copy")
    file = folder / "preprocessor_config.json"
    values = {**json.loads(file.read_text()), **change}
    file.write_text(json.dumps({key: value for key, value in values.items() if value is not None}))
    with pytest.raises(CheckpointError, match=complaint):
        InternVL3(InternVL3.Config(checkpoint=str(folder)))


def test_a_folder_that_is_not_there_is_a_checkpoint_error(tmp_path: Path) -> None:
    for encoder in (InternVL3, Qwen25VL, VAE, FluxText):
        with pytest.raises(CheckpointError, match="nowhere"):
            encoder(encoder.Config(checkpoint=str(tmp_path / "nowhere")))


def test_an_unknown_hub_id_is_a_checkpoint_error_without_the_network() -> None:
    for encoder in (InternVL3, Qwen25VL, VAE, FluxText):
        with pytest.raises(CheckpointError, match="subjectgen-tests/no-such-model"):
            encoder(encoder.Config(checkpoint="subjectgen-tests/no-such-model", local_files_only=True))
