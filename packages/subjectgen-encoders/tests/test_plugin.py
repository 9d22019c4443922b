"""What the distribution offers loads, and can be swapped without another change."""

from __future__ import annotations

from subjectgen.encoders.plugin import subjectgen_encoders
from subjectgen.testing import PluginContract


class TestPlugin(PluginContract):
    distribution = "subjectgen-encoders"


def test_the_four_of_the_method_are_there() -> None:
    assert {component.name for component in subjectgen_encoders()} == {"internvl3", "qwen2_5_vl", "vae", "flux_text"}


def test_every_config_has_defaults() -> None:
    for component in subjectgen_encoders():
        assert component.load().Config().checkpoint
