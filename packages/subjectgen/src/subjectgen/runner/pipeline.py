"""Generate images from a prompt and reference pictures, in the way diffusers' users know."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from subjectgen.core import (
    EVERYTHING,
    ActiveBranches,
    InputError,
    Reference,
    Sample,
    load_reference,
    resolve_checkpoint,
)
from subjectgen.core.images import to_pil
from subjectgen.core.plugins import Plugins
from subjectgen.runner import sampling
from subjectgen.runner.assemble import System
from subjectgen.runner.conditioning import group_rows, sees_something
from subjectgen.runner.devices import chosen_device
from subjectgen.runner.experiment import Experiment
from subjectgen.runner.out_of_memory import explained_memory
from subjectgen.runner.run_directory import RESOLVED

ROUND = 16
"""Images that are encoded before the first is denoised, where parts leave the device in between. More would move parts
less often; each keeps its tokens, and for FLUX.1-dev 2 MB of modulation for every step that sees its prompt."""
ReferenceLike = str | os.PathLike[str] | bytes | Image.Image | Reference


@dataclass(frozen=True, kw_only=True)
class Generated:
    """What a call returns: images with everything needed to make them again."""

    images: list[Image.Image]
    tensors: Float[Tensor, "n 3 h w"]
    """RGB in [0, 1]."""
    records: list[dict[str, Any]] = field(default_factory=list)
    """Prompt, seed and settings of each image."""


class SubjectPipeline:
    """A trained experiment, ready to generate."""

    def __init__(self, system: System) -> None:
        self.system = system

    @classmethod
    def from_experiment(
        cls,
        experiment: str | os.PathLike[str] | Experiment,
        *,
        overrides: Iterable[str] = (),
        device: str | None = None,
        plugins: Plugins | None = None,
        trained: str | None = None,
        reuse: System | None = None,
    ) -> SubjectPipeline:
        """Build from an experiment or its YAML; its ``trained`` weights are loaded, or those of ``trained`` here.

        Raises:
            SubjectgenError: A mistake in the file, a component or a checkpoint; the message says where.
        """
        if not isinstance(experiment, Experiment):
            experiment = Experiment.read(experiment, overrides)
        plugins, place = plugins or Plugins.discover(), chosen_device(device)
        with explained_memory(experiment, plugins, device=place):
            return cls(cls._ready(experiment, plugins, place, trained, reuse))

    @staticmethod
    def _ready(
        experiment: Experiment, plugins: Plugins, device: torch.device, trained: str | None, reuse: System | None
    ) -> System:
        system = System(experiment, plugins, device=device, memory=experiment.settings.memory, reuse=reuse)
        weights = trained or experiment.settings.trained
        if weights is not None:
            system.load_trained(weights)
        elif system.trainable():
            file = experiment.loaded.file
            warnings.warn(f"{file}: no trained weights are named; its trainable parts are random", stacklevel=3)
        for module in system.trained_modules():
            module.eval()
        system.memory.settle()
        system.check_features()
        return system

    @classmethod
    def from_pretrained(
        cls, folder: str | os.PathLike[str], *, overrides: Iterable[str] = (), device: str | None = None
    ) -> SubjectPipeline:
        """Load a folder that training wrote: ``experiment.yaml`` with the trained parts beside it."""
        place = Path(
            resolve_checkpoint(str(folder) if str(folder).startswith("package:") else str(Path(folder).resolve()))
        )
        if not (place / RESOLVED).is_file():
            raise InputError(f"{place}: no {RESOLVED}; expected a folder that `subjectgen train` wrote")
        return cls.from_experiment(place / RESOLVED, overrides=overrides, device=device, trained=str(place))

    def __call__(
        self,
        *,
        prompt: str | Sequence[str],
        references: Sequence[ReferenceLike] = (),
        seed: int | Sequence[int] = 0,
        height: int | None = None,
        width: int | None = None,
        steps: int | None = None,
        batch_size: int = 32,
        on_step: Callable[[sampling.Step], None] | None = None,
    ) -> Generated:
        """Generate one image per prompt and seed, all from the same references.

        Args:
            prompt: One prompt, or several.
            references: Image files, bytes, PIL images or :class:`~subjectgen.core.Reference`.
            seed: One seed, or several; all prompts use the same ones.
            height: Pixels, a multiple of 16; by default the experiment's.
            width: Pixels, a multiple of 16.
            steps: Denoising steps; by default the schedule's.
            batch_size: Images per pass of the backbone.
            on_step: Called after each step, for progress or previews.

        Raises:
            InputError: No prompt, an unreadable reference, a size that does not fit.
        """
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        check_prompts(prompts)
        seeds = [seed] if isinstance(seed, int) else list(seed)
        if not seeds or not all(0 <= number < 2**63 for number in seeds):
            raise InputError(f"seed: got {seeds}; expected at least one, each in 0..2**63 - 1")
        if batch_size < 1:
            raise InputError(f"batch_size: got {batch_size}; expected at least 1")
        loaded = tuple(item if isinstance(item, Reference) else load_reference(item) for item in references)
        samples = [Sample(prompt=text, references=loaded) for text in prompts]
        return self.generate(
            [sample for sample in samples for _ in seeds],
            seeds * len(prompts),
            height=height,
            width=width,
            steps=steps,
            batch_size=batch_size,
            on_step=on_step,
        )

    def generate(
        self,
        samples: Sequence[Sample],
        seeds: Sequence[int],
        *,
        height: int | None = None,
        width: int | None = None,
        steps: int | None = None,
        batch_size: int = 32,
        on_step: Callable[[sampling.Step], None] | None = None,
    ) -> Generated:
        """Generate one image per (sample, seed); samples may differ in their references."""
        system, size = self.system, self.size(height, width)
        together = min(batch_size, len(samples))
        with explained_memory(system.experiment, system.plugins, device=system.device, batch_size=together, size=size):
            explained = self._explained(samples, batch_size)
            images = self._images(samples, seeds, size, batch_size=batch_size, steps=steps, on_step=on_step)
        records = [
            self._record(sample, seed, size, steps) | said
            for sample, seed, said in zip(samples, seeds, explained, strict=True)
        ]
        return Generated(images=[to_pil(image) for image in images], tensors=images, records=records)

    def placed(
        self,
        samples: Sequence[Sample],
        seeds: Sequence[int],
        phrases: Mapping[int, str],
        *,
        height: int | None = None,
        width: int | None = None,
        steps: int | None = None,
        batch_size: int = 32,
    ) -> list[Sample]:
        """Samples whose references have regions: where a draft without references shows what the phrases name.

        The draft has the same prompt and seed, so that the subject takes the place of what was there.

        Args:
            samples: One per seed.
            seeds: Of the drafts and of the images to come.
            phrases: What to look for, by number of the reference.
            height: Pixels, as for the images to come.
            width: Pixels.
            steps: Denoising steps, as for the images to come.
            batch_size: Drafts per pass.

        Raises:
            InputError: A phrase that a prompt does not name or that is found nowhere, or no finder.
        """
        finder = self.system.finder("regions")
        for sample in samples:
            for phrase in phrases.values():
                _check_named(phrase, sample.prompt)
        bare = [replace(sample, references=()) for sample in samples]
        drafts = self.generate(bare, seeds, height=height, width=width, steps=steps, batch_size=batch_size)
        words = list(phrases.values())
        found = (finder.find(draft, words) for draft in drafts.tensors)
        return [self._placed(sample, masks, phrases) for sample, masks in zip(samples, found, strict=True)]

    # ------------------------------------------------------------------------------------------------- the parts

    @staticmethod
    def _placed(sample: Sample, masks: Float[Tensor, "k h w"], phrases: Mapping[int, str]) -> Sample:
        references = list(sample.references)
        for number, mask in zip(phrases, masks, strict=True):
            references[number] = replace(references[number], region_mask=mask[None].cpu())
        return replace(sample, references=tuple(references))

    def _images(
        self,
        samples: Sequence[Sample],
        seeds: Sequence[int],
        size: tuple[int, int],
        *,
        batch_size: int,
        steps: int | None,
        on_step: Callable[[sampling.Step], None] | None,
    ) -> Float[Tensor, "n 3 h w"]:
        images = torch.empty(len(samples), 3, *size)
        batches = list(self._batches(samples, batch_size))
        together = max(ROUND // batch_size, 1) if self.system.memory.moves else 1
        for start in range(0, len(batches), together):
            some = batches[start : start + together]
            work = [([samples[row] for row in rows], [seeds[row] for row in rows]) for rows in some]
            shape = self.system.latent_shape(*size)
            decoded = sampling.images(self.system, work, shape, steps=steps, on_step=on_step)
            images[[row for rows in some for row in rows]] = torch.cat(decoded)
        return images

    def _batches(self, samples: Sequence[Sample], batch_size: int) -> Iterator[list[int]]:
        """Rows that the backbone can take at once: the same branches present, the same sizes."""
        everything = [ActiveBranches(visibility=dict.fromkeys(self.system.branches, EVERYTHING))] * len(samples)
        for group in group_rows(self.system, samples, everything):
            for start in range(0, len(group), batch_size):
                yield group[start : start + batch_size]

    def size(self, height: int | None = None, width: int | None = None) -> tuple[int, int]:
        """Height and width of images: the experiment's where none is given.

        Raises:
            InputError: Pixels that the backbone's tokens do not fill.
        """
        settings = self.system.experiment.settings.image
        size = (settings.height if height is None else height, settings.width if width is None else width)
        multiple = self.system.autoencoder.scale_factor * self.system.backbone.patch_size
        for name, pixels in zip(("height", "width"), size, strict=True):
            if pixels < multiple or pixels % multiple:
                below = max(pixels // multiple, 1) * multiple
                raise InputError(f"{name}: got {pixels}; expected a multiple of {multiple}, such as {below}")
        return size

    @torch.no_grad()
    def _explained(self, samples: Sequence[Sample], batch_size: int) -> list[dict[str, Any]]:
        """What aggregators that ``explain`` themselves say of each sample, such as a router's weights.

        Encoders run once more for it, where they are: on the device, since sampling begins with them.
        """
        self.system.memory.encoding()
        unique, index = sampling.distinct(samples)
        said: list[dict[str, Any]] = [{} for _ in unique]
        for name, branch in self.system.branches.items():
            aggregator: Any = branch.aggregator
            if not hasattr(aggregator, "explain"):
                continue
            seen = [number for number, sample in enumerate(unique) if sees_something(branch, sample)]
            layers = getattr(aggregator, "layers", None)
            for start in range(0, len(seen), batch_size):
                chunk = seen[start : start + batch_size]
                features = branch.encoder.encode([unique[number] for number in chunk], layers=layers)
                for number, row in zip(chunk, aggregator.explain(features), strict=True):
                    said[number].setdefault("explained", {})[name] = row
        return [said[number] for number in index.tolist()]

    def _record(self, sample: Sample, seed: int, size: tuple[int, int], steps: int | None) -> dict[str, Any]:
        return {
            "experiment": self.system.experiment.name,
            "prompt": sample.prompt,
            "references": [reference.name for reference in sample.references],
            "weights": [reference.weight for reference in sample.references],
            "seed": seed,
            "height": size[0],
            "width": size[1],
            "steps": steps or self.system.schedule.steps,
            "schedule": dict(self.system.schedule_spec),
            "trained": self.system.trained,
            "settings": dict(self.system.experiment.values),
            "plugins": self.system.plugins.distributions(),
        }


def check_prompts(prompts: Sequence[str]) -> None:
    """Refuse an empty list and blank prompts."""
    if not prompts or any(not prompt.strip() for prompt in prompts):
        raise InputError(f"prompt: got {list(prompts)}; expected at least one, and none of them blank")


def _check_named(phrase: str, prompt: str) -> None:
    """A draft can only show what its prompt asks for: the last word of the phrase, its noun, must be there."""
    words = re.findall(r"\w+", phrase.lower())
    if not words or words[-1] not in re.findall(r"\w+", prompt.lower()):
        raise InputError(
            f"region find:{phrase}: prompt {prompt!r} does not name it; expected a prompt with that subject"
        )
