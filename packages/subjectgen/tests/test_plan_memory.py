"""Memory of a plan: sums that agree with what the runner really has where, and with what real runs keep."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from subjectgen.backbones.flux import FluxBackbone
from subjectgen.core import Streams, TokenGroup
from subjectgen.runner.generation.denoising import prepare
from subjectgen.runner.planning import dry_run as shapes
from subjectgen.runner.planning.backbone_runs import BackboneRuns
from subjectgen.runner.planning.blueprint import build_blueprint
from subjectgen.runner.planning.formulas import Tokens
from subjectgen.runner.planning.memory import (
    Activations,
    Weights,
    checkpointed_bytes,
    inference_rows,
    int4_bytes,
    int8_bytes,
    moments,
    size,
    training_rows,
)
from subjectgen.runner.planning.passes import Passes, request
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.system.residency import Residency
from subjectgen.runner.system.settings import MemorySettings

SIZES = {
    "num_layers": 2,
    "num_single_layers": 3,
    "attention_head_dim": 64,
    "num_attention_heads": 4,
    "joint_attention_dim": 64,
    "pooled_projection_dim": 32,
    "axes_dims_rope": (16, 24, 24),
}
NOTHING = Activations(encoding=0, denoising=0, decoding=0)
RUNS = Activations(encoding=2e9, denoising=3e9, decoding=1e9, modulation=1e8)


def backbone(device: str = "meta", **options) -> FluxBackbone:
    with torch.device(device):
        return FluxBackbone(FluxBackbone.Config(architecture=SIZES, lora={"rank": 4}, **options))


def streams(context: int, references: int, rows: int = 1) -> Streams:
    def group(role: str, count: int, width: int) -> tuple[TokenGroup, ...]:
        mask = torch.ones(rows, count, dtype=torch.bool)
        if role == "context":
            return (TokenGroup(tokens=torch.randn(rows, count, width), mask=mask),)
        values = torch.randn(rows, count, width)
        return (TokenGroup(tokens=values, mask=mask, role="reference", reference=0, grid=(1, count)),)

    return Streams(
        target_grid=(8, 8), context=group("context", context, 64), references=group("reference", references, 64)
    )


# ------------------------------------------------------------------------------------------------------- weights


class Part(nn.Module):
    """So many weights, and a note of where they were put."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.weight, self.place = nn.Parameter(torch.zeros(count)), torch.device("cpu")

    def to(self, where: torch.device | torch.dtype) -> "Part":
        if isinstance(where, torch.device):
            self.place = where
        return self

    def _apply(self, function, recurse: bool = True) -> "Part":
        return self.to(torch.device("cuda"))


class Parts:
    """A system of two encoders, one of them also the autoencoder, an aggregator and a backbone."""

    def __init__(self) -> None:
        self.backbone, self.autoencoder = Part(1000), Part(100)
        aggregator, others = Part(10), (Part(1), self.autoencoder)
        self.branches = {str(n): type("Branch", (), {"encoder": one}) for n, one in enumerate(others)}
        self.all = [self.backbone, aggregator, *others]
        self.branch_modules = lambda: {"aggregator": aggregator}

    def residency(self, settings: MemorySettings, card: torch.device) -> Residency:
        encoders = [branch.encoder for branch in self.branches.values()]
        others = [self.autoencoder, *self.branch_modules().values()]
        return Residency(settings, card, backbone=self.backbone, encoders=encoders, others=others)


@pytest.mark.parametrize("offload", ["none", "encoders"])
def test_what_is_on_the_card_when_is_what_the_runner_puts_there(offload: str) -> None:
    parts, settings, card = Parts(), MemorySettings(offload=offload), torch.device("cuda")
    residency, found = parts.residency(settings, card), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.cuda, "empty_cache", lambda: None)
        residency.settle()
        for moment in ("encoding", "denoising", "decoding"):
            getattr(residency, moment)()
            found[moment] = sum(size(part.parameters()) for part in parts.all if part.place == card)
    assert found == moments(Weights.of(parts, None), NOTHING, settings)


