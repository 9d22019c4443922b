"""What this distribution offers. Imported at discovery: nothing heavy here."""

from __future__ import annotations

from subjectgen.core import Component, hookimpl

SIZES = "package:subjectgen.encoders/sizes"
VAE = Component(
    name="vae",
    target="subjectgen.encoders.vae:VAE",
    sizes=SIZES,
    summary="AutoencoderKL: references as latents, images to latents and back",
)
"""One class, two kinds: where an experiment gives both the same options, it is built once."""


@hookimpl
def subjectgen_encoders() -> list[Component]:
    """Encoders of this distribution."""
    return [
        Component(
            name="internvl3",
            target="subjectgen.encoders.internvl3:InternVL3",
            sizes=SIZES,
            summary="InternVL3: all hidden states of prompt and references, one 448-px tile per reference",
        ),
        Component(
            name="qwen2_5_vl",
            target="subjectgen.encoders.qwen2_5_vl:Qwen25VL",
            sizes=SIZES,
            summary="Qwen2.5-VL: all hidden states of prompt and references, native aspect ratio",
        ),
        VAE,
        Component(
            name="flux_text",
            target="subjectgen.encoders.flux_text:FluxText",
            sizes=SIZES,
            summary="FLUX's own text path: T5 tokens and CLIP's pooled vector",
        ),
    ]


@hookimpl
def subjectgen_autoencoders() -> list[Component]:
    """Autoencoders of this distribution."""
    return [VAE]
