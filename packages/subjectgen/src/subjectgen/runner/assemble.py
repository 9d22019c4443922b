"""From an experiment to its parts: every component built, every width checked against its neighbour."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from subjectgen.core import (
    Backbone,
    CheckpointError,
    Conditioning,
    Encoder,
    Finder,
    InputError,
    Schedule,
    resolve_checkpoint,
)
from subjectgen.core.files import atomic_write
from subjectgen.core.plugins import Plugins
from subjectgen.runner.experiment import BranchSettings, Experiment, MemorySettings
from subjectgen.runner.fingerprint import warn_of_changes, write_fingerprint
from subjectgen.runner.memory import Residency

DEFINING = "defining"
"""In a file's header: options that the weights depend on beside their shapes, of parts that name such."""


@dataclass(frozen=True, kw_only=True)
class Branch:
    """A built branch."""

    name: str
    encoder: Any
    aggregator: nn.Module | None
    injector: Any


class System:
    """All parts of an experiment, on one device."""

    def __init__(
        self,
        experiment: Experiment,
        plugins: Plugins,
        *,
        device: torch.device | str = "cpu",
        memory: MemorySettings | None = None,
        reuse: System | None = None,
    ) -> None:
        """Build every part.

        Args:
            experiment: What to build.
            plugins: Where components are found.
            device: Where to run.
            memory: How to fit the device, for generating; call ``memory.settle()`` of the system once weights are
                loaded. ``None``: everything is put on the device now.
            reuse: A system of the same weights; parts that are the same and stay unchanged are taken from it, unless it
                fits the device in another way: what one moves or packs is not where another expects it.
        """
        self.experiment, self.plugins, self.device = experiment, plugins, torch.device(device)
        self.trained: str | None = None
        """Where the trained parts were loaded from."""
        settings = experiment.settings
        if reuse is not None and reuse.experiment.settings.memory != settings.memory:
            reuse = None
        self._encoders: dict[str, Any] = dict(reuse._encoders) if reuse else {}
        same = reuse is not None and reuse.experiment.settings.backbone == settings.backbone
        self.use_schedule(settings.schedule)
        with torch.random.fork_rng(devices=[]):  # new parts start from the experiment's seed, the caller's stays
            torch.manual_seed(settings.seed)
            with self._place():
                self.backbone: Any = (
                    reuse.backbone if reuse and same else self._build("backbones", settings.backbone, "backbone")
                )
            self.autoencoder = self._encoder(settings.autoencoder, "autoencoder")
            self._check_autoencoder()
            self.branches = {name: self._branch(name, branch) for name, branch in settings.branches.items()}
        self.memory = Residency(
            memory,
            self.device,
            backbone=self.backbone,
            encoders=[branch.encoder for branch in self.branches.values()],
            others=[self.autoencoder, *self._parts().values()],
            shared=same,
        )
        self._finder: Any = None

    def finder(self, what: str) -> Finder:
        """The experiment's finder, built when it is first asked for.

        Args:
            what: What it shall find, for the message where there is none.

        Raises:
            InputError: The experiment names no finder.
        """
        spec = self.experiment.settings.finder
        if spec is None:
            raise InputError(
                f"{what} by a phrase: {self.experiment.loaded.file} names no finder; expected a part `finder: {{name: "
                "...}} (list: subjectgen components --kind finders)"
            )
        if self._finder is None:
            self._finder = self._build("finders", spec, "finder")
            if isinstance(self._finder, nn.Module):
                self._finder.to(self.device).eval()
        return self._finder

    def use_schedule(self, spec: Mapping[str, Any]) -> None:
        """Build a schedule for the experiment's branches and use it from now on."""
        names = tuple(self.experiment.settings.branches)
        self.schedule: Schedule = self._build("schedules", spec, "schedule", branches=names)
        self.schedule_spec = dict(spec)

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Channels, height and width of the latents of an image of this size in pixels."""
        factor = self.autoencoder.scale_factor
        return self.backbone.latent_channels, height // factor, width // factor

    def trainable(self, branches: tuple[str, ...] | None = None) -> dict[str, nn.Parameter]:
        """Parameters that training changes, by name; only those that these branches use."""
        named = {f"backbone.{name}": value for name, value in self.backbone.trainable_parameters().items()}
        for name, part in self._parts().items():
            if branches is None or name.removeprefix("branches.").rpartition(".")[0] in branches:
                named |= {f"{name}.{key}": value for key, value in part.named_parameters() if value.requires_grad}
        return named

    def save_trained(self, folder: Path) -> None:
        """Write the adapter in diffusers' format and one safetensors file per trained part."""
        folder.mkdir(parents=True, exist_ok=True)
        self.backbone.save_trained(folder)
        for name, part in self._parts().items():
            state = {key: value.detach().cpu().contiguous() for key, value in part.state_dict().items()}
            if state:
                with atomic_write(folder / f"{name}.safetensors") as path:
                    defining = json.dumps(getattr(part, "defining", {}))
                    save_file(state, path, metadata={"part": name, "class": type(part).__name__, DEFINING: defining})
        write_fingerprint(self.encoders(), folder)

    def load_trained(self, name: str) -> None:
        """Read what :meth:`save_trained` wrote; a shared backbone has it already.

        Encoders that are not as they were are warned of: at once if all is in place, else by :meth:`check_features`.

        Raises:
            CheckpointError: A missing or tampered file, or one of another shape; says which.
        """
        folder = Path(resolve_checkpoint(name))
        if not self.memory.shared:
            self.backbone.load_trained(folder)
        for part_name, part in self._parts().items():
            if part.state_dict():
                _load_part(folder / f"{part_name}.safetensors", part)
        self.trained = name
        if self.memory.settings is None:
            self.check_features()

    def check_features(self) -> None:
        """Warn of encoders that are not as they were when the loaded parts were trained; for this, encoders may run."""
        if self.trained is not None:
            self.memory.encoding()
            warn_of_changes(self.encoders(), Path(resolve_checkpoint(self.trained)))

    def trained_modules(self) -> list[nn.Module]:
        """Modules that have a training mode of their own: the backbone and the trained parts of branches."""
        return [self.backbone, *self._parts().values()]

    def describe(self) -> dict[str, Any]:
        """Parameters in total and trainable, by part."""
        rows = {}
        for name, module in {"backbone": self.backbone, **self._named_modules()}.items():
            parameters = list(module.parameters())
            trained = sum(p.numel() for p in parameters if p.requires_grad)
            rows[name] = {"parameters": sum(p.numel() for p in parameters), "trainable": trained}
        return rows

    # ------------------------------------------------------------------------------------------------- building

    def _build(self, kind: str, spec: Mapping[str, Any], where: str, **runtime: Any) -> Any:
        return self.plugins.build(kind, spec, where=where, **self.experiment.place(), **runtime)

    def _place(self) -> AbstractContextManager[Any]:
        """Where parts with new weights are made: nowhere at all for a system that is only counted."""
        return torch.device("meta") if self.device.type == "meta" else nullcontext()

    def _encoder(self, spec: Mapping[str, Any], where: str) -> Any:
        """Build an encoder once, however often the file names it."""
        key = json.dumps(spec, sort_keys=True, default=str)
        if key not in self._encoders:
            self._encoders[key] = self._build("encoders", spec, where)
        return self._encoders[key]

    def _branch(self, name: str, settings: BranchSettings) -> Branch:
        where = f"branches.{name}"
        encoder = self._encoder(settings.encoder, f"{where}.encoder")
        with self._place():
            injector = self._build("injectors", settings.injector, f"{where}.injector", backbone=self.backbone)
        aggregator = None
        if settings.aggregator is not None:
            with self._place():
                aggregator = self._build(
                    "aggregators",
                    settings.aggregator,
                    f"{where}.aggregator",
                    width=encoder.width,
                    depth=encoder.depth,
                    context_width=getattr(injector, "width", self.backbone.context_width),
                    pooled_width=self.backbone.pooled_width,
                )
        self._check_branch(name, encoder, aggregator, injector)
        return Branch(name=name, encoder=encoder, aggregator=aggregator, injector=injector)

    def _check_branch(self, name: str, encoder: Encoder, aggregator: Any, injector: Any) -> None:
        needed = getattr(injector, "width", None)
        fits = self.experiment.loaded.error
        if aggregator is None and encoder.depth > 1 and injector.accepts is Conditioning:
            raise fits(
                f"branches.{name}.aggregator",
                f"got null; expected an aggregator, since encoder {self._name(name, 'encoder')!r} gives "
                f"{encoder.depth} layers of hidden states (components: subjectgen components --kind aggregators)",
            )
        if aggregator is None and needed is not None and injector.accepts is Conditioning and encoder.width != needed:
            raise fits(
                f"branches.{name}.encoder",
                f"gives tokens of width {encoder.width}; injector {self._name(name, 'injector')!r} expects {needed}",
            )

    def _name(self, branch: str, part: str) -> str:
        return str(getattr(self.experiment.settings.branches[branch], part)["name"])

    def _check_autoencoder(self) -> None:
        backbone: Backbone = self.backbone
        if not hasattr(self.autoencoder, "decode"):
            raise self.experiment.loaded.error("autoencoder", "cannot decode latents; expected an encoder like 'vae'")
        if self.autoencoder.width != backbone.latent_channels:
            raise self.experiment.loaded.error(
                "autoencoder",
                f"gives latents of {self.autoencoder.width} channels; the backbone expects {backbone.latent_channels}",
            )

    # -------------------------------------------------------------------------------------------------- modules

    def _parts(self) -> dict[str, nn.Module]:
        """Parts that may have trained parameters of their own, by file name."""
        parts: dict[str, nn.Module] = {}
        for name, branch in self.branches.items():
            if branch.aggregator is not None:
                parts[f"branches.{name}.aggregator"] = branch.aggregator
            if isinstance(branch.injector, nn.Module):
                parts[f"branches.{name}.injector"] = branch.injector
        return parts

    def encoders(self) -> dict[str, Any]:
        """All encoders, by place in the experiment; one that serves several places stands there under each."""
        branches = {f"branches.{name}.encoder": branch.encoder for name, branch in self.branches.items()}
        return {"autoencoder": self.autoencoder, **branches}

    def _named_modules(self) -> dict[str, nn.Module]:
        return {**self.encoders(), **self._parts()}


def _load_part(path: Path, part: nn.Module) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path}: missing; expected the trained weights of {path.stem}")
    try:
        state = load_file(path)
        with safe_open(path, framework="pt") as file:
            trained = json.loads((file.metadata() or {}).get(DEFINING, "{}"))
    except Exception as error:  # safetensors raises its own errors and OSError for truncated files
        raise CheckpointError(f"{path}: cannot be read: {error}") from error
    _check_defining(path, trained, getattr(part, "defining", {}))
    own = part.state_dict()
    for key in own.keys() | state.keys():
        if key not in own or key not in state or own[key].shape != state[key].shape:
            expected = tuple(own[key].shape) if key in own else "nothing"
            found = tuple(state[key].shape) if key in state else "nothing"
            raise CheckpointError(
                f"{path}: {key}: got {found}; expected {expected}: it was trained with another {path.stem}"
            )
    part.load_state_dict({key: value.to(own[key].dtype) for key, value in state.items()})


def _check_defining(path: Path, trained: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    """Refuse weights that would fit by their shapes and mean something else; files without a note of it pass."""
    for option, value in trained.items():
        if option in own and own[option] != value:
            raise CheckpointError(f"{path}: trained with {option}: {value}; the experiment says {own[option]}")
