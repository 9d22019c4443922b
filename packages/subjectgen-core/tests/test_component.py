"""Descriptions of components, the base of configs, and the public names."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

import subjectgen.core
from subjectgen.core import Component, ComponentError, Config, nearest


def test_loading_imports_the_target() -> None:
    assert Component(name="c", target="subjectgen.core.component:Component", summary="s").load() is Component


@pytest.mark.parametrize("target", ["not_there:X", "subjectgen.core.component:Nothing", "subjectgen.core", ""])
def test_a_target_that_does_not_import_names_itself_and_the_cure(target: str) -> None:
    component = Component(name="part", target=target, summary="s", extra="pip install acme[gpu]")
    with pytest.raises(ComponentError, match=r"'part' .*failed to import.*pip install acme\[gpu\]"):
        component.load()


def test_configs_are_frozen_and_refuse_unknown_keys() -> None:
    class Options(Config):
        """Options."""

        rate: float = 0.5
        """A rate."""

    with pytest.raises(ValidationError):
        Options(rte=1)  # type: ignore[call-arg]
    with pytest.raises(ValidationError):
        Options().rate = 1.0  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Options(rate=float("inf"))
    assert Options.model_fields["rate"].description == "A rate."


def test_every_public_name_exists() -> None:
    for name in subjectgen.core.__all__:
        assert getattr(subjectgen.core, name) is not None
    with pytest.raises(AttributeError, match="nothing_here"):
        subjectgen.core.nothing_here  # noqa: B018


def test_nearest_is_silent_when_nothing_is_close() -> None:
    assert nearest("tau", ["tau1", "steps"]) == "; did you mean 'tau1'?"
    assert nearest("zzz", ["tau1", "steps"]) == ""
    assert nearest("a", []) == ""
