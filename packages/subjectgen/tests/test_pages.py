"""Pages and sheets from files alone: what stands where, how large, and that nothing else is needed to look at it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from subjectgen.runner.reports.own import write_own_page
from subjectgen.runner.reports.page import write_page
from subjectgen.runner.reports.results import read_result, turned
from subjectgen.runner.reports.sheet import contact_sheet

Paint = Callable[[str, int, int], Image.Image]
"""A picture of a variant, or of ``reference``: which toy, which scene."""
SHARE = {"unit": "share", "better": "higher"}
SIZE = 96


def score(number: float | None, *, key: str = "mean", n: int = 4, **changes: Any) -> dict[str, Any]:
    return {key: number, "low": 0.25, "high": 0.75, "n": n, "subjects": 2, "missing": 0, **SHARE, **changes}


def colour(variant: str, toy: int, scene: int) -> Image.Image:
    """Another one for every picture."""
    third = {"reference": 10, "mllm_only": 90, "both": 170}.get(variant, 250)
    return Image.new("RGB", (SIZE, SIZE), (40 * toy + 10, 60 * scene + 10, third))


def grainy(variant: str, toy: int, scene: int) -> Image.Image:
    """As a poor model paints: more grain than any trained one's."""
    draw = np.random.default_rng((len(variant), toy, scene))
    slope = np.linspace(40, 200, SIZE)[:, None, None] + draw.uniform(-40, 40, 3)
    return Image.fromarray((slope + draw.normal(scale=8, size=(SIZE, SIZE, 3))).clip(0, 255).astype(np.uint8))


def save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def comparison(
    folder: Path,
    variants: Mapping[str, Mapping[str, Any]],
    *,
    toys: int = 2,
    scenes: int = 3,
    paint: Paint = colour,
    azimuths: Sequence[float] | None = None,
    **facts: Any,
) -> Path:
    """What an evaluation leaves: pictures, rows, ``comparison.json``."""
    for toy in range(toys):
        save(paint("reference", toy, 0), folder / f"references/{toy}.png")
    for variant in [name for name, found in variants.items() if "failed" not in found]:
        lines = []
        for number in range(toys * scenes):
            toy, scene = divmod(number, scenes)
            save(paint(variant, toy, scene), folder / variant / f"images/{number}.png")
            known = {"references": [{"azimuth": azimuths[toy]}]} if azimuths else {}
            row = {"key": str(number), "seed": number, "prompt": f"toy <{toy}> in scene {scene}", "metrics": "m"}
            row |= {"image": f"images/{number}.png", "references": [f"references/{toy}.png"], "facts": known}
            lines.append(json.dumps({**row, "scores": {}}))
        (folder / variant / "rows.jsonl").write_text("\n".join(lines))
    described = {
        "name": folder.name,
        "experiment": "tiny",
        "description": "toys & more",
        "plugins": {"subjectgen": "0"},
        "schedule": {"tau1": 0.7},
        "titles": {"both": "both, always on"},
        "headline": None,
        "meanings": {"scene": "right scene"},
        "known_pictures": {"scene": {"mean": 0.99, **SHARE}},
        "variants": variants,
    }
    (folder / "comparison.json").write_text(json.dumps({**described, **facts}))
    return folder


TWO = {
    "mllm_only": {"scene": score(0.9), "pose": score(12.0, key="median", unit="degrees", better="none")},
    "both": {
        "scene": score(0.5, n=3, missing=1),
        "pose": score(None, key="median", low=None, high=None, unit="degrees"),
    },
}


def boxes(sheet: Image.Image, wanted: Image.Image) -> tuple[int, int, int, int] | None:
    """Left, top, right, bottom of where the sheet has the picture's colour."""
    found = np.argwhere((np.asarray(sheet) == np.asarray(wanted)[0, 0]).all(axis=2))
    if not len(found):
        return None
    (top, left), (bottom, right) = found.min(axis=0), found.max(axis=0) + 1
    return int(left), int(top), int(right), int(bottom)


# ----------------------------------------------------------------------------------------------------- scores


