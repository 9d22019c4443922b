"""Prompts longer than a text model reads: what is cut is said, and a prompt of which nothing is left is refused."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any

from subjectgen.core import InputError, valid_text


def checked_prompts(prompts: Iterable[object]) -> list[str]:
    """Prompts that a tokenizer can read; letters that a narrow locale damaged are repaired.

    Raises:
        InputError: Not text, or no valid Unicode.
    """
    return [valid_text(prompt, "prompt") for prompt in prompts]


def tell_cuts(tokenizer: Any, prompts: Iterable[str], limit: int, reader: str) -> None:
    """Warn of each prompt that is cut, naming the words that go unread.

    Args:
        tokenizer: A fast tokenizer, which knows where in the text its tokens are.
        prompts: Texts.
        limit: Most tokens, those counted that the tokenizer adds.
        reader: Who reads the prompts, and where its limit comes from.

    Raises:
        InputError: A prompt of which no word is read.
    """
    for prompt in dict.fromkeys(prompts):
        unread, count = unread_words(tokenizer, prompt, limit)
        if not unread:
            continue
        told = f"prompt {_short(prompt)}: {reader} reads {limit} tokens of {count}"
        if not prompt[: len(prompt) - len(unread)].strip():
            raise InputError(f"{told}, none of them of a word; expected a shorter prompt or a higher limit")
        warnings.warn(f"{told}; not read: {_short(unread.strip())}", stacklevel=4)


def unread_words(tokenizer: Any, prompt: str, limit: int) -> tuple[str, int]:
    """The end of a prompt that is beyond so many tokens, and how many tokens the whole has."""
    count = len(tokenizer(prompt, verbose=False).input_ids)
    if count <= limit:
        return "", count
    own = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    added = count - len(own)
    return prompt[own[max(limit - added, 0)][0] :], count


def _short(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:60]} … {text[-15:]}")
