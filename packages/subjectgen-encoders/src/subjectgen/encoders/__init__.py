"""Encoders: InternVL3, Qwen2.5-VL, FLUX's VAE and text path."""