def test_modulation_that_leaves_is_what_the_backbone_releases() -> None:
    model = backbone("cpu")
    modulation = size(p for module in model.only_prepares() for p in module.parameters())
    weights = Weights(encoders=0, others=0, backbone={"none": weigh(model)})
    assert modulation == weights.backbone["none"].modulation > 0
    plain, released = (moments(weights, NOTHING, MemorySettings(release_modulation=one)) for one in (False, True))
    assert {moment: plain[moment] - released[moment] for moment in plain} == dict.fromkeys(plain, modulation)


def weigh(model: nn.Module, dtype: torch.dtype | None = None, kind: str = "none"):
    system = type("System", (), {"backbone": model, "autoencoder": nn.Identity(), "branches": {}})()
    system.branch_modules = dict
    return Weights.of(system, dtype).backbone[kind]


def test_a_backbone_in_less_precision() -> None:
    """bf16 halves float32; packed are the blocks' frozen linear maps, neither adapters nor biases."""
    model = backbone()
    whole = weigh(model).whole
    assert weigh(model, torch.bfloat16).whole == whole / 2
    names = [n for n, p in model.named_parameters() if "blocks." in n and p.ndim == 2 and ".lora_" not in n]
    packed = [model.get_parameter(name) for name in names]
    for kind, count in {"int8": int8_bytes, "int4": int4_bytes}.items():
        found = weigh(model, torch.bfloat16, kind)
        assert found.whole == pytest.approx(whole / 2 - sum(2 * p.numel() - count(p, 2) for p in packed))
        assert found.unpacked == 2 * max(p.numel() for p in packed)
    assert int8_bytes(torch.empty(4, 8), 2) == 4 * 8 + 4 * 2
    assert int4_bytes(torch.empty(128, 128), 2) == 128 * 128 / 2 + 256 + 4


def test_a_merged_adapter_is_gone() -> None:
    """Of the sum, and of the block that has most of it."""
    model = backbone("cpu")
    plain, merged = weigh(model), weigh(model, kind="none, adapter merged")
    model.merge_adapter()
    assert merged == weigh(model)
    assert merged.whole < plain.whole
    assert merged.block < plain.block


def test_a_group_is_a_block() -> None:
    model, found = backbone(), weigh(backbone())
    blocks = [*model.transformer.transformer_blocks, *model.transformer.single_transformer_blocks]
    sizes = [size(block.parameters()) for block in blocks]
    assert found.block == max(sizes)
    assert found.outside == found.whole - sum(sizes)


# ---------------------------------------------------------------------------------------------------------- rows


def test_every_row_names_the_option_that_makes_it_so(write) -> None:
    """An experiment with a row's options asks for what the row says, and needs as much."""
    path = write({"memory": {"offload": "encoders"}})
    experiment = Experiment.read(path)
    weights = Weights.of(build_blueprint(experiment), torch.bfloat16)
    rows = inference_rows(weights, RUNS, experiment.settings.memory)
    assert rows[0].options == ""
    assert rows[0].settings == experiment.settings.memory.model_dump()
    assert {row.settings["offload"] for row in rows} == {"none", "encoders", "group"}
    assert {row.settings["weights"] for row in rows} == {"none", "int8", "int4"}
    assert len({row.options for row in rows}) == len(rows)
    for row in rows:
        asked = Experiment.read(path, [option.strip() for option in row.options.split("--set") if option.strip()])
        assert asked.settings.memory.model_dump() == row.settings
        assert inference_rows(weights, RUNS, asked.settings.memory)[0].bytes == row.bytes == max(row.moments.values())


def test_a_card_keeps_something_free() -> None:
    weights = Weights(encoders=10e9, others=1e9, backbone={"none": weigh(backbone())})
    (row, *_) = inference_rows(weights, Activations(encoding=12e9, denoising=0, decoding=0), MemorySettings())
    assert 23e9 < row.bytes < 24e9
    assert row.fits == (48, 80, 141)


def test_training_rows_add_up() -> None:
    rows = training_rows(31e9, activations={"a": 8e9, "b": 1e9}, beside=1e9, asked="b")
    assert [(row.options, row.sample_bytes) for row in rows] == [("", 2e9), ("a", 9e9)]
    assert [tuple(row.micro_batch.values()) for row in rows] == [(0, 8, 24, 54), (0, 1, 5, 12)]


