"""What an experiment YAML may say. Parts are checked by their own configs; this is the frame around them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field, model_validator

from subjectgen.core import ChangesNothing, ChangesResults, ChangesWeights, Config, nearest

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]
"""A name that may become part of a file's: letters, digits, _ and -."""
Value = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$")]
"""As a name, and it may be a number, such as ``0.85``."""
PartSettings: TypeAlias = dict[str, Any]
"""``{name: ..., **options}``; the options are the named component's."""


RESERVED = {
    "known_pictures": "what metrics give to pictures whose truth is known, in scores.json",
    "strips": "the folder of strips",
    "own": "the folder of `demo --reference`",
}
"""Names that no comparison and no variant can have, and what they name."""


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


class SourceSettings(Config):
    """One of several data sets of a mixture."""

    dataset: ChangesResults[PartSettings]
    """Component of kind datasets."""
    weight: ChangesResults[float] = Field(default=1.0, gt=0)
    """Share of the rows, in proportion to the others' weights."""


class DataSettings(Config):
    """Where samples come from."""

    dataset: ChangesResults[PartSettings | None] = None
    """Component of kind datasets; its samples carry targets."""
    mixture: ChangesResults[tuple[SourceSettings, ...] | None] = Field(default=None, min_length=1)
    """Several data sets, in shares; in place of ``dataset``."""

    @model_validator(mode="after")
    def _one_of_both(self) -> DataSettings:
        if self.dataset is not None and self.mixture is not None:
            raise ValueError("dataset and mixture: expected one of them")
        return self


class PhaseSettings(DataSettings):
    """A stretch of training. Without data of its own it takes that of ``training``."""

    name: ChangesNothing[str | None] = None
    """For logs; null: its branches."""
    branches: ChangesResults[tuple[str, ...] | None] = Field(default=None, min_length=1)
    """Branches that take part; null: all."""
    train: ChangesResults[tuple[str, ...] | None] = Field(default=None, min_length=1)
    """What is trained, by the beginning of its place: ``backbone``, ``branches.mllm.aggregator``; null: all that the
    branches use."""
    steps: ChangesResults[int] = Field(ge=1)
    """Optimizer steps."""
    loss: ChangesResults[Literal["flow_matching", "isolation"]] = "flow_matching"
    """``flow_matching``: towards the targets. ``isolation``: isolated references learn to give the velocities that the
    same weights give with full attention; needs no targets."""
    stage_masks: ChangesResults[bool] = False
    """Whether the schedule's stages silence branches in training too. The stages are inference's (3.4, 4.1, Table C):
    in training all branches of a phase speak at every timestep, and dropout hides inputs."""
    learning_rate: ChangesResults[float | None] = Field(default=None, gt=0)
    """Overrides ``training.learning_rate``."""


class CacheSettings(Config):
    """What training keeps of frozen parts' results, each under the content that it was made of."""

    targets: ChangesNothing[bool] = False
    """Latents of target images."""
    features: ChangesNothing[bool] = False
    """What the encoders of branches make of prompts and references: of features the layers that are read. Training
    says how much room that takes before it begins."""
    folder: ChangesNothing[Path | None] = None
    """Where to keep it, for this run and later ones; null: in the CPU's memory."""


