"""What this distribution offers. Imported at discovery: nothing heavy here."""

from __future__ import annotations

from subjectgen.core import Component, hookimpl


@hookimpl
def subjectgen_datasets() -> list[Component]:
    """Procedural toys."""
    return [
        Component(
            name="toy_pairs",
            target="subjectgen.toybox.datasets:ToyPairs",
            summary="Two views of a training toy: reference and target",
        ),
        Component(
            name="toy_groups",
            target="subjectgen.toybox.groups:ToyGroups",
            summary="Several training toys in one picture, with a reference of each",
        ),
        Component(
            name="held_out_toys",
            target="subjectgen.toybox.datasets:HeldOutToys",
            summary="Toys that no training saw, in several scenes",
        ),
        Component(
            name="toys_together",
            target="subjectgen.toybox.together:ToysTogether",
            summary="Several toys that no training saw in one wide picture, each with its place",
        ),
    ]


@hookimpl
def subjectgen_metrics() -> list[Component]:
    """Scores against the toy world's ground truth."""
    return [
        Component(
            name="toy_scores",
            target="subjectgen.toybox.metrics:ToyScores",
            summary="Scene, shape and identity of generated toys, by the toybox judge",
        ),
        Component(
            name="together_scores",
            target="subjectgen.toybox.together_metric:TogetherScores",
            summary="Identity by region and swaps of several toys in one picture, by the toybox judge",
        ),
    ]
