"""How many attention heads a width gets."""

from __future__ import annotations

from subjectgen.core import ComponentError

_HEAD_WIDTH = 128  # of InternVL3's and Qwen2.5-VL's own language models, and of FLUX


def choose_heads(width: int, heads: int | None) -> int:
    """Return ``heads``, or for ``None`` so many that each is as wide as possible up to 128 channels.

    Raises:
        ComponentError: ``heads`` does not divide ``width``.
    """
    divisors = [d for d in range(1, width + 1) if width % d == 0]
    if heads is None:
        return width // max(d for d in divisors if d <= _HEAD_WIDTH)
    if heads not in divisors:
        raise ComponentError(f"heads: {heads} does not divide the attention's width {width}; valid are {divisors}")
    return heads
