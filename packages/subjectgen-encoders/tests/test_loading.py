"""Checkpoints that cannot be used: one clear message each, and never weights drawn at random."""

from __future__ import annotations

import json
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from subjectgen.core import CheckpointError
from subjectgen.encoders.flux_text import FluxText
from subjectgen.encoders.internvl3 import InternVL3
from subjectgen.encoders.qwen2_5_vl import Qwen25VL
from subjectgen.encoders.vae import VAE

Edit = Callable[[Path], str]
"""Damages a folder and returns what the error must say."""


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


def last_weights(folder: Path) -> Path:
    """The last shard, or the only file."""
    return sorted(folder.glob("*.safetensors"))[-1]


def remove_weights(folder: Path) -> str:
    last_weights(folder).unlink()
    return last_weights_name(folder)


def last_weights_name(folder: Path) -> str:
    """What a message must name: the shard that the index lists, or all that would have done."""
    index = next(folder.glob("*.index.json"), None)
    if index is None:
        return r"has no weights: expected \S+\.safetensors"
    return max(json.loads(index.read_text())["weight_map"].values()) + " is missing"


def remove_all_weights(folder: Path) -> str:
    for file in (*folder.glob("*.safetensors"), *folder.glob("*.index.json")):
        file.unlink()
    return r"has no weights: expected \S+\.safetensors or \S+\.safetensors\.index\.json, found .*config\.json"


def truncate_weights(folder: Path) -> str:
    file = last_weights(folder)
    file.write_bytes(file.read_bytes()[: file.stat().st_size - 3])
    return rf"{file.name} is truncated or damaged"


def truncate_header(folder: Path) -> str:
    file = last_weights(folder)
    file.write_bytes(file.read_bytes()[:5])
    return rf"{file.name} is truncated or damaged \(5 bytes\)"


def break_index(folder: Path) -> str:
    index = next(folder.glob("*.index.json"), folder / "config.json")
    index.write_text("{")
    return f"{index.name} is damaged: not readable as JSON"


def leave_one_weight_out(folder: Path) -> str:
    """Not one that is tied to another: an attention projection."""
    where = {key: file for file in folder.glob("*.safetensors") for key in load_file(file)}
    name = next(key for key in sorted(where) if ("attn" in key or "Attention" in key) or "mid_block" in key)
    weights = load_file(where[name])
    del weights[name]
    save_file(weights, where[name], metadata={"format": "pt"})
    return f"lacks 1 weights|has no {name}, which .* says it has"


def change_a_shape(folder: Path) -> str:
    where = {key: file for file in folder.glob("*.safetensors") for key, w in load_file(file).items() if w.ndim == 2}
    name = next(key for key in sorted(where) if ("attn" in key or "Attention" in key) or "mid_block" in key)
    weights = load_file(where[name])
    rows, columns = weights[name].shape
    weights[name] = torch.zeros(rows + 2, columns)
    save_file(weights, where[name], metadata={"format": "pt"})
    return rf"does not fit its config\.json: \S+ has shape \[{rows + 2}, {columns}\], expected \[{rows}, {columns}\]"


def describe_fewer_blocks(folder: Path) -> str:
    """The model would be whole, and another one."""
    config = json.loads((folder / "config.json").read_text())
    for part in (config, config.get("text_config", {})):
        for key in {"num_hidden_layers", "num_layers", "layers_per_block"} & part.keys():
            part[key] -= 1
    (folder / "config.json").write_text(json.dumps(config))
    return r"does not fit its config\.json, which has no place for \d+ of its weights, the first is"


def break_config(folder: Path) -> str:
    (folder / "config.json").write_text("{")
    return r"config\.json is damaged: not readable as JSON"


def list_as_config(folder: Path) -> str:
    (folder / "config.json").write_text("[]")
    return r"config\.json: expected a JSON object, found a list"


def pickle_weights(folder: Path) -> str:
    for file in folder.glob("*.safetensors"):
        file.rename(file.with_suffix(".bin"))
    return "may be a pickle|is missing and|has no weights: .*; pickles are never read"


EDITS = (
    change_a_shape,
    describe_fewer_blocks,
    list_as_config,
    pickle_weights,
    remove_weights,
    remove_all_weights,
    truncate_weights,
    truncate_header,
    break_index,
    leave_one_weight_out,
    break_config,
)


