"""What an experiment YAML may say. Parts are checked by their own configs; this is the frame around them."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, model_validator

from subjectgen.core import ChangesNothing, ChangesResults, ChangesWeights, Config
from subjectgen.core.config import merge

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]
"""A name that may become part of a file's: letters, digits, _ and -."""
PartSettings: TypeAlias = dict[str, Any]
"""``{name: ..., **options}``; the options are the named component's."""


class BranchSettings(Config):
    """One conditioning branch: encoder -> (aggregator) -> injector."""

    encoder: ChangesWeights[PartSettings]
    """Component of kind encoders."""
    aggregator: ChangesWeights[PartSettings | None] = None
    """Component of kind aggregators; needed for encoders that give hidden states."""
    injector: ChangesWeights[PartSettings]
    """Component of kind injectors."""


class ImageSettings(Config):
    """Size of images, in pixels; which multiples there must be, autoencoder and backbone say."""

    height: ChangesResults[int] = Field(default=512, ge=1)
    """Pixels."""
    width: ChangesResults[int] = Field(default=512, ge=1)
    """Pixels."""


class MemorySettings(Config):
    """How generating fits a device. Training has everything in place."""

    offload: ChangesNothing[Literal["none", "encoders", "group"]] = "none"
    """``encoders``: encoders leave the device before the backbone comes, and the reverse. ``group``: also the backbone
    stays in the CPU's memory, and its blocks come one at a time (slower, least memory)."""
    weights: ChangesResults[Literal["none", "int8", "int4"]] = "none"
    """Frozen weights of the backbone's blocks in 8 bits (needs torchao) or 4 bits (needs bitsandbytes)."""
    release_modulation: ChangesNothing[bool] = False
    """Modulation of all steps is computed before the first; its weights (27 % of FLUX.1-dev) stay off the device."""
    dtype: ChangesResults[Literal["float32", "bfloat16"] | None] = None
    """The backbone's weights while generating; null: bfloat16 on CUDA, elsewhere as the backbone's own option says."""
    merge_adapters: ChangesResults[bool] = False
    """Fold the backbone's adapter into its weights before anything else: less work in every step. Weights in less than
    float32 round the sum."""

    @model_validator(mode="after")
    def _group_moves_all(self) -> MemorySettings:
        if self.offload == "group" and self.weights == "int4":
            raise ValueError("offload: group and weights: int4: 4-bit weights only move as a whole; use weights: int8")
        if self.offload == "group" and self.release_modulation:
            raise ValueError("offload: group and release_modulation: group offloading moves these weights; remove one")
        return self


class PhaseSettings(Config):
    """A stretch of training."""

    name: ChangesNothing[str | None] = None
    """For logs; null: its branches."""
    dataset: ChangesResults[PartSettings | None] = None
    """Component of kind datasets; null: ``training.dataset``."""
    branches: ChangesResults[tuple[str, ...] | None] = Field(default=None, min_length=1)
    """Branches that take part; null: all."""
    steps: ChangesResults[int] = Field(ge=1)
    """Optimizer steps."""
    stage_masks: ChangesResults[bool] = False
    """Whether the schedule's stages silence branches in training too. The stages are inference's (3.4, 4.1, Table C):
    in training all branches of a phase speak at every timestep, and dropout hides inputs."""
    learning_rate: ChangesResults[float | None] = Field(default=None, gt=0)
    """Overrides ``training.learning_rate``."""


class TrainingSettings(Config):
    """How the trainable parts are trained."""

    dataset: ChangesResults[PartSettings | None] = None
    """Component of kind datasets; its samples carry targets. Null: each phase names its own, or the one who trains
    does."""
    phases: ChangesResults[tuple[PhaseSettings, ...]] = Field(min_length=1)
    """One after another; the optimizer starts afresh in each."""
    batch_size: ChangesResults[int] = Field(default=16, ge=1)
    """Samples per step, on all devices together."""
    learning_rate: ChangesResults[float] = Field(default=1e-5, gt=0)
    """AdamW's learning rate (paper 4.1: 1e-5)."""
    lr_schedule: ChangesResults[Literal["constant", "linear", "cosine"]] = "constant"
    """After the warm-up: constant (paper), or falling to zero within each phase."""
    warmup_steps: ChangesResults[int] = Field(default=0, ge=0)
    """Steps in which the learning rate rises from zero."""
    weight_decay: ChangesResults[float] = Field(default=0.01, ge=0)
    """AdamW's."""
    max_grad_norm: ChangesResults[float] = Field(default=1.0, gt=0)
    """Gradient norm above which gradients are scaled down."""
    mixed_precision: ChangesResults[Literal["no", "bf16"]] = "no"
    """Autocast of accelerate."""
    guidance: ChangesResults[float] = 1.0
    """Embedded guidance in training, for backbones that have the input (UNO: 1)."""
    cache_targets: ChangesNothing[bool] = False
    """Keep the latents of all targets in the CPU's memory after their first use: for data sets that fit."""
    log_every: ChangesNothing[int] = Field(default=20, ge=1)
    """Steps between lines of ``metrics.jsonl``."""
    save_every: ChangesNothing[int | None] = Field(default=None, ge=1)
    """Steps between checkpoints; null: one at the end of each phase."""


