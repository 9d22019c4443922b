"""Layerwise attention pooling against definitions that share no code with it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from subjectgen.aggregators.lap import LayerwiseAttentionPooling
from subjectgen.aggregators.layer_attention import LayerAttentionBlock
from subjectgen.testing import features_strategy

RUNTIME = {"width": 12, "depth": 5, "context_width": 7, "pooled_width": 3}


def build(seed: int = 0, **options) -> LayerwiseAttentionPooling:
    """A LAP whose pooling weights and gains are random, as after training."""
    torch.manual_seed(seed)
    lap = LayerwiseAttentionPooling(LayerwiseAttentionPooling.Config(**options), **RUNTIME)
    return randomized(lap)


def randomized(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim == 1 or name.endswith("embedding"):
                parameter.normal_()
    return module


def rms_norm(x: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    return x / (x.square().mean() + 1e-6).sqrt() * gain


def lap_by_loops(states: list[torch.Tensor], block: LayerAttentionBlock, weights: torch.Tensor) -> torch.Tensor:
    """Pool the hidden states of one token in double precision, one head, layer and pair of layers at a time."""
    parameters = {name: value.double() for name, value in block.state_dict().items()}
    normalized = [rms_norm(state, parameters["norm.weight"]) for state in states]
    queries, keys, values = (
        [parameters[f"{name}.weight"] @ state for state in normalized] for name in ("query", "key", "value")
    )
    head_width = len(states[0]) // block.heads
    pooled = torch.zeros_like(states[0])
    for i, state in enumerate(states):
        heads = []
        for h in range(block.heads):
            part = slice(h * head_width, (h + 1) * head_width)
            scores = [(queries[i][part] @ keys[j][part]).exp() ** (head_width**-0.5) for j in range(len(states))]
            heads.append(sum(s * v[part] for s, v in zip(scores, values, strict=True)) / sum(scores))
        pooled += weights[i].double() * (state + parameters["out.weight"] @ torch.cat(heads))
    return pooled


@pytest.mark.parametrize("form", ["factored", "plain"])
@pytest.mark.parametrize("heads", [1, 3])
def test_equals_loops_over_tokens_heads_and_layers(form, heads):
    lap = build(form=form, heads=heads).eval().double()
    pooling = lap.layer_pooling

    @settings(deadline=None, max_examples=10)
    @given(features=features_strategy(12, 5, max_rows=2, max_references=2, dtype=torch.float64))
    def law(features):
        tokens = lap(features).tokens
        for row, column in features.mask.nonzero().tolist():
            states = [state[row, column] for state in features.hidden_states]
            pooled = lap_by_loops(states, pooling.blocks[0], pooling.weights)
            torch.testing.assert_close(tokens[row, column], lap.connector(pooled[None])[0], rtol=1e-6, atol=1e-6)

    law()


@pytest.mark.parametrize("form", ["factored", "plain"])
def test_equals_multihead_attention_and_linear_map_over_layers(form):
    """torch's own module with our weights; it has neither norm nor residual, so both are put around it."""
    torch.manual_seed(0)
    block, weights = randomized(LayerAttentionBlock(12, heads=3)), torch.randn(5)
    reference = nn.MultiheadAttention(12, 3, bias=False, batch_first=True)
    pool = nn.Linear(5, 1, bias=False)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([block.query.weight, block.key.weight, block.value.weight]))
        reference.out_proj.weight.copy_(block.out.weight)
        pool.weight.copy_(weights[None])

    x = torch.randn(6, 5, 12)
    normalized = block.norm(x)
    attended = x + reference(normalized, normalized, normalized, need_weights=False)[0]
    expected = pool(attended.mT).squeeze(-1)
    actual = block.pool(x, weights) if form == "factored" else torch.matmul(weights, block(x))
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"qk_norm": True, "heads": 3},
        {"blocks": 2},
        {"residual": True, "layer_embedding": True, "heads": 2},
        {"inner_dim": 6},
    ],
    ids=str,
)
def test_factored_form_equals_plain_form_in_values_and_gradients(options):
    factored, plain = build(form="factored", **options), build(form="plain", **options)
    plain.load_state_dict(factored.state_dict())

    @settings(deadline=None, max_examples=15)
    @given(features=features_strategy(12, 5), seed=st.integers(0, 2**31 - 1))
    def law(features, seed):
        cotangent = torch.randn(
            *features.modality.shape, RUNTIME["context_width"], generator=torch.Generator().manual_seed(seed)
        )
        results = {}
        for lap in (factored, plain):
            lap.zero_grad()
            tokens = lap(features).tokens
            (tokens * cotangent).sum().backward()
            gradients = [p.grad for p in lap.layer_pooling.parameters()]
            results[lap] = (tokens, *(gradient for gradient in gradients if gradient is not None))
        for one, other in zip(results[factored], results[plain], strict=True):
            scale = other.abs().max().clamp(min=1) if other.numel() else 1
            torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=1e-5)

    law()


def test_gradients_agree_with_finite_differences():
    torch.manual_seed(0)
    block = randomized(LayerAttentionBlock(4, heads=2, qk_norm=True)).double()
    x, weights = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(block.pool, (x.requires_grad_(), weights.requires_grad_()))


@pytest.mark.parametrize("options", [{"residual": True}, {"inner_dim": 6, "blocks": 2}, {"form": "plain"}], ids=str)
def test_checkpointing_changes_memory_but_no_gradient(options):
    usual, checkpointed = build(**options), build(gradient_checkpointing=True, **options)
    checkpointed.load_state_dict(usual.state_dict())

    @settings(deadline=None, max_examples=10)
    @given(features=features_strategy(12, 5))
    def law(features):
        for lap in (usual, checkpointed):
            lap.zero_grad()
            lap(features).tokens.square().sum().backward()
        gradients = zip(usual.named_parameters(), checkpointed.parameters(), strict=True)
        for (name, one), other in gradients:
            if not name.startswith("pooled"):  # the tokens do not depend on it
                torch.testing.assert_close(one.grad, other.grad)

    law()


def test_factored_form_keeps_less_for_the_backward_pass():
    def saved_bytes(form: str) -> int:
        torch.manual_seed(0)
        block, weights = LayerAttentionBlock(128, heads=1), nn.Parameter(torch.randn(29))
        x, saved = torch.randn(50, 29, 128), {}

        def keep(tensor):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            result = block.pool(x, weights) if form == "factored" else torch.matmul(weights, block(x))
        assert result.requires_grad
        return sum(saved.values())

    assert saved_bytes("factored") < 0.6 * saved_bytes("plain")