@pytest.mark.parametrize("edit", EDITS)
def test_damaged_checkpoints_are_refused(victim: tuple[Any, Path, Path], edit: Edit) -> None:
    encoder, checkpoint, folder = victim
    encoder(encoder.Config(checkpoint=str(checkpoint)))
    complaint = edit(folder)
    with pytest.raises(CheckpointError, match=complaint) as raised:
        encoder(encoder.Config(checkpoint=str(checkpoint)))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("encoder", "fixture", "folder"),
    [
        (InternVL3, "internvl3_checkpoint", "."),
        (Qwen25VL, "qwen_checkpoint", "."),
        (FluxText, "pipeline_checkpoint", "tokenizer"),
        (FluxText, "pipeline_checkpoint", "tokenizer_2"),
    ],
)
def test_a_tokenizer_without_vocabulary_is_refused(
    request: pytest.FixtureRequest, tmp_path: Path, encoder: Any, fixture: str, folder: str
) -> None:
    """Transformers makes an empty one of the class that tokenizer_config.json names."""
    checkpoint = shutil.copytree(request.getfixturevalue(fixture), tmp_path / "copy")
    for name in ("tokenizer.json", "vocab.json", "merges.txt"):
        (checkpoint / folder / name).unlink(missing_ok=True)
    with pytest.raises(
        CheckpointError, match=r"has no files of AutoTokenizer, found .*; expected tokenizer\.json or vocab\.json"
    ):
        encoder(encoder.Config(checkpoint=str(checkpoint)))


def test_code_in_a_checkpoint_does_not_run(internvl3_checkpoint: Path, tmp_path: Path) -> None:
    folder, mark = shutil.copytree(internvl3_checkpoint, tmp_path / "copy"), tmp_path / "ran"
    (folder / "own.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nclass Own: ...\n")
    kinds = dict.fromkeys(("AutoConfig", "AutoModel", "AutoProcessor", "AutoImageProcessor"), "own.Own")
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json", "processor_config.json"):
        values = {"auto_map": {**kinds, "AutoTokenizer": ["own.Own", "own.Own"]}}
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | values))
    InternVL3(InternVL3.Config(checkpoint=str(folder)))
    assert not mark.exists()
    runpy.run_path(str(folder / "own.py"))  # the trap works
    assert mark.exists()


def test_an_empty_name_is_no_folder() -> None:
    for encoder in (InternVL3, Qwen25VL, VAE, FluxText):
        with pytest.raises(ValidationError, match="checkpoint is empty; expected a folder"):
            encoder.Config(checkpoint=" ")


def test_the_tiny_checkpoints_are_cut_into_shards_as_the_real_ones(
    internvl3_checkpoint: Path, qwen_checkpoint: Path, pipeline_checkpoint: Path
) -> None:
    for folder in (internvl3_checkpoint, qwen_checkpoint, pipeline_checkpoint / "text_encoder_2"):
        index = json.loads((folder / "model.safetensors.index.json").read_text())
        shards = {file.name for file in folder.glob("*.safetensors")}
        assert set(index["weight_map"].values()) == shards
        assert len(shards) > 1


def test_the_missing_weight_is_named(internvl3_checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(internvl3_checkpoint, tmp_path / "copy")
    leave_one_weight_out(folder)
    with pytest.raises(CheckpointError, match=r"has no language_model\.model\.layers\.0\.self_attn\.k_proj\.bias"):
        InternVL3(InternVL3.Config(checkpoint=str(folder)))


def test_another_architecture_is_named(
    internvl3_checkpoint: Path, qwen_checkpoint: Path, pipeline_checkpoint: Path
) -> None:
    with pytest.raises(CheckpointError, match="type 'qwen2_5_vl', expected 'internvl'"):
        InternVL3(InternVL3.Config(checkpoint=str(qwen_checkpoint)))
    with pytest.raises(CheckpointError, match="type 'internvl', expected 'qwen2_5_vl'"):
        Qwen25VL(Qwen25VL.Config(checkpoint=str(internvl3_checkpoint)))
    with pytest.raises(CheckpointError, match="of type None, expected 'AutoencoderKL'"):
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
