"""The words that the tiny models know, and which words of a prompt they do not. Imports no torch.

The tiny tokenizers are word by word: a word that is not here becomes :data:`UNKNOWN`, and the models see no more of it.
"""

from __future__ import annotations

import string
import unicodedata
from functools import cache

from subjectgen.toybox.captions import SCENE_PHRASES, caption, questions, subject_prompt
from subjectgen.toybox.world import ACCESSORIES, COLOURS, DIRECTIONS, PARTS, PATTERNS, SCENES, SHAPES, Toy, View

UNKNOWN = "<unk>"
"""The token of every word that is not known; the tokenizers' ``unk_token``."""


def unknown_words(prompt: str) -> list[str]:
    """Words of a prompt that the tiny models cannot tell apart, in lower case and in their order, each once."""
    known = _known()
    return list(dict.fromkeys(word for word in split(prompt) if word not in known))


def split(text: str) -> list[str]:
    """Words and punctuation marks, as the tiny tokenizers split a text."""
    spaced = "".join(f" {letter} " if _is_punctuation(letter) else letter for letter in text.lower())
    return spaced.split()


def vocabulary() -> list[str]:
    """Every word of the grammar, in a fixed order."""
    toy = Toy(shape="box", colour="red", second_colour="blue", pattern="striped", part="ears", part_colour="red")
    view = View(scene="snow", accessory="hat")
    texts = [caption(toy, view), subject_prompt(view), *SCENE_PHRASES.values(), "a photo of this picture and two toys"]
    texts += [text for pair in questions(toy, view) for text in pair]
    words = " ".join(texts).split()
    words += [*SHAPES, *PATTERNS, *PARTS, *ACCESSORIES, *COLOURS, *SCENES, *DIRECTIONS]
    words += ["first", "second", "picture", "1", "2", "3", ":", ".", ","]
    words += ["system", "user", "assistant"]
    return sorted(set(words))


@cache
def _known() -> frozenset[str]:
    return frozenset(vocabulary())


def _is_punctuation(letter: str) -> bool:
    return letter in string.punctuation or unicodedata.category(letter).startswith("P")
