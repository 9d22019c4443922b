"""What the encoders make of one fixed picture and prompt: kept with trained parts, compared when they are loaded.

Trained parts fit the features they were trained on, and those change silently with a checkpoint, a template, a
processor or a library. A hash of rounded features would differ between two machines wherever a value lies at a rounding
edge; so a few projections of the features are stored and compared with a tolerance. What must be equal bit for bit,
token ids and a sample of the weights, is hashed.
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
from jaxtyping import Float
from torch import Tensor, nn

from subjectgen.core import Conditioning, Features, InputError, Latents, Reference, Sample
from subjectgen.runner.saving import write_json

FILE = "fingerprint.json"
PROMPT = "a red toy on a wooden table"
LIBRARIES = ("torch", "transformers", "tokenizers", "diffusers")
PROBES = 16
TOLERANCE = 0.1
"""Largest relative distance of features that counts as rounding: bfloat16 leaves 1 to 5 % after some thirty blocks."""
INPUT_TOLERANCE = 0.005
"""The same for prepared pictures, which no model has touched."""
SAMPLED = 16
"""Values of each weight that are hashed."""
PLACES = frozenset({"checkpoint", "revision", "local_files_only", "device_map"})
"""Options that say where weights are; they explain a change of features, and cannot cause one of their own."""
_FEATURES: dict[str, dict[str, Any]] = {}
"""Features by the facts they follow from: an encoder in several places, or stored many times, runs once."""


def fixed_sample() -> Sample:
    """A picture of smooth waves, wider than high so that fitting it matters, and a prompt; the same everywhere."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 96), torch.linspace(0, 1, 128), indexing="ij")
    waves = [torch.sin(2 * torch.pi * (a * x + b * y)) / 2 + 0.5 for a, b in ((1, 0), (0, 2), (3, 1))]
    return Sample(prompt=PROMPT, references=(Reference(image=torch.stack(waves)),))


def write_fingerprint(encoders: Mapping[str, Any], folder: Path) -> None:
    """Write ``fingerprint.json`` beside trained parts."""
    parts = {}
    for name, encoder in encoders.items():
        known = facts(encoder)
        parts[name] = {**known, "features": features(encoder, known)}
    write_json(folder / FILE, {"versions": _versions(), "encoders": parts})


def warn_of_changes(encoders: Mapping[str, Any], folder: Path) -> None:
    """Warn of every encoder whose features are not those the parts in ``folder`` were trained on; says what changed.

    An encoder runs only where something changed that its features may depend on, so the usual case costs nothing.
    Without a fingerprint there is nothing to compare, and no warning.
    """
    file = folder / FILE
    if not file.is_file():
        return
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        versions, then = dict(stored["versions"]), dict(stored["encoders"])
    except (ValueError, KeyError, TypeError) as error:
        warnings.warn(f"{file}: damaged ({error!r}), so changed encoders would go unnoticed", stacklevel=3)
        return
    now = _versions()
    libraries = [f"{name} {was} -> {now.get(name)}" for name, was in versions.items() if was != now.get(name)]
    for name in sorted(then.keys() & encoders.keys()):
        was, known = then[name], facts(encoders[name])
        causes = [*_causes(was, known), *libraries]
        if causes or not _complete(known):
            sentence = _difference(was["features"], features(encoders[name], known))
            if sentence:
                changed = ", ".join(causes) or "nothing that is known of; perhaps the device or its kernels"
                warnings.warn(f"{file}: {name}: {sentence} Changed: {changed}", stacklevel=3)


def _versions() -> dict[str, str]:
    """Versions of libraries, without the mark of their build: it differs between machines."""
    return {name: version(name).partition("+")[0] for name in LIBRARIES}


def facts(encoder: Any) -> dict[str, Any]:
    """What the features depend on, without running the model: options, weights, token ids and prepared pictures."""
    prepared = encoder.prepared([fixed_sample()]) if hasattr(encoder, "prepared") else {}
    config: Any = getattr(encoder, "config", None)
    return {
        "encoder": type(encoder).__name__,
        "options": config.model_dump(mode="json") if hasattr(config, "model_dump") else {},
        "weights": weights_hash(encoder) if isinstance(encoder, nn.Module) else None,
        "tokens": {name: _hash(ids) for name, ids in prepared.items() if not ids.is_floating_point()},
        "inputs": {name: sketch(value) for name, value in prepared.items() if value.is_floating_point()},
    }


def _complete(known: Mapping[str, Any]) -> bool:
    """Whether equal facts mean equal features: not where weights are elsewhere or an encoder shows no inputs."""
    return bool(known["weights"] and known["tokens"] | known["inputs"])


@torch.no_grad()
def features(encoder: Any, known: Mapping[str, Any]) -> dict[str, Any]:
    """Sketches of what an encoder, of which these facts are known, makes of the fixed sample."""
    key = json.dumps(known, sort_keys=True)
    if key not in _FEATURES or not _complete(known):
        _FEATURES[key] = {name: sketch(value) for name, value in _encoded(encoder, fixed_sample())}
    return _FEATURES[key]


