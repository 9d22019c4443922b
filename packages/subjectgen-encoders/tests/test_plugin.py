"""What the distribution offers loads, and can be swapped without another change."""

from __future__ import annotations

from subjectgen.core.roles import role
from subjectgen.encoders.plugin import subjectgen_autoencoders, subjectgen_encoders
from subjectgen.testing import PluginContract


class TestPlugin(PluginContract):
    distribution = "subjectgen-encoders"


def test_the_four_of_the_method_are_there() -> None:
    assert {component.name for component in subjectgen_encoders()} == {"internvl3", "qwen2_5_vl", "vae", "flux_text"}


def test_the_autoencoder_serves_both_kinds() -> None:
    """One class, so that a run builds it once for references and images."""
    (autoencoder,) = subjectgen_autoencoders()
    assert autoencoder in subjectgen_encoders()


def test_every_config_has_defaults_and_says_what_its_options_change() -> None:
    for component in subjectgen_encoders():
        config = component.load().Config
        assert config().checkpoint
        assert [name for name, field in config.model_fields.items() if role(field) is None] == []
