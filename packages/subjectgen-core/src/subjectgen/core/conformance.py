"""Whether a built component has what its kind promises; one written for older contracts is told what changed."""

from __future__ import annotations

from typing import Any

from typing_extensions import get_protocol_members

from subjectgen.core import parts
from subjectgen.core.errors import ComponentError

UPGRADE = "docs/how-to/upgrade.md"
"""The page that says what changed between versions of the contracts."""
PROTOCOLS: dict[str, tuple[type[Any], ...]] = {
    "encoders": (parts.Encoder,),
    "autoencoders": (parts.Autoencoder,),
    "aggregators": (parts.Aggregator,),
    "injectors": (parts.Injector,),
    "backbones": (parts.Backbone,),
    "schedules": (parts.Schedule,),
    "datasets": (parts.Dataset,),
    "metrics": (parts.Metric, parts.SetMetric),
    "finders": (parts.Finder,),
}
"""One of them must be kept."""
OLD: dict[str, tuple[str, ...]] = {"metrics": ("update", "merge", "compute", "judge_accuracy")}
"""What components of the contracts before 0.2 have instead."""


def check_protocol(kind: str, built: Any, who: str) -> None:
    """Compare with the protocols of its kind.

    Raises:
        ComponentError: names what is missing and, for components of older contracts, the page that says what changed.
    """
    lacking = [
        sorted(name for name in get_protocol_members(one) if not hasattr(built, name)) for one in PROTOCOLS[kind]
    ]
    if not all(lacking):
        return
    old = [name for name in OLD.get(kind, ()) if hasattr(built, name)]
    age = f"was written for older contracts (it has {', '.join(old)})" if old else "does not keep its contract"
    raise ComponentError(
        f"{who} {age}: {kind[:-1]} without {', '.join(lacking[0])}; what is expected and what changed: {UPGRADE}"
    )
