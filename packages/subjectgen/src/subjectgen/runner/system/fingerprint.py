"""What the frozen parts are and do: kept with trained parts, compared when they are loaded.

Trained parts fit the features they were trained on, and those change silently with a checkpoint, a template, a
processor or a library. What must be equal bit for bit, token ids and a sample of the weights, is hashed. Features
differ in their last bits between machines, so some of their values are kept and compared with a tolerance; an encoder
runs only where something changed that its features may depend on.
"""

from __future__ import annotations

import hashlib
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from subjectgen.core import Changes, Conditioning, Features, InputError, Latents, Reference, Sample, ShowsInputs
from subjectgen.core.part import Part
from subjectgen.runner.system.system import System

PROMPT = "a red toy on a wooden table"
LIBRARIES = ("torch", "transformers", "tokenizers", "diffusers")
TOLERANCE = 0.1
"""Largest relative distance of features that counts as rounding: bfloat16 leaves 1 to 5 % after some thirty blocks."""
INPUT_TOLERANCE = 0.005
"""The same for prepared pictures, which no model has touched."""
SAMPLED = 16
"""Values of each weight that are hashed."""
KEPT = 256
"""Values of each feature that are kept."""


def fixed_sample() -> Sample:
    """A picture of smooth waves, wider than high so that fitting it matters, and a prompt; the same everywhere."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 96), torch.linspace(0, 1, 128), indexing="ij")
    waves = [torch.sin(2 * torch.pi * (a * x + b * y)) / 2 + 0.5 for a, b in ((1, 0), (0, 2), (3, 1))]
    return Sample(prompt=PROMPT, references=(Reference(image=torch.stack(waves)),))


def frozen_facts(system: System) -> dict[str, Any]:
    """Weights of the autoencoder and of what is frozen in the backbone, as hashes."""
    trained = {id(parameter) for parameter in system.trainable().values()}
    return {
        "autoencoder": _hash_of(system.autoencoder, set()),
        "backbone": _hash_of(system.backbone, trained),
    }


def encoder_facts(system: System) -> dict[str, Any]:
    """What the branches' encoders are and what they make of the fixed sample."""
    return {"versions": _versions(), **{where: _facts(part, one) for where, part, one in _encoders(system)}}


def warn_of_weights(system: System, stored: Mapping[str, Any], file: Path) -> None:
    """Warn of an autoencoder or backbone with other frozen weights than then; before any are packed or merged."""
    for name, now in frozen_facts(system).items():
        then = stored["frozen"].get(name)
        if then is not None and now is not None and then != now:
            warnings.warn(
                f"{file}: {name}: its frozen weights are not those the trained parts were trained on, so these may not "
                f"fit; expected the checkpoint of experiment {stored['experiment']!r}",
                stacklevel=3,
            )


def warn_of_encoders(system: System, stored: Mapping[str, Any], file: Path) -> None:
    """Warn of every encoder whose features are not what they were, and say what changed; encoders may run."""
    libraries = _changed_versions(stored["encoders"].get("versions", {}))
    for where, part, encoder in _encoders(system):
        then = stored["encoders"].get(where)
        if then is not None:
            _warn_of_encoder(file, where, then, part, encoder, libraries)


def _warn_of_encoder(
    file: Path, where: str, then: Mapping[str, Any], part: Part, encoder: Any, libraries: list[str]
) -> None:
    now = _inputs(part, encoder)
    causes = [*_causes(then, now), *libraries]
    if not causes and now["weights"] is not None:
        return  # equal facts, equal features
    far = {name: distance(then["features"].get(name), kept) for name, kept in _features(encoder).items()}
    name = max(far, key=lambda key: far[key], default="")
    if name and far[name] > TOLERANCE:
        changed = ", ".join(causes) or "nothing that is known of; perhaps the device or its kernels"
        warnings.warn(
            f"{file}: {where}: the features ({name}) differ by {far[name]:.0%} from those the trained parts were "
            f"trained on, so these may not fit. Changed: {changed}",
            stacklevel=3,
        )


# ---------------------------------------------------------------------------------------------------------- facts


def _encoders(system: System) -> Iterator[tuple[str, Part, Any]]:
    for name, branch in system.branches.items():
        yield f"branches.{name}.encoder", system.experiment.parts.branches[name].encoder, branch.encoder


def _facts(part: Part, encoder: Any) -> dict[str, Any]:
    return {**_inputs(part, encoder), "features": _features(encoder)}


