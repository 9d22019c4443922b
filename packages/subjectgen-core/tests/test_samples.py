"""Facts of samples: what is asked for and is not there is named."""

import pytest

from subjectgen.core import InputError, Sample


def test_a_fact_that_is_there() -> None:
    assert Sample(key="a", facts={"scene": None}).fact("scene") is None


def test_a_fact_that_is_not_there_is_named_with_those_that_are() -> None:
    sample = Sample(key="toy-003-snow-0", facts={"scene": "snow", "toy": 3})
    with pytest.raises(InputError, match=r"'toy-003-snow-0': lacks the fact 'scenes'; did you mean 'scene'.*toy"):
        sample.fact("scenes")
    with pytest.raises(InputError, match="'a dog': lacks the fact 'toy'; it has none"):
        Sample(prompt="a dog").fact("toy")
