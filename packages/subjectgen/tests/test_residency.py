"""What is where and when; what quantizing leaves alone."""

from importlib.util import find_spec

import pytest
import torch
from torch import nn

from subjectgen.core import ComponentError
from subjectgen.runner.generation.pipeline import SubjectPipeline
from subjectgen.runner.generation.request import Request
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.system.quantization import frozen_linears, quantize
from subjectgen.runner.system.residency import Residency, precision
from subjectgen.runner.system.settings import MemorySettings
from subjectgen.runner.system.trained import save_trained

META, CPU = torch.device("meta"), torch.device("cpu")


class Recording(nn.Module):
    """Writes down where it is sent."""

    def __init__(self, name: str, log: list[tuple[str, str]]) -> None:
        super().__init__()
        self.name, self.log = name, log

    def to(self, place: torch.device | torch.dtype) -> nn.Module:
        self.log.append((self.name, str(place)))
        return self

    def _apply(self, function, recurse: bool = True) -> nn.Module:
        self.log.append((self.name, str(function(torch.zeros(())).device)))
        return self


def residency(settings: MemorySettings | None) -> tuple[Residency, list[tuple[str, str]]]:
    log: list[tuple[str, str]] = []
    mllm, vae, backbone = (Recording(name, log) for name in ("mllm", "vae", "backbone"))
    return Residency(settings, META, backbone=backbone, encoders=[mllm, vae, mllm], others=[vae]), log


