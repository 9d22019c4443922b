"""Generate images from a prompt and reference pictures, in the way diffusers' users know."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from subjectgen.core import (
    InputError,
    Reference,
    Sample,
    as_list,
    as_seeds,
    load_reference,
    resolve_checkpoint,
    valid_text,
)
from subjectgen.core.decoding import ImageSource
from subjectgen.core.images import to_pil
from subjectgen.core.plugins import Plugins
from subjectgen.runner.generation.batches import Step, batches, image_size
from subjectgen.runner.generation.records import record
from subjectgen.runner.generation.request import Case, Request, check_prompts, check_read
from subjectgen.runner.generation.samplers import Sampler, euler
from subjectgen.runner.system.build import build_system
from subjectgen.runner.system.devices import chosen_device
from subjectgen.runner.system.experiment import Experiment
from subjectgen.runner.system.identity import identity
from subjectgen.runner.system.lazy import Lazy
from subjectgen.runner.system.system import System
from subjectgen.runner.system.trained import RESOLVED, load_trained, trained_folder, warn_of_other_encoders

ReferenceLike = ImageSource | Reference


@dataclass(frozen=True, kw_only=True, eq=False)
class Finished:
    """One finished image with everything needed to make it again."""

    case: int
    """Its number in the request."""
    tensor: Float[Tensor, "3 h w"]
    """RGB in [0, 1]."""
    record: dict[str, Any]
    """Prompt, seed and settings."""


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What a call returns."""

    images: list[Image.Image]
    tensors: list[Float[Tensor, "3 h w"]]
    """RGB in [0, 1]."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """Prompt, seed and settings of each image."""


class SubjectPipeline:
    """A trained experiment, ready to generate; any number of threads may ask it at once."""

    def __init__(self, system: System) -> None:
        system.set_training(False)
        self.system = system
        self.identity = Lazy(lambda: identity(system))
        """What images depend on beside prompt, references and seed."""

    @classmethod
    def from_experiment(
        cls,
        experiment: str | os.PathLike[str] | Experiment,
        *,
        overrides: Iterable[str] = (),
        device: str | None = None,
        plugins: Plugins | None = None,
        reuse: System | None = None,
    ) -> SubjectPipeline:
        """Build from an experiment or its YAML; the weights that its ``trained`` names are loaded.

        Args:
            experiment: A file, or one that was read.
            overrides: ``"a.b=value"``, for a file.
            device: Where to run; by default CUDA where there is one.
            plugins: Where components are found, for a file; by default all that are installed.
            reuse: A system that parts are shared with where they are the same.

        Raises:
            SubjectgenError: A mistake in the file, a component or a checkpoint; the message says where.
        """
        if not isinstance(experiment, Experiment):
            experiment = Experiment.read(experiment, overrides, plugins)
        place, memory = chosen_device(device), experiment.settings.memory
        system = load_trained(build_system(experiment, device=place, memory=memory, reuse=reuse))
        if system.trained is None and system.trainable():
            file = experiment.loaded.file
            warnings.warn(f"{file}: no trained weights are named; its trainable parts are random", stacklevel=2)
        system.residency.settle()
        warn_of_other_encoders(system)
        return cls(system)

    @classmethod
    def from_pretrained(
        cls,
        folder: str | os.PathLike[str],
        *,
        overrides: Iterable[str] = (),
        device: str | None = None,
        plugins: Plugins | None = None,
    ) -> SubjectPipeline:
        """Load a folder that training wrote: ``experiment.yaml`` with the trained parts beside it."""
        name = str(folder) if str(folder).startswith("package:") else str(Path(folder).resolve())
        place = Path(resolve_checkpoint(name))
        if not (place / RESOLVED).is_file():
            raise InputError(f"{place}: no {RESOLVED}; expected a folder that `subjectgen train` wrote")
        own = f"trained={trained_folder(name)}"
        return cls.from_experiment(place / RESOLVED, overrides=[own, *overrides], device=device, plugins=plugins)

    def __call__(
        self,
        *,
        prompt: str | Sequence[str],
        references: ReferenceLike | Sequence[ReferenceLike] = (),
        seed: int | Sequence[int] = 0,
        height: int | None = None,
        width: int | None = None,
        steps: int | None = None,
        batch_size: int = 32,
        on_step: Callable[[Step], None] | None = None,
    ) -> Generated:
        """Generate one image per prompt and seed, all from the same references.

        Args:
            prompt: One prompt, or several.
            references: Pictures, or one: files, bytes, PIL images, arrays, tensors or
                :class:`~subjectgen.core.Reference`.
            seed: One seed, or several; all prompts use the same ones.
            height: Pixels; by default the experiment's.
            width: Pixels.
            steps: Denoising steps; by default the schedule's.
            batch_size: Images per pass of the backbone.
            on_step: Called after each step, for progress or previews.

        Raises:
            InputError: No prompt, an unreadable reference, one that no part reads, a size that does not fit.
        """
        prompts = [valid_text(text, "prompt") for text in as_list(prompt, "prompt")]
        check_prompts(prompts)
        loaded = tuple(
            one if isinstance(one, Reference) else load_reference(one) for one in as_list(references, "references")
        )
        samples = [Sample(prompt=text, references=loaded) for text in prompts]
        check_read(self.system, samples)
        seeds = as_seeds(seed)
        settings = self.system.experiment.settings.image
        size = (settings.height if height is None else height, settings.width if width is None else width)
        cases = tuple(Case(sample=sample, seed=one, size=size) for sample in samples for one in seeds)
        return self.generate(Request(cases=cases, steps=steps, batch_size=batch_size), on_step=on_step)

    def generate(
        self, request: Request, *, on_step: Callable[[Step], None] | None = None, sampler: Sampler = euler
    ) -> Generated:
        """All images of a request, in its order."""
        found = sorted(self.stream(request, on_step=on_step, sampler=sampler), key=lambda image: image.case)
        return Generated(
            images=[to_pil(image.tensor) for image in found],
            tensors=[image.tensor for image in found],
            records=[image.record for image in found],
        )

    def stream(
        self, request: Request, *, on_step: Callable[[Step], None] | None = None, sampler: Sampler = euler
    ) -> Iterator[Finished]:
        """Images as they come, in any order."""
        for batch in batches(self.system, request, on_step=on_step, sampler=sampler):
            for case, tensor, explained in zip(batch.cases, batch.images, batch.explanations, strict=True):
                settings = record(self.system, request, case)
                yield Finished(
                    case=case, tensor=tensor, record=settings | ({"explained": explained} if explained else {})
                )

    def size(self, height: int | None = None, width: int | None = None) -> tuple[int, int]:
        """Height and width of images: the experiment's where none is given.

        Raises:
            InputError: Pixels that the backbone's tokens do not fill.
        """
        settings = self.system.experiment.settings.image
        size = (settings.height if height is None else height, settings.width if width is None else width)
        return image_size(self.system, Case(sample=Sample(), seed=0, size=size))

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of a prompt that every encoder of text takes for its unknown token; empty where one knows them all."""
        encoders = [branch.encoder for branch in self.system.branches.values() if "text" in branch.encoder.inputs]
        asked = [encoder.unknown_words(prompt) for encoder in encoders if hasattr(encoder, "unknown_words")]
        if len(asked) < len(encoders) or not asked:
            return []
        return [word for word in asked[0] if all(word in other for other in asked)]


def open_pipeline(
    experiment: str | os.PathLike[str], *, overrides: Iterable[str] = (), device: str | None = None
) -> SubjectPipeline:
    """Open an experiment file, or a folder or ``package:...`` that training wrote."""
    name = os.fspath(experiment)
    if name.startswith("package:") or Path(name).is_dir():
        return SubjectPipeline.from_pretrained(name, overrides=overrides, device=device)
    return SubjectPipeline.from_experiment(name, overrides=overrides, device=device)


def vary(system: System, experiment: Experiment) -> System:
    """A system for a variant of another's experiment, sharing with it what stays the same.

    Untrained parts are drawn in the order in which all are built, so without trained weights nothing is shared.
    """
    before = system.experiment.values
    if {key: value for key, value in before.items() if key != "schedule"} == {
        key: value for key, value in experiment.values.items() if key != "schedule"
    }:
        return system.with_schedule(experiment)
    reuse = system if system.trained else None
    return SubjectPipeline.from_experiment(experiment, device=str(system.device), reuse=reuse).system


@torch.no_grad()
def decoded(system: System, latents: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 h2 w2"]:
    """Images of latents, on the CPU; for previews."""
    return system.autoencoder.decode(latents).cpu()
