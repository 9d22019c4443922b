"""Words that a tokenizer does not know: it writes one token for all of them, and the model reads the prompt without."""

from __future__ import annotations

import re
from typing import Any

_WORD = re.compile(r"\S+")
_EDGES = ".,;:!?\"'()[]{}"


def unknown_words(tokenizer: Any, prompt: str) -> list[str]:
    """Words of a prompt that hold a token for the unknown, each once, in order, without the punctuation around them.

    Args:
        tokenizer: a fast one, which knows where each token is in the text. One that goes byte by byte has no token for
            the unknown, and knows every word.
        prompt: any text.
    """
    unknown = tokenizer.unk_token_id
    if unknown is None:
        return []
    encoded = tokenizer(prompt, add_special_tokens=False, return_offsets_mapping=True)
    places = [
        (start, end)
        for token, (start, end) in zip(encoded["input_ids"], encoded["offset_mapping"], strict=True)
        if token == unknown and start < end
    ]
    words = (word for word in _WORD.finditer(prompt) if any(s < word.end() and e > word.start() for s, e in places))
    return list(dict.fromkeys(word.group().strip(_EDGES) or word.group() for word in words))
