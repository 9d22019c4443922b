"""What an experiment YAML may say. Parts are checked by their own configs; this is the frame around them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from subjectgen.core import Config, ConfigError
from subjectgen.core.config import Loaded, load, merge

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]*$")]
"""A name that may become part of a file's: letters, digits, _ and -."""
Part = dict[str, Any]
"""``{name: ..., **options}``; the options are the named component's."""


class BranchSettings(Config):
    """One conditioning branch: encoder -> (aggregator) -> injector."""

    encoder: Part
    """Component of kind encoders."""
    aggregator: Part | None = None
    """Component of kind aggregators; needed for encoders that give hidden states."""
    injector: Part
    """Component of kind injectors."""


class ImageSettings(Config):
    """Size of generated images, in pixels; multiples of 16 for FLUX."""

    height: int = Field(default=512, ge=16, multiple_of=16)
    """Pixels."""
    width: int = Field(default=512, ge=16, multiple_of=16)
    """Pixels."""


class MemorySettings(Config):
    """How generating fits a device. Training has everything in place."""

    offload: Literal["none", "mllm", "group"] = "none"
    """``mllm``: encoders leave the device before the backbone comes, and the reverse. ``group``: also the backbone
    stays in the CPU's memory, and its blocks come one at a time (slower, least memory)."""
    weights: Literal["none", "int8", "int4"] = "none"
    """Frozen weights of the backbone's blocks in 8 bits (needs torchao) or 4 bits (needs bitsandbytes)."""
    release_modulation: bool = False
    """Modulation of all steps is computed before the first; keep its weights (27 % of FLUX.1-dev) off the device."""
    dtype: Literal["float32", "bfloat16"] | None = None
    """The backbone's weights while generating; null: bfloat16 on CUDA, elsewhere as the backbone's own option says."""
    merge_adapters: bool = False
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

    name: str | None = None
    """For logs; null: its branches."""
    dataset: Part | None = None
    """Component of kind datasets; null: ``training.dataset``."""
    branches: tuple[str, ...] | None = Field(default=None, min_length=1)
    """Branches that take part; null: all. With fewer than all, those speak at every timestep."""
    steps: int = Field(ge=1)
    """Optimizer steps."""
    stage_masks: bool = True
    """Whether the schedule's stages apply when all branches take part (Table 7: timestep_aware)."""
    learning_rate: float | None = Field(default=None, gt=0)
    """Overrides ``training.learning_rate``."""


class TrainingSettings(Config):
    """How the trainable parts are trained."""

    dataset: Part | None = None
    """Component of kind datasets; its samples carry targets. Null: each phase names its own, or the one who trains
    does."""
    phases: tuple[PhaseSettings, ...] = Field(min_length=1)
    """One after another; the optimizer starts afresh in each."""
    batch_size: int = Field(default=16, ge=1)
    """Samples per step."""
    learning_rate: float = Field(default=1e-5, gt=0)
    """AdamW's learning rate (paper 4.1: 1e-5)."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """After the warm-up: constant (paper), or falling to zero within each phase."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps in which the learning rate rises from zero."""
    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradient norm above which gradients are scaled down."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Autocast of accelerate."""
    guidance: float = 1.0
    """Embedded guidance in training, for backbones that have the input (UNO: 1)."""
    cache_targets: bool = False
    """Keep the latents of all targets in the CPU's memory after their first use: for data sets that fit."""
    log_every: int = Field(default=20, ge=1)
    """Steps between lines of ``metrics.jsonl``."""
    save_every: int | None = Field(default=None, ge=1)
    """Steps between checkpoints; null: one at the end of each phase."""


def _plain() -> dict[str, dict[str, Any]]:
    return {"plain": {}}


class ComparisonSettings(Config):
    """The experiment in several variants, on the same samples and seeds."""

    dataset: Part
    """Component of kind datasets: prompts and references."""
    metrics: tuple[Part, ...] = Field(min_length=1)
    """Components of kind metrics; their scores must have different names."""
    changes: dict[str, Any] = Field(default_factory=dict)
    """Changed in all variants, such as ``image: {width: 176}``."""
    variants: dict[Name, dict[str, Any]] = Field(default_factory=_plain, min_length=1)
    """By name: what differs from the experiment, as a tree of its keys."""
    headline: tuple[str, ...] | None = None
    """Scores that are printed; null: those with a judge's accuracy. All are written."""
    sensitivity: bool = True
    """Also measure what each branch changes alone, which takes as long again on 24 samples."""
    batch_size: int = Field(default=32, ge=1)
    """Images per pass."""

    def all_changes(self) -> dict[str, dict[str, Any]]:
        """What each variant changes in all."""
        return {name: merge(self.changes, change) for name, change in self.variants.items()}


class ExperimentSettings(Config):
    """An experiment: branches into one backbone, a schedule, and what to train."""

    name: str | None = None
    """Name of the run; null: the file's."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of weights, data order, noise and dropout."""
    branches: dict[Name, BranchSettings] = Field(min_length=1)
    """By name (letters, digits, _ and -), in the order in which their tokens follow each other."""
    backbone: Part
    """Component of kind backbones."""
    autoencoder: Part
    """The encoder that turns targets into latents and latents into images."""
    schedule: Part
    """Component of kind schedules."""
    image: ImageSettings = ImageSettings()
    """Size of generated images."""
    memory: MemorySettings = MemorySettings()
    """How generating fits a device."""
    training: TrainingSettings | None = None
    """Null for experiments that only generate."""
    finder: Part | None = None
    """Component of kind finders, for masks that are asked for by a phrase."""
    comparisons: dict[Name, ComparisonSettings] = Field(default_factory=dict)
    """What ``subjectgen demo`` shows, by name."""
    trained: str | None = None
    """Folder or ``package:...`` with trained parts, loaded for generating; training starts from untrained ones."""
    description: str = ""
    """For readers."""

    @model_validator(mode="after")
    def _variants_have_one_name(self) -> ExperimentSettings:
        names = [name for comparison in self.comparisons.values() for name in comparison.variants]
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


class Experiment:
    """A validated experiment file together with where each value came from."""

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.settings: ExperimentSettings = loaded.validate(ExperimentSettings)

    @classmethod
    def read(cls, path: str | os.PathLike[str], overrides: Iterable[str] = ()) -> Experiment:
        """Read and validate a YAML file.

        Raises:
            ConfigError: With file, line, key, value, expectation and the nearest valid key.
        """
        return cls(load(path, overrides))

    @property
    def name(self) -> str:
        """Name of the run."""
        return self.settings.name or Path(self.loaded.file).stem

    @property
    def values(self) -> Mapping[str, Any]:
        """The resolved tree, as plain values."""
        return self.loaded.values

    def training_datasets(self) -> list[tuple[str, Part]]:
        """Of each phase of training: the key that names its dataset, and what it says.

        Raises:
            ConfigError: No training, or a phase without a dataset.
        """
        training, file = self.settings.training, self.loaded.file
        if training is None:
            raise ConfigError(f"{file}: training: missing; expected dataset and phases")
        found = []
        for number, phase in enumerate(training.phases):
            spec = phase.dataset or training.dataset
            if spec is None:
                raise ConfigError(
                    f"{file}: training.dataset: missing, and training.phases.{number} names none; expected a component"
                    " of kind datasets, such as --set 'training.dataset={name: toy_pairs}'"
                )
            found.append((f"training.phases.{number}.dataset" if phase.dataset else "training.dataset", spec))
        return found

    def place(self) -> dict[str, Any]:
        """``file`` and ``lines`` for error messages of parts."""
        return {"file": self.loaded.file, "lines": self.loaded.lines}
