"""Only what is wanted is computed and kept: hidden states are gone while the model still runs, one run of the tower."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch

from subjectgen.core import InputError, Modality, Sample
from subjectgen.encoders.internvl3 import InternVL3
from subjectgen.encoders.qwen2_5_vl import Qwen25VL

MakeSample = Callable[..., Sample]


@pytest.fixture(params=["internvl3", "qwen2_5_vl"])
def encoder(request: pytest.FixtureRequest) -> Any:
    name, encoder = {
        "internvl3": ("internvl3_checkpoint", InternVL3),
        "qwen2_5_vl": ("qwen_checkpoint", Qwen25VL),
    }[request.param]
    return encoder(encoder.Config(checkpoint=str(request.getfixturevalue(name))))


def watch(encoder: Any) -> list[set[int]]:
    """Hook every block; each adds which hidden states (F_1..) are still alive when it ends."""
    states: dict[int, weakref.ref[torch.Tensor]] = {}
    alive: list[set[int]] = []

    def hook(index: int) -> Callable[..., None]:
        def after(_module: Any, _args: Any, output: Any) -> None:
            states[index] = weakref.ref(output[0] if isinstance(output, tuple) else output)
            alive.append({number for number, state in states.items() if state() is not None})

        return after

    for index, layer in enumerate(encoder.model.language_model.layers, 1):
        layer.register_forward_hook(hook(index))
    return alive


@pytest.mark.parametrize("wanted", [[], [0], [1], [1, 3], [0, 4], [2, 2]])
def test_a_state_nobody_wants_is_gone_two_blocks_later(encoder: Any, sample: MakeSample, wanted: list[int]) -> None:
    alive = watch(encoder)
    encoder.encode([sample("a red toy", (32, 32)), sample("toy")], layers=wanted)
    assert len(alive) == (encoder.depth - 1 if wanted else 0)
    for block, states in enumerate(alive, 1):  # a block's input and output are alive while it ends
        assert states - {block - 1, block} <= set(wanted)


def test_all_states_are_alive_when_all_are_wanted(encoder: Any, sample: MakeSample) -> None:
    """The watch can see states that are kept."""
    alive = watch(encoder)
    encoder.encode([sample("a red toy", (32, 32))])
    assert alive[-1] == set(range(1, encoder.depth))


def test_wanted_states_are_those_of_the_full_run_and_own_no_more_than_they_show(
    encoder: Any, sample: MakeSample
) -> None:
    batch = [sample("a red toy", (32, 32)), sample("toy")]
    everything, some = encoder.encode(batch), encoder.encode(batch, layers=[3, 0])
    assert [state is not None for state in some.hidden_states] == [True, False, False, True, False]
    for layer in (0, 3):
        state = some.hidden_states[layer]
        torch.testing.assert_close(state, everything.hidden_states[layer], rtol=0, atol=0)
        assert state.untyped_storage().nbytes() == state.nbytes


def test_the_vision_tower_runs_once_and_not_without_references(encoder: Any, sample: MakeSample) -> None:
    tower = getattr(encoder.model, "vision_tower", None) or encoder.model.visual
    runs: list[int] = []
    tower.register_forward_hook(lambda *_: runs.append(1))
    features = encoder.encode([sample("a toy", (32, 32)), sample("red", (32, 32), (48, 24))])
    assert runs == [1]
    assert features.image_features[features.modality == Modality.IMAGE].any()
    encoder.encode([sample("a toy")])
    assert runs == [1]


def test_a_layer_that_does_not_exist_is_refused(encoder: Any) -> None:
    with pytest.raises(InputError, match=r"layer 5 does not exist: .* has 0 to 4"):
        encoder.encode([Sample(prompt="toy")], layers=[0, 5])
