"""All parts of an experiment, built and on their device. A system never changes: another schedule, or other weights,
make another system that shares what stays the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from subjectgen.core import Autoencoder, Backbone, Finder, InputError, Schedule, Trainable
from subjectgen.runner.system.branch import Branch
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.system.lazy import Lazy
from subjectgen.runner.system.residency import Residency


@dataclass(frozen=True, kw_only=True, eq=False)
class System:
    """An experiment's parts. Made by :func:`~subjectgen.runner.system.build.build_system`."""

    experiment: Experiment
    backbone: Any
    autoencoder: Any
    branches: Mapping[str, Branch]
    schedule: Schedule
    residency: Residency
    lazy_finder: Lazy[Finder | None]
    trained: str | None = None
    """Where the trained parts were loaded from."""

    @property
    def device(self) -> Any:
        """Where it runs."""
        return self.residency.device

    def with_schedule(self, experiment: Experiment) -> System:
        """The same parts under the schedule of an experiment that differs in nothing else."""
        schedule = experiment.parts.schedule.build(branches=tuple(self.branches))
        return replace(self, experiment=experiment, schedule=schedule)

    def finder(self, what: str) -> Finder:
        """The experiment's finder, built when it is first asked for.

        Args:
            what: What it shall find, for the message where there is none.

        Raises:
            InputError: The experiment names no finder.
        """
        found = self.lazy_finder()
        if found is None:
            raise InputError(
                f"{what} by a phrase: {self.experiment.loaded.file} names no finder; expected a part `finder: {{name: "
                "...}} (list: subjectgen components --kind finders)"
            )
        return found

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of an image of this size in pixels."""
        autoencoder: Autoencoder = self.autoencoder
        return self.backbone.latent_channels, height // autoencoder.scale_factor, width // autoencoder.scale_factor

    def target_grid(self, latent_size: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of backbone tokens of latents of this height and width."""
        backbone: Backbone = self.backbone
        return latent_size[0] // backbone.patch_size, latent_size[1] // backbone.patch_size

    # -------------------------------------------------------------------------------------------------- modules

    def branch_modules(self) -> dict[str, nn.Module]:
        """Aggregators and injectors, which may have trained parameters of their own, by place in the experiment."""
        modules: dict[str, nn.Module] = {}
        for name, branch in self.branches.items():
            if branch.aggregator is not None:
                modules[f"branches.{name}.aggregator"] = branch.aggregator
            if isinstance(branch.injector, nn.Module):
                modules[f"branches.{name}.injector"] = branch.injector
        return modules

    def encoders(self) -> dict[str, Any]:
        """All encoders and the autoencoder, by place; one that serves several places stands there under each."""
        branches = {f"branches.{name}.encoder": branch.encoder for name, branch in self.branches.items()}
        return {"autoencoder": self.autoencoder, **branches}

    def trainable(self, branches: Sequence[str] | None = None) -> dict[str, nn.Parameter]:
        """Parameters that training changes, by name; only those that these branches use."""
        named: dict[str, nn.Parameter] = {}
        if isinstance(self.backbone, Trainable):
            named = {f"backbone.{name}": value for name, value in self.backbone.trainable_parameters().items()}
        for name, module in self.branch_modules().items():
            if branches is None or name.removeprefix("branches.").rpartition(".")[0] in branches:
                named |= {f"{name}.{key}": value for key, value in module.named_parameters() if value.requires_grad}
        return named

    def set_training(self, training: bool) -> None:
        """Put the parts that have a training mode of their own into it; nobody else may use them meanwhile."""
        for module in (self.backbone, *self.branch_modules().values()):
            module.train(training)

    def describe(self) -> dict[str, Any]:
        """Parameters in total and trainable, by part."""
        rows = {}
        modules = {"backbone": self.backbone, **self.encoders(), **self.branch_modules()}
        for name, module in modules.items():
            parameters = list(module.parameters()) if isinstance(module, nn.Module) else []
            trained = sum(p.numel() for p in parameters if p.requires_grad)
            rows[name] = {"parameters": sum(p.numel() for p in parameters), "trainable": trained}
        return rows
