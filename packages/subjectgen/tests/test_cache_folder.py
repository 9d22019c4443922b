"""A cache in a folder: whole shards, readable identity, many writers; what is damaged or foreign is never given."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from subjectgen.core import ConfigError, InputError
from subjectgen.runner.training import cache_folder
from subjectgen.runner.training.cache_folder import FolderStore
from subjectgen.runner.training.cache_identity import Identity

IDENTITY = Identity(values={"component": "tiny", "options.size": 64, "weights": "ab12"})
COUNT = 12


def entry(index: int) -> dict[str, torch.Tensor]:
    """Its values say whose it is; there is one of no values, and one of one."""
    planted = {"values": torch.full((4, 8), float(index)), "whole": torch.tensor(index)}
    return {**planted, "nothing": torch.zeros(0, 3), "half": torch.full((2,), index, dtype=torch.bfloat16)}


def opened(folder: Path, said: list[str] | None = None, identity: Identity = IDENTITY) -> FolderStore:
    return FolderStore(folder, identity, pytest.fail if said is None else said.append)


def filled(folder: Path) -> Path:
    """A shard of all entries."""
    store = opened(folder)
    for index in range(COUNT):
        store.put(f"key{index}", entry(index))
    store.flush()
    (file,) = folder.glob("*.safetensors")
    return file


def assert_own(store: FolderStore, index: int) -> None:
    found = store.get(f"key{index}")
    assert found is not None
    assert found.keys() == entry(index).keys()
    for name, value in entry(index).items():
        assert found[name].dtype is value.dtype
        assert torch.equal(found[name], value)


def test_what_was_put_is_found_before_and_after_it_is_written(tmp_path) -> None:
    store = opened(tmp_path / "cache")
    values = torch.arange(6.0).reshape(2, 3)
    # Views, which nobody may keep: their batch would stay in memory.
    store.put("key", {"column": values[:, 1], "row": values[1]})
    values.zero_()
    for _ in range(2):
        assert torch.equal(store.get("key")["column"], torch.tensor([1.0, 4.0]))
        assert torch.equal(store.get("key")["row"], torch.tensor([3.0, 4.0, 5.0]))
        assert store.get("another") is None
        store.flush()
    assert torch.equal(opened(tmp_path / "cache").get("key")["column"], torch.tensor([1.0, 4.0]))


def test_any_order_finds_each_its_own(tmp_path) -> None:
    filled(tmp_path / "cache")
    store = opened(tmp_path / "cache")
    for index in torch.randperm(COUNT, generator=torch.Generator().manual_seed(1)).tolist():
        assert_own(store, index)


def test_shards_are_no_larger_than_they_may_be(tmp_path, monkeypatch) -> None:
    size = sum(value.numel() * value.element_size() for value in entry(0).values())
    monkeypatch.setattr(cache_folder, "SHARD", 5 * size)
    store = opened(tmp_path / "cache")
    for index in range(COUNT):
        store.put(f"key{index}", entry(index))
        assert_own(store, index)
        assert_own(store, 0)
    store.flush()
    held = [{name.partition("/")[0] for name in load_file(file)} for file in (tmp_path / "cache").glob("*.safetensors")]
    assert sorted(len(keys) for keys in held) == [2, 5, 5]
    assert set().union(*held) == {f"key{index}" for index in range(COUNT)}


# ---------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("harm", ["truncated", "flipped", "emptied", "foreign", "no checksums"])
def test_a_damaged_shard_is_named_and_its_entries_are_made_again(tmp_path, harm: str) -> None:
    file = filled(tmp_path / "cache")
    content = bytearray(file.read_bytes())
    if harm == "flipped":
        with safe_open(file, framework="pt") as stream:
            last = stream.offset_keys()[-1].partition("/")[0]
        content[-1] ^= 1
    if harm == "foreign":
        at = content.index(IDENTITY.digest.encode())
        content[at : at + 4] = b"zzzz"
    if harm == "no checksums":
        at = content.index(b"checksums")
        content[at : at + 9] = b"CHECKSUMS"
    file.write_bytes({"truncated": content[:-7], "emptied": b""}.get(harm, content))
    said: list[str] = []
    store = opened(tmp_path / "cache", said)
    lost = [index for index in range(COUNT) if store.get(f"key{index}") is None]
    assert lost == ([int(last.removeprefix("key"))] if harm == "flipped" else list(range(COUNT)))
    assert len(said) == 1
    assert str(file) in said[0]
    assert ("made by something else" if harm == "foreign" else "is damaged") in said[0]
    for index in lost:
        store.put(f"key{index}", entry(index))
    store.flush()
    again = opened(tmp_path / "cache", said)
    for index in range(COUNT):
        assert_own(again, index)


def test_a_full_disk_is_named_and_costs_no_entry(tmp_path, monkeypatch) -> None:
    store = opened(tmp_path / "cache")
    store.put("key1", entry(1))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(InputError, match=r"cache.*safetensors: .*the disk is full"):  # noqa: PT012
        patch.setattr("subjectgen.runner.training.cache_shards.save_file", full)
        store.flush()
    assert [one.name for one in (tmp_path / "cache").iterdir()] == ["cache.json"]
    store.flush()
    assert_own(opened(tmp_path / "cache"), 1)


# ------------------------------------------------------------------------------------------------------ whose it is


def test_what_made_it_can_be_read(tmp_path) -> None:
    filled(tmp_path / "cache")
    said = json.loads((tmp_path / "cache" / "cache.json").read_text(encoding="utf-8"))
    assert said == {"format": 1, "values": dict(IDENTITY.values), "samples": {}, "libraries": {}}


def test_another_maker_is_refused_with_every_key_and_both_values(tmp_path) -> None:
    filled(tmp_path)
    other = Identity(values={"component": "tiny", "options.size": 32, "weights": "cd34", "layers": [1]})
    with pytest.raises(ConfigError) as refusal:
        opened(tmp_path, identity=other)
    file = tmp_path / "cache.json"
    assert str(refusal.value).splitlines() == [
        f"{file}: options.size: made with 64; now 32",
        f'{file}: weights: made with "ab12"; now "cd34"',
        f"{file}: layers: made with null; now [1]",
        f"{tmp_path}: a cache serves only what made it; expected another folder: "
        f"--set training.cache.folder=ANOTHER, or remove {tmp_path}",
    ]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("holiday.safetensors", "mine", r"holds holiday\.safetensors, but no cache\.json"),
        ("cache.json", '{"format": 1, ', r"cache\.json is damaged"),
        ("cache.json", '{"format": 7}', r"format: got 7; expected 1"),
    ],
)
def test_a_folder_that_is_no_cache_is_refused(tmp_path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ConfigError, match=f"{said}.*folder=ANOTHER, or remove"):
        opened(tmp_path)
    assert [one.name for one in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(("name", "allowed"), [("features.layer 1", 0.05), ("pictures.pixels", 0.003)])
def test_samples_may_differ_by_rounding_and_no_more(tmp_path, name: str, allowed: float) -> None:
    """As much as fingerprints of trained parts allow: models round in their own ways, and pictures hardly at all."""

    def made(factor: float) -> Identity:
        sample = {"shape": [4], "values": [factor * value for value in (1.0, -2.0, 3.0, 0.5)]}
        return Identity(values={}, samples={name: sample}, libraries={"torch": f"{factor}"})

    opened(tmp_path, identity=made(1.0))
    opened(tmp_path, identity=made(1.0 + allowed))
    with pytest.raises(ConfigError, match=rf'{name}: differs by \d+% .*{{"torch": "1.0"}}; now {{"torch": "2.0"}}'):
        opened(tmp_path, identity=made(2.0))


# ----------------------------------------------------------------------------------------------------- many writers


def _fill(folder: str, indices: list[int], ready: Any, go: Any) -> None:
    """In a process of its own: rows of its own, and some that the other makes, too; a shard for each."""
    ready.release()
    go.wait()
    store = opened(Path(folder))
    for index in indices:
        if store.get(f"key{index}") is None:
            store.put(f"key{index}", entry(index))
            store.flush()


@pytest.mark.slow
def test_two_may_write_at_once(tmp_path) -> None:
    context = multiprocessing.get_context("fork")
    ready, go = context.Semaphore(0), context.Event()
    halves = [list(range(8)), list(range(COUNT - 1, 3, -1))]
    writers = [context.Process(target=_fill, args=(str(tmp_path / "cache"), half, ready, go)) for half in halves]
    for writer in writers:
        writer.start()
    for _ in writers:
        assert ready.acquire(timeout=300)
    go.set()
    for writer in writers:
        writer.join(timeout=300)
        assert writer.exitcode == 0
    store = opened(tmp_path / "cache")
    for index in range(COUNT):
        assert_own(store, index)


def test_one_finds_what_the_other_wrote_when_it_writes(tmp_path) -> None:
    """In one process, so that who is first is known: nothing is written twice."""
    one, two = (opened(tmp_path / "cache") for _ in range(2))
    for store, count in ((one, 8), (two, 4)):
        for index in range(count):
            store.put(f"key{index}", entry(index))
        store.flush()
    assert len(list((tmp_path / "cache").glob("*.safetensors"))) == 1
    for index in range(8):
        assert_own(two, index)
