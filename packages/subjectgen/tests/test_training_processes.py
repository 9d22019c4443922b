"""Several processes train as one does, to rounding: DDP and FSDP2, from the first step through kill and resume."""

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

pytestmark = pytest.mark.slow

PROGRAM = """
import importlib.util, os, pathlib, sys
spec = importlib.util.spec_from_file_location("tiny_parts", sys.argv[1])
tiny = sys.modules["tiny_parts"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tiny)
from subjectgen.core import plugins
own = plugins.Plugins.discover
if sys.argv[2] == "tiny":
    plugins.Plugins.discover = classmethod(lambda cls: tiny.plugins())
ends = int(os.environ.get("END_AFTER", "0"))
if ends:
    from subjectgen.runner.training.run_directory import RunDirectory
    begin, made = RunDirectory.begin, []
    def at(self, *arguments):
        begin(self, *arguments)
        made.append(1)
        if len(made) == ends:
            os._exit(9)
    RunDirectory.begin = at
from subjectgen.runner.cli.main import main
main(sys.argv[3:])
"""


def launched(folder: Path, parts: str, *arguments: str, processes: int = 1, **environment: str) -> str:
    """What a launch of so many processes said."""
    program = folder / "program.py"
    program.write_text(PROGRAM)
    tiny_parts = Path(__file__).with_name("tiny_parts.py")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    start = [sys.executable]
    if processes > 1:
        start += ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", str(port)]
    command = [*start, str(program), str(tiny_parts), parts, *arguments]
    variables = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, timeout=300, check=False)
    expected = (1, 9) if environment.get("END_AFTER") else (0,)
    assert done.returncode in expected, done.stderr[-3000:]
    return done.stdout


def assert_close(folder: Path, expected: Path) -> None:
    """All tensors of the run, of its checkpoints and of its optimizer; only sums were rounded in another order."""
    files = sorted(expected.rglob("*.safetensors"))
    assert files
    assert [file.relative_to(folder) for file in sorted(folder.rglob("*.safetensors"))] == [
        file.relative_to(expected) for file in files
    ]
    for file in files:
        found, wanted = load_file(folder / file.relative_to(expected)), load_file(file)
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, atol=1e-5, rtol=1e-4, msg=lambda m, n=name: f"{n}: {m}")


FSDP = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
WAYS = pytest.mark.parametrize("environment", [{}, FSDP], ids=["ddp", "fsdp2"])


@pytest.fixture(scope="module")
def tiny_run(tiny, tmp_path_factory) -> Path:
    """In one process, with an average, and checkpoints between."""
    folder = tmp_path_factory.mktemp("tiny")
    tree = {**tiny.EXPERIMENT, "training": {**tiny.EXPERIMENT["training"], "ema_decay": 0.9, "save_every": 2}}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
    launched(folder, "tiny", "train", "tiny.yaml", "--out", "one")
    return folder


@WAYS
def test_two_processes_are_one_and_go_on_as_one(tiny_run, environment) -> None:
    """Two, killed in the second phase, two again, killed, then one: the same weights, optimizer and average."""
    out = "fsdp" if environment else "ddp"
    launched(tiny_run, "tiny", "train", "tiny.yaml", "--out", out, processes=2, END_AFTER="3", **environment)
    launched(tiny_run, "tiny", "train", "--resume", out, processes=2, END_AFTER="2", **environment)
    said = launched(tiny_run, "tiny", "train", "--resume", out)
    assert said.count("wrote ") == 1
    assert_close(tiny_run / out, tiny_run / "one")
    launched(tiny_run, "tiny", "export", out, "--out", f"{out}-exported", "--step", "4")


def test_two_processes_share_a_cache(tiny_run) -> None:
    """Both write to it and read from it; a run in one process then finds all there is, and is the same run."""
    cache = "training.cache={targets: true, features: true, folder: cache}"
    for out, processes in (("filling", 2), ("reading", 1)):
        said = launched(tiny_run, "tiny", "train", "tiny.yaml", "--out", out, "--set", cache, processes=processes)
        assert said.count("wrote ") == 1
        assert_close(tiny_run / out, tiny_run / "one")
        shards = {file: file.stat().st_mtime_ns for file in (tiny_run / "cache").rglob("*.safetensors")}
        if processes > 1:
            filled = shards
    assert shards == filled
    for store in (tiny_run / "cache").iterdir():
        assert len(list(store.glob("*.safetensors"))) >= 2


@WAYS
def test_two_processes_write_one_log_of_one_probe(tiny_run, environment) -> None:
    """The first one measures alone; where models are cut, both must, and pictures are left out in words."""
    changes = ["probe_every=2", "probe_rows=4", "samples_every=3", "samples_rows=1", "trackers=[tensorboard]"]
    options = [word for change in changes for word in ("--set", f"training.{change}")]
    if importlib.util.find_spec("tensorboard") is None:
        options = options[:-2]
    name = "fsdp" if environment else "ddp"
    launched(tiny_run, "tiny", "train", "tiny.yaml", "--out", f"{name}-look-one", *options)
    launched(tiny_run, "tiny", "train", "tiny.yaml", "--out", f"{name}-look", *options, processes=2, **environment)
    one, two = ((tiny_run / f"{name}-look{end}") for end in ("-one", ""))
    assert_close(two, one)
    probes = [[json.loads(line) for line in (run / "probe.jsonl").read_text().splitlines()] for run in (one, two)]
    assert len(probes[0]) == len(probes[1])
    for expected, found in zip(*probes, strict=True):
        assert (found["step"], found["rows"]) == (expected["step"], 4)
        assert list(found["loss_by_t"].values()) == pytest.approx(list(expected["loss_by_t"].values()), rel=1e-3)
    sheets = [sorted(file.name for file in (run / "samples").glob("*.png")) for run in (one, two)]
    assert sheets[1] == ([] if environment else sheets[0])
    assert len(list((two / "tensorboard").glob("*"))) == (len(options) == 10)


@pytest.fixture(scope="module")
def flux_run(experiment_tree, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("flux")
    training = {**experiment_tree["training"], "batch_size": 6, "ema_decay": 0.9}
    (folder / "flux.yaml").write_text(yaml.safe_dump({**experiment_tree, "training": training}))
    launched(folder, "all", "train", "flux.yaml", "--out", "one")
    return folder


@pytest.mark.parametrize(
    ("environment", "change"),
    [
        ({}, "training.micro_batch=2"),
        ({}, "training.workers=1"),
        (FSDP, "training.micro_batch=2"),
        (FSDP, "backbone.gradient_checkpointing=true"),
        (FSDP, "backbone.gradient_checkpointing=selective"),
    ],
    ids=lambda value: value if isinstance(value, str) else "fsdp2" if value else "ddp",
)
def test_flux_in_two_processes_is_flux_in_one(flux_run, environment, change: str) -> None:
    """Branches that one process hides and the other hears, pieces of a batch, blocks that are computed again."""
    out = f"{'fsdp' if environment else 'ddp'}-{change.partition('=')[0]}-{change.partition('=')[2]}"
    said = launched(flux_run, "all", "train", "flux.yaml", "--out", out, "--set", change, processes=2, **environment)
    assert said.count("wrote ") == 1
    assert_close(flux_run / out, flux_run / "one")
