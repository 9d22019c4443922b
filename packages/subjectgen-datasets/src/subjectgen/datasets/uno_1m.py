"""UNO-1M by its own labels: two pictures of one subject, with a score of how alike the subject is.

The layout is that of the data set's card (hub ``bytedance-research/UNO-1M``)::

    uno_1m_total_labels.json     all labels; or labels/split1.json ... labels/split102.json, a part each
    images/split1/....png        unpacked from images/split1.tar.gz

A label is ``{"img_path1": "split1/a.png", "img_path2": "split1/b.png", "caption": {"img_path1": "...", "img_path2":
"...", "judgment": "same", "subject": ["Bread"]}, "vlm_filter_cot": {"score_part": {...}, "score_final": 4.0}}``.
UNO trained on pairs of score 4 (about 404,000 of 1,011,093); its card recommends at least 3.5. Scores are 0 to 4, but
one of the published ones is 131184.67, the mean of numbers that a model took for scores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from subjectgen.core import JSON, ChangesNothing, ChangesResults, InputError
from subjectgen.datasets.base import EntryDataset
from subjectgen.datasets.entries import Entry, ReferenceEntry
from subjectgen.datasets.fields import file_name, mapping, picture_file, text
from subjectgen.datasets.json_array import JsonArray
from subjectgen.datasets.left_out import LeftOut, RefusedError
from subjectgen.datasets.record_index import Check, RecordIndex
from subjectgen.datasets.sizing import SizedConfig

HIGHEST = 4.0
"""The best score."""
SCORES = "vlm_filter_cot"


class Uno1M(EntryDataset):
    """Pairs of UNO-1M: the first picture is the reference, the second the target, its caption the prompt.

    Keys are ``pair-0000012``, the label's place in the file, counted from 0; with ``both_ways`` a second sample of each
    pair is ``pair-0000012-back``. Facts: ``pair``, ``subject`` (words), ``score``, ``files`` (``reference``,
    ``target``).

    Labels are read through a window and not kept: in memory are three numbers per pair. Nothing is written.
    """

    class Config(SizedConfig):
        """Options of ``uno_1m``."""

        labels: ChangesNothing[Path]
        """``uno_1m_total_labels.json``, or the labels of one split."""
        images: ChangesNothing[Path | None] = None
        """Folder in which ``split1/...`` lies; by default the folder ``images`` beside the labels, or one above."""
        threshold: ChangesResults[float] = Field(default=4.0, ge=0, le=HIGHEST)
        """The lowest ``score_final`` that is used."""
        both_ways: ChangesResults[bool] = False
        """Each pair also backwards: the second picture as the reference, the first as the target. The card treats both
        pictures alike, and both have captions; UNO itself trains on the first way alone."""

    config: Config

    def __init__(self, config: Config) -> None:
        """Read the labels once.

        Raises:
            InputError: No labels or images, or no label that can be used.
        """
        labels = config.labels.expanduser()
        left_out = LeftOut()
        self._index = RecordIndex(JsonArray(labels), _wanted_by(config.threshold), left_out, "labels")
        self.images = _images(labels, config.images)
        super().__init__(config, len(self._index) * (2 if config.both_ways else 1))
        self.left_out = left_out

    def keys(self) -> list[str]:
        """From the places in the labels."""
        return [self._key(index) for index in range(len(self))]

    def entry(self, index: int) -> Entry:
        """One pair, in one direction."""
        self.check_index(index)
        pair, back = self._pair(index)
        values = self._index.values(pair)
        names = {"reference": values["img_path1"], "target": values["img_path2"]}
        if back:
            names = {"reference": names["target"], "target": names["reference"]}
        return Entry(
            key=self._key(index),
            prompt=values["caption"]["img_path1" if back else "img_path2"],
            target=picture_file(self.images, names["target"]),
            references=(ReferenceEntry(picture=picture_file(self.images, names["reference"])),),
            facts={
                "pair": self._index.number(pair),
                "subject": _subject(values["caption"]),
                "score": float(values[SCORES]["score_final"]),
                "files": {**names},
            },
            place=self._index.place(pair),
        )

    def _pair(self, index: int) -> tuple[int, bool]:
        return (index // 2, bool(index % 2)) if self.config.both_ways else (index, False)

    def _key(self, index: int) -> str:
        pair, back = self._pair(index)
        return f"pair-{self._index.number(pair):07d}{'-back' if back else ''}"


def _wanted_by(threshold: float) -> Check:
    def wanted(values: Any) -> bool:
        label = mapping(values, "label")
        score = score_of(label)
        captions = mapping(label.get("caption"), "caption")
        for key in ("img_path1", "img_path2"):
            file_name(label, key)
            text(captions, key, f"caption.{key}")
        return score >= threshold

    return wanted


def score_of(label: Mapping[str, Any]) -> float:
    """``vlm_filter_cot.score_final``, from 0 to 4.

    Raises:
        RefusedError: Missing, no number, not finite, or outside.
    """
    scores = mapping(label.get(SCORES), SCORES)
    if "score_final" not in scores:
        raise RefusedError("score_final is missing")
    score = scores["score_final"]
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        raise RefusedError("score_final is no number", f"got {score!r:.60}")
    if not math.isfinite(score):
        raise RefusedError("score_final is not finite", f"got {score!r:.60}")
    if not 0 <= score <= HIGHEST:
        raise RefusedError("score_final is absurd", f"got {score!r:.60}; expected 0 to {HIGHEST:g}")
    return float(score)


def _subject(caption: Mapping[str, Any]) -> JSON:
    """Words for the subject; empty where the label has none."""
    words = caption.get("subject")
    return [str(word) for word in words] if isinstance(words, list) else [] if words is None else [str(words)]


def _images(labels: Path, given: Path | None) -> Path:
    choices = [labels.parent / "images", labels.parent.parent / "images"] if given is None else [given.expanduser()]
    for folder in choices:
        if folder.is_dir():
            return folder
    looked = " or ".join(map(str, choices))
    raise InputError(f"images: no such folder: {looked}; expected the one in which split1/ lies, unpacked")
