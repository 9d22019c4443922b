"""The log of a run as one picture; any run, also while it goes on."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from subjectgen.core import InputError
from subjectgen.core.errors import one_line
from subjectgen.core.files import atomic_write
from subjectgen.runner.training.run_directory import CURVES, METRICS, PROBE, lines_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EVERY = 60.0
"""Seconds between pictures of a run that goes on."""
SMOOTH = 0.9
"""Share of its past that a smoothed line keeps at each point."""


class Curves:
    """Draws a run's curves beside it; a picture that fails does not cost the run."""

    def __init__(self, folder: Path, *, say: Callable[[str], None]) -> None:
        self._folder, self._say = folder, say
        self._drawn = -math.inf
        self._failed = False

    def draw_at_times(self) -> None:
        """Unless it was done lately."""
        if time.monotonic() - self._drawn >= EVERY:
            self.draw()

    def draw(self) -> None:
        """Now."""
        if self._failed:
            return
        self._drawn = time.monotonic()
        try:
            draw_curves(self._folder)
        except Exception as error:
            self._failed = True
            self._say(f"{CURVES} cannot be drawn and is left out from now on: {one_line(error)}")


def draw_curves(folder: Path) -> Path:
    """Draw ``curves.png`` into a run's folder, from its log alone; returns the file.

    Losses by stage as points and as a smoothed line, the loss on the probe's fixed rows, learning rate, gradient norm,
    and where there is a probe, what other references and prompts change. A line that is being written is left out.

    Raises:
        InputError: No run there.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if not (folder / METRICS).is_file():
        raise InputError(f"{folder}: holds no {METRICS}; expected the folder of a run")
    lines, probes = list(lines_of(folder / METRICS)), list(lines_of(folder / PROBE))
    figure = Figure(figsize=(12, 12 if probes else 8), layout="constrained")
    FigureCanvasAgg(figure)  # no window, whatever the machine
    places = list(figure.subplots(3 if probes else 2, 2, sharex=True).flat)
    _draw_losses(places[0], lines)
    _draw(places[1], "loss on fixed rows", probes, lambda line: line["loss_by_t"], "t = ")
    _draw(places[1], "", probes, lambda line: {"all": line["loss"]})
    _draw(places[2], "learning rate", lines, lambda line: {"": line["learning_rate"]})
    _draw(places[3], "gradient norm", lines, lambda line: {"": line["gradient_norm"]})
    for place, what in zip(places[4:], ("references", "prompts"), strict=False):
        _draw(place, f"change by other {what}", probes, partial(_changes, what=what))
    for place in places:
        for step in _borders(lines):
            place.axvline(step, color="grey", linewidth=0.8, linestyle=":")
        if place.get_legend_handles_labels()[1]:
            place.legend(fontsize="small")
        place.set_xlabel("step")
    with atomic_write(folder / CURVES) as unfinished:
        figure.savefig(unfinished, format="png", dpi=100)
    return folder / CURVES


def smoothed(values: Sequence[float]) -> list[float]:
    """Exponential moving average, unbiased at its start; what is not finite is passed over."""
    found, total, weight = [], 0.0, 0.0
    for value in values:
        if math.isfinite(value):
            total, weight = SMOOTH * total + (1 - SMOOTH) * value, SMOOTH * weight + (1 - SMOOTH)
        found.append(total / weight if weight else math.nan)
    return found


def series(
    lines: Sequence[Mapping[str, Any]], values: Callable[[Mapping[str, Any]], Mapping[str, Any] | None]
) -> dict[str, tuple[list[int], list[float]]]:
    """Steps and values by name, of those lines that have them."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for line in lines:
        for name, value in (values(line) or {}).items():
            if value is not None:
                steps, known = found.setdefault(name, ([], []))
                steps.append(line["step"])
                known.append(value)
    return found


def _draw_losses(place: Axes, lines: Sequence[Mapping[str, Any]]) -> None:
    place.set_title("loss by stage")
    for number, (name, (steps, values)) in enumerate(series(lines, lambda line: line["loss_by_stage"]).items()):
        place.plot(steps, values, ".", markersize=3, alpha=0.3, color=f"C{number}")
        place.plot(steps, smoothed(values), label=name, color=f"C{number}")


def _draw(
    place: Axes,
    title: str,
    lines: Sequence[Mapping[str, Any]],
    values: Callable[[Mapping[str, Any]], Mapping[str, Any] | None],
    prefix: str = "",
) -> None:
    if title:
        place.set_title(title)
    for name, (steps, known) in series(lines, values).items():
        place.plot(steps, known, ".-", markersize=4, label=f"{prefix}{name}" or None)


def _changes(line: Mapping[str, Any], what: str) -> dict[str, float] | None:
    """Means over t, of all branches and of each alone."""
    by_branch = {"all branches": line[f"{what}_by_t"], **(line[f"{what}_by_branch"] or {})}
    return {name: sum(found.values()) / len(found) for name, found in by_branch.items() if found}


def _borders(lines: Sequence[Mapping[str, Any]]) -> list[int]:
    """Last steps of phases, but for the last phase."""
    return [one["step"] for one, following in pairwise(lines) if one["phase"] != following["phase"]]
