"""``subjectgen data check`` and ``data shard``, through the command line."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from subjectgen.core import Component, Config, Reference, Sample
from subjectgen.core.plugins import Plugins
from subjectgen.runner.data.faults import general
from subjectgen.runner.data.scan import scan
from subjectgen.runner.data.specs import find_datasets


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Seven pairs of two sizes, one or two references."""
    made = tmp_path / "pairs"
    made.mkdir()
    lines = []
    for number in range(7):
        size = (12, 8) if number % 3 else (8, 8)
        for name in (f"t{number}.png", f"r{number}.png"):
            Image.effect_noise(size, 80).convert("RGB").save(made / name)
        references = [f"r{number}.png", "r0.png"][: 1 + number % 2]
        lines.append({"prompt": "a thing " * (number + 1), "target": f"t{number}.png", "references": references})
    (made / "index.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return made


def spec(folder: Path) -> str:
    return f"{{name: image_pairs, folder: {folder}}}"


def test_check_tells_what_is_there(run, folder, tmp_path) -> None:
    code, out, _ = run("data", "check", spec(folder), "--json", "--batch-size", 3)
    assert code == 0
    (report,) = json.loads(out)["datasets"]
    assert (report["samples"], report["read"], report["faults"]) == (7, 7, 0)
    assert report["references"] == {"1": 4, "2": 3}
    sizes = {(one["height"], one["width"]): (one["samples"], one["tail"]) for one in report["sizes"]}
    assert sizes == {(8, 12): (4, 1), (8, 8): (3, 0)}
    assert report["tail"] == 1
    assert report["prompt_letters"]["shortest"] == 8
    assert report["prompt_letters"]["longest"] == 56


def test_check_reads_on_after_every_fault_and_counts_exactly(run, folder, tmp_path) -> None:
    (folder / "t1.png").write_bytes((folder / "t1.png").read_bytes()[:60])
    (folder / "t4.png").unlink()
    (folder / "r2.png").write_text("no picture")
    with (folder / "index.jsonl").open("a") as stream:
        stream.write('\n{"prompt": "x"}\nnonsense')
    code, out, err = run("data", "check", spec(folder), "--out", tmp_path / "out")
    assert code == 1
    assert "7 samples, 4 read without fault" in out
    assert "faults: 5" in out
    (report,) = json.loads((tmp_path / "out" / "report.json").read_text())["datasets"]
    assert {one["reason"]: one["count"] for one in report["faults_by_reason"]} == {
        "target: cannot be decoded": 1,
        "target: no such file": 1,
        "reference: not an image": 1,
        "index: target is missing": 1,
        "index: not JSON": 1,
    }
    assert "index.jsonl:5: target 't4.png': no such file" in out
    assert "reading image_pairs: 7 samples" in err
    page = (tmp_path / "out" / "index.html").read_text()
    assert "reference: not an image" in page
    assert page.count("data:image/webp;base64,") == sum(1 + 1 + number % 2 for number in (0, 3, 5, 6))
    assert not re.findall(r'(?:src|href)="(?!data:)', page)


def test_a_prompt_cannot_write_into_the_page(run, folder, tmp_path) -> None:
    line = {"prompt": "<script>alert(1)</script>", "target": "t0.png", "reference": "r0.png"}
    (folder / "index.jsonl").write_text(json.dumps(line))
    assert run("data", "check", spec(folder), "--out", tmp_path / "out")[0] == 0
    assert "<script>" not in (tmp_path / "out" / "index.html").read_text()


def test_check_of_an_experiment_and_its_limit(run, write) -> None:
    code, out, _ = run("data", "check", write(), "--limit", 5, "--json")
    (report,) = json.loads(out)["datasets"]
    assert code == 0
    assert report["dataset"]["name"] == "toy_pairs"
    assert report["read"] == 5 < report["samples"]
    _, out, _ = run("data", "check", write(), "--limit", 5, "--json", "--set", "training.dataset.views=2")
    assert json.loads(out)["datasets"][0]["dataset"]["options"]["views"] == 2


def test_each_data_set_of_an_experiment_is_read_once(run, write) -> None:
    phases = [{"steps": 1}, {"steps": 1, "dataset": {"name": "toy_pairs", "toys": 3, "views": 2}}, {"steps": 1}]
    _, out, _ = run("data", "check", write({"training": {"phases": phases}}), "--limit", 2, "--json")
    assert [one["dataset"]["options"]["toys"] for one in json.loads(out)["datasets"]] == [4, 3]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{name: uno_2m}", "unknown dataset 'uno_2m'; did you mean 'uno_1m'"),
        ("{labels: x}", "SPEC: name: missing"),
        ("{name: uno_1m}", "labels: missing"),
        ("{name: image_pairs, folder: nowhere}", "no such folder: nowhere"),
        ("{name: image_pairs, foldr: x}", "did you mean 'folder'"),
        ("{name: ", "SPEC"),
        ("nothing.yaml", "no such file, and no experiment of that name"),
    ],
)
@pytest.mark.parametrize("command", ["check", "shard"])
def test_a_mistake_is_one_message(run, text, message, command, tmp_path) -> None:
    code, _, err = run("data", command, text, *(["--out", tmp_path / "out"] if command == "shard" else []))
    assert code == 2
    assert message in err
    assert not (tmp_path / "out").exists()


