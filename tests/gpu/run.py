"""Speed and memory at full size with random weights, on the GPU that is here. Run by ``nox -s gpu``, or alone:

    python tests/gpu/run.py --only denoise,sample --seconds 400

Needs no checkpoint and no network; packages of this repository that are not installed are taken from their folders.
Every part writes its JSON when it is done; a part that fails is reported and counted, and the others go on. On a
machine without a GPU ``--device cpu --size small`` runs the same code on the toybox, to show that it works.
"""

from __future__ import annotations

import argparse
import importlib
import json
import shlex
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
PARTS = ("peak", "denoise", "sample", "encode", "train", "memory24", "profile")


def reachable() -> None:
    """Make this folder and the repository's packages importable where they are not."""
    if str(HERE) not in sys.path:
        sys.path.insert(0, str(HERE))
    try:
        importlib.import_module("subjectgen.runner.planning")
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("subjectgen"):
            raise
        sys.path[:0] = [str(path) for path in sorted(ROOT.glob("packages/*/src"))]
        for name in [name for name in sys.modules if name.partition(".")[0] == "subjectgen"]:
            del sys.modules[name]


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "gpu", help="folder of the JSON files")
    parser.add_argument(
        "--only", type=_names, default=PARTS, metavar="PARTS", help=f"of {','.join(PARTS)}; default all"
    )
    parser.add_argument("--size", choices=["full", "small"], default="full")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=480, help="budget of each part; later rows are left out")
    parser.add_argument("--images", type=_numbers, help="pixels along a side, such as 512,1024; default: the size's")
    parser.add_argument("--batches", type=_numbers, help="of the training step, such as 1,4,16")
    parser.add_argument("--checkpointing", type=_words, default=("true", "selective", "false"), help="of training")
    parser.add_argument("--attention", default="native", help="attention backend of diffusers")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="default: on a GPU")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="changes of the experiment")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--label", default="", help="put behind file names, to keep several runs of one part")
    parser.add_argument("--commit", help="what to record where there is no git")
    parser.add_argument("--summarize", action="store_true", help="only write the summary of what is in the folder")
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Run the parts; returns 0, 1 if any failed, 2 if there is no such device."""
    options = arguments(given)
    reachable()
    import torch
    from parts.machine import ceilings, commit, facts
    from parts.session import SIZES, Session
    from parts.summary import write_summary

    if options.summarize:
        print(write_summary(options.out))
        return 0
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("no GPU: torch.cuda.is_available() is false; --device cpu --size small checks the code", file=sys.stderr)
        return 2
    if device.type == "cuda":
        device = torch.device("cuda", device.index or 0)  # some of torch's functions want a number
        torch.cuda.set_device(device)
    given_sizes = {"images": options.images, "batches": options.batches}
    session = Session(
        out=options.out,
        label=options.label,
        sizes=replace(SIZES[options.size], **{name: value for name, value in given_sizes.items() if value}),
        device=device,
        seconds=options.seconds,
        seed=options.seed,
        changes=tuple(options.set),
        compiled=device.type == "cuda" if options.compile is None else options.compile,
        attention=options.attention,
        checkpointing=options.checkpointing,
    )
    torch.manual_seed(session.seed)
    session.peak = ceilings(device, session.sizes.matrix, session.sizes.copied)
    about = {
        "machine": facts(device),
        "commit": options.commit or commit(),
        "seed": session.seed,
        "size": options.size,
        "peak": session.peak,
    }
    statuses = [run_part(name, session, {**about, "command": command(name, options)}) for name in options.only]
    print(write_summary(options.out))
    return 1 if "failed" in statuses else 0


def run_part(name: str, session: Any, about: dict[str, Any]) -> str:
    """Run one part and write its JSON, whatever happens; returns ``done`` or ``failed``."""
    from parts.machine import collect

    from subjectgen.core.json_files import write_json

    print(f"== {name}", flush=True)
    session.begin()
    outcome: dict[str, Any] = {"status": "done"}
    try:
        outcome |= importlib.import_module(f"parts.{MODULES.get(name, name)}").run(session)
    except Exception as error:  # the other parts must still run
        traceback.print_exc()
        outcome = {"status": "failed", "reason": f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"}
        session.shared.clear()
    collect(session.device)
    if not session.on_gpu:  # what a CPU does says nothing of the targets
        outcome["targets"] = [{**one, "reached": None} for one in outcome.get("targets", ())]
    record = {"part": name, "label": session.label, **about, "seconds": round(session.spent(), 1), **outcome}
    write_json(session.file(f"{name}.json"), record)
    print(json.dumps({key: record[key] for key in ("part", "status", "reason", "seconds", "targets") if key in record}))
    return str(outcome["status"])


MODULES = {"profile": "profiling"}
"""Modules of parts whose own name belongs to Python's library."""


def command(name: str, options: argparse.Namespace) -> str:
    """The command that repeats one part, without the paths of this machine."""
    words = ["python", "tests/gpu/run.py", "--only", name, "--size", options.size, "--device", options.device]
    words += ["--seconds", f"{options.seconds:g}", "--attention", options.attention, "--seed", str(options.seed)]
    for key in ("images", "batches"):
        words += [f"--{key}", ",".join(map(str, getattr(options, key)))] if getattr(options, key) else []
    words += ["--checkpointing", ",".join(options.checkpointing)] if name == "train" else []
    words += [] if options.compile is None else ["--compile" if options.compile else "--no-compile"]
    return shlex.join([*words, *(word for change in options.set for word in ("--set", change))])


def _names(text: str) -> tuple[str, ...]:
    unknown = [name for name in _words(text) if name not in PARTS]
    if unknown:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(PARTS)}")
    return _words(text)


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in _words(text))


if __name__ == "__main__":
    sys.exit(main())
