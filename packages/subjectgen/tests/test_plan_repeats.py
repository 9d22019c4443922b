"""Equal blocks run once in a plan, and cost the same as if each had run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_flux import FluxSingleTransformerBlock, FluxTransformerBlock
from torch import nn

from subjectgen.backbones.flux import FluxBackbone
from subjectgen.core import Reference, Sample, Streams, TokenGroup
from subjectgen.core.plugins import Plugins
from subjectgen.encoders.flux_text import FluxText
from subjectgen.encoders.internvl3 import InternVL3
from subjectgen.encoders.qwen2_5_vl import Qwen25VL
from subjectgen.encoders.vae import VAE
from subjectgen.runner.planning.dry_run import Cost, dry_run
from subjectgen.runner.planning.shipped import Shipped
from subjectgen.runner.planning.stand_ins import StandIns

SIZES = {
    "num_layers": 3,
    "num_single_layers": 4,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 12,
    "axes_dims_rope": (4, 6, 6),
}
DEPTH = 3
ENCODERS = {"internvl3": InternVL3, "qwen2_5_vl": Qwen25VL, "flux_text": FluxText, "vae": VAE}
SAMPLE = Sample(prompt="the toy at night", references=(Reference(image=torch.rand(3, 64, 64)),) * 2)


class Deeper(StandIns):
    """Checkpoints with more layers than they have."""

    def config(self, checkpoint: str, subfolder: str = "") -> dict[str, Any]:
        return deeper(super().config(checkpoint, subfolder))


def deeper(values: dict[str, Any]) -> dict[str, Any]:
    found = {name: deeper(value) if isinstance(value, dict) else value for name, value in values.items()}
    found.pop("layer_types", None)
    return found | {name: DEPTH for name in ("num_hidden_layers", "num_layers", "depth") if name in found}


@pytest.mark.parametrize("name", ENCODERS)
def test_an_encoder_costs_the_same(name: str, checkpoints: Path) -> None:
    target = ENCODERS[name]
    options = {"subfolder": "", "size": 64} if name == "vae" else {"dtype": "float32"}
    with torch.device("meta"):
        encoder = target.planned(
            target.Config(checkpoint=str(checkpoints / name), **options), Deeper(Shipped(Plugins.discover()))
        )

    def run(*, skip: bool) -> tuple[Cost, object]:
        with torch.no_grad(), dry_run(encoder, skip_repeats=skip) as cost:
            encoded = encoder.encode([SAMPLE])
        states = getattr(encoded, "hidden_states", None) or getattr(encoded, "values", None) or [encoded.tokens]
        return cost, [(state.shape, state.stride(), state.dtype) for state in states]

    assert run(skip=True) == run(skip=False)


def group(role: str, count: int, width: int) -> tuple[TokenGroup, ...]:
    tokens = torch.empty(1, count, width, device="meta")
    mask = torch.ones(1, count, dtype=torch.bool)
    if role == "context":
        return (TokenGroup(tokens=tokens, mask=mask),)
    return (TokenGroup(tokens=tokens, mask=mask, role="reference", reference=0, grid=(1, count)),)


def velocity(model: FluxBackbone, *, skip: bool, forward_only: bool = True) -> tuple[Cost, torch.Tensor]:
    with dry_run(model, forward_only=forward_only, skip_repeats=skip) as cost:
        latents = torch.empty(1, 16, 8, 8, device="meta").requires_grad_(torch.is_grad_enabled())
        streams = Streams(target_grid=(4, 4), context=group("context", 5, 24), references=group("reference", 9, 64))
        result = model(latents, torch.ones(1), streams, guidance=1.0)
    return cost, result


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("options", [{}, {"lora": {"rank": 3}}, {"reference_attention": "isolated"}], ids=str)
def test_the_backbone_costs_the_same(options: dict, grad: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Operations, most memory, memory at the end, and what the backward pass keeps; with far fewer blocks run."""
    runs = counted(monkeypatch)
    with torch.device("meta"):
        model = FluxBackbone(FluxBackbone.Config(architecture=SIZES, **options))
    with torch.set_grad_enabled(grad):
        short, result = velocity(model, skip=True)
        few = len(runs)
        full, expected = velocity(model, skip=False)
    assert short == full
    assert (result.shape, result.requires_grad) == (expected.shape, grad)
    assert few < len(runs) - few


def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of blocks, one for each time that one ran."""
    runs: list[str] = []
    for kind in (FluxTransformerBlock, FluxSingleTransformerBlock):
        real = kind.forward

        def forward(self, *args, real=real, **kwargs):
            runs.append(type(self).__name__)
            return real(self, *args, **kwargs)

        monkeypatch.setattr(kind, "forward", forward)
    return runs


def test_a_block_that_differs_runs() -> None:
    with torch.device("meta"):
        model = FluxBackbone(FluxBackbone.Config(architecture=SIZES))
        model.transformer.single_transformer_blocks[2].proj_mlp = nn.Linear(32, 128, bias=False)
    with torch.no_grad():
        assert velocity(model, skip=True)[0] == velocity(model, skip=False)[0]


class Block(nn.Module):
    """A third party's: what it does depends on how often it was called."""

    calls = 0

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        Block.calls += 1
        for _ in range(Block.calls):
            x = self.inner(x)
        return x


def test_blocks_of_third_parties_always_run() -> None:
    Block.calls = 0
    with torch.device("meta"):
        blocks = nn.ModuleList(Block() for _ in range(4))
        x = torch.empty(2, 8)
    with torch.no_grad(), dry_run(blocks) as cost:
        for block in blocks:
            x = block(x)
    assert cost.flops == (1 + 2 + 3 + 4) * 2 * 2 * 8 * 8


def test_a_backward_pass_through_what_was_left_out_is_an_error() -> None:
    """And none where the whole run has one."""
    with torch.device("meta"):
        model = FluxBackbone(FluxBackbone.Config(architecture=SIZES, lora={"rank": 3}))
    with pytest.raises(AssertionError, match="forward_only=False"):
        velocity(model, skip=True)[1].sum().backward()
    velocity(model, skip=True, forward_only=False)[1].sum().backward()
