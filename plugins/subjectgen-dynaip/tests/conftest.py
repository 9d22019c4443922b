"""Small real parts: a FLUX of three blocks."""

from __future__ import annotations

import pytest
import torch

from subjectgen.core import Backbone

SMALL = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 2,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 12,
    "pooled_projection_dim": 8,
    "guidance_embeds": False,
    "axes_dims_rope": (4, 6, 6),
}


@pytest.fixture
def make_backbone():
    """Build a small FLUX; options are the backbone's."""
    from subjectgen.core.plugins import Plugins
    from subjectgen.testing.backbone import wake

    def build(**options: object) -> Backbone:
        torch.manual_seed(0)
        backbone = Plugins.discover().build("backbones", {"name": "flux", "architecture": SMALL, **options})
        wake(backbone)
        return backbone

    return build


@pytest.fixture
def backbone(make_backbone) -> Backbone:
    return make_backbone()
