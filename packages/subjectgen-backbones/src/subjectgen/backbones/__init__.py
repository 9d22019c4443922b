"""FLUX with LoRA, and how conditioning enters it."""