def _encoded(encoder: Any, sample: Sample) -> Iterator[tuple[str, Tensor]]:
    """First, middle and last hidden state and what else there is; nothing where the sample cannot be encoded."""
    try:
        with torch.random.fork_rng(range(torch.cuda.device_count())):  # who draws, draws the same; the caller's stay
            torch.manual_seed(0)
            encoded = encoder.encode([sample])
    except InputError:
        return
    if isinstance(encoded, Features):
        for layer in sorted({0, encoded.depth // 2, encoded.depth - 1}):
            state = encoded.hidden_states[layer]
            if state is not None:
                yield f"layer {layer}", state
        if encoded.image_features is not None:
            yield "image features", encoded.image_features
    if isinstance(encoded, Latents):
        yield from ((f"latents {number}", value) for number, value in enumerate(encoded.values))
    if isinstance(encoded, Conditioning):
        yield "tokens", encoded.tokens
    if not isinstance(encoded, Latents) and encoded.pooled is not None:
        yield "pooled vector", encoded.pooled


def sketch(values: Tensor) -> dict[str, Any]:
    """Shape, scale and projections of a tensor, from which :func:`distance` estimates how far two tensors are apart.

    Values are squashed first: a language model's few huge ones would hide the others.
    """
    flat = values.detach().to("cpu", torch.float64).flatten()
    scale = float(flat.abs().median()) + 1e-12 if flat.numel() else 1.0
    squashed = flat / (flat.abs() + scale)
    norm = squashed.norm().clamp(min=1e-12)
    return {"shape": list(values.shape), "scale": float(f"{scale:.4g}"), "values": _projections(squashed / norm)}


def _projections(unit: Float[Tensor, " count"]) -> list[float]:
    """Sums with signs that have no pattern, from integer arithmetic alone: no library's random numbers."""
    bits = torch.arange(unit.numel(), dtype=torch.int64) * 0x9E3779B1
    for factor in (0x45D9F3B, 0x119DE1F3):  # a 32-bit mixing function
        bits = ((bits ^ (bits >> 16)) & 0xFFFFFFFF) * factor & 0xFFFFFFFF
    return [round(float(torch.where(bits >> probe & 1 == 1, unit, -unit).sum()), 3) for probe in range(16, 16 + PROBES)]


def distance(one: Mapping[str, Any], other: Mapping[str, Any]) -> float:
    """Relative distance of two sketched tensors, about 1.4 for unrelated ones; infinite where shapes differ or for NaN.

    The mean square of differences of random projections estimates the squared distance (Johnson-Lindenstrauss); the
    logarithm of the ratio of scales is added, which squashing has removed.
    """
    if one["shape"] != other["shape"]:
        return math.inf
    squares = sum((a - b) ** 2 for a, b in zip(one["values"], other["values"], strict=True)) / PROBES
    found = math.hypot(math.sqrt(squares), math.log(one["scale"] / other["scale"]))
    return math.inf if math.isnan(found) else found


def weights_hash(module: nn.Module) -> str | None:
    """Hash of names, shapes and a few values of each weight; ``None`` where some are not in memory."""
    digest = hashlib.sha256()
    for name, weight in sorted(module.state_dict().items()):
        if weight.is_meta:
            return None
        sample = weight.flatten()[:: max(weight.numel() // SAMPLED, 1)][:SAMPLED]
        digest.update(f"{name} {tuple(weight.shape)} {weight.dtype}".encode())
        digest.update(sample.to("cpu", torch.float64).numpy().tobytes())
    return digest.hexdigest()


def _hash(ids: Tensor) -> str:
    return hashlib.sha256(json.dumps(ids.tolist()).encode()).hexdigest()


def _difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """How far features are from those of training, in one sentence; ``None`` where they agree."""
    may_not_fit = "those the trained parts were trained on, so these may not fit."
    if then.keys() != now.keys():
        was, has = (", ".join(one) or "none" for one in (then, now))
        return f"the features are {has}, not {was} as {may_not_fit}"
    far = {name: distance(then[name], now[name]) for name in sorted(then)}
    name = max(far, key=lambda key: far[key], default="")
    if not name or far[name] <= TOLERANCE:
        return None
    was, has = then[name]["shape"], now[name]["shape"]
    much = f"differ by {far[name]:.0%}" if was == has else f"have shape {has}, not {was}"
    return f"the features ({name}) {much} from {may_not_fit}"


def _causes(then: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    if then["encoder"] != now["encoder"]:
        yield f"the encoder {then['encoder']} -> {now['encoder']}"
    same_weights = then["weights"] == now["weights"] is not None
    for key in sorted(then["options"].keys() | now["options"].keys()):
        was, has = then["options"].get(key), now["options"].get(key)
        if was != has and not (same_weights and key in PLACES):
            yield f"option {key} {was!r} -> {has!r}"
    if then["weights"] != now["weights"] and None not in (then["weights"], now["weights"]):
        yield "the model's weights or their data type"
    if then["tokens"] != now["tokens"]:
        yield "the token ids (template or tokenizer)"
    inputs = then["inputs"].keys() & now["inputs"].keys()
    if any(distance(then["inputs"][key], now["inputs"][key]) > INPUT_TOLERANCE for key in inputs):
        yield "the prepared pictures (processor)"