def test_scores_are_plain_to_read(tmp_path: Path) -> None:
    lost = {"lost": {"failed": "no weights"}}
    folders = [
        comparison(tmp_path / "toys", {**TWO, **lost}),
        comparison(tmp_path / "more", {"again": {"x": score(1.0)}}),
    ]
    write_page(tmp_path / "out", folders, command="demo")
    written = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert list(written) == ["mllm_only", "both", "lost", "again", "known_pictures"]
    assert list(written["both"]["scene"]) == ["mean", "low", "high", "n", "subjects", "missing", "unit", "better"]
    assert "mean" not in written["both"]["pose"]
    assert written["mllm_only"]["pose"]["median"] == 12.0
    assert written["lost"] == {"failed": "no weights"}
    assert written["known_pictures"] == {"scene": {"mean": 0.99, **SHARE}}


# ------------------------------------------------------------------------------------------------------- page


def test_the_page_needs_nothing_else(tmp_path: Path) -> None:
    write_page(tmp_path / "out", [comparison(tmp_path / "toys", TWO)], command="subjectgen demo --set 'a=<b>'")
    page = (tmp_path / "out" / "index.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:)|url\((?!data:)|@import|<script|<link""", page)
    assert "toy &lt;1&gt; in scene 2" in page
    assert "a=&lt;b&gt;" in page
    assert page.count('src="data:image/') == 2 + 2 * 6


def test_pictures_come_before_numbers_and_headline_before_all(tmp_path: Path) -> None:
    variants = {**TWO, "lost": {"failed": "no <weights>"}}
    write_page(tmp_path / "out", [comparison(tmp_path / "toys", variants, headline=["scene"])], command="demo")
    page = (tmp_path / "out" / "index.html").read_text()
    marks = [
        "lost failed: no &lt;weights&gt;",
        "<b>mllm only</b><b>both, always on</b>",
        "<h2>Scores",
        "<h2>All scores",
        "<h2>Details",
    ]
    assert sorted(marks, key=page.index) == marks
    first, _, rest = page.partition("<h2>All scores")
    numbers = first.partition("<h2>Scores")[2]
    assert "90.0%" in numbers
    assert "12.0 degrees" not in numbers
    assert "12.0 degrees" in rest
    assert "not measured" in rest
    assert "right scene" in rest
    assert "99.0%" in numbers, "what known pictures give"


def test_a_cell_says_how_many_images_it_stands_on_where_others_have_more(tmp_path: Path) -> None:
    write_page(tmp_path / "out", [comparison(tmp_path / "toys", TWO)], command="demo")
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count("n = 4 images of 2 subjects") == 1, "in the note, for the most"
    assert "<small>n = 3 images of 2 subjects, 1 not measured</small>" in page


def test_a_large_page_stays_small(tmp_path: Path) -> None:
    """32 samples under 4 variants at 96 pixels, of pictures that compress badly."""
    variants = {name: {"scene": score(0.5)} for name in ("a", "bb", "ccc", "dddd")}
    write_page(
        tmp_path / "out", [comparison(tmp_path / "toys", variants, toys=32, scenes=1, paint=grainy)], command="demo"
    )
    page = (tmp_path / "out" / "index.html").read_text()
    assert page.count('src="data:image/') == 32 * 5
    assert len(page) < 3_000_000


def test_all_variants_may_fail(tmp_path: Path) -> None:
    folder = comparison(tmp_path / "toys", {"one": {"failed": "no weights"}})
    assert [path.name for path in write_page(tmp_path / "out", [folder], command="demo")] == [
        "index.html",
        "scores.json",
    ]
    assert "one failed: no weights" in (tmp_path / "out" / "index.html").read_text()


def test_a_score_may_be_called_failed(tmp_path: Path) -> None:
    folder = comparison(tmp_path / "toys", {"one": {"scene": score(0.5)}})
    facts = json.loads((folder / "comparison.json").read_text())
    facts["variants"]["one"]["failed"] = score(0.1)
    (folder / "comparison.json").write_text(json.dumps(facts))
    assert list(read_result(folder).rows) == ["one"]


def test_your_own_picture(tmp_path: Path) -> None:
    save(grainy("reference", 0, 0), tmp_path / "mine.png")
    made = {}
    for variant in ("mllm_only", "both"):
        save(grainy(variant, 0, 0), tmp_path / f"{variant}.png")
        made[variant] = [tmp_path / f"{variant}.png"]
    (file,) = write_own_page(
        tmp_path, [tmp_path / "mine.png"], ["at <night>"], made, titles={"both": "both, always on"}, command="demo"
    )
    page = file.read_text()
    assert page.count('src="data:image/') == 3
    assert page.index("<b>mllm only</b>") < page.index("<b>both, always on</b>") < page.index("at &lt;night&gt;")


