"""Numbers on a GPU: the same as on the CPU, whatever is compiled, cached, moved or packed. Skipped without CUDA."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DEMO = ROOT / "experiments" / "toybox" / "demo.yaml"
SIZES = {"num_layers": 1, "num_single_layers": 2, "num_attention_heads": 4, "joint_attention_dim": 256}
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA: torch.cuda.is_available() is false"),
]


def backbone(dtype: str = "float32", **options: object):
    """A slice of FLUX at an eighth of its width; the same weights every time."""
    from subjectgen.backbones.flux import FluxBackbone

    torch.manual_seed(0)
    made = FluxBackbone(FluxBackbone.Config(architecture=SIZES, dtype=dtype, **options))
    torch.nn.init.normal_(made.transformer.proj_out.weight, std=0.02)
    return made.eval()


def streams(device: str, dtype: torch.dtype = torch.float32):
    """Sixteen context tokens, a target of 8 x 8 and a reference of 4 x 4 tokens."""
    from subjectgen.core import Streams
    from subjectgen.testing.backbone import reference_group, token_group

    def tokens(count: int, width: int) -> Tensor:
        return torch.randn(2, count, width, generator=torch.Generator().manual_seed(count)).to(device, dtype)

    references = reference_group(tokens(16, 64), 0, (4, 4))
    return Streams(target_grid=(8, 8), context=(token_group(tokens(17, 256)),), references=(references,))


def velocity(made, device: str, t: float = 0.7, *, given=None) -> Tensor:
    latents = torch.randn(2, 16, 16, 16, generator=torch.Generator().manual_seed(1)).to(device)
    with torch.no_grad():
        found = made(latents, torch.full((2,), t, device=device), given or streams(device), guidance=2.5)
    assert found.isfinite().all()
    return found.float().cpu()


def difference(one: Tensor, other: Tensor) -> float:
    return float((one - other).norm() / other.norm())


def test_the_forward_pass_is_the_cpus() -> None:
    expected = velocity(backbone(), "cpu")
    assert difference(velocity(backbone().cuda(), "cuda"), expected) < 1e-4
    rounded = velocity(backbone("bfloat16").cuda(), "cuda")
    assert difference(rounded, expected) < 0.1  # timesteps are rounded too
    assert difference(rounded, velocity(backbone("bfloat16"), "cpu")) < 2e-2


def test_gradients_are_the_cpus() -> None:
    def gradients(device: str) -> Tensor:
        made = backbone(lora={"rank": 4}).train().to(device)
        latents = torch.ones(2, 16, 16, 16, device=device)
        made(latents, torch.full((2,), 0.5, device=device), streams(device), guidance=1.0).square().mean().backward()
        # B is zero at first, and then A has no gradient.
        return torch.cat(
            [p.grad.flatten().cpu() for name, p in made.trainable_parameters().items() if "lora_B" in name]
        )

    assert difference(gradients("cuda"), gradients("cpu")) < 1e-3


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_cached_references_are_bit_equal(dtype: str) -> None:
    made = backbone(dtype, reference_attention="isolated").cuda()
    given = streams("cuda", getattr(torch, dtype))
    kept = made.cache_references(given)
    assert kept is not given
    for t in (0.9, 0.1):
        assert torch.equal(velocity(made, "cuda", t, given=kept), velocity(made, "cuda", t, given=given))


def test_compiled_is_eager() -> None:
    from subjectgen.core import Streams

    eager, made = backbone("bfloat16").cuda(), backbone("bfloat16", compile=True).cuda()
    for given in (streams("cuda"), Streams(target_grid=(8, 8))):  # the second without any context, as a late stage
        assert difference(velocity(made, "cuda", given=given), velocity(eager, "cuda", given=given)) < 2e-2


@pytest.mark.parametrize("kernel", ["_native_cudnn", "_native_flash"])
def test_attention_kernels_agree(kernel: str) -> None:
    made = backbone("bfloat16").cuda()
    expected = velocity(made, "cuda")
    made.transformer.set_attention_backend(kernel)
    try:
        assert difference(velocity(made, "cuda"), expected) < 2e-2
    finally:
        made.transformer.set_attention_backend("native")


def picture(memory: str) -> Tensor:
    """The demo's, in float32."""
    from parts.build import plugins

    from subjectgen.runner.generation.pipeline import SubjectPipeline

    changes = [f"memory={memory}", "memory.dtype=float32", "schedule.steps=4"]
    made = SubjectPipeline.from_experiment(DEMO, overrides=changes, device="cuda", plugins=plugins())
    reference = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))
    from subjectgen.core import Reference, Sample
    from subjectgen.runner.generation.request import Request

    sample = Sample(prompt="the toy on grass", references=(Reference(image=reference),))
    return made.generate(Request.of([sample], [0])).tensors[0]


@pytest.mark.parametrize(
    "memory", ["{offload: encoders}", "{offload: encoders, release_modulation: true}", "{offload: group}"]
)
def test_memory_modes_make_the_same_picture(memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))
    found, expected = picture(memory), picture("{offload: none}")
    assert float(expected.std()) > 0.01
    assert float((found - expected).abs().max()) < 1e-2  # the table of modulation is computed on the CPU


@pytest.mark.skipif(find_spec("torchao") is None, reason="needs torchao")
def test_eight_bits_are_near() -> None:
    from subjectgen.runner.system.quantization import quantize

    expected = velocity(backbone("bfloat16").cuda(), "cuda")
    made = backbone("bfloat16").cuda()
    assert quantize(made, "int8", torch.bfloat16)
    assert difference(velocity(made, "cuda"), expected) < 0.1


def test_the_parts_run_on_the_gpu(tmp_path: Path) -> None:
    """Small, so that what is wrong is found before the long run."""
    import subprocess

    command = [sys.executable, str(HERE / "run.py"), "--size", "small", "--no-compile", "--out", str(tmp_path / "gpu")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
