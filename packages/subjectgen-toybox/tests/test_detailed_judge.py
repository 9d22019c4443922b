"""The judge of details: codes are decoded to the nearest word, and it learns to read a badge that it is shown."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, strategies as st

from subjectgen.toybox.detailed.details import BADGES, CELLS, CODE_BITS, CODES, NO_CODE, bits
from subjectgen.toybox.detailed.judge import DetailedJudge, nearest_word
from subjectgen.toybox.detailed.pretraining.judge import truth
from subjectgen.toybox.detailed.pretraining.scores import (
    Pictures,
    held_out_families,
    identity_scores,
    judge_scores,
    means,
    measured,
)
from subjectgen.toybox.detailed.renderer import Renderer, render
from subjectgen.toybox.detailed.world import random_toy, random_view
from subjectgen.toybox.judge import CLASSES
from subjectgen.toybox.world import Draw


@given(st.sampled_from(BADGES), st.integers(0, CELLS - 1))
def test_one_wrong_cell_is_corrected(badge: int, wrong: int) -> None:
    scores = torch.tensor([bits(badge, CELLS)]) * 2.0 - 1
    scores[0, wrong] *= -1
    assert int(nearest_word(scores, BADGES)) == badge


class Oracle(DetailedJudge):
    """Gives prepared answers instead of its own."""

    def __init__(self, answers: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.answers = answers

    def forward(self, images: torch.Tensor, place: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        return self.answers


def pictures(count: int, seed: int) -> Pictures:
    """Toys and views with empty pictures."""
    draw = Draw(seed)
    toys, views = [random_toy(draw) for _ in range(count)], [random_view(draw) for _ in range(count)]
    return Pictures(toys=toys, views=views, images=torch.zeros(count, 3, 96, 96))


def test_perfect_answers_score_one_without_errors() -> None:
    shown = pictures(40, seed=0)
    right = truth(shown.toys, shown.views)
    answers = {name: torch.eye(len(classes))[right[name]] for name, classes in CLASSES.items()}
    answers |= {name: right[name] * 2 - 1 for name in ("cells", "code")}
    answers |= {name: right[name] for name in ("angles", "tint")}
    scores = means(judge_scores(Oracle(answers), shown))
    assert all(value == 1 for name, value in scores.items() if not name.endswith("error"))
    assert all(value < 1e-3 for name, value in scores.items() if name.endswith("error"))
    verdicts = DetailedJudge.in_words(answers)
    assert all((v.code == NO_CODE) == (v.words["pattern"] == "plain") for v in verdicts)


def test_wrong_answers_are_counted() -> None:
    shown = pictures(10, seed=1)
    right = truth(shown.toys, shown.views)
    answers = {name: torch.eye(len(classes))[right[name]] for name, classes in CLASSES.items()}
    answers |= {"cells": 1 - 2 * right["cells"], "code": 1 - 2 * right["code"]}
    answers |= {"angles": right["angles"], "tint": right["tint"] + torch.tensor([0.3, 0.4])}
    scores = means(judge_scores(Oracle(answers), shown))
    assert scores["badge"] == scores["cells"] == 0
    assert scores["tint_error"] == pytest.approx(0.5)


def test_a_picture_is_compared_with_toys_of_its_own_words() -> None:
    gallery, shown = held_out_families(2, seed=3, renderer=Renderer())
    assert gallery.toys == shown.toys
    assert len({toy.words for toy in gallery.toys[:8]}) == len({toy.words for toy in gallery.toys[8:]}) == 1

    class Copies(DetailedJudge):
        """Sees the number of the toy and nothing else."""

        def identities(self, images: torch.Tensor) -> torch.Tensor:
            return torch.eye(16)[: len(images)]

    assert identity_scores(Copies(), gallery, shown).tolist() == [1.0] * 16


def test_an_interval_over_groups_is_wider_when_groups_agree() -> None:
    groups = torch.arange(64) // 8
    values = (groups % 2).float()
    clustered, single = measured(values, groups), measured(values)
    assert clustered.mean == single.mean == 0.5
    assert clustered.high - clustered.low > 2 * (single.high - single.low)
    assert (clustered.n, clustered.groups) == (64, 8)
    assert measured(torch.tensor([1.0, math.nan])).n == 1


def test_the_reader_of_badges_learns_from_a_few_pictures() -> None:
    torch.manual_seed(0)
    draw = Draw(2)
    toy = random_toy(draw)
    toys = [replace(toy, details=replace(toy.details, badge=badge)) for badge in BADGES]
    views = [random_view(draw) for _ in toys]
    images, right = render(toys, views), truth(toys, views)
    judge = DetailedJudge()
    optimizer = torch.optim.AdamW(judge.parameters(), lr=3e-3)
    for _ in range(40):
        cells = judge(images, right["place"])["cells"]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(cells, right["cells"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    found = nearest_word(judge(images, right["place"])["cells"], BADGES)
    assert (found == torch.tensor(BADGES)).float().mean() > 0.8


def test_weights_are_kept_in_half_precision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    judge = DetailedJudge().eval()
    judge.save(tmp_path)
    pictures = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(1))
    one, other = judge(pictures), DetailedJudge.load(str(tmp_path))(pictures)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], atol=2e-2, rtol=0)
    assert one["code"].shape == (2, CODE_BITS)
    assert math.isclose(one["identity"][0].norm().item(), 1, abs_tol=1e-5)
    assert one["place"].shape == (2, 2, 3)
    assert all(v.code in (*CODES, NO_CODE) for v in judge.verdicts(pictures[..., :48, :48]))
