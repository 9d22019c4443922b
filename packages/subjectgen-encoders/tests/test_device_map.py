"""A device map spreads the model; the features stay the same and nothing moves it afterwards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from subjectgen.core import CheckpointError, Sample
from subjectgen.encoders.internvl3 import InternVL3
from subjectgen.encoders.qwen2_5_vl import Qwen25VL

MakeSample = Callable[..., Sample]
PARTS = {
    "internvl3": {"vision_tower": "disk", "multi_modal_projector": "cpu", "language_model": "disk"},
    "qwen2_5_vl": {"visual": "disk", "language_model": "disk"},
}


@pytest.fixture(params=["internvl3", "qwen2_5_vl"])
def case(request: pytest.FixtureRequest) -> tuple[Any, str, dict[str, str]]:
    name, encoder = {
        "internvl3": ("internvl3_checkpoint", InternVL3),
        "qwen2_5_vl": ("qwen_checkpoint", Qwen25VL),
    }[request.param]
    return encoder, str(request.getfixturevalue(name)), PARTS[request.param]


def test_weights_that_stay_on_disk_give_the_same_features(
    case: tuple[Any, str, dict[str, str]], sample: MakeSample
) -> None:
    encoder, checkpoint, parts = case
    batch = [sample("a red toy", (32, 32), (48, 24)), sample("toy")]
    expected = encoder(encoder.Config(checkpoint=checkpoint)).encode(batch)
    spread = encoder(encoder.Config(checkpoint=checkpoint, device_map=parts))
    assert any(parameter.is_meta for parameter in spread.parameters())
    found = spread.encode(batch)
    for mine, theirs in zip(found.hidden_states, expected.hidden_states, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=0)
    torch.testing.assert_close(found.image_features, expected.image_features, rtol=0, atol=0)


def test_a_placed_model_stays_where_it_is(
    case: tuple[Any, str, dict[str, str]], pipeline_checkpoint: Path, sample: MakeSample
) -> None:
    encoder, checkpoint, _ = case
    whole = encoder(encoder.Config(checkpoint=checkpoint, device_map={"": "cpu"}, clip=str(pipeline_checkpoint)))
    torch.nn.ModuleList([whole]).to("meta")  # as a runner moves all of its parts
    assert not any(parameter.is_meta for parameter in whole.model.parameters())
    assert all(parameter.is_meta for parameter in whole.clip.parameters())


def test_a_map_that_names_no_part_is_refused(case: tuple[Any, str, dict[str, str]]) -> None:
    encoder, checkpoint, _ = case
    config = encoder.Config(checkpoint=checkpoint, device_map={"": "cpu", "language_modell": "disk"})
    with pytest.raises(CheckpointError, match=r"no part 'language_modell'; did you mean 'language_model'"):
        encoder(config)
