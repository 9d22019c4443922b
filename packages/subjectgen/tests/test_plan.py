"""`subjectgen plan`: from an experiment's file to its tables."""

import gc
import json
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from subjectgen.core import Component, Conditioning, Config, SubjectgenError, hookimpl
from subjectgen.core.plugins import Plugins
from subjectgen.runner.generation.conditioner import Conditioner
from subjectgen.runner.generation.passes import row_pass
from subjectgen.runner.planning.blueprint import build_blueprint
from subjectgen.runner.planning.estimate import Question, estimate
from subjectgen.runner.planning.passes import Passes, request
from subjectgen.runner.planning.report import as_text
from subjectgen.runner.system.experiment import Experiment

EXPERIMENTS = sorted((Path(__file__).parents[3] / "experiments").glob("*/*.yaml"))
FLUX = "black-forest-labs/FLUX.1-dev"
PAPER = next(path for path in EXPERIMENTS if path.match("squeeze/full.yaml"))


@pytest.fixture(scope="module", autouse=True)
def no_collector() -> Iterator[None]:
    """As the command has it."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins.discover()


@pytest.fixture(scope="module")
def plan_of(plugins: Plugins) -> Callable[[Path], dict]:
    @cache
    def plan(path: Path) -> dict:
        return estimate(Experiment.read(path, plugins=plugins), Question())

    return plan


@pytest.fixture(scope="module")
def planned(plan_of) -> dict:
    return plan_of(PAPER)


@pytest.mark.slow  # all of them together
@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_experiment_can_be_planned(path: Path, plan_of, plugins: Plugins) -> None:
    try:
        Experiment.read(path, plugins=plugins)
    except SubjectgenError as error:
        pytest.skip(f"names a component that is not installed: {error}")
    plan = plan_of(path)
    assert plan["image"]["flops"] > plan["image"]["denoising_flops"] > 0
    assert "Generating as the experiment asks" in as_text(plan)


def test_the_papers_sizes(planned: dict) -> None:
    parts = planned["parts"]
    backbone = parts["backbone"]
    assert backbone["parameters"] - backbone["trainable"] == 11_901_408_320
    # 19 double blocks of 8 and 38 single blocks of 3 maps from 3072 to 3072, two factors of rank 512 each
    assert backbone["trainable"] == (19 * 8 + 38 * 3) * 2 * 3072 * 512
    text = as_text(planned)
    assert "11.90 B" in text
    assert "28 layers, 29 hidden states of width 3584" in text
    assert f"{backbone['trainable']:,}" in text


def test_the_papers_stages(planned: dict) -> None:
    """6, 3 and 16 of 25 cosine steps; 128 words and one tile of 256; a reference and a target of 32 x 32 tokens."""
    rows = {stage["name"]: stage for stage in planned["stages"]}
    assert {name: stage["steps"] for name, stage in rows.items()} == {"early": 6, "middle": 3, "late": 16}
    assert {name: tuple(stage["positive"]["tokens"].values()) for name, stage in rows.items()} == {
        "early": (384, 1024, 0),
        "middle": (384, 1024, 1024),
        "late": (0, 1024, 1024),
    }
    assert all(stage["negative"] is None for stage in rows.values())
    denoising = sum(stage["steps"] * stage["step_flops"] for stage in rows.values())
    assert planned["image"]["denoising_flops"] == denoising
    assert rows["early"]["step_flops_with_cache"] == rows["early"]["step_flops"]
    assert rows["late"]["step_flops_with_cache"] < rows["late"]["step_flops"]


def test_what_the_paper_needs(planned: dict) -> None:
    """Whole it is too large for 24 GB; without encoders and modulation weights it fits."""
    rows = {row["options"]: row for row in planned["memory"]["inference"]}
    assert rows[""] == planned["memory"]["as_asked"]
    assert rows[""]["fits"] == (48, 80, 141)
    assert 24 in rows["--set memory.offload=encoders --set memory.release_modulation=true"]["fits"]
    assert "GB, fits 48 GB and up." in as_text(planned)
    training = {row["options"]: row["micro_batch"] for row in planned["memory"]["training"]}
    assert training[""][141] > training["--set backbone.gradient_checkpointing=false"][141] > 0
    assert planned["training"]["phases"][0]["stage_shares"] == {"all": 1.0}
    assert sum(planned["training"]["phases"][1]["stage_shares"].values()) == pytest.approx(1)


def test_time_is_operations_over_speed(planned: dict) -> None:
    row = next(one for one in planned["time"] if one["name"] == "H200")
    assert row["utilisation"] == 0.5
    assert row["image_seconds"] == pytest.approx(planned["image"]["flops"] / (0.5 * 989e12))
    training = planned["training"]
    flops = [training["batch"] * phase["flops_per_sample"][training["recomputed"]] for phase in training["phases"]]
    assert row["training_step_seconds"] == pytest.approx([each / (0.5 * 989e12) for each in flops])
    assert "at 50% of the peak" in as_text(planned)


@pytest.mark.parametrize("references", [0, 1, 2])
def test_tokens_are_those_of_sampling(references: int, write, system) -> None:
    """The same experiment, once with weights and a real prompt, once as shapes."""
    guidance = {"schedule": {"guidance": {"true_cfg": 2.0, "negative": "no_references"}}}
    real, sample = system(guidance), request(3, references, 64)
    conditioner = Conditioner(real, [sample], target_grid=(4, 4))
    passes = Passes(build_blueprint(Experiment.read(write(guidance))), sample, (64, 64))
    for t in (1.0, 0.5, 0.1):
        active = real.schedule.active(t)
        streams = conditioner.streams([row_pass(real.branches, sample, active)])
        tokens = passes.one(active).tokens
        assert sum(group.tokens.shape[1] for group in streams.references) == tokens.references
        assert sum(group.tokens.shape[1] for group in streams.context) == tokens.context
    assert sum(stage.steps for stage in passes.stages()) == 5


def test_parameters_are_those_of_the_real_system(write, system) -> None:
    shapes = build_blueprint(Experiment.read(write()))
    assert shapes.describe() == system().describe()
    modules = (shapes.backbone, shapes.autoencoder, *(branch.encoder for branch in shapes.branches.values()))
    assert {p.device.type for module in modules for p in module.parameters()} == {"meta"}


def test_a_single_file_is_planned_from_its_header(write, tmp_path: Path) -> None:
    """Tensors that tell the sizes, and nothing that could be loaded."""
    shapes = {
        "img_in.weight": (3072, 64),
        "double_blocks.0.img_attn.norm.query_norm.scale": (128,),
        "single_blocks.0.linear1.bias": (1,),
        "final_layer.linear.weight": (64, 3072),
        "txt_in.weight": (3072, 128),
        "vector_in.in_layer.weight": (3072, 64),
    }
    save_file(
        {name: torch.zeros(shape, dtype=torch.int8) for name, shape in shapes.items()}, tmp_path / "flux.safetensors"
    )
    change = {"backbone": {"checkpoint": str(tmp_path / "flux.safetensors")}}
    transformer = build_blueprint(Experiment.read(write(change))).backbone.transformer
    assert transformer.x_embedder.weight.is_meta
    assert (len(transformer.transformer_blocks), len(transformer.single_transformer_blocks)) == (1, 1)


def test_json_and_overrides(run, write) -> None:
    code, out, err = run("plan", write(), "--json", "--references", 2, "--set", "schedule.steps=7")
    assert code == 0, err
    tree = json.loads(out)
    assert sum(stage["steps"] for stage in tree["stages"]) == 7
    assert tree["request"]["references"] == 2
    assert {row["utilisation"] for row in tree["time"]} == {0.5}
    assert {"parts", "conditioning", "image", "training", "memory", "time"} <= tree.keys()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--accelerator", "H20"), "did you mean 'H200'"),
        (("--utilisation", "1.5"), "expected a share in (0, 1]"),
        (("--references", "-1"), "expected at least 0"),
        (("--prompt-tokens", "0"), "expected at least 1"),
        (("--set", "branches.mllm.encoder.checkpoint=OpenGVLab/InternVL3-78B-hf"), "known without a download"),
        (("--set", f"backbone.checkpoint={FLUX}"), "no config.json with the sizes of FluxBackbone"),
    ],
)
def test_a_mistake_is_one_message(arguments: tuple[str, str], message: str, run, write) -> None:
    code, out, err = run("plan", write(), *arguments)
    assert (code, out) == (2, "")
    assert message in err


# -------------------------------------------------------------------------------------------------- a plugin's own


class Words(nn.Module):
    """A third party's text encoder: an embedding."""

    class Config(Config):
        """Where it comes from."""

        checkpoint: str

    inputs = frozenset({"text"})
    depth = 1
    pooled_width = None

    def __init__(self, config: Config, width: int = 128) -> None:
        super().__init__()
        self.width = width
        self.embedding = nn.Embedding(100, width)
        self.requires_grad_(False)

    def encode(self, samples, *, layers=None) -> Conditioning:
        ids = torch.stack([torch.arange(len(sample.prompt.split())) for sample in samples])
        return Conditioning(tokens=self.embedding(ids), mask=torch.ones_like(ids, dtype=torch.bool))


