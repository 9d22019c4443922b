"""DynaIP: image prompts through added cross-attention, decoupled at inference, from a mixture of CLIP's layers."""
