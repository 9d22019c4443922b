"""Which words of a prompt the tiny models do not know: those that their tokenizer maps to its unknown token."""

import subprocess
import sys

from hypothesis import given, strategies as st

from subjectgen.toybox.tokenizer import word_tokenizer
from subjectgen.toybox.vocabulary import UNKNOWN, split, unknown_words, vocabulary

TOKENIZER = word_tokenizer()
LETTERS = st.characters(min_codepoint=32, max_codepoint=126, exclude_characters="<|")  # no special tokens
TEXTS = st.lists(st.one_of(st.sampled_from(vocabulary()), st.text(LETTERS, max_size=6)))


def test_unknown_words_are_named_once_in_their_order() -> None:
    assert unknown_words("the toy in the snow") == []
    assert unknown_words("A Corgi, wearing a hat: the corgi on mars!") == ["corgi", "mars", "!"]


@given(TEXTS.map(" ".join))
def test_they_are_what_the_tokenizer_does_not_know(text: str) -> None:
    tokens = TOKENIZER(text, add_special_tokens=False).input_ids
    words = split(text)
    assert len(tokens) == len(words)
    lost = [word for word, token in zip(words, tokens, strict=True) if token == TOKENIZER.unk_token_id]
    assert unknown_words(text) == list(dict.fromkeys(lost))


def test_the_unknown_token_is_found_by_its_usual_name() -> None:
    assert TOKENIZER.unk_token == UNKNOWN
    assert TOKENIZER("corgi").input_ids[0] == TOKENIZER.unk_token_id == TOKENIZER.convert_tokens_to_ids(UNKNOWN)


def test_asking_needs_no_torch() -> None:
    program = (
        "import sys; from subjectgen.toybox.vocabulary import unknown_words; unknown_words('a corgi')\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
