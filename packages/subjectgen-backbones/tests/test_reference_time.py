"""References that are modulated as clean images, whatever the step's t."""

import pytest
import torch
from pydantic import ValidationError

from subjectgen.backbones.flux import FluxBackbone
from subjectgen.core import StepConditions
from subjectgen.testing.backbone import make_streams, velocity

REFERENCES = ((2, 2), (1, 3))
SIZES = {"num_layers": 2, "num_single_layers": 2}


@pytest.fixture
def both(build):
    """One backbone with the step's t for references, one with t = 0, of equal weights."""

    def make(**settings):
        same = build(sizes=SIZES, **settings)
        zero = build(sizes=SIZES, reference_time="zero", **settings)
        zero.load_state_dict(same.state_dict())
        return same, zero

    return make


def answer(backbone, streams, **changes):
    with torch.no_grad():
        return velocity(backbone, streams, **changes)


def tokens_after(backbone, streams, timestep: float) -> torch.Tensor:
    """Image tokens after the last block: target, then references."""
    found = []
    hook = backbone.transformer.single_transformer_blocks[-1].register_forward_hook(
        lambda _module, _inputs, output: found.append(output[1])
    )
    answer(backbone, streams, timestep=timestep)
    hook.remove()
    return found[0]


def silence_attention(backbone) -> None:
    """Attention adds nothing, so that each token goes its own way."""
    for block in backbone.transformer.transformer_blocks:
        for layer in (block.attn.to_out[0], block.attn.to_add_out):
            torch.nn.init.zeros_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
    for block in backbone.transformer.single_transformer_blocks:
        torch.nn.init.zeros_(block.attn.to_v.weight)
        torch.nn.init.zeros_(block.attn.to_v.bias)


@pytest.mark.parametrize("t", [0.9, 0.3])
def test_each_token_is_modulated_at_its_own_time(both, t: float) -> None:
    """Without attention the target is that of the same t, and references are those of t = 0."""
    same, zero = both()
    silence_attention(same)
    silence_attention(zero)
    streams = make_streams(same, references=REFERENCES)
    target = streams.target_grid[0] * streams.target_grid[1]
    found, now, clean = tokens_after(zero, streams, t), tokens_after(same, streams, t), tokens_after(same, streams, 0.0)
    torch.testing.assert_close(found[:, :target], now[:, :target])
    torch.testing.assert_close(found[:, target:], clean[:, target:])
    assert not torch.allclose(now[:, target:], clean[:, target:], atol=1e-3)


def test_at_time_zero_and_without_references_both_are_one(both) -> None:
    same, zero = both()
    streams = make_streams(same, references=REFERENCES)
    torch.testing.assert_close(answer(zero, streams, timestep=0.0), answer(same, streams, timestep=0.0))
    bare = make_streams(same, references=())
    assert torch.equal(answer(zero, bare, timestep=0.7), answer(same, bare, timestep=0.7))
    assert not torch.allclose(answer(zero, streams, timestep=0.7), answer(same, streams, timestep=0.7), atol=1e-4)


def test_prepared_is_the_same_function(both) -> None:
    _, zero = both()
    streams = make_streams(zero, references=REFERENCES)
    prepared = zero.prepare([StepConditions(time, streams.pooled) for time in (0.9, 0.4)])
    for time in (0.9, 0.4, 0.2):
        torch.testing.assert_close(answer(prepared, streams, timestep=time), answer(zero, streams, timestep=time))


@pytest.mark.parametrize("way", [True, "selective"])
def test_gradients_are_those_without_checkpointing(build, way) -> None:
    found = []
    for checkpointing in (False, way):
        torch.manual_seed(0)
        backbone = build(
            sizes=SIZES, reference_time="zero", lora={"rank": 2}, gradient_checkpointing=checkpointing
        ).train()
        for parameter in backbone.trainable_parameters().values():
            torch.nn.init.normal_(parameter, std=0.1, generator=torch.Generator().manual_seed(1))
        velocity(backbone, make_streams(backbone, references=REFERENCES), timestep=0.6).square().sum().backward()
        found.append([parameter.grad for parameter in backbone.trainable_parameters().values()])
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(again, plain)


def test_compiled_blocks_are_refused() -> None:
    with pytest.raises(ValidationError, match="compile and reference_time: zero"):
        FluxBackbone.Config(checkpoint="somewhere", reference_time="zero", compile=True)
