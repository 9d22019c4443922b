"""Whether neighbours fit: widths, kinds of conditioning, latents, guidance. Told before anything runs."""

from __future__ import annotations

from typing import Any

from subjectgen.core import Autoencoder, Backbone, Conditioning, HasWidth, Schedule
from subjectgen.runner.system.branch import Branch
from subjectgen.runner.system.experiment import BranchParts, Experiment


def check_branch(experiment: Experiment, branch: Branch, parts: BranchParts) -> None:
    """Whether the encoder's answer reaches the injector.

    Raises:
        ConfigError: An aggregator is missing, or tokens are of another width.
    """
    encoder, injector = branch.encoder, branch.injector
    if branch.aggregator is not None or injector.accepts is not Conditioning:
        return
    error = experiment.loaded.error
    if encoder.depth > 1:
        raise error(
            f"branches.{branch.name}.aggregator",
            f"got null; expected an aggregator, since encoder {parts.encoder.name!r} gives "
            f"{encoder.depth} layers of hidden states (components: subjectgen components --kind aggregators)",
        )
    if isinstance(injector, HasWidth) and encoder.width != injector.width:
        raise error(
            f"branches.{branch.name}.encoder",
            f"gives tokens of width {encoder.width}; injector {parts.injector.name!r} expects {injector.width}",
        )


def check_autoencoder(experiment: Experiment, autoencoder: Autoencoder, backbone: Backbone) -> None:
    """Whether the backbone takes these latents.

    Raises:
        ConfigError: Another number of channels.
    """
    if autoencoder.latent_channels != backbone.latent_channels:
        raise experiment.loaded.error(
            "autoencoder",
            f"gives latents of {autoencoder.latent_channels} channels; the backbone expects {backbone.latent_channels}",
        )


def check_guidance(experiment: Experiment, schedule: Schedule, backbone: Any) -> None:
    """Whether every stage gives guidance as the backbone takes it.

    Raises:
        ConfigError: A value for an input that is not there, or none for one that is.
    """
    for t in [float(t) for t in schedule.timesteps(image_tokens=1024)[:-1]]:
        given = schedule.guidance(t).embedded
        if (given is None) == backbone.guidance_embedded:
            has, expected = ("a", "a number") if backbone.guidance_embedded else ("no", "null")
            raise experiment.loaded.error(
                "schedule.guidance.embedded",
                f"got {'null' if given is None else given} in stage {schedule.stage(t)}; the backbone has {has} "
                f"guidance input, expected {expected}",
            )
