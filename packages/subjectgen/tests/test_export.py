"""An exported folder generates what its run does, and plain diffusers reads its adapter."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from diffusers import FluxTransformer2DModel

from subjectgen.core import CheckpointError, InputError, Streams
from subjectgen.runner.cli.main import main
from subjectgen.runner.generation.pipeline import SubjectPipeline
from subjectgen.runner.generation.request import Request
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.training.export import export
from subjectgen.runner.training.run import train


@pytest.fixture(scope="module")
def run(experiment_tree, plugins, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    training = {**experiment_tree["training"], "phases": [{"steps": 2}], "save_every": 1, "ema_decay": 0.5}
    # An alpha that is not the rank: a reader that takes alpha = rank gives other pictures.
    backbone = {**experiment_tree["backbone"], "lora": {"rank": 4, "alpha": 2.5}}
    tree = {**experiment_tree, "training": {**training, "learning_rate": 0.05}, "backbone": backbone}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tree))
    return train(Experiment.read(folder / "tiny.yaml", plugins=plugins), folder / "run").folder


def drawn(folder: Path, toys) -> list[torch.Tensor]:
    return SubjectPipeline.from_pretrained(folder, device="cpu").generate(Request.of(toys[:1], [1])).tensors


def test_it_generates_what_the_run_does(run, toys, tmp_path) -> None:
    folder = export(run, tmp_path / "out")
    assert torch.equal(drawn(folder, toys)[0], drawn(run, toys)[0])
    moved = shutil.move(folder, tmp_path / "elsewhere")
    assert torch.equal(drawn(Path(moved), toys)[0], drawn(run, toys)[0])


def test_a_checkpoint_is_exported_by_its_step(run, toys, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["export", str(run), "--out", str(tmp_path / "first"), "--step", "1", "--licence", "apache-2.0"])
    assert not ended.value.code
    assert f"wrote {tmp_path / 'first'}" in capsys.readouterr().out
    assert not torch.equal(drawn(tmp_path / "first", toys)[0], drawn(run, toys)[0])
    with pytest.raises(InputError, match="no checkpoint of step 7; there are: 1, 2"):
        export(run, tmp_path / "other", step=7)
    assert not (tmp_path / "other").exists()


def test_plain_diffusers_reads_the_adapter_with_rank_and_alpha(run, checkpoints, toys, tmp_path) -> None:
    folder = export(run, tmp_path / "out")
    plain = FluxTransformer2DModel.from_pretrained(checkpoints / "transformer")
    plain.load_lora_adapter(folder, weight_name="pytorch_lora_weights.safetensors")
    ours = SubjectPipeline.from_pretrained(folder, device="cpu").system.backbone
    latents = torch.randn(1, ours.latent_channels, 8, 8, generator=torch.Generator().manual_seed(0))
    guidance = 1.0 if ours.guidance_embedded else None
    given = torch.randn(1, 5, ours.context_width, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        packed = latents.view(1, -1, 4, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, 16, -1)
        rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
        ids = torch.stack((torch.zeros(16), rows.flatten(), columns.flatten()), dim=1)
        wanted = plain(
            hidden_states=packed,
            encoder_hidden_states=given,
            pooled_projections=torch.zeros(1, ours.pooled_width),
            timestep=torch.tensor([0.4]),
            guidance=None if guidance is None else torch.tensor([guidance]),
            img_ids=ids,
            txt_ids=torch.zeros(5, 3),
            return_dict=False,
        )[0]
        from subjectgen.core import TokenGroup

        group = TokenGroup(tokens=given, mask=torch.ones(1, 5, dtype=torch.bool))
        found = ours(latents, torch.tensor([0.4]), Streams(target_grid=(4, 4), context=(group,)), guidance=guidance)
    found = found.view(1, -1, 4, 2, 4, 2).permute(0, 2, 4, 1, 3, 5).reshape(1, 16, -1)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_the_card_says_what_it_is(run, tmp_path) -> None:
    card = (export(run, tmp_path / "out", licence="mit") / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["license"] == "mit"
    assert "lora" in header["tags"]
    for word in ("2, averaged weights", "toy_pairs", "48 samples" if "48 samples" in card else "samples", "torch"):
        assert word in card
    assert "loss (phase 1 (mllm+vae))" in card
    assert str(Path.home()) not in card


def test_it_carries_no_data_and_no_paths_of_the_machine(run, tmp_path) -> None:
    tree = yaml.safe_load((export(run, tmp_path / "out") / "experiment.yaml").read_text())
    assert "dataset" not in tree["training"]
    assert tree["trained"] == "./"


def test_what_is_no_run_or_exists_is_refused(run, tmp_path) -> None:
    with pytest.raises(InputError, match="holds no run to export"):
        export(tmp_path, tmp_path / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(InputError, match="there: exists; expected a new folder"):
        export(run, tmp_path / "there")


def test_a_damaged_checkpoint_is_not_exported(run, tmp_path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    file = copy / "checkpoints" / "step-00000001" / "trained" / "lora.safetensors"
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match=r"lora\.safetensors is truncated or changed"):
        export(copy, tmp_path / "out", step=1)
    assert not (tmp_path / "out").exists()
