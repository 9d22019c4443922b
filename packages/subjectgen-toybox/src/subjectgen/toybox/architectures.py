"""Sizes of the tiny models: the same classes as the big ones, with small configs."""

from __future__ import annotations

from typing import Any

IMAGE_SIZE = 64

VAE: dict[str, Any] = {
    "in_channels": 3,
    "out_channels": 3,
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
    "block_out_channels": [16, 32, 64, 96],
    "layers_per_block": 1,
    "latent_channels": 16,
    "norm_num_groups": 8,
    "sample_size": IMAGE_SIZE,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
}
"""8 times smaller per side, 16 channels, as FLUX's: 64 pixels become 8 x 8 x 16, packed to 16 tokens of 64."""

BASE: dict[str, Any] = {
    "patch_size": 1,
    "in_channels": 64,
    "num_layers": 2,
    "num_single_layers": 4,
    "attention_head_dim": 32,
    "num_attention_heads": 6,
    "joint_attention_dim": 128,
    "pooled_projection_dim": 64,
    "guidance_embeds": False,
    "axes_dims_rope": [8, 12, 12],
}
"""FLUX's shape with 2 + 4 blocks of width 192: 5.1 million parameters."""

T5: dict[str, Any] = {
    "d_model": 128,
    "d_kv": 32,
    "d_ff": 256,
    "num_layers": 2,
    "num_heads": 4,
    "dropout_rate": 0.0,
    "feed_forward_proj": "gated-gelu",
    "pad_token_id": 0,
    "eos_token_id": 2,
    "decoder_start_token_id": 0,
}
CLIP_TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 2,
}
"""``eos_token_id: 2`` makes transformers pool at the largest token id, as for CLIP's first checkpoints. Here that is
a word, the same in training and sampling; T5's tokens carry the whole caption."""
TEXT_LENGTH = 18

CLIP: dict[str, Any] = {
    "vision_config": {
        "hidden_size": 128,
        "intermediate_size": 384,
        "hidden_act": "gelu",
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "image_size": IMAGE_SIZE,
        "patch_size": 8,
        "projection_dim": 64,
    },
    "text_config": {
        "hidden_size": 128,
        "intermediate_size": 384,
        "hidden_act": "gelu",
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": TEXT_LENGTH,
        "projection_dim": 64,
    },
    "projection_dim": 64,
}
"""A vision tower of 9 hidden states, early, middle and late thirds 0-2, 3-5, 6-8; a class token and 64 patches."""

VISION: dict[str, Any] = {
    "hidden_size": 96,
    "intermediate_size": 288,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "image_size": [IMAGE_SIZE, IMAGE_SIZE],
    "patch_size": [8, 8],
    "use_qk_norm": False,
    "layer_scale_init_value": 0.1,
}
_LANGUAGE: dict[str, Any] = {
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "use_cache": False,
}
LANGUAGES: dict[str, dict[str, Any]] = {
    "large": {
        **_LANGUAGE,
        "hidden_size": 192,
        "intermediate_size": 384,
        "num_hidden_layers": 8,
        "num_attention_heads": 6,
    },
    "small": {
        **_LANGUAGE,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
    },
}
"""Two sizes of each family, as the papers have. 8 layers, 9 hidden states; early, middle and late thirds are 0-2, 3-5,
6-8. 5 layers, 6 hidden states; thirds are 0-1, 2-3, 4-5."""
IMAGE_TOKENS = 16

QWEN_VISION: dict[str, Any] = {
    "depth": 4,
    "hidden_size": 96,
    "intermediate_size": 288,
    "num_heads": 3,
    "patch_size": 8,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 32,
    "fullatt_block_indexes": [1, 3],
}