def _plain() -> dict[str, dict[str, Any]]:
    return {"plain": {}}


class ComparisonSettings(Config):
    """The experiment in several variants, on the same samples and seeds."""

    dataset: ChangesResults[PartSettings]
    """Component of kind datasets: prompts and references."""
    metrics: ChangesResults[tuple[PartSettings, ...]] = Field(min_length=1)
    """Components of kind metrics; their scores must have different names."""
    changes: ChangesResults[dict[str, Any]] = Field(default_factory=dict)
    """Changed in all variants, such as ``image: {width: 176}``."""
    variants: ChangesResults[dict[Name, dict[str, Any]]] = Field(default_factory=_plain, min_length=1)
    """By name: what differs from the experiment, as a tree of its keys; ``trained: RUN`` compares trained folders."""
    headline: ChangesNothing[tuple[str, ...] | None] = None
    """Scores that are printed; null: those that are calibrated. All are written."""
    sensitivity: ChangesResults[bool] = True
    """Also measure what each branch changes alone, which takes as long again on 24 samples."""
    batch_size: ChangesNothing[int] = Field(default=32, ge=1)
    """Images per pass."""

    def all_changes(self) -> dict[str, dict[str, Any]]:
        """What each variant changes in all."""
        return {name: merge(self.changes, change) for name, change in self.variants.items()}


class ExperimentSettings(Config):
    """An experiment: branches into one backbone, a schedule, and what to train."""

    name: ChangesNothing[str | None] = None
    """Name of the run; null: the file's."""
    seed: ChangesResults[int] = Field(default=0, ge=0, lt=2**63)
    """Seed of weights, data order, noise and dropout."""
    branches: ChangesWeights[dict[Name, BranchSettings]] = Field(min_length=1)
    """By name (letters, digits, _ and -), in the order in which their tokens follow each other."""
    backbone: ChangesWeights[PartSettings]
    """Component of kind backbones."""
    autoencoder: ChangesWeights[PartSettings]
    """Component of kind autoencoders: targets to latents, latents to images."""
    schedule: ChangesResults[PartSettings]
    """Component of kind schedules."""
    image: ChangesResults[ImageSettings] = ImageSettings()
    """Size of generated images."""
    memory: ChangesNothing[MemorySettings] = MemorySettings()
    """How generating fits a device."""
    training: ChangesResults[TrainingSettings | None] = None
    """Null for experiments that only generate."""
    finder: ChangesResults[PartSettings | None] = None
    """Component of kind finders, for masks that are asked for by a phrase."""
    comparisons: ChangesNothing[dict[Name, ComparisonSettings | None]] = Field(default_factory=dict)
    """What ``subjectgen demo`` shows, by name; null removes an inherited one."""
    trained: ChangesNothing[str | None] = None
    """Folder or ``package:...`` with trained parts: generating loads them, and training starts from them."""
    description: ChangesNothing[str] = ""
    """For readers."""

    @model_validator(mode="after")
    def _variants_have_one_name(self) -> ExperimentSettings:
        names = [name for comparison in self.shown().values() for name in comparison.variants]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"comparisons: two variants are called {twice[0]!r}; expected different names")
        return self

    @model_validator(mode="after")
    def _phases_name_branches(self) -> ExperimentSettings:
        for phase in self.training.phases if self.training else ():
            names = phase.branches or ()
            if len(set(names)) < len(names):
                raise ValueError(f"training.phases: a branch is named twice in {', '.join(names)}")
            unknown = [name for name in names if name not in self.branches]
            if unknown:
                raise ValueError(
                    f"training.phases: unknown branch {unknown[0]!r}; expected one of {', '.join(self.branches)}"
                )
        return self

    def shown(self) -> dict[str, ComparisonSettings]:
        """Comparisons that were not removed."""
        return {name: comparison for name, comparison in self.comparisons.items() if comparison is not None}
