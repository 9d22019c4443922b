"""Weights: where they come from, and that they are what was published."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors.torch import save_file

from subjectgen.core import CheckpointError, resolve_checkpoint
from subjectgen.core.weights import SUMS, verify, write_checksums


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A checkpoint of two files with checksums."""
    folder = tmp_path / "vae"
    (folder / "part").mkdir(parents=True)
    save_file({"w": torch.arange(100.0)}, folder / "part" / "model.safetensors")
    (folder / "config.json").write_text("{}")
    write_checksums(folder)
    return folder


def test_a_good_folder_is_returned(folder: Path) -> None:
    assert resolve_checkpoint(str(folder)) == str(folder)
    assert resolve_checkpoint(str(folder / "config.json")) == str(folder / "config.json")


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="needs coreutils")
def test_checksums_are_those_of_sha256sum(folder: Path) -> None:
    done = subprocess.run(["sha256sum", "--check", "--strict", SUMS], cwd=folder, capture_output=True, check=False)
    assert done.returncode == 0


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_changed_byte_and_any_truncation_is_found(folder: Path, data: st.DataObject) -> None:
    path = folder / "part" / "model.safetensors"
    good = path.read_bytes()
    position = data.draw(st.integers(0, len(good) - 1))
    changed = good[:position] + bytes([good[position] ^ data.draw(st.integers(1, 255))]) + good[position + 1 :]
    try:
        for bad in (changed, good[:position]):
            path.write_bytes(bad)
            with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated or changed: expected hash"):
                verify(folder)
    finally:
        path.write_bytes(good)
    verify(folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "part" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        resolve_checkpoint(str(folder))


def test_weights_that_are_not_listed_are_refused(folder: Path) -> None:
    save_file({"w": torch.ones(1)}, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors is not listed"):
        resolve_checkpoint(str(folder))
    write_checksums(folder)
    resolve_checkpoint(str(folder))


@pytest.mark.parametrize("line", ["abc  config.json", f"{'0' * 64}  ../other", f"{'0' * 64}  /etc/hosts", "\0\xff"])
def test_a_damaged_list_is_refused(folder: Path, line: str) -> None:
    (folder / SUMS).write_text(line + "\n", encoding="latin-1")
    with pytest.raises(CheckpointError, match=f"{SUMS}:1"):
        resolve_checkpoint(str(folder))


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".pth", ".ckpt"])
def test_pickles_alone_are_refused(folder: Path, suffix: str) -> None:
    pickle = folder / "part" / f"model{suffix}"
    pickle.touch()
    resolve_checkpoint(str(folder))
    with pytest.raises(CheckpointError, match="may be a pickle"):
        resolve_checkpoint(str(pickle))
    (folder / "part" / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="may be a pickle"):
        resolve_checkpoint(str(folder))


def test_verified_files_are_not_read_again(folder: Path) -> None:
    """Same path, time and size: the file is not opened. A newer time: it is."""
    path = folder / "config.json"
    verify(folder)
    state = path.stat()
    path.write_text("[]")
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    verify(folder)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 10**9))
    with pytest.raises(CheckpointError):
        verify(folder)


def test_hub_ids_are_returned_untouched() -> None:
    assert resolve_checkpoint("OpenGVLab/InternVL3-8B-hf", revision="abc") == "OpenGVLab/InternVL3-8B-hf"


@pytest.mark.parametrize("name", ["./vea", "{folder}/vea", "{folder}/vea/part", "vea", "~/no_such_folder_here"])
def test_a_local_name_that_is_not_there(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    with pytest.raises(CheckpointError, match="does not exist") as caught:
        resolve_checkpoint(name.format(folder=folder.parent))
    if "vea" in name:
        assert "did you mean 'vae'?" in str(caught.value)


def test_local_weights_have_no_revision(folder: Path) -> None:
    with pytest.raises(CheckpointError, match="revision"):
        resolve_checkpoint(str(folder), revision="main")


def test_weights_inside_a_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = folder.parent / "acme_weights"
    shutil.copytree(folder, package / "toys" / "vae")
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(folder.parent)
    assert resolve_checkpoint("package:acme_weights/toys/vae") == str(package / "toys" / "vae")
    with pytest.raises(CheckpointError, match="did you mean 'toys'"):
        resolve_checkpoint("package:acme_weights/tois/vae")
    with pytest.raises(CheckpointError, match="must stay inside"):
        resolve_checkpoint("package:acme_weights/../vae")


def test_an_experiment_inside_a_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that a wheel ships: its folder, and the file itself."""
    run = folder.parent / "acme_runs" / "weights" / "demo"
    shutil.copytree(folder, run)
    (run / "experiment.yaml").write_text("{}")
    write_checksums(run)
    (run.parents[1] / "__init__.py").touch()
    monkeypatch.syspath_prepend(folder.parent)
    assert resolve_checkpoint("package:acme_runs/weights/demo") == str(run)
    assert resolve_checkpoint("package:acme_runs/weights/demo/experiment.yaml") == str(run / "experiment.yaml")


@pytest.mark.parametrize("name", ["vae", "./vae", "runs/vae", "../weights/vae"])
def test_a_relative_name_starts_where_it_is_said(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    said = folder.parent / "weights"
    for place in (said / "vae", said / "runs" / "vae"):
        shutil.copytree(folder, place)
    monkeypatch.chdir(folder)
    assert Path(resolve_checkpoint(name, relative_to=said)).samefile(said / name)
    with pytest.raises(CheckpointError, match="does not exist"):
        resolve_checkpoint("./nowhere", relative_to=said)
    assert resolve_checkpoint("owner/model", relative_to=said) == "owner/model"
    assert resolve_checkpoint(str(folder), relative_to=said) == str(folder)


def test_a_package_that_is_not_installed() -> None:
    with pytest.raises(CheckpointError, match="'acme_nothing' is not installed"):
        resolve_checkpoint("package:acme_nothing/x")
    with pytest.raises(CheckpointError, match="pip install subjectgen-nothing"):
        resolve_checkpoint("package:subjectgen.nothing/x")