def test_shard_packs_what_tar_shards_read(run, folder, tmp_path) -> None:
    out = tmp_path / "shards"
    code, text, _ = run("data", "shard", spec(folder), "--out", out, "--shard-size", "4k")
    assert code == 0
    assert re.search(r"wrote 7 samples in [2-9] shards", text)
    code, text, _ = run("data", "check", f"{{name: tar_shards, shards: '{out}/*.tar'}}", "--json")
    assert code == 0
    assert json.loads(text)["datasets"][0]["read"] == 7
    code, _, err = run("data", "shard", spec(folder), "--out", out)
    assert code == 2
    assert "exists and is not empty" in err


def test_shard_of_a_broken_set_says_what_is_left_out(run, folder, tmp_path) -> None:
    (folder / "t1.png").unlink()
    code, text, err = run("data", "shard", spec(folder), "--out", tmp_path / "out")
    assert code == 1
    assert "wrote 6 samples" in text
    assert "left out: 1 x target: no such file" in err


@pytest.mark.parametrize("size", ["0", "-3", "x", "1.5G", ""])
def test_a_shard_size_that_is_none(run, folder, tmp_path, size) -> None:
    code, _, err = run("data", "shard", spec(folder), "--out", tmp_path / "out", "--shard-size", size)
    assert code == 2
    assert "--shard-size" in err


def test_toys_are_packed_too(run, write, tmp_path) -> None:
    assert run("data", "shard", write(), "--out", tmp_path / "out")[0] == 0
    host = Plugins.discover()
    packed = host.build("datasets", {"name": "tar_shards", "shards": str(tmp_path / "out" / "*.tar")})
    (toys,) = find_datasets(str(write()), plugins=host)
    expected = toys.build()[1]
    assert packed[1].key == expected.key
    assert dict(packed[1].facts) == dict(expected.facts)
    assert torch.allclose(packed[1].target, expected.target, atol=0.51 / 255)


def test_an_experiment_trains_on_a_folder_and_on_its_shards(run, write, folder, tmp_path) -> None:
    assert run("data", "shard", spec(folder), "--out", tmp_path / "shards")[0] == 0
    shards = {"name": "tar_shards", "shards": str(tmp_path / "shards" / "*.tar"), "size": 64}
    for name, dataset in (("a", {"name": "image_pairs", "folder": str(folder), "size": 64}), ("b", shards)):
        code, out, err = run("train", write({"training": {"dataset": dataset}}), "--out", tmp_path / name)
        assert code == 0, err
        assert "loss" in out


# ------------------------------------------------------------------------------------------- plugins' data sets


class Wild:
    """A plugin's data set in which everything is wrong."""

    class Config(Config):
        """Nothing."""

    sizes = ((8, 8),) * 7

    def __init__(self, config) -> None: ...

    def __len__(self) -> int:
        return 7

    def __getitem__(self, index: int) -> Sample:
        if index in (1, 2):
            raise RuntimeError(f"cannot open '/somewhere/{index}.png' at {index}")
        if index == 3:
            raise SystemError
        key = {4: "K0", 5: "a/b"}.get(index, f"k{index}")
        side = 9 if index == 6 else 8
        return Sample(
            key=key, prompt="p", references=(Reference(image=torch.zeros(3, 4, 4)),), target=torch.zeros(3, 8, side)
        )


@pytest.fixture
def wild():
    host = Plugins.empty()
    module = sys.modules[__name__]
    sys.modules.setdefault("wild_data", module)
    component = Component(name="wild", target="wild_data:Wild", summary="x")

    class Offers:
        @staticmethod
        def subjectgen_datasets():
            return [component]

    from subjectgen.core import hookimpl

    hookimpl(Offers.subjectgen_datasets)
    host.register(Offers, distribution="acme-wild")
    return find_datasets("{name: wild}", plugins=host)[0]


def test_a_plugins_data_set_may_raise_anything(wild) -> None:
    told: list[tuple[int, int]] = []
    report = scan(wild, on_sample=lambda done, of: told.append((done, of))).report(4)
    assert told == [(number, 7) for number in range(1, 8)]
    assert report["read"] == 4
    assert {one["reason"]: one["count"] for one in report["faults_by_reason"]} == {
        "RuntimeError: cannot open ... at #": 2,
        "SystemError: ": 1,
        "key is used twice": 1,
        "key is no name": 1,
        "target of another size than said": 1,
    }


def test_messages_that_differ_in_names_and_numbers_are_one() -> None:
    one, other = "data/a.jsonl:3: 'x.png': 12 of 30", "data/b.jsonl:77: 'y.png': 1 of 4"
    assert general(one) == general(other)
    assert general(one) != general("data/a.jsonl:3: no such file")


def test_without_a_terminal_something_is_said_soon(folder) -> None:
    """A second after the command has begun, from a thread, also while torch is imported."""
    started = time.monotonic()
    command = [sys.executable, "-m", "subjectgen.runner", "data", "check", spec(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert time.monotonic() - started < 10
        assert line.startswith(("opening the data set", "reading image_pairs"))
        process.communicate()
    assert process.returncode == 0
