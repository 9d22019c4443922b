import pytest
import torch

TINY = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 12,
    "guidance_embeds": False,
    "axes_dims_rope": (4, 6, 6),
}


@pytest.fixture
def build():
    """Build a tiny FLUX backbone; keywords go to its Config, ``sizes`` to its architecture."""
    # Imported here: an import of ours at the top would come before jaxtyping's import hook.
    from subjectgen.backbones.flux import FluxBackbone

    def make(sizes=None, **settings):
        torch.manual_seed(0)
        settings.setdefault("architecture", {**TINY, **(sizes or {})})
        return FluxBackbone(FluxBackbone.Config.model_validate(settings))

    return make


@pytest.fixture
def backbone(build):
    return build()
