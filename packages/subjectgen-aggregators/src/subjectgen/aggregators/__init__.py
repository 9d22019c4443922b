"""Aggregators of multimodal LLM features: last_layer, blend_vit, mix_vit, lap, dla."""
