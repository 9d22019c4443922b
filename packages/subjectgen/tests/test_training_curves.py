"""Curves come from the log alone, at any time, and never cost a run."""

import io
import json
import math
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from subjectgen.core import InputError
from subjectgen.runner.training import curves
from subjectgen.runner.training.curves import EVERY, SMOOTH, Curves, draw_curves, series, smoothed
from subjectgen.runner.training.run import train


def metrics(steps: int, *, loss: float = 1.0) -> str:
    lines = [
        {
            "step": step,
            "phase": f"phase {1 + step // 5}",
            "learning_rate": 1e-5,
            "loss_by_stage": {"early": loss / step, "late": math.nan if step == 3 else 2 * loss / step},
            "gradient_norm": 0.5,
        }
        for step in range(1, steps + 1)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def probe(step: int) -> str:
    by_t = {"0.1": 0.5, "0.9": 0.7}
    references = {"references_by_t": by_t, "references_by_branch": {"mllm": by_t}}
    line = {"step": step, "loss": 0.6, "loss_by_t": by_t, **references, "prompts_by_t": None, "prompts_by_branch": None}
    return json.dumps(line) + "\n"


def picture(folder: Path) -> Image.Image:
    with Image.open(draw_curves(folder)) as opened:
        return opened.convert("RGB")


def test_a_picture_of_any_log_also_while_it_is_written(tmp_path) -> None:
    log = tmp_path / "metrics.jsonl"
    log.write_text(metrics(8))
    whole = picture(tmp_path)
    log.write_text(metrics(9)[:-40])  # the ninth line is half there
    assert picture(tmp_path).tobytes() == whole.tobytes()
    log.write_text(metrics(8, loss=2.0))
    assert picture(tmp_path).tobytes() != whole.tobytes()
    log.write_text(metrics(8))
    (tmp_path / "probe.jsonl").write_text(probe(4) + probe(8) + '{"step": 1')
    assert picture(tmp_path).height > whole.height
    log.write_text("")
    picture(tmp_path)


def test_a_folder_without_a_log_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match=r"holds no metrics\.jsonl; expected the folder of a run"):
        draw_curves(tmp_path)


def test_smooth_lines_start_unbiased_and_pass_over_what_is_not_finite() -> None:
    assert smoothed([3.0, 3.0, 3.0]) == pytest.approx([3.0] * 3)
    weights = [(1 - SMOOTH) * SMOOTH**n for n in range(3)]
    expected = (5 * weights[0] + 2 * weights[1] + 1 * weights[2]) / sum(weights)
    assert smoothed([1.0, 2.0, math.inf, 5.0])[-1] == pytest.approx(expected)
    assert math.isnan(smoothed([math.nan])[0])


def test_series_are_of_the_lines_that_have_them() -> None:
    lines = [{"step": 1, "x": {"a": 1.0}}, {"step": 2, "x": {"a": 2.0, "b": 3.0}}, {"step": 3, "x": None}]
    assert series(lines, lambda line: line["x"]) == {"a": ([1, 2], [1.0, 2.0]), "b": ([2], [3.0])}


def test_a_run_draws_them_at_times_and_at_its_end(tiny_experiment, tmp_path, monkeypatch) -> None:
    steps, draw = [], draw_curves

    def drawn(folder: Path) -> Path:
        steps.append(len((folder / "metrics.jsonl").read_text().splitlines()))
        return draw(folder)

    monkeypatch.setattr(curves, "draw_curves", drawn)
    options = {"phases": [{"steps": 5}], "save_every": 1, "curves": True, "probe_every": 2}
    folder = train(tiny_experiment({"training": options}), tmp_path / "run").folder
    assert len(steps) == 2  # the first checkpoint and the end: less than a minute lies between
    assert steps[-1] == 5
    with Image.open(folder / "curves.png") as opened:
        assert opened.format == "PNG"


def test_at_most_once_a_minute(tmp_path, monkeypatch) -> None:
    now, drawn = [0.0], []
    monkeypatch.setattr(curves, "time", SimpleNamespace(monotonic=lambda: now[0]))
    monkeypatch.setattr(curves, "draw_curves", lambda folder: drawn.append(now[0]))
    one = Curves(tmp_path, say=print)
    for seconds in (0, 20, EVERY - 1, EVERY, 2 * EVERY - 1, 2 * EVERY):
        now[0] = seconds
        one.draw_at_times()
    assert drawn == [0, EVERY, 2 * EVERY]


def test_a_picture_that_fails_does_not_cost_the_run(tiny_experiment, tmp_path, monkeypatch) -> None:
    def fails(folder: Path) -> Any:
        raise RuntimeError("no fonts")

    monkeypatch.setattr(curves, "draw_curves", fails)
    said = io.StringIO()
    options = {"save_every": 1, "curves": True}
    folder = train(tiny_experiment({"training": options}), tmp_path / "run", console=Console(file=said)).folder
    assert (folder / "trained").is_dir()
    assert said.getvalue().count("curves.png cannot be drawn and is left out from now on: no fonts") == 1


def test_what_draws_is_not_imported_before_it_is_needed() -> None:
    program = "import sys, subjectgen.runner.training.run as run; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
