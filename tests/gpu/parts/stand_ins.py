"""Random tokens in the place of a multimodal LLM with its aggregator, and random pictures to train on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from subjectgen.core import (
    ChangesResults,
    ChangesWeights,
    Component,
    Conditioning,
    Config as BaseConfig,
    Reference,
    Sample,
    hookimpl,
)


class RandomTokens(nn.Module):
    """One context token per word of the prompt, and as many of each reference as are said."""

    class Config(BaseConfig):
        """Sizes."""

        image: ChangesWeights[int]
        """Tokens of a reference."""
        width: ChangesWeights[int]
        """Of the backbone's context."""

    inputs = frozenset({"text", "references"})
    depth, pooled_width = 1, None

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config, self.width = config, config.width
        self.register_buffer("place", torch.zeros(()))

    def encode(self, samples: Sequence[Sample], *, layers: Sequence[int] | None = None) -> Conditioning:
        """Random tokens, the same for equal inputs."""
        count = len(samples[0].prompt.split()) + self.config.image * len(samples[0].references)
        tokens = torch.randn(1, count, self.width, generator=torch.Generator().manual_seed(count)).to(self.place)
        mask = torch.ones(len(samples), count, dtype=torch.bool, device=tokens.device)
        return Conditioning(tokens=tokens.expand(len(samples), -1, -1), mask=mask)


class RandomPairs:
    """Pairs of pictures of random colours, with a prompt of so many words."""

    class Config(BaseConfig):
        """Sizes."""

        count: ChangesResults[int] = 8
        """Different pairs; they repeat."""
        length: ChangesResults[int] = 4096
        """Samples."""
        target: ChangesResults[int]
        """Pixels along a side."""
        reference: ChangesResults[int]
        """Pixels along a side."""
        prompt: ChangesResults[int]
        """Words."""

    def __init__(self, config: Config) -> None:
        chance = torch.Generator().manual_seed(0)
        self.config = config
        self.pairs = [
            Sample(
                prompt=prompt(config.prompt),
                references=(Reference(image=torch.rand(3, config.reference, config.reference, generator=chance)),),
                target=torch.rand(3, config.target, config.target, generator=chance),
            )
            for _ in range(config.count)
        ]

    def __len__(self) -> int:
        return self.config.length

    def __getitem__(self, index: int) -> Sample:
        return self.pairs[index % len(self.pairs)]


class StandIns:
    """A plugin of these."""

    @hookimpl
    def subjectgen_encoders(self) -> list[Component]:
        """Tokens."""
        return [Component(name="random_tokens", target=f"{__name__}:RandomTokens", summary="Random context tokens.")]

    @hookimpl
    def subjectgen_datasets(self) -> list[Component]:
        """Pairs."""
        return [Component(name="random_pairs", target=f"{__name__}:RandomPairs", summary="Random pictures.")]


def prompt(words: int) -> str:
    """So many words, each a token of the stand-in tokenizer."""
    return " ".join(["word"] * words)


def request(words: int, reference: int) -> Sample:
    """A prompt with one reference picture."""
    image = torch.rand(3, reference, reference, generator=torch.Generator().manual_seed(0))
    return Sample(prompt=prompt(words), references=(Reference(image=image),))
