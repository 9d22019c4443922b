"""Which distribution owns which name: so that the answer to a missing component can be a pip line."""

from __future__ import annotations

from subjectgen.core.component import KINDS

_NAMES = {
    "subjectgen-aggregators": {"aggregators": "last_layer blend_vit mix_vit lap dla"},
    "subjectgen-encoders": {"encoders": "internvl3 qwen2_5_vl vae flux_text", "autoencoders": "vae"},
    "subjectgen-backbones": {"backbones": "flux", "injectors": "context reference_tokens"},
    "subjectgen-schedules": {"schedules": "three_stage always_on"},
    "subjectgen-datasets": {"datasets": "uno_1m uno_json musar_gen image_pairs tar_shards"},
    "subjectgen-toybox": {
        "datasets": "toy_pairs toy_groups held_out_toys toys_together",
        "metrics": "toy_scores together_scores",
    },
}

OWNERS: dict[str, dict[str, str]] = {
    kind: {name: owner for owner, names in _NAMES.items() for name in names.get(kind, "").split()} for kind in KINDS
}
"""Owner by kind and name. A repository test compares it with what the distributions offer."""
