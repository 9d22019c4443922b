"""Names that say what a file holds, and that no file has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from subjectgen.core import InputError
from subjectgen.core.files import atomic_write, visible_files
from subjectgen.core.naming import slug, unused_path

PROMPTS = {
    "A duck, on the grass!": "a-duck-on-the-grass",
    "猫": "猫",
    "кот на траве": "кот-на-траве",
    "हिन्दी बिल्ली": "हिन्दी-बिल्ली",
    "a_b\tc\n": "a-b-c",
    "\uff26ull": "full",
    "": "empty",
    " \n": "empty",
    "CON": "con-",
    "lpt1": "lpt1-",
    "com1 port": "com1-port",
    "../../etc/passwd": "etc-passwd",
    "🧸 toy": "toy",
}


@pytest.mark.parametrize(("text", "expected"), PROMPTS.items(), ids=list(PROMPTS.values()))
def test_a_prompt_as_a_name(text: str, expected: str) -> None:
    assert slug(text) == expected


@given(st.text(), st.integers(12, 80))
def test_any_text_is_a_name_that_a_folder_takes(text: str, limit: int) -> None:
    name = slug(text, limit)
    assert 0 < len(name.encode()) <= limit
    assert Path(name).name == name
    assert not name.startswith((".", "-"))


def test_texts_without_letters_are_told_apart() -> None:
    names = {slug(text) for text in ("🧸", "🦆", "!!!", "???")}
    assert len(names) == 4
    assert all(len(name) == 8 for name in names)


def test_a_narrow_system_gets_a_hash_for_what_it_cannot_hold() -> None:
    program = "from subjectgen.core.naming import slug; print(slug('\\u732b'), slug('\\u72ac'), slug('a \\u732b toy'))"
    narrow = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **narrow}, capture_output=True, text=True, check=True
    )
    one, other, mixed = done.stdout.split()
    assert len({one, other, mixed}) == 3
    assert mixed.startswith("a-toy-")
    assert done.stdout.isascii()


# -------------------------------------------------------------------------------------------------------- unused names


def test_nothing_is_written_over(tmp_path: Path) -> None:
    names = []
    for text in ("one", "two", "three"):
        path = unused_path(tmp_path / "out", "0001-duck-7", ".png")
        with atomic_write(path) as temporary:
            temporary.write_text(text)
        names.append(path.name)
    assert names == ["0001-duck-7.png", "0001-duck-7-2.png", "0001-duck-7-3.png"]
    assert [(tmp_path / "out" / name).read_text() for name in names] == ["one", "two", "three"]


def test_files_beside_it_and_dangling_links_are_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "a.json").touch()
    (tmp_path / "a-2.png").symlink_to("gone")
    assert unused_path(tmp_path, "a", ".png", beside=[".json"]).name == "a-3.png"


MANY = """
import sys
from subjectgen.core.naming import unused_path
for _ in range(50):
    print(unused_path(sys.argv[1], "a", ".png"))
"""


def test_processes_at_once_get_names_of_their_own(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MANY, str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    names = [line for process in running for line in process.communicate(timeout=120)[0].split()]
    assert len(names) == len(set(names)) == 150
    assert {*map(Path, names)} == {*tmp_path.iterdir()}


@pytest.mark.parametrize("stem", ["", ".", "a/b", "..", "x" * 300, "a\ud83e"])
def test_what_is_no_name_is_refused(stem: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no file name"):
        unused_path(tmp_path, stem, ".png")


# ------------------------------------------------------------------------------------------------------- hidden files


def test_files_of_other_systems_are_not_seen(tmp_path: Path) -> None:
    for name in ("b.JPG", "a.jpg", "c.png", "._a.jpg", ".DS_Store", "Thumbs.db", "thumbs.db", "Desktop.ini", "~$a.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "gone.jpg").symlink_to("gone")
    assert [path.name for path in visible_files(tmp_path, (".jpg",))] == ["a.jpg", "b.JPG"]
    assert [path.name for path in visible_files(tmp_path)] == ["a.jpg", "b.JPG", "c.png"]


def test_what_is_no_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "toys").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"toyz: no such folder; did you mean 'toys'\?"):
        visible_files(tmp_path / "toyz")
    with pytest.raises(InputError, match="file: is a file; expected a folder"):
        visible_files(tmp_path / "file")