# ------------------------------------------------------------------------------------------------------ sheet


def test_references_are_large_and_variants_beside_each_other(tmp_path: Path) -> None:
    sheet = contact_sheet(read_result(comparison(tmp_path / "toys", TWO)))
    for toy in range(2):
        reference = boxes(sheet, colour("reference", toy, 0))
        assert reference is not None
        assert min(reference[2] - reference[0], reference[3] - reference[1]) >= 2 * SIZE
        lefts, tops = [], []
        for scene in range(3):
            cells = [boxes(sheet, colour(variant, toy, scene)) for variant in ("mllm_only", "both")]
            assert all(cell and (cell[2] - cell[0], cell[3] - cell[1]) == (SIZE, SIZE) for cell in cells)
            lefts.append([cell[0] for cell in cells if cell])
            tops.append({cell[1] for cell in cells if cell})
        assert lefts == [sorted(lefts[0])] * 3, "columns, in the order of the variants, right of the reference"
        assert lefts[0][0] >= reference[2]
        assert all(len(row) == 1 for row in tops)
        assert max(tops[0]) < max(tops[1]) < max(tops[2])


@pytest.mark.parametrize(("size", "height"), [((176, 64), 96), ((512, 512), 192), ((40, 40), 192)])
def test_pictures_of_any_size(tmp_path: Path, size: tuple[int, int], height: int) -> None:
    """Alone on their row, wide ones keep their height, square ones are as high as their reference."""
    paint = lambda variant, toy, scene: colour(variant, toy, scene).resize(size)  # noqa: E731
    sheet = contact_sheet(read_result(comparison(tmp_path / "toys", TWO, scenes=1, paint=paint)))
    cell = boxes(sheet, colour("both", 1, 0))
    assert cell is not None
    assert (cell[2] - cell[0], cell[3] - cell[1]) == (round(height * size[0] / size[1]), height)


def test_a_sheet_has_at_most_eight_subjects_and_those_that_are_seen_best(tmp_path: Path) -> None:
    azimuths = [50, 350, 45, 0, 355, 60, 20, -15, 30, 5, 40]
    folder = comparison(tmp_path / "toys", {"both": TWO["both"]}, toys=11, scenes=1, azimuths=azimuths, paint=spread)
    result = read_result(folder)
    best = [3, 4, 9, 1, 7, 6, 8, 10]
    assert [group[0] for group in result.groups()][:8] == best
    sheet = contact_sheet(result)
    places = {toy: boxes(sheet, spread("both", toy, 0)) for toy in range(11)}
    assert {toy for toy, box in places.items() if box} == set(best)
    found = [(box[1], box[0]) for box in (places[toy] for toy in best) if box]
    assert found == sorted(found), "row by row"
    assert len({top for top, _ in found}) < 8, "two in a row"
    write_page(tmp_path / "out", [folder], command="demo")
    page = (tmp_path / "out" / "index.html").read_text()
    assert [page.index(f"toy &lt;{toy}&gt;") for toy in best] == sorted(
        page.index(f"toy &lt;{toy}&gt;") for toy in best
    )
    assert page.index("<h2>Details") < page.index("toy &lt;0&gt;")


def spread(variant: str, toy: int, scene: int) -> Image.Image:
    """Colours of eleven toys."""
    return Image.new("RGB", (SIZE, SIZE), (20 * toy + 10, 200 if variant == "reference" else 30, 90))


def test_without_facts_subjects_keep_their_order(tmp_path: Path) -> None:
    result = read_result(comparison(tmp_path / "toys", TWO, toys=3))
    assert result.groups() == [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    assert not result.seen


@pytest.mark.parametrize(
    ("facts", "degrees"),
    [
        ({"references": [{"azimuth": 350.0}]}, 10.0),
        ({"references": [{"azimuth": -5}, {"azimuth": 30}]}, 30.0),
        ({"references": ["a.png"], "azimuth": 40}, 0.0),
        ({"references": [{"azimuth": None}]}, 0.0),
        ({}, 0.0),
    ],
)
def test_how_far_references_are_turned_away(facts: dict, degrees: float) -> None:
    assert turned(facts) == degrees
