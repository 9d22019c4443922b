"""A built branch, and what it makes of samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn

from subjectgen.core import ComponentError, Conditioning, Encoder, Explains, Features, Latents, Sample, Visibility

Conditions: TypeAlias = Conditioning | Latents
"""What a branch hands to its injector."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoding:
    """What a branch makes of a batch of samples."""

    conditions: Conditions
    explanations: Sequence[Mapping[str, Any]] | None = None
    """What an aggregator that explains itself says of each row."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Branch:
    """Encoder, aggregator and injector of one branch."""

    name: str
    encoder: Any
    aggregator: nn.Module | None
    injector: Any

    def readable(self, sample: Sample, seen: Visibility) -> Visibility:
        """What is left of a visibility: inputs that the encoder does not read or the sample lacks are taken away."""
        encoder: Encoder = self.encoder
        return Visibility(
            text=seen.text and "text" in encoder.inputs and bool(sample.prompt),
            references=seen.references and "references" in encoder.inputs and bool(sample.references),
        )

    def reads_none_of(self, seen: Visibility) -> bool:
        """Whether none of the inputs that the encoder reads may be seen."""
        inputs = self.encoder.inputs
        return not ((seen.text and "text" in inputs) or (seen.references and "references" in inputs))

    def encode(self, samples: Sequence[Sample], *, explain: bool = False) -> Encoding:
        """Run encoder and aggregator.

        The encoder's own dtype decides, in training under autocast as in sampling.

        Raises:
            ComponentError: The encoder gives hidden states and the branch has no aggregator, or the reverse.
        """
        layers = getattr(self.aggregator, "layers", None)
        with torch.autocast(_device_type(self.encoder), enabled=False):
            encoded = self.encoder.encode(samples, layers=layers)
        if not isinstance(encoded, Features):
            if self.aggregator is not None:
                raise ComponentError(f"branch {self.name}: the encoder gives no hidden states; remove the aggregator")
            return Encoding(conditions=encoded)
        if self.aggregator is None:
            raise ComponentError(f"branch {self.name}: the encoder gives hidden states; an aggregator is needed")
        explanations = None
        if explain and isinstance(self.aggregator, Explains):
            explanations = self.aggregator.explain(encoded)
        return Encoding(conditions=self.aggregator(encoded), explanations=explanations)


def _device_type(encoder: Any) -> str:
    parameters = encoder.parameters() if isinstance(encoder, nn.Module) else ()
    return next((parameter.device.type for parameter in parameters), "cpu")
