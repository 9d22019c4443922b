"""Nothing half-written stays behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from subjectgen.core.files import atomic_folder, atomic_write


def everything(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_file_appears_at_the_end(tmp_path: Path) -> None:
    target = tmp_path / "new" / "sheet.png"
    with atomic_write(target) as temporary:
        temporary.write_text("x")
        assert temporary.suffix == ".png"
        assert temporary.parent == target.parent
        assert not target.exists()
    assert everything(tmp_path) == ["new", "new/sheet.png"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(tmp_path: Path, error: type[BaseException]) -> None:
    (tmp_path / "a.json").write_text("old")

    def fail(name: str) -> None:
        with atomic_write(tmp_path / name) as temporary:
            temporary.write_text("half")
            raise error

    for name in ("a.json", "deep/er/b.json"):
        with pytest.raises(error):
            fail(name)
    assert everything(tmp_path) == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "old"


@pytest.mark.parametrize("there_before", [False, True])
def test_a_folder_appears_at_the_end(tmp_path: Path, there_before: bool) -> None:
    target = tmp_path / "run"
    if there_before:
        target.mkdir()
        (target / "old.json").touch()
    with atomic_folder(target) as temporary:
        (temporary / "new.json").touch()
        assert target.exists() == there_before
    assert everything(tmp_path) == ["run", "run/new.json"]


def test_a_failure_leaves_the_folder_that_was_there(tmp_path: Path) -> None:
    def fail(name: str) -> None:
        with atomic_folder(tmp_path / name) as temporary:
            (temporary / "half").touch()
            raise ValueError("stop")

    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "old.json").touch()
    for name in ("run", "deep/run"):
        with pytest.raises(ValueError, match="stop"):
            fail(name)
    assert everything(tmp_path) == ["run", "run/old.json"]