def _inputs(part: Part, encoder: Any) -> dict[str, Any]:
    """What the features depend on, without running the model."""
    prepared = encoder.prepared([fixed_sample()]) if isinstance(encoder, ShowsInputs) else {}
    return {
        "encoder": part.name,
        "options": {**part.values(Changes.WEIGHTS), **part.values(Changes.RESULTS)},
        "weights": _hash_of(encoder, set()),
        "tokens": {name: _digest(ids) for name, ids in prepared.items() if not ids.is_floating_point()},
        "pictures": {name: kept(value) for name, value in prepared.items() if value.is_floating_point()},
    }


def _features(encoder: Any) -> dict[str, Any]:
    """Some values of what an encoder makes of the fixed sample; nothing where it cannot be encoded."""
    try:
        with torch.no_grad():
            encoded = encoder.encode([fixed_sample()])
    except InputError:
        return {}
    return {name: kept(value) for name, value in _named(encoded)}


def _named(encoded: Features | Latents | Conditioning) -> Iterator[tuple[str, Tensor]]:
    """First, middle and last hidden state and what else there is."""
    if isinstance(encoded, Features):
        for layer in sorted({0, encoded.depth // 2, encoded.depth - 1}):
            state = encoded.hidden_states[layer]
            if state is not None:
                yield f"layer {layer}", state
        if encoded.image_features is not None:
            yield "image features", encoded.image_features
    if isinstance(encoded, Latents):
        yield from ((f"reference {number}", value) for number, value in enumerate(encoded.values))
    if isinstance(encoded, Conditioning):
        yield "tokens", encoded.tokens
    pooled = getattr(encoded, "pooled", None)
    if pooled is not None:
        yield "pooled", pooled


def kept(value: Tensor) -> dict[str, Any]:
    """Shape, and values at places that the shape decides, spread by a stride that shares no factor with rows."""
    flat = value.detach().flatten()
    places = (torch.arange(KEPT) * 7919) % max(flat.numel(), 1)
    chosen = flat[places.unique().to(flat.device)].to("cpu", torch.float32)
    return {"shape": list(value.shape), "values": [float(f"{number:.4g}") for number in chosen.tolist()]}


def distance(then: Mapping[str, Any] | None, now: Mapping[str, Any]) -> float:
    """Relative distance of kept values; infinite where shapes differ or a value is not finite.

    Values are squashed by their median first, for language models have a few that are a thousand times the others.
    """
    if then is None or then["shape"] != now["shape"]:
        return math.inf
    was, has = (torch.tensor(one["values"], dtype=torch.float64) for one in (then, now))
    median = max(float(was.abs().median()), 1e-12)
    was, has = (one / (one.abs() + median) for one in (was, has))
    found = float((was - has).norm() / was.norm().clamp(min=1e-12))
    return found if math.isfinite(found) else math.inf


def _hash_of(part: Any, without: set[int]) -> str | None:
    """Hash of names, shapes and a few values of each weight, rounded to bfloat16 so that precision does not count;
    ``None`` where some are not in memory.
    """
    digest = hashlib.sha256()
    weights = dict(part.named_parameters()) if isinstance(part, nn.Module) else {}
    for name, weight in sorted(weights.items()):
        if id(weight) in without:
            continue
        if weight.is_meta:
            return None
        sample = weight.detach().flatten()[:: max(weight.numel() // SAMPLED, 1)][:SAMPLED]
        digest.update(f"{name.replace('.base_layer', '')} {tuple(weight.shape)}".encode())
        digest.update(sample.to("cpu", torch.bfloat16).to(torch.float64).numpy().tobytes())
    return digest.hexdigest()


def _digest(ids: Tensor) -> str:
    return hashlib.sha256(json.dumps(ids.tolist()).encode()).hexdigest()


def _versions() -> dict[str, str]:
    """Versions of libraries, without the mark of their build: it differs between machines."""
    return {name: version(name).partition("+")[0] for name in LIBRARIES}


def _changed_versions(then: Mapping[str, str]) -> list[str]:
    now = _versions()
    return [f"{name} {was} -> {now.get(name)}" for name, was in then.items() if was != now.get(name)]


def _causes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    if then["encoder"] != now["encoder"]:
        yield f"the encoder {then['encoder']} -> {now['encoder']}"
    for key in sorted(then["options"].keys() | now["options"].keys()):
        was, has = then["options"].get(key), now["options"].get(key)
        if was != has:
            yield f"option {key} {was!r} -> {has!r}"
    if None not in (then["weights"], now["weights"]) and then["weights"] != now["weights"]:
        yield "the model's weights"
    if then["tokens"] != now["tokens"]:
        yield "the token ids (template or tokenizer)"
    both = then["pictures"].keys() & now["pictures"].keys()
    if any(distance(then["pictures"][key], now["pictures"][key]) > INPUT_TOLERANCE for key in both):
        yield "the prepared pictures (processor)"
