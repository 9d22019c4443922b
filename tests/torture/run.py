"""Kill a training with ``kill -9`` at random moments, go on, kill again ..., and compare with one that ran through.

``python tests/torture/run.py --kills 200 --out log.json``: half of the kills fall while a checkpoint is being written.
Every run has epochs that end between steps, two phases, a mixture, an average, and checkpoints between lines of the
log; it must end with the same bits in weights, optimizer, average and log. The log names each kill: what it was aimed
at, and what was there.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
TIMES = ("seconds", "samples_per_second", "data_wait")
CHANGES: dict[str, Any] = {
    "dataset": {"name": "tiny_pairs", "count": 6},
    "phases": [
        {"branches": ["words"], "steps": 120},
        {
            "steps": 280,
            "mixture": [
                {"dataset": {"name": "tiny_pairs", "count": 5}, "weight": 2},
                {"dataset": {"name": "tiny_pairs", "seed": 1}},
            ],
        },
    ],
    "ema_decay": 0.9,
    "log_every": 7,
    "save_every": 3,
    "lr_schedule": "cosine",
    "warmup_steps": 20,
}
PROGRAM = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("tiny_parts", sys.argv[1])
tiny = sys.modules["tiny_parts"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)
from subjectgen.core import plugins
plugins.Plugins.discover = classmethod(lambda cls: tiny.plugins())
from subjectgen.runner.cli.main import main
main(sys.argv[2:])
"""


def start(folder: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A training, in a process group of its own."""
    tiny = ROOT / "packages" / "subjectgen" / "tests" / "tiny_parts.py"
    command = [sys.executable, str(folder / "program.py"), str(tiny), "train", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=folder, env=environment, start_new_session=True, **silent)  # type: ignore[call-overload]


def steps_made(run: Path) -> int:
    """Lines of the log stand for the steps before them."""
    file = run / "metrics.jsonl"
    return file.read_text(errors="replace").count("\n") * CHANGES["log_every"] if file.is_file() else 0


def writing(run: Path) -> list[str]:
    """Checkpoints that are half-written now."""
    return sorted(one.name for one in (run / "checkpoints").glob(".step-*.part"))


def kill_once(
    process: subprocess.Popen[bytes], run: Path, chance: random.Random, *, saving: bool
) -> dict[str, Any] | None:
    """Kill at a random moment, or within a save; ``None`` if the training ended first."""
    until = time.monotonic() + 60
    begun, moment = steps_made(run), chance.uniform(0.0, 0.6)
    while process.poll() is None and steps_made(run) <= begun and time.monotonic() < until:
        time.sleep(0.001)  # past its own start, or nothing but imports would be killed
    time.sleep(moment)
    while saving and process.poll() is None and not writing(run) and time.monotonic() < until:
        pass
    if process.poll() is not None:
        return None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    whole = sorted(one.name for one in (run / "checkpoints").glob("step-*"))
    return {"aimed_at": "save" if saving else "any", "half_written": writing(run), "newest": whole[-1:]}


def state(run: Path) -> dict[str, torch.Tensor]:
    """Every tensor of the run and of its newest checkpoint."""
    newest = sorted((run / "checkpoints").glob("step-*"))[-1]
    files = [*newest.rglob("*.safetensors"), *(run / "trained").rglob("*.safetensors")]
    return {f"{file.relative_to(run)}:{key}": value for file in files for key, value in load_file(file).items()}


def log(run: Path) -> list[dict[str, Any]]:
    """The run's log, without times."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(line).items() if key not in TIMES} for line in lines]


def differences(run: Path, whole: Path) -> list[str]:
    """What is not the same, by name."""
    found, expected = state(run), state(whole)
    wrong = [name for name in sorted(found.keys() | expected.keys()) if not _equal(found.get(name), expected.get(name))]
    return wrong + (["metrics.jsonl"] if log(run) != log(whole) else [])


def _equal(one: torch.Tensor | None, other: torch.Tensor | None) -> bool:
    return one is not None and other is not None and torch.equal(one, other)


def torture(folder: Path, kills: int, seed: int) -> dict[str, Any]:
    """So many kills, over as many runs as they take."""
    sys.path.insert(0, str(ROOT / "packages" / "subjectgen" / "tests"))
    from tiny_parts import EXPERIMENT

    training = {**EXPERIMENT["training"], **CHANGES}
    (folder / "tiny.yaml").write_text(yaml.safe_dump({**EXPERIMENT, "training": training}, sort_keys=False))
    (folder / "program.py").write_text(PROGRAM)
    _must_end(start(folder, "tiny.yaml", "--out", "whole"))
    chance, made, runs = random.Random(seed), list[dict[str, Any]](), list[dict[str, Any]]()
    while len(made) < kills:
        run, own = folder / f"run-{len(runs)}", 0
        while not (run / "trained").is_dir():
            going_on = (run / "run.json").is_file()
            process = start(folder, *(["--resume", run.name] if going_on else ["tiny.yaml", "--out", run.name]))
            killed = None
            if len(made) < kills:
                killed = kill_once(process, run, chance, saving=len(made) % 2 == 1)
            if killed is None:
                _must_end(process)
                continue
            own += 1
            made.append({"run": len(runs), **killed})
            print(f"kill {len(made)} of {kills}: {made[-1]}", flush=True)
        wrong = differences(run, folder / "whole")
        runs.append({"kills": own, "different": wrong})
        print(f"run {len(runs)}: {own} kills, {wrong or 'bit-equal'}", flush=True)
        shutil.rmtree(run)
    return {"kills": made, "runs": runs}


def _must_end(process: subprocess.Popen[bytes]) -> None:
    _, said = process.communicate(timeout=300)
    if process.returncode:
        raise SystemExit(f"a training ended with {process.returncode}:\n{said.decode(errors='replace')[-3000:]}")


def main() -> int:
    """Run, and write the log."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = torture(Path(folder), chosen.kills, chosen.seed)
    half = sum(bool(one["half_written"]) for one in found["kills"])
    wrong = [run for run in found["runs"] if run["different"]]
    summary = {
        "command": f"python tests/torture/run.py --kills {chosen.kills} --seed {chosen.seed}",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, CPU",
        "seconds": round(time.monotonic() - began),
        "killed": len(found["kills"]),
        "while_a_checkpoint_was_half_written": half,
        "runs": len(found["runs"]),
        "runs_that_differ": len(wrong),
    }
    print(json.dumps(summary, indent=2))
    if chosen.out:
        chosen.out.write_text(json.dumps({**summary, **found}, indent=1) + "\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