class TrainingSettings(DataSettings):
    """How the trainable parts are trained. Without data, each phase names its own, or the one who trains does."""

    phases: ChangesResults[tuple[PhaseSettings, ...]] = Field(min_length=1)
    """One after another; the optimizer starts afresh in each."""
    batch_size: ChangesResults[int] = Field(default=16, ge=1)
    """Samples per step, on all devices together."""
    micro_batch: ChangesNothing[int | None] = Field(default=None, ge=1)
    """Samples that a device runs at once, at most; their gradients add up to those of the batch. Null: all that are
    alike in sizes and branches. ``plan`` says how many fit."""
    buckets: ChangesResults[bool] = False
    """Whether targets may have other sizes than ``image:``. Each batch is then of one size; what fills no batch is left
    out of its epoch, and counted."""
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
    ema_decay: ChangesResults[float | None] = Field(default=None, gt=0, lt=1)
    """Decay of an average of the weights, which is what a finished run then holds; null: no average."""
    mixed_precision: ChangesResults[Literal["no", "bf16"]] = "no"
    """Autocast of accelerate."""
    guidance: ChangesResults[float] = 1.0
    """Embedded guidance in training, for backbones that have the input (UNO: 1)."""
    cache: ChangesNothing[CacheSettings] = CacheSettings()
    """What frozen parts make of the samples, kept after its first use."""
    workers: ChangesNothing[int] = Field(default=0, ge=0)
    """Processes of each device that read samples ahead; 0: the trainer reads them itself."""
    max_broken: ChangesNothing[float] = Field(default=0.01, ge=0, le=1)
    """Share of rows that may turn out unreadable; they are passed over, counted and named."""
    skip_nonfinite: ChangesResults[int] = Field(default=0, ge=0)
    """Steps of a run that may be left out because their loss or gradient is not finite; the next one ends the run."""
    log_every: ChangesNothing[int] = Field(default=20, ge=1)
    """Steps between lines of ``metrics.jsonl``."""
    save_every: ChangesNothing[int | None] = Field(default=None, ge=1)
    """Steps between checkpoints; null: one at the end of each phase."""
    keep_last: ChangesNothing[int] = Field(default=2, ge=1)
    """Checkpoints that are kept, the newest ones."""
    keep_every: ChangesNothing[int | None] = Field(default=None, ge=1)
    """Also keep those of every so many steps."""
    trackers: ChangesNothing[tuple[Literal["tensorboard", "wandb", "trackio"], ...]] = ()
    """Where the log also goes, through accelerate."""
    probe_every: ChangesNothing[int | None] = Field(default=None, ge=1)
    """Steps between looks at what references and prompts change of the velocity, and at the loss on rows that stay the
    same, in ``probe.jsonl``; also at the end of each phase. Null: never."""
    probe_rows: ChangesNothing[int] = Field(default=16, ge=1)
    """Rows of that look: the first ones of the phase."""
    samples_every: ChangesNothing[int | None] = Field(default=None, ge=1)
    """Steps between pictures of the first rows of the phase, in ``samples/``; also at the end of each phase. Null:
    never."""
    samples_rows: ChangesNothing[int] = Field(default=4, ge=1)
    """How many pictures that are."""
    curves: ChangesNothing[bool] = True
    """Draw the log as ``curves.png``, with checkpoints and at the end."""

    @model_validator(mode="before")
    @classmethod
    def _cache_was_a_switch(cls, values: Any) -> Any:
        if isinstance(values, Mapping) and "cache_targets" in values:
            raise ValueError("cache_targets: is now training.cache.targets; expected cache: {targets: true}, or false")
        return values


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
    titles: ChangesNothing[dict[Name, str]] = Field(default_factory=dict)
    """What variants are called on sheets and pages; one without a title goes by its name."""
    headline: ChangesNothing[tuple[str, ...] | None] = None
    """Scores that are printed, and stand first on the page; null: those of known pictures. All are written."""
    sensitivity: ChangesResults[bool] = True
    """Also measure what each branch changes alone, which takes as long again on 24 samples."""
    batch_size: ChangesNothing[int] = Field(default=32, ge=1)
    """Images per pass."""

    @model_validator(mode="after")
    def _titles_name_variants(self) -> ComparisonSettings:
        for name in self.titles:
            if name not in self.variants:
                raise ValueError(
                    f"titles: got {name!r}; expected names of variants ({', '.join(self.variants)})"
                    f"{nearest(name, self.variants)}"
                )
        return self


class StripSettings(Config):
    """A few samples of a comparison under several values of a setting, with the same seeds; nothing is measured."""

    comparison: ChangesResults[str]
    """Whose data set gives the samples, and on whose sheet the strip stands. A comparison that is removed takes its
    strips along."""
    samples: ChangesResults[tuple[Annotated[int, Field(ge=0)], ...]] = Field(default=(0,), min_length=1)
    """Numbers of the samples in the data set; a number is also the seed."""
    label: ChangesNothing[str] = "{value}"
    """What stands beside each picture; ``{value}`` is the value's name."""
    values: ChangesResults[dict[Value, dict[str, Any]]] = Field(min_length=1)
    """By name (letters, digits, . _ and -): what differs from the experiment, as a tree of its keys."""

    @model_validator(mode="after")
    def _pictures_can_be_told_apart(self) -> StripSettings:
        if "{value}" not in self.label:
            raise ValueError(f"label: got {self.label!r}; expected a text with {{value}} in it")
        if len(set(self.samples)) < len(self.samples):
            raise ValueError(f"samples: got {list(self.samples)}; expected each number once")
        return self


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
    """What ``subjectgen demo`` shows and measures, by name; null removes an inherited one."""
    strips: ChangesNothing[dict[Name, StripSettings | None]] = Field(default_factory=dict)
    """What ``subjectgen demo`` shows under several values of a setting, by name; null removes an inherited one."""
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
        taken = [name for name in (*self.shown(), *names) if name in RESERVED]
        if taken:
            raise ValueError(f"comparisons: {taken[0]!r} names {RESERVED[taken[0]]}; expected another name")
        return self

    @model_validator(mode="after")
    def _strips_name_comparisons(self) -> ExperimentSettings:
        for name, strip in self.strips.items():
            if strip is not None and strip.comparison not in self.comparisons:
                raise ValueError(
                    f"strips.{name}.comparison: got {strip.comparison!r}; expected a comparison of this experiment "
                    f"({', '.join(self.comparisons) or 'it has none'}){nearest(strip.comparison, self.comparisons)}"
                )
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

    def shown_strips(self) -> dict[str, StripSettings]:
        """Strips that were not removed, neither themselves nor with their comparison."""
        shown = self.shown()
        return {name: one for name, one in self.strips.items() if one is not None and one.comparison in shown}
