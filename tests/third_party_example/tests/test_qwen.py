"""A backbone that shares nothing with FLUX but the contract."""

import pytest
import torch
from subjectgen_example_qwen.backbone import QwenBackbone

from subjectgen.testing import BackboneContract, CheckpointsContract, TrainableContract


def build(**settings: object) -> QwenBackbone:
    torch.manual_seed(0)
    sizes = {"heads": 2, "context_width": 12, "latent_channels": 4}
    return QwenBackbone(QwenBackbone.Config.model_validate(sizes | settings))


class TestQwen(BackboneContract, TrainableContract, CheckpointsContract):
    @pytest.fixture
    def backbone(self) -> QwenBackbone:
        return build()

    @pytest.fixture
    def checkpointed(self) -> QwenBackbone:
        return build(gradient_checkpointing=True)