class PlannedWords(Words):
    @classmethod
    def planned(cls, config, sources):
        return cls(config, width=128)


def host_with(target: str) -> Plugins:
    class Plugin:
        @staticmethod
        @hookimpl
        def subjectgen_encoders():
            return [Component(name="words", target=f"{__name__}:{target}", summary="Words")]

    host = Plugins.discover()
    host.register(Plugin, distribution="words")
    return host


@pytest.fixture
def words(write) -> Path:
    branch = {"encoder": {"name": "words", "checkpoint": "someone/words"}, "injector": {"name": "context"}}
    tree = yaml.safe_load(write().read_text())
    tree["branches"] = {"words": branch}
    tree["training"]["phases"] = [{"steps": 1}]
    tree["schedule"] = {"name": "always_on", "steps": 2}
    path = write(name="words.yaml")
    path.write_text(yaml.safe_dump(tree))
    return path


def test_a_plugins_encoder_is_planned_through_its_own_classmethod(words: Path) -> None:
    read = Experiment.read(words, plugins=host_with("PlannedWords"))
    plan = estimate(read, Question(prompt_tokens=9))
    assert plan["parts"]["branches.words.encoder"]["parameters"] == 100 * 128
    assert plan["stages"][0]["positive"]["tokens"]["context"] == 9


def test_a_plugins_encoder_without_a_way_is_told_which_there_are(words: Path) -> None:
    with pytest.raises(Exception, match=r"someone/words.*planned\(config, sources\).*architecture") as raised:
        estimate(Experiment.read(words, plugins=host_with("Words")), Question())
    assert "branches.words.encoder" in str(raised.value)
