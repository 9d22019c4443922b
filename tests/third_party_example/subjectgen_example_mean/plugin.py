"""What this distribution offers. Imported at discovery: nothing heavy here."""

from subjectgen.core import Component, hookimpl


@hookimpl
def subjectgen_aggregators() -> list[Component]:
    """One aggregator."""
    return [
        Component(
            name="mean",
            target="subjectgen_example_mean.mean:Mean",
            summary="Average of all hidden states of every token",
        )
    ]


@hookimpl
def subjectgen_backbones() -> list[Component]:
    """One backbone."""
    return [
        Component(
            name="qwen_image",
            target="subjectgen_example_qwen.backbone:QwenBackbone",
            summary="Qwen-Image's transformer at any size, trained from random weights",
        )
    ]
