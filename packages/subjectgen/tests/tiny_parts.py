"""Parts so small that a training of them takes milliseconds, and a test can write down all that they do.

Loaded by the fixture ``tiny``; an experiment names them ``tiny_...``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from subjectgen.core import (
    ActiveBranches,
    ChangesResults,
    ChangesWeights,
    Component,
    Conditioning,
    Config as BaseConfig,
    Features,
    Latents,
    Modality,
    Reference,
    Sample,
    Streams,
    TokenGroup,
    hookimpl,
)
from subjectgen.core.plugins import Plugins

WIDTH = 4
PIXELS = 8
GUIDANCE = 2.0


class Words(nn.Module):
    """Prompt and references as three tokens: text, references, nothing; hidden inputs are zero."""

    class Config(BaseConfig):
        """None."""

    inputs = frozenset({"text", "references"})
    width, depth, pooled_width = WIDTH, 2, None

    def __init__(self, config: Config) -> None:
        super().__init__()

    def encode(self, samples: Any, *, layers: Any = None) -> Features:
        state = torch.stack([self.tokens(sample) for sample in samples])
        modality = torch.full(state.shape[:2], int(Modality.TEXT))
        return Features(hidden_states=(state, 2 * state), modality=modality, reference=torch.full_like(modality, -1))

    @staticmethod
    def tokens(sample: Sample) -> Tensor:
        text = float(sum(map(ord, sample.prompt)) % 97) / 97
        looks = sum(float(reference.image.mean()) for reference in sample.references)
        return torch.tensor([[text] * WIDTH, [looks, -looks, looks, 1.0], [1.0, 0.0, 0.0, 0.0]])


class Pictures(nn.Module):
    """References as latents."""

    class Config(BaseConfig):
        """None."""

    inputs = frozenset({"references"})
    width, depth, pooled_width = 3, 1, None

    def __init__(self, config: Config) -> None:
        super().__init__()

    def encode(self, samples: Any, *, layers: Any = None) -> Latents:
        columns = zip(*([reference.image for reference in sample.references] for sample in samples), strict=True)
        return Latents(values=tuple(latents_of(torch.stack(column)) for column in columns))


class Halves(nn.Module):
    """Half the size, around zero; ``draws`` adds noise."""

    class Config(BaseConfig):
        """Options."""

        draws: ChangesResults[bool] = False
        """Whether it draws."""

    latent_channels, scale_factor = 3, 2

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def encode_images(self, images: Tensor, *, generators: Any = None) -> Tensor:
        found = latents_of(images)
        if not self.config.draws or generators is None:
            return found
        return found + torch.stack([torch.randn(found.shape[1:], generator=one) for one in generators])

    def decode(self, latents: Tensor) -> Tensor:
        return functional.interpolate(latents / 2 + 0.5, scale_factor=2).clamp(0, 1)


def latents_of(images: Tensor) -> Tensor:
    """What the autoencoder makes of images."""
    return functional.avg_pool2d(images, 2) * 2 - 1


class Mix(nn.Module):
    """A linear map of the last hidden state."""

    class Config(BaseConfig):
        """None."""

    layers = (1,)

    def __init__(self, config: Config, **_: Any) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, features: Features) -> Conditioning:
        return Conditioning(tokens=self.linear(features.hidden_states[1]), mask=features.mask)


class AsContext(nn.Module):
    """Tokens become context."""

    class Config(BaseConfig):
        """None."""

    accepts = Conditioning

    def __init__(self, config: Config, *, backbone: Any) -> None:
        super().__init__()

    def forward(self, streams: Any, conditioning: Conditioning) -> Any:
        return replace(streams, context=(TokenGroup(tokens=conditioning.tokens, mask=conditioning.mask),))


class AsReferences(nn.Module):
    """Latents become references, scaled by a parameter."""

    class Config(BaseConfig):
        """None."""

    accepts = Latents

    def __init__(self, config: Config, *, backbone: Any) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, streams: Any, conditioning: Latents) -> Any:
        groups = []
        for number, value in enumerate(conditioning.values):
            tokens = value.flatten(2).mT * self.scale
            mask = torch.ones(tokens.shape[:2], dtype=torch.bool)
            groups.append(TokenGroup(tokens=tokens, mask=mask, role="reference", reference=number))
        return replace(streams, references=tuple(groups))


class Wave(nn.Module):
    """A velocity that depends on every input, row by row."""

    class Config(BaseConfig):
        """Options."""

        trained: ChangesWeights[bool] = True
        """Whether it is trained."""

    context_width, pooled_width, latent_channels, patch_size = WIDTH, None, 3, 1
    guidance_embedded, attention_sites = True, ()

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.image, self.time = nn.Linear(3, 3), nn.Linear(2, 3)
        self.context, self.reference = nn.Linear(WIDTH, 3), nn.Linear(3, 3)
        self.requires_grad_(config.trained)

    def forward(self, latents: Tensor, timestep: Tensor, streams: Any, *, guidance: float | None = None) -> Tensor:
        vector = self.time(torch.stack((timestep, torch.full_like(timestep, guidance or 0.0)), dim=1))
        vector = vector + sum(self.context(group.tokens).tanh().sum(1) for group in streams.context)
        vector = vector + sum(self.reference(group.tokens).tanh().mean(1) for group in streams.references)
        return self.image(latents.movedim(1, -1)).movedim(-1, 1) * (1 + vector)[:, :, None, None].tanh()

    def trainable_parameters(self) -> dict[str, nn.Parameter]:
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def save_trained(self, folder: Path, values: Any = None) -> None:
        save_file(dict(self.state_dict() if values is None else values), folder / "wave.safetensors")

    def load_trained(self, folder: Path) -> None:
        self.load_state_dict(load_file(folder / "wave.safetensors"))


class Pairs:
    """Random pictures; sizes of targets and references, and what is missing, by turns."""

    class Config(BaseConfig):
        """Options."""

        count: ChangesResults[int] = 12
        """Samples."""
        seed: ChangesResults[int] = 0
        """Of pictures."""
        sizes: ChangesResults[tuple[int, ...]] = (PIXELS,)
        """Pixels of a target's side."""
        bare: ChangesResults[int | None] = None
        """A sample without a target."""
        harmed: ChangesResults[int | None] = None
        """A sample whose target is no picture."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def __len__(self) -> int:
        return self.config.count

    def __getitem__(self, index: int) -> Sample:
        draw = torch.Generator().manual_seed(self.config.seed * 1000 + index)
        size = self.config.sizes[index % len(self.config.sizes)]
        images = [torch.rand(3, side, side, generator=draw) for side in (size, PIXELS)]
        if index == self.config.harmed:
            images[0][:] = torch.nan
        return Sample(
            key=f"pair-{index:03d}",
            prompt=f"picture {index} of {self.config.seed}",
            references=(Reference(image=images[1]),),
            target=None if index == self.config.bare else images[0],
        )

    def keys(self) -> list[str]:
        return [f"pair-{index:03d}" for index in range(self.config.count)]


def row_loss(system: Any, sample: Sample, active: ActiveBranches, t: Tensor, data: Tensor, noise: Tensor) -> Tensor:
    """The loss of one row alone, written down once more: what each branch says, x_t, and the squared error."""
    streams = Streams(target_grid=(data.shape[1], data.shape[2]))
    words, pictures = active.visibility["words"], active.visibility["pictures"]
    zeroed = active.inactive == "zero"
    off = zeroed and words.nothing
    prompt = sample.prompt if words.text or off else ""
    references = sample.references if words.references or off else ()
    if prompt or references:
        tokens = system.branches["words"].aggregator.linear(
            2 * Words.tokens(Sample(prompt=prompt, references=references))
        )
        tokens = tokens[None] * (0.0 if off else 1.0)
        streams = replace(streams, context=(TokenGroup(tokens=tokens, mask=torch.ones(1, 3, dtype=torch.bool)),))
    if sample.references and (pictures.references or zeroed):
        values = [latents_of(reference.image[None]) * float(pictures.references) for reference in sample.references]
        streams = system.branches["pictures"].injector(streams, Latents(values=tuple(values)))
    t = t.float()
    velocity = system.backbone(((1 - t) * data + t * noise)[None], t[None], streams, guidance=GUIDANCE)
    return (velocity[0] - (noise - data)).square().mean()


OFFERS = {
    "encoders": {"tiny_words": Words, "tiny_pictures": Pictures},
    "autoencoders": {"tiny_halves": Halves},
    "aggregators": {"tiny_mix": Mix},
    "injectors": {"tiny_context": AsContext, "tiny_references": AsReferences},
    "backbones": {"tiny_wave": Wave},
    "datasets": {"tiny_pairs": Pairs},
}
SCHEDULE = Component(name="three_stage", target="subjectgen.schedules.three_stage:ThreeStage", summary="stages")


def plugins() -> Plugins:
    """A host that offers these parts, and our schedule of three stages."""

    def offering(kind: str) -> Any:
        names = OFFERS.get(kind, {})
        found = [Component(name=name, target=f"{__name__}:{one.__name__}", summary="t") for name, one in names.items()]
        return hookimpl(lambda: [*found, *([SCHEDULE] if kind == "schedules" else [])])

    host = Plugins.empty()
    hooks = {f"subjectgen_{kind}": offering(kind) for kind in (*OFFERS, "schedules")}
    host.register(SimpleNamespace(**hooks), distribution="tiny")
    return host


EXPERIMENT: dict[str, Any] = {
    "branches": {
        "words": {
            "encoder": {"name": "tiny_words"},
            "aggregator": {"name": "tiny_mix"},
            "injector": {"name": "tiny_context"},
        },
        "pictures": {"encoder": {"name": "tiny_pictures"}, "injector": {"name": "tiny_references"}},
    },
    "backbone": {"name": "tiny_wave"},
    "autoencoder": {"name": "tiny_halves"},
    "schedule": {
        "name": "three_stage",
        "tau1": 0.7,
        "tau2": 0.3,
        "grid": "linear",
        "steps": 3,
        "guidance": {"embedded": GUIDANCE},
        "training_timesteps": "uniform",
        "dropout": {
            "table": [
                {"probability": 0.2, "hide": {"words": ["text"]}},
                {"probability": 0.2, "hide": {"words": ["text", "references"]}},
                {"probability": 0.2, "hide": {"pictures": ["references"]}},
                {
                    "probability": 0.2,
                    "hide": {"words": ["text", "references"], "pictures": ["references"]},
                },
            ]
        },
    },
    "image": {"height": PIXELS, "width": PIXELS},
    "training": {
        "dataset": {"name": "tiny_pairs"},
        "phases": [{"branches": ["words"], "steps": 3}, {"steps": 3}],
        "batch_size": 4,
        "learning_rate": 0.01,
        "guidance": GUIDANCE,
        "log_every": 1,
        "curves": False,  # a picture takes longer than these trainings
    },
}
"""Two branches, two phases, and a table of dropout that does everything there is."""