# --------------------------------------------------------------------------------------------------- activations


def test_keys_and_values_of_references_are_those_that_are_cached() -> None:
    """FLUX.1-dev in bf16: 57 attentions, a key and a value of 3072 channels: 700,416 bytes per token."""
    real = backbone("cpu", reference_attention="isolated")
    kept = real.cache_references(streams(5, 9, rows=2)).keys_values
    runs = BackboneRuns(backbone(reference_attention="isolated"), (8, 8))
    calls = [(Tokens(context=5, target=64), 2), (Tokens(context=5, target=64, references=9), 2)]
    found = runs.sampling(calls, None)
    assert found.cache_bytes == sum(part.nbytes for pair in kept for part in pair)
    assert found.cache_bytes == 2 * 9 * len(real.attention_sites) * 2 * real.attention_sites[0].width * 4
    assert found.peak_bytes > found.cache_bytes
    assert 57 * 2 * 3072 * 2 == 700_416
    assert BackboneRuns(backbone(), (8, 8)).sampling(calls, None).cache_bytes == 0


def test_training_keeps_what_a_real_pass_keeps() -> None:
    real = backbone("cpu")
    weights = {shapes.storage_of(tensor) for tensor in (*real.parameters(), *real.buffers())}
    saved: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if shapes.storage_of(tensor) not in weights:
            saved[shapes.storage_of(tensor)] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        latents = torch.randn(1, 16, 16, 16).requires_grad_()
        result = real(latents, torch.ones(1), streams(32, 64), guidance=1.0)
    found = BackboneRuns(backbone(), (8, 8)).training(Tokens(context=32, target=64, references=64), None)
    kept = sum(tensor.untyped_storage().nbytes() for tensor in saved.values())
    assert result.requires_grad
    assert found.saved_bytes == pytest.approx(kept, rel=0.03)  # what is not on shapes: positions, masks


@pytest.mark.parametrize("mode", [False, "selective", True])
def test_most_memory_of_a_training_step(mode: bool | str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward on shapes, against what is said from the forward pass alone."""
    tokens, fused = Tokens(context=64, target=64, references=64), shapes._attention
    model = backbone(gradient_checkpointing=mode).train()
    runs = BackboneRuns(model, (8, 8))
    forward, inputs, blocks = runs.training(tokens, None), tokens.all * runs.width * 4, 5
    checkpointed = checkpointed_bytes(forward, inputs, blocks)
    said = {False: forward.peak_bytes, "selective": checkpointed + blocks * inputs, True: checkpointed}[mode]

    def attention(query, key, value, **_):
        return fused(query, key, value)

    # A backward pass recomputes outside of what replaces attention otherwise, and torch's counter would keep results.
    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", attention)
    tally = shapes.Tally(FlopCounterMode(display=False))
    with torch.enable_grad(), shapes._Shapes(tally):
        latents = torch.empty(1, 16, 16, 16, device="meta").requires_grad_()
        model(latents, torch.ones(1), runs._streams(tokens, 1), guidance=1.0).sum().backward()
    assert said == pytest.approx(tally.peak, rel=0.1)


# ------------------------------------------------------------------------------------------------------ guidance


@pytest.mark.parametrize("negative", ["same", "no_references"])
def test_passes_are_those_of_sampling(negative: str, write, system) -> None:
    """How often the backbone runs, and with how many rows: the same experiment with weights, and as shapes."""
    change = {"schedule": {"guidance": {"true_cfg": 2.0, "negative": negative}}}
    sample, real = request(3, 1, 64), system(change)
    prepared = prepare(real, [sample], (8, 8))
    steps = [prepared.inputs[prepared.passes(t)] for t in prepared.times[:-1]]
    run = [(len(stage.streams), stage.joined) for stage in steps]
    passes = Passes(build_blueprint(Experiment.read(write(change))), sample, (64, 64))
    stages = passes.stages()
    planned = [(len(stage.calls), stage.calls[0][1] == 2) for stage in stages for _ in range(stage.steps)]
    assert planned == run
