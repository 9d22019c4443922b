"""The page about training, as a newcomer follows it: its own commands, in order, on toys and in two processes."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "how-to" / "train.md"
SMALL = f"""
extends: {ROOT / "experiments" / "toybox" / "demo.yaml"}
trained: null
training:
  phases: [{{branches: [mllm], steps: 2}}, {{steps: 2}}]
  batch_size: 4
  log_every: 1
  save_every: 1
"""

pytestmark = pytest.mark.slow


def commands() -> Iterator[str]:
    """Lines of the page's shell blocks."""
    for block in re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S):
        yield from block.strip().splitlines()


def small(command: str) -> str:
    """The same command at toy size, on this machine."""
    for old, new in {
        "experiments/squeeze/full.yaml": "small.yaml",
        "size: 512": "size: 64",
        "--limit 1000": "--limit 8",
        "--num_processes 8": "--num_processes 2",
        "--multi_gpu": "--cpu --multi_gpu",
        "training.workers=4": "training.workers=1",
        "--use_fsdp --fsdp_version 2": "--cpu --use_fsdp --fsdp_version 2",
    }.items():
        command = command.replace(old, new)
    return command


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """UNO-1M's layout with a few pictures, one of a lower score, and the reader's own picture."""
    (tmp_path / "small.yaml").write_text(SMALL)
    (tmp_path / "UNO-1M" / "images" / "split1").mkdir(parents=True)
    labels = []
    for number in range(9):
        names = [f"object{number}_{part}.png" for part in "ab"]
        for name in names:
            Image.new("RGB", (96, 80), (20 * number, 90, 200)).save(tmp_path / "UNO-1M" / "images" / "split1" / name)
        captions = {"img_path1": "a toy", "img_path2": "the toy in the snow"}
        filtered = {"score_final": 4.0 if number else 2.5}
        paths = {f"img_path{place}": f"split1/{name}" for place, name in enumerate(names, 1)}
        labels.append({**paths, "caption": captions, "vlm_filter_cot": filtered})
    (tmp_path / "UNO-1M" / "uno_1m_total_labels.json").write_text(json.dumps(labels))
    Image.new("RGB", (96, 80), (200, 90, 20)).save(tmp_path / "subject.png")
    return tmp_path


def run(command: str, folder: Path) -> str:
    words = shlex.split(command)
    if words[0] == "subjectgen":
        words = [sys.executable, "-m", "subjectgen.runner", *words[1:]]
    else:
        assert words[:2] == ["accelerate", "launch"]
        # accelerate's own launcher starts several processes of a CPU by mpirun; torch's does the same with what it sets
        environment = {"ACCELERATE_USE_CPU": "true"}
        if "--use_fsdp" in words:
            environment |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
        rest = words[words.index("-m") :]
        launch = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--standalone"]
        words = ["env", *(f"{key}={value}" for key, value in environment.items()), sys.executable, *launch, *rest]
    done = subprocess.run(
        words,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if words[-1] != "runs/full" or "--resume" not in words:
        assert done.returncode == 0, f"{command}\n{done.stderr[-2000:]}"
    return done.stdout + done.stderr


def test_every_command_of_the_page_runs(folder: Path) -> None:
    said = {command: run(small(command), folder) for command in commands()}
    assert len(said) == 9
    labels = next(text for command, text in said.items() if "data check" in command)
    assert "8" in labels
    assert list((folder / "shards").glob("shard-*.tar"))
    for name in ("full", "eight", "cut"):
        assert (folder / "runs" / name / "trained" / "lora.safetensors").is_file()
    (resumed,) = (text for command, text in said.items() if "--resume" in command)
    assert "this run has ended" in resumed
    assert (folder / "exported" / "pytorch_lora_weights.safetensors").is_file()
    assert list((folder / "pictures").glob("*.png"))