def turns(built: Residency, log: list[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """What moves before encoding, denoising and decoding."""
    moved = []
    for turn in (built.encoding, built.denoising, built.decoding):
        log.clear()
        turn()
        moved.append(list(log))
    return moved


def test_without_settings_everything_is_put_on_the_device_and_stays() -> None:
    built, log = residency(None)
    assert log == [("backbone", "meta"), ("mllm", "meta"), ("vae", "meta")]
    assert turns(built, log) == [[], [], []]


def test_without_offload_nothing_moves_after_settling() -> None:
    built, log = residency(MemorySettings())
    assert log == []
    built.settle()
    assert log == [("mllm", "meta"), ("vae", "meta"), ("backbone", "meta")]
    assert turns(built, log) == [[], [], []]


def test_encoders_leave_before_the_backbone_comes() -> None:
    built, log = residency(MemorySettings(offload="encoders"))
    built.settle()
    assert log == [("vae", "meta")]
    assert turns(built, log) == [
        [("backbone", "cpu"), ("mllm", "meta")],
        [("mllm", "cpu"), ("backbone", "meta")],
        [("mllm", "cpu"), ("backbone", "cpu")],
    ]


def test_group_offloading_never_moves_the_backbone_whole(system) -> None:
    built = system()
    log: list[tuple[str, str]] = []
    mllm = Recording("mllm", log)
    memory = Residency(MemorySettings(offload="group"), CPU, backbone=built.backbone, encoders=[mllm], others=[])
    memory.settle()
    assert turns(memory, log) == [[("mllm", "cpu")], [("mllm", "cpu")], [("mllm", "cpu")]]
    assert not memory.whole_backbone


@pytest.fixture
def images(write, toys):
    """Images under some memory settings, with guidance."""

    def generate(changes: dict, batch_size: int = 3, **others: dict) -> torch.Tensor:
        path = write({"schedule": {"guidance": {"true_cfg": 2.5}}, "memory": changes, **others})
        with pytest.warns(UserWarning, match="random"):
            pipeline = SubjectPipeline.from_experiment(Experiment.read(path), device="cpu")
        return torch.stack(pipeline.generate(Request.of(toys[:3], [1, 2, 3], batch_size=batch_size)).tensors)

    return generate


@pytest.mark.parametrize(
    "changes", [{"offload": "encoders"}, {"release_modulation": True}, {"dtype": "float32"}], ids=str
)
def test_moving_parts_changes_no_bit(images, changes: dict) -> None:
    assert torch.equal(images(changes), images({}))


def test_batches_of_one_round_change_nothing(images) -> None:
    """They are encoded together and their modulation is one product, which rounds differently."""
    torch.testing.assert_close(images({"offload": "encoders"}, 1), images({}, 1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("attention", ["full", "isolated"])
def test_group_offloading_changes_nothing(images, attention: str) -> None:
    """Isolated references leave their keys and values in lists, which group offloading must hand on as they are."""
    backbone = {"reference_attention": attention}
    grouped, plain = (images(memory, backbone=backbone) for memory in ({"offload": "group"}, {}))
    torch.testing.assert_close(grouped, plain, atol=1e-4, rtol=0)


@pytest.fixture
def trained(write, system, tmp_path):
    """An experiment with trained weights, whose adapter changes something."""
    built = system()
    for name, parameter in built.trainable().items():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    save_trained(built, tmp_path / "run")
    return lambda memory: Experiment.read(write({"trained": str(tmp_path / "run"), "memory": memory}))


def test_a_merged_adapter_gives_the_same(trained, toys) -> None:
    plain, merged = (
        SubjectPipeline.from_experiment(trained({"merge_adapters": merge}), device="cpu") for merge in (False, True)
    )
    assert not any("lora" in name for name, _ in merged.system.backbone.named_parameters())
    one, two = (torch.stack(p.generate(Request.of(toys[:2], [1, 2])).tensors) for p in (plain, merged))
    torch.testing.assert_close(one, two, atol=1e-4, rtol=0)


def test_a_shared_backbone_is_fitted_once_and_only_by_equal_settings(trained, toys, monkeypatch) -> None:
    """A comparison's variants share it; what was done to it is neither repeated nor met by one that did not ask."""
    packed: list[str] = []
    monkeypatch.setattr(
        "subjectgen.runner.system.residency.quantize", lambda backbone, weights, dtype: packed.append(weights)
    )
    memory = {"merge_adapters": True, "weights": "int8"}
    first = SubjectPipeline.from_experiment(trained(memory), device="cpu")
    again = SubjectPipeline.from_experiment(trained(memory), device="cpu", reuse=first.system)
    other = SubjectPipeline.from_experiment(trained({}), device="cpu", reuse=first.system)
    assert packed == ["int8"]
    assert again.system.backbone is first.system.backbone
    assert other.system.backbone is not first.system.backbone
    request = Request.of(toys[:1], [1])
    assert torch.equal(first.generate(request).tensors[0], again.generate(request).tensors[0])


def test_what_aggregators_explain_costs_no_further_encoding(system, toys, monkeypatch) -> None:
    """It is asked of the features that are there; the encoder ran twice for it (fault P11)."""
    built = system()
    branch = built.branches["mllm"]
    runs: list[int] = []
    branch.encoder.model.register_forward_hook(lambda *_: runs.append(1))
    explain = lambda features: [{"tokens": int(row.sum())} for row in features.mask]  # noqa: E731
    monkeypatch.setattr(branch.aggregator, "explain", explain, raising=False)
    made = SubjectPipeline(built).generate(Request.of([toys[0], toys[0]], [1, 2]))
    assert len(runs) == 1
    told = [record["explained"] for record in made.records]
    assert told[0] == told[1]
    assert told[0]["mllm"]["tokens"] > 0


def test_bfloat16_is_used_and_close(images) -> None:
    plain, rounded = images({}), images({"dtype": "bfloat16"})
    assert not torch.equal(plain, rounded)
    assert (plain - rounded).abs().mean() < 0.02


def test_bfloat16_is_the_default_on_cuda_only() -> None:
    assert precision(MemorySettings(), torch.device("cuda")) is torch.bfloat16
    assert precision(MemorySettings(), CPU) is None
    assert precision(MemorySettings(dtype="float32"), torch.device("cuda")) is torch.float32


@pytest.mark.parametrize(
    ("other", "said"), [({"release_modulation": True}, "remove one"), ({"weights": "int4"}, "int8")]
)
def test_what_does_not_go_with_group_offloading_is_refused(other: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        MemorySettings(offload="group", **other)


# ------------------------------------------------------------------------------------------------- quantization


def test_only_frozen_layers_of_blocks_are_quantized(system) -> None:
    backbone = system().backbone
    names = frozen_linears(backbone)
    assert any(name.endswith("to_q.base_layer") for name in names)
    assert not any(".lora_" in name or "embed" in name or name.endswith("transformer.proj_out") for name in names)
    assert all("blocks." in name for name in names)


@pytest.mark.parametrize(("weights", "library"), [("int8", "torchao"), ("int4", "bitsandbytes")])
def test_a_missing_library_is_named(weights: str, library: str, system) -> None:
    if find_spec(library):
        pytest.skip(f"{library} is installed")
    with pytest.raises(ComponentError, match=rf"memory\.weights: {weights} needs {library}; pip install {library}"):
        quantize(system().backbone, weights, torch.float32)


@pytest.mark.parametrize(("weights", "library", "error"), [("int8", "torchao", 0.02), ("int4", "bitsandbytes", 0.2)])
def test_quantized_weights_are_smaller_and_close(weights: str, library: str, error: float, images) -> None:
    pytest.importorskip(library)
    plain, quantized = images({}), images({"weights": weights})
    assert not torch.equal(plain, quantized)
    assert (plain - quantized).abs().mean() < error
