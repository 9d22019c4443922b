"""A file of requests: each with its own references, seeds and size; what fails is named, the rest is made."""

import json
from pathlib import Path

import pytest
from PIL import Image

from subjectgen.core import InputError
from subjectgen.runner.cli.main import main
from subjectgen.runner.generation.requests import read_requests

pytestmark = pytest.mark.filterwarnings("ignore:.*random")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        Image.effect_noise((40, 30), 60).convert("RGB").save(tmp_path / f"{name}.png")
    return tmp_path


@pytest.fixture
def generate(write, folder, capsys):
    """Run a file of requests; returns exit code, written files and what was said."""

    def generate(text: str, *arguments: str, name: str = "requests.yaml") -> tuple[int, list[Path], str]:
        (folder / name).write_text(text)
        steps = write({"schedule": {"steps": 2}})
        given = ["generate", str(steps), "--requests", str(folder / name), "--out", str(folder / "out")]
        try:
            main([*given, "--device", "cpu", *arguments])
            code = 0
        except SystemExit as ended:
            code = int(ended.code or 0)
        out, err = capsys.readouterr()
        return code, [Path(line) for line in out.splitlines()], err

    return generate


def record(path: Path) -> dict:
    return json.loads(path.with_suffix(".json").read_text())


def test_each_request_has_its_own_references_seeds_and_size(generate) -> None:
    """On one command line every prompt sees every reference (fault O4); here each sees its own."""
    code, paths, _ = generate(
        """
        - {prompt: the toy in the snow, references: [one.png], seeds: [3, 4]}
        - {prompt: [the toy at night, the toy on the beach], references: [{image: two.png}, one.png], height: 96}
        - {key: bare, prompt: the toy}
        """
    )
    assert code == 0
    found = [record(path) for path in paths]
    assert [one["seed"] for one in found] == [3, 4, 0, 0, 0]
    assert [one["references"] for one in found] == [["one.png"]] * 2 + [["two.png", "one.png"]] * 2 + [[]]
    assert [(one["height"], one["width"]) for one in found] == [(64, 64)] * 2 + [(96, 64)] * 2 + [(64, 64)]
    assert paths[-1].name.startswith("bare-0-")
    with Image.open(paths[2]) as image:
        assert image.size == (64, 96)


def test_lines_of_json_are_the_same(generate) -> None:
    lines = [{"prompt": "the toy", "references": ["one.png"]}, {"prompt": "the toy", "references": ["two.png"]}]
    code, paths, _ = generate("\n".join(map(json.dumps, lines)), name="requests.jsonl")
    assert (code, len(paths)) == (0, 2)
    assert paths[0].read_bytes() != paths[1].read_bytes()


def test_it_goes_on_after_a_kill(generate) -> None:
    text = "- {prompt: the toy, references: [one.png], seeds: [0, 1, 2]}"
    _, paths, _ = generate(text)
    kept, times = paths[0].read_bytes(), paths[0].stat().st_mtime_ns
    paths[1].unlink()  # as if killed before it was written
    paths[2].unlink()
    code, again, said = generate(text)
    assert (code, again) == (0, paths)
    assert (paths[0].read_bytes(), paths[0].stat().st_mtime_ns) == (kept, times)
    assert "1 of 3 images were there before" in said


def test_what_fails_is_named_and_the_rest_is_made(generate) -> None:
    code, paths, said = generate(
        """
        - {prompt: the toy, references: [one.png]}
        - {prompt: the toy, references: [absent.png]}
        - {prompt: " "}
        - {promt: the toy}
        - {prompt: the toy, width: 70}
        - {prompt: the toy at night, references: [two.png]}
        """
    )
    assert code == 1
    assert len(paths) == 2
    assert "requests.yaml:3: reference" in said
    assert "absent.png" in said
    assert "requests.yaml:4" in said
    assert "requests.yaml:5: 3.promt: unknown key; did you mean 'prompt'" in said
    assert "requests.yaml:6: width: got 70" in said


@pytest.mark.parametrize(
    ("text", "expected"), [("", "holds no request"), ("prompt: x", "expected a list"), ("[1, 2", "not valid YAML")]
)
def test_a_file_that_is_no_list_is_refused(tmp_path, text: str, expected: str) -> None:
    path = tmp_path / "requests.yaml"
    path.write_text(text)
    with pytest.raises(Exception, match=expected) as told:
        read_requests(path)
    assert "requests.yaml" in str(told.value)


def test_a_missing_file_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match=r"absent\.yaml cannot be read"):
        read_requests(tmp_path / "absent.yaml")


def test_prompts_beside_a_file_are_refused(generate) -> None:
    code, _, said = generate("- {prompt: the toy}", "--prompt", "x")
    assert code == 2
    assert "expected no --prompt" in said
