"""Table 3: combination types, and the words of their prompts."""

from __future__ import annotations

from collections import Counter

import pytest

from subjectgen_dynaip.bench_prompts import COMBINATIONS, DATA_TYPES, Combination

BY_NAME = {combination.name: combination for combination in COMBINATIONS}


def test_there_are_14_combination_types_of_8_data_types_with_six_prompts() -> None:
    assert len(BY_NAME) == 14
    assert Counter(len(combination.types) for combination in COMBINATIONS) == {2: 10, 3: 4}
    assert {kind for combination in COMBINATIONS for kind in combination.types} == set(DATA_TYPES)
    assert len(set(DATA_TYPES)) == 8
    for combination in COMBINATIONS:
        assert len(set(combination.variations)) == 6
        assert len(combination.boxes) == len(combination.types)


PROMPTS = {
    "living+object": (0, "a dog and an apple in a room, dog on the left, and apple on the right"),
    "human+character": (0, "a dog and an apple embracing, dog on the left, and apple on the right"),
    "character+character": (3, "a dog and an apple are shaking hands, dog on the left, and apple on the right"),
    "living+upwearing": (5, "a dog wearing an apple on a cobblestone street"),
    "midwearing+downwearing": (2, "a woman wearing a dog and apple in the jungle"),
    "object+object+object": (
        4,
        "a dog, an apple, and a unicorn on the grass, dog on the left, apple on the middle, and unicorn on the right",
    ),
    "human+human+character": (
        5,
        "a dog, an apple, and a unicorn are playing football, "
        "dog on the left, apple on the middle, and unicorn on the right",
    ),
    "upwearing+midwearing+downwearing": (1, "a woman wearing a dog, an apple, and a unicorn in the snow"),
}


@pytest.mark.parametrize("name", PROMPTS)
def test_prompts_are_those_of_table_3(name: str) -> None:
    variation, prompt = PROMPTS[name]
    combination = BY_NAME[name]
    assert combination.prompt(variation, ("dog", "apple", "unicorn")[: len(combination.types)]) == prompt


@pytest.mark.parametrize("combination", COMBINATIONS, ids=lambda combination: combination.name)
@pytest.mark.parametrize("variation", range(6))
def test_prompts_are_filled_completely(combination: Combination, variation: int) -> None:
    """Every word is there as often as the template says; braces in a word are no placeholders."""
    words = ("{1}", "owl", "cat")[: len(combination.types)]
    prompt = combination.prompt(variation, words)
    assert combination.variations[variation] in prompt
    assert "[P]" not in prompt
    for place, word in enumerate(words):
        assert prompt.count(word) == combination.template.count(f"{{{place}}}")
