"""What this distribution offers. Imported at discovery: nothing heavy here."""

from __future__ import annotations

from subjectgen.core import Component, hookimpl


@hookimpl
def subjectgen_encoders() -> list[Component]:
    """CLIP's vision tower."""
    return [
        Component(
            name="clip_vision",
            target="subjectgen_dynaip.clip_vision:ClipVisionEncoder",
            sizes="package:subjectgen_dynaip/sizes",
            summary="CLIP ViT hidden states of each reference, subject cut out on white",
        )
    ]


@hookimpl
def subjectgen_aggregators() -> list[Component]:
    """The hierarchical mixture of experts and the baselines of Table 2."""
    return [
        Component(
            name="hmoe",
            target="subjectgen_dynaip.hmoe:HierarchicalExperts",
            summary="Mixture of three experts on low, middle and high CLIP layers, routed by the class tokens",
        ),
        Component(
            name="add",
            target="subjectgen_dynaip.fusion:AddFusion",
            summary="The same experts, added with equal weight",
        ),
        Component(
            name="concat",
            target="subjectgen_dynaip.fusion:ConcatFusion",
            summary="Low, middle and high layers side by side through one projection",
        ),
        Component(
            name="single_level",
            target="subjectgen_dynaip.fusion:SingleLevel",
            summary="One expert on one CLIP layer",
        ),
    ]


@hookimpl
def subjectgen_injectors() -> list[Component]:
    """Added attention."""
    return [
        Component(
            name="cross_attention",
            target="subjectgen_dynaip.cross_attention:CrossAttentionInjector",
            summary="Image cross-attention added in every block, by region and weight, decoupled at inference",
        )
    ]


@hookimpl
def subjectgen_datasets() -> list[Component]:
    """Training pairs, and the paper's benchmark of several subjects."""
    return [
        Component(
            name="intra_pairs",
            target="subjectgen_dynaip.pairs:IntraPairs",
            summary="Pictures with subject masks: the reference is cut out of the target itself",
        ),
        Component(
            name="cross_pairs",
            target="subjectgen_dynaip.pairs:CrossPairs",
            summary="Two pictures of one subject: reference and target",
        ),
        Component(
            name="dynaip_bench",
            target="subjectgen_dynaip.bench:DynaIPBench",
            summary="642 pairs and 246 triplets of subjects with prompts, from a folder of subjects",
        ),
    ]


@hookimpl
def subjectgen_finders() -> list[Component]:
    """Grounding and segmentation."""
    return [
        Component(
            name="grounded_sam",
            target="subjectgen_dynaip.grounded_sam:GroundedSam",
            summary="Grounding-DINO finds boxes for phrases, SAM turns them into masks",
        )
    ]
