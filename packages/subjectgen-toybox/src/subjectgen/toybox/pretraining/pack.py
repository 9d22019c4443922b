"""Collect trained models into the folder that is shipped: checksums and logs beside them, within a size limit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file

from subjectgen.core import CheckpointError
from subjectgen.core.weights import write_checksums

LIMIT = 25_000_000
"""Bytes of all shipped weights together."""
MODELS = ("vae", "internvl3", "flux_text", "transformer", "judge")
"""What the toybox ships. Others, such as ``clip``, are packed when they are asked for."""


def pack(out: Path, into: Path, trained: Sequence[Path] = (), models: Sequence[str] = ()) -> Iterator[str]:
    """Copy what exists; yields one line per folder.

    Args:
        out: Where the models were trained.
        into: Where they are shipped.
        trained: Run directories of ``subjectgen train``.
        models: Folders of ``out`` that are copied with their logs; by default those of :data:`MODELS` that exist,
            with all logs.

    Raises:
        CheckpointError: More than 25 MB in all, or a model in ``models`` that does not exist.
    """
    missing = [model for model in models if not (out / model).is_dir()]
    if missing:
        raise CheckpointError(f"{out / missing[0]}: no such folder; expected a model that pretraining made")
    sizes = [_weights(out / model) for model in models or MODELS] + [_weights(run) // 2 for run in trained]
    if sum(sizes) > LIMIT:
        raise CheckpointError(f"{sum(sizes):,} bytes of weights; expected at most {LIMIT:,}")
    for model in models or MODELS:
        if (out / model).is_dir():
            yield _copy(out / model, into / model)
    for run in trained:
        yield _copy(run, into / run.name)
        _halve(into / run.name)
    for log in sorted((out / "logs").glob("*.jsonl")):
        if not models or log.stem in models:
            (into / "logs").mkdir(parents=True, exist_ok=True)
            shutil.copyfile(log, into / "logs" / log.name)
    yield f"{_weights(into):,} bytes of weights"


def _weights(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def _copy(source: Path, target: Path) -> str:
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("SHA256SUMS"))
    for path in target.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
        if path.name == "config.json":
            config = json.loads(path.read_text(encoding="utf-8"))
            config.pop("_name_or_path", None)  # where it was trained is nobody's business
            path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_checksums(target)
    return f"{target.name}: {sum(path.stat().st_size for path in target.rglob('*') if path.is_file()):,} bytes"


def _halve(folder: Path) -> None:
    """Store trained parts in half precision; they load into float32 as before."""
    from safetensors import safe_open

    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
        save_file({name: value.half() for name, value in load_file(path).items()}, path, metadata=metadata)
    write_checksums(folder)
