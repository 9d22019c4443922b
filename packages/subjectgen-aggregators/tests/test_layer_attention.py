"""Layerwise attention pooling against definitions that share no code with it."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

from subjectgen.aggregators.lap import LayerwiseAttentionPooling
from subjectgen.aggregators.layer_attention import LayerAttentionBlock
from subjectgen.core import Modality
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


def lap_by_loops(
    states: list[torch.Tensor], block: LayerAttentionBlock, weights: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Pool the hidden states of one token in double precision, one head, layer and pair of layers at a time.

    Returns what is pooled, and attention from layer i to layer j, mean over heads.
    """
    parameters = {name: value.double() for name, value in block.state_dict().items()}
    normalized = [rms_norm(state, parameters["norm.weight"]) for state in states]
    queries, keys, values = (
        [parameters[f"{name}.weight"] @ state for state in normalized] for name in ("query", "key", "value")
    )
    head_width = len(states[0]) // block.heads
    pooled = torch.zeros_like(states[0])
    attention = torch.zeros(len(states), len(states), dtype=torch.float64)
    for i, state in enumerate(states):
        heads = []
        for h in range(block.heads):
            part = slice(h * head_width, (h + 1) * head_width)
            scores = [(queries[i][part] @ keys[j][part]).exp() ** (head_width**-0.5) for j in range(len(states))]
            attention[i] += torch.stack(scores) / sum(scores) / block.heads
            heads.append(sum(s * v[part] for s, v in zip(scores, values, strict=True)) / sum(scores))
        pooled += weights[i].double() * (state + parameters["out.weight"] @ torch.cat(heads))
    return pooled, attention


@pytest.mark.parametrize("heads", [1, 3])
def test_equals_loops_over_tokens_heads_and_layers(heads):
    """Tokens, and the exported maps of Figure 3b: rows read, columns are read."""
    lap = build(heads=heads).eval().double()
    pooling = lap.layer_pooling

    @settings(deadline=None, max_examples=10)
    @given(features=features_strategy(12, 5, max_rows=2, max_references=2, dtype=torch.float64))
    @torch.no_grad()
    def law(features):
        tokens, maps, by_loops = (
            lap(features).tokens,
            lap.layer_attention(features),
            {Modality.TEXT: [], Modality.IMAGE: []},
        )
        for row, column in features.mask.nonzero().tolist():
            states = [state[row, column] for state in features.hidden_states]
            pooled, attention = lap_by_loops(states, pooling.blocks[0], pooling.weights)
            by_loops[Modality(features.modality[row, column].item())].append(attention)
            torch.testing.assert_close(tokens[row, column], lap.connector(pooled[None])[0], rtol=1e-6, atol=1e-6)
        for modality, attentions in by_loops.items():
            if attentions:
                exported = maps[f"{modality.name.lower()}.attention"]
                torch.testing.assert_close(exported, torch.stack(attentions).mean(dim=0), rtol=1e-6, atol=1e-6)

    law()


@pytest.mark.parametrize("form", ["pooled", "plain"])
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
    actual = block.pool(x, weights) if form == "pooled" else torch.matmul(weights, block(x))
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{}, {"heads": 4, "qk_norm": True}, {"heads": 2, "feed_forward": True}],
    ids=lambda chosen: "-".join(chosen),
)
def test_pooling_equals_weighing_the_blocks_outputs_in_values_and_gradients(options):
    torch.manual_seed(0)
    block = randomized(LayerAttentionBlock(12, **{"heads": 1, **options}))

    @settings(deadline=None, max_examples=15)
    @given(tokens=st.integers(0, 4), layers=st.integers(1, 5), seed=st.integers(0, 2**31 - 1))
    def law(tokens, layers, seed):
        random = torch.Generator().manual_seed(seed)
        x, weights = torch.randn(tokens, layers, 12, generator=random), torch.randn(layers, generator=random)
        cotangent = torch.randn(tokens, 12, generator=random)
        leaves = [x.requires_grad_(), weights.requires_grad_(), *block.parameters()]
        results = [
            (result, *torch.autograd.grad((result * cotangent).sum(), leaves))
            for result in (block.pool(x, weights), torch.matmul(weights, block(x)))
        ]
        for one, other in zip(*results, strict=True):
            scale = other.abs().max().clamp(min=1) if other.numel() else 1
            torch.testing.assert_close(one / scale, other / scale, rtol=0, atol=1e-5)

    law()


def test_gradients_agree_with_finite_differences():
    torch.manual_seed(0)
    block = randomized(LayerAttentionBlock(4, heads=2, qk_norm=True)).double()
    x, weights = torch.randn(2, 3, 4, dtype=torch.float64), torch.randn(3, dtype=torch.float64)
    assert torch.autograd.gradcheck(block.pool, (x.requires_grad_(), weights.requires_grad_()))


@pytest.mark.parametrize(
    "options", [{"residual": True}, {"inner_dim": 6, "blocks": 2}, {"feed_forward": True}], ids=str
)
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


def test_pooling_keeps_less_for_the_backward_pass():
    def saved_bytes(form: str) -> int:
        torch.manual_seed(0)
        block, weights = LayerAttentionBlock(128, heads=1), nn.Parameter(torch.randn(29))
        x, saved = torch.randn(50, 29, 128), {}

        def keep(tensor):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            result = block.pool(x, weights) if form == "pooled" else torch.matmul(weights, block(x))
        assert result.requires_grad
        return sum(saved.values())

    assert saved_bytes("pooled") < 0.6 * saved_bytes("plain")
