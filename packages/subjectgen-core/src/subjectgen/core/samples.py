"""What a request or a training pair is: a prompt, references, facts; and what of it a branch may see.

Shape letters: h w image height and width.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from jaxtyping import Float
from torch import Tensor

from subjectgen.core.errors import InputError, nearest

JSON: TypeAlias = "str | int | float | bool | list[JSON] | dict[str, JSON] | None"
"""What a JSON file can hold."""
KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,119}")
"""What a sample's key looks like: it names files, so letters, digits and ``. _ -``, at most 120."""


@dataclass(frozen=True, slots=True)
class Visibility:
    """Which inputs of a sample one branch may see.

    One notion serves stage masks (off = sees nothing), dropout in training and the negative pass of
    classifier-free guidance. A branch that sees nothing is absent: not computed, not in the sequence.
    """

    text: bool = True
    references: bool = True

    @property
    def nothing(self) -> bool:
        """Whether the branch is absent."""
        return not (self.text or self.references)

    def __and__(self, other: Visibility) -> Visibility:
        """What both allow."""
        return Visibility(self.text and other.text, self.references and other.references)


EVERYTHING = Visibility(True, True)
NOTHING = Visibility(False, False)


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """One reference image of a subject."""

    image: Float[Tensor, "3 h w"]
    """RGB in [0, 1]."""
    subject_mask: Float[Tensor, "1 h w"] | None = None
    """Where the subject is in ``image``, 1 inside."""
    region_mask: Float[Tensor, "1 h2 w2"] | None = None
    """Where the subject shall appear in the target; of any size, with the target's aspect ratio."""
    weight: float = 1.0
    """How strongly this reference speaks, for injectors that treat each reference by itself (λ_i)."""
    name: str | None = None
    """What it is called in messages and records; nothing is computed from it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """Everything known of one request or one training pair; nothing else travels beside it."""

    key: str = ""
    """Stable and unique in its data set (:data:`KEY`): names files, cache entries and rows of scores. Empty for samples
    that nothing is filed under."""
    prompt: str = ""
    references: tuple[Reference, ...] = ()
    target: Float[Tensor, "3 h w"] | None = None
    """RGB in [0, 1]; only in training and evaluation."""
    facts: Mapping[str, JSON] = field(default_factory=dict)
    """What is known beyond pictures and prompt: subject, class, category, scene, angles, whatever a metric may need."""

    def fact(self, name: str) -> JSON:
        """What is known under this name, for metrics that cannot do without.

        Raises:
            InputError: nothing is; names the sample's key, the fact and those that there are.
        """
        if name not in self.facts:
            raise InputError(
                f"sample {self.key or self.prompt!r}: lacks the fact {name!r}{nearest(name, self.facts)}; "
                f"it has {', '.join(self.facts) or 'none'}"
            )
        return self.facts[name]

    def seen(self, visibility: Visibility) -> Sample:
        """The sample as a branch with this visibility sees it."""
        return replace(
            self,
            prompt=self.prompt if visibility.text else "",
            references=self.references if visibility.references else (),
        )
