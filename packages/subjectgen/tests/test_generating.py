"""Previews, and generating with too little memory, through the command line."""

from pathlib import Path

import pytest
from PIL import Image

from subjectgen.runner.cli.main import main

ARGUMENTS = ["--prompt", "the toy in the snow", "--device", "cpu", "--seed", "1", "--seed", "2"]


@pytest.fixture
def run(write, tmp_path, capsys):
    """Generate from the small experiment; returns exit code and what was said."""

    def run(*arguments: object, **changes: object) -> tuple[int, str]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["subjectgen"])
            try:
                main(
                    ["generate", str(write(changes)), *ARGUMENTS, "--out", str(tmp_path / "out"), *map(str, arguments)]
                )
                code = 0
            except SystemExit as exit_:
                code = int(exit_.code or 0)
        return code, capsys.readouterr().err

    return run


@pytest.mark.filterwarnings("ignore:.*random")
@pytest.mark.parametrize("name", ["seen.png", "seen.jpg"])
def test_a_preview_shows_the_batch_side_by_side(run, tmp_path: Path, name: str) -> None:
    code, _ = run("--preview", tmp_path / "new" / name, "--preview-every", 2)
    assert code == 0
    with Image.open(tmp_path / "new" / name) as image:
        assert image.size == (2 * 64, 64)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]  # no unfinished file is left


@pytest.mark.filterwarnings("ignore:.*random")
def test_the_last_preview_is_the_result(run, tmp_path: Path) -> None:
    """The last velocity leads where the last step goes; --preview-every 4 of 5 steps would miss it."""
    run("--preview", tmp_path / "seen.png", "--preview-every", 4)
    results = [Image.open(path).convert("RGB") for path in sorted((tmp_path / "out").glob("*.png"))]
    with Image.open(tmp_path / "seen.png") as seen:
        for number, result in enumerate(results):
            part = seen.convert("RGB").crop((64 * number, 0, 64 * (number + 1), 64))
            differences = [abs(a - b) for a, b in zip(part.tobytes(), result.tobytes(), strict=True)]
            assert max(differences) <= 1  # rounding


def test_a_preview_that_is_no_picture_is_refused_at_once(run, tmp_path: Path) -> None:
    for path, expected in ((tmp_path / "seen.txt", "expected a file that ends in .png"), (tmp_path, "ends in")):
        code, said = run("--preview", path, backbone={"checkpoint": "./nowhere"})
        assert (code, expected in said) == (2, True)
    taken = tmp_path / "taken"
    taken.write_text("mine")
    code, said = run("--preview", taken / "seen.png")
    assert (code, "--preview" in said, "is a file" in said) == (2, True, True)


@pytest.mark.filterwarnings("ignore:.*random")
def test_out_of_memory_is_one_message(run, tmp_path: Path) -> None:
    side = 16 * 2**20  # more bytes than an address can name
    code, said = run("--height", side, "--width", side)
    assert code == 2
    assert [line for line in said.splitlines() if line.startswith("error: out of memory")]
    assert "next: --batch-size 1" in said
    assert "Traceback" not in said
    assert not (tmp_path / "out").exists()


@pytest.mark.filterwarnings("ignore:.*random")
def test_a_preview_that_fails_on_the_way_stops_nothing(run, tmp_path: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("subjectgen.runner.generation.preview.atomic_write", full)
    with pytest.warns(UserWarning, match="--preview: .*seen.png cannot be written: No space left") as told:
        code, _ = run("--preview", tmp_path / "seen.png", "--preview-every", 1)
    assert code == 0
    assert len([one for one in told if "--preview" in str(one.message)]) == 1
    assert len(list((tmp_path / "out").glob("*.png"))) == 2


def test_a_size_that_tokens_do_not_fill_is_refused(run, tmp_path: Path) -> None:
    for arguments, changes in (((), {"image": {"width": 70}}), (("--width", 70), {})):
        code, said = run(*arguments, **changes)
        assert (code, "width: got 70" in said, "a multiple of 16" in said) == (2, True, True)
        assert said.count("error: ") == 1
    assert not (tmp_path / "out").exists()
