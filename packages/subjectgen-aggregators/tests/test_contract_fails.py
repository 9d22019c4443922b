"""The contract finds aggregators that break its laws: each broken one here differs from a good one in one line."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from subjectgen.aggregators.last_layer import LastLayer
from subjectgen.core import Features
from subjectgen.testing import AggregatorContract


class LooksAtPadding(LastLayer):
    def forward(self, features: Features):
        result = super().forward(features)
        return replace(result, tokens=result.tokens + features.hidden_states[-1].mean())


class MixesRows(LastLayer):
    def forward(self, features: Features):
        result = super().forward(features)
        return replace(result, pooled=result.pooled.mean(dim=0, keepdim=True).expand_as(result.pooled))


class ReturnsSinglePrecision(LastLayer):
    def forward(self, features: Features):
        result = super().forward(features)
        return replace(result, tokens=result.tokens.float())


class DividesByTheNumberOfTokens(LastLayer):
    def forward(self, features: Features):
        result = super().forward(features)
        return replace(result, pooled=result.pooled / features.mask.sum(dim=1, keepdim=True))


class ReadsAnotherLayer(LastLayer):
    def forward(self, features: Features):
        features = replace(features, hidden_states=(*features.hidden_states[:-1], 2 * features.hidden_states[0]))
        return super().forward(features)


class DrawsAtInference(LastLayer):
    def forward(self, features: Features):
        result = super().forward(features)
        return replace(result, pooled=result.pooled + torch.rand_like(result.pooled))


class ForgetsState(LastLayer):
    def __init__(self, *args, **runtime):
        super().__init__(*args, **runtime)
        self.scale = torch.nn.Parameter(torch.tensor(3.0))

    def state_dict(self, **options):
        return {name: value for name, value in super().state_dict(**options).items() if name != "scale"}

    def load_state_dict(self, state, **options):
        return super().load_state_dict(state, strict=False)

    def forward(self, features: Features):
        result = super().forward(features)
        return replace(result, tokens=self.scale * result.tokens)


class HasAWrongGradient(LastLayer):
    def forward(self, features: Features):
        result = super().forward(features)
        return replace(result, tokens=result.tokens + 0 * features.hidden_states[-1].norm(dim=-1, keepdim=True).sqrt())


@pytest.mark.parametrize(
    ("broken", "law"),
    [
        (LooksAtPadding, "test_value_of_padding_does_not_matter"),
        (LooksAtPadding, "test_amount_and_side_of_padding_do_not_matter"),
        (MixesRows, "test_rows_are_independent"),
        (DividesByTheNumberOfTokens, "test_no_valid_token_is_defined"),
        (DrawsAtInference, "test_inference_is_deterministic"),
        (ForgetsState, "test_state_dict_round_trip"),
        (HasAWrongGradient, "test_gradients_are_finite"),
    ],
)
@pytest.mark.usefixtures("first_counterexample")
def test_a_broken_aggregator_is_found(broken, law):
    contract = AggregatorContract()
    aggregator = broken(broken.Config(), **contract.runtime).eval()
    arguments = {"padding": 3} if "no_valid" in law else {}
    with pytest.raises(AssertionError):
        getattr(contract, law)(aggregator, **arguments)


@pytest.mark.usefixtures("first_counterexample")
def test_a_changed_dtype_is_found():
    contract = AggregatorContract()
    aggregator = ReturnsSinglePrecision(LastLayer.Config(), **contract.runtime)
    with pytest.raises(AssertionError):
        contract.test_dtype_and_device_are_kept(aggregator, torch.bfloat16)


@pytest.mark.usefixtures("first_counterexample")
def test_an_undeclared_layer_is_found():
    contract = AggregatorContract()
    aggregator = ReadsAnotherLayer(LastLayer.Config(), **contract.runtime)
    with pytest.raises(TypeError):  # 2 * None
        contract.test_reads_only_its_layers(aggregator)
