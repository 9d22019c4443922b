"""What a component's own code raises, and how the host says whose it is."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import field_validator

from subjectgen.core import (
    CheckpointError,
    Component,
    ComponentError,
    Config,
    ConfigError,
    InputError,
    hookimpl,
)
from subjectgen.core.plugins import Plugins


class Strict(ComponentError):
    """An error of a plugin's own, which takes more than a message."""

    def __init__(self, part: str, reason: str) -> None:
        super().__init__(f"{part}: {reason}")


def raising(error: BaseException) -> type:
    """A component whose constructor raises."""

    class Raising:
        class Config(Config):
            """Nothing to set."""

        def __init__(self, config: Any) -> None:
            raise error

    return Raising


def validating(error: BaseException) -> type:
    """A component whose Config raises."""

    class Validating:
        class Config(Config):
            """Options."""

            rate: float = 0.5
            """A rate."""

            @field_validator("rate")
            @classmethod
            def _raise(cls, value: float) -> float:
                raise error

    return Validating


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], Plugins]:
    """A host whose only aggregator, ``part`` of acme 1.2, is the given object."""

    def host(target: Any) -> Plugins:
        module = ModuleType("acme_module")
        module.Part = target  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "acme_module", module)
        plugins, part = Plugins.empty(), Component(name="part", target="acme_module:Part", summary="s")
        hook = hookimpl(lambda: [part])
        plugins.register(SimpleNamespace(subjectgen_aggregators=hook), distribution="acme", version="1.2")
        return plugins

    return host


PLACE = {"where": "a", "file": "x.yaml", "lines": {"a": "x.yaml:5", "a.name": "x.yaml:5", "a.rate": "x.yaml:6"}}


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("too\n  small"), "ValueError: too small"),
        (KeyError("width"), "KeyError: 'width'"),
        (RuntimeError(), "RuntimeError"),
        (OSError(2, "No such file", "a.bin"), "OSError: [Errno 2] No such file: 'a.bin'"),
        (SystemExit("bye"), "SystemExit: bye"),
        (RuntimeError("word " * 1000), "..."),
    ],
)
def test_a_foreign_error_while_building_names_place_owner_and_reason(host: Any, error: Exception, text: str) -> None:
    with pytest.raises(ComponentError) as caught:
        host(raising(error)).build("aggregators", {"name": "part"}, **PLACE)
    message = str(caught.value)
    assert message.startswith("x.yaml:5: a: component 'part' of acme 1.2 failed to build: ")
    assert message.endswith(text.replace("OSError", type(error).__name__))
    assert len(message) < 700
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [KeyError("width"), TypeError("no"), SystemExit(3)], ids=lambda error: repr(error))
def test_a_foreign_error_of_a_config_names_place_owner_and_reason(host: Any, error: Exception) -> None:
    with pytest.raises(ComponentError) as caught:
        host(validating(error)).build("aggregators", {"name": "part", "rate": 1}, **PLACE)
    message = str(caught.value)
    assert message.startswith(
        f"x.yaml:5: a: component 'part' of acme 1.2 failed to check its options: {type(error).__name__}"
    )
    assert caught.value.__cause__ is error


def test_a_validator_in_its_own_words_keeps_the_keys_place(host: Any) -> None:
    with pytest.raises(ConfigError, match=r"^x.yaml:6: a.rate: got 1; not today$"):
        host(validating(ValueError("not today"))).build("aggregators", {"name": "part", "rate": 1}, **PLACE)
    with pytest.raises(ConfigError, match=r"^x.yaml:5: a: not today$"):
        host(validating(ConfigError("not today"))).build("aggregators", {"name": "part", "rate": 1}, **PLACE)


@pytest.mark.parametrize("error", [InputError("blank prompt"), ConfigError("no branch"), CheckpointError("no file")])
def test_our_errors_keep_their_kind(host: Any, error: Exception) -> None:
    with pytest.raises(type(error), match=f"^x.yaml:5: a: {error}$") as caught:
        host(raising(error)).build("aggregators", {"name": "part"}, **PLACE)
    assert type(caught.value) is type(error)
    assert caught.value.__cause__ is error


def test_an_error_kind_of_the_plugins_own_gets_its_place_too(host: Any) -> None:
    with pytest.raises(ComponentError, match=r"^x.yaml:5: a: heads: too many$"):
        host(raising(Strict("heads", "too many"))).build("aggregators", {"name": "part"}, **PLACE)


@pytest.mark.parametrize("error", [MemoryError("all"), torch.OutOfMemoryError("all"), KeyboardInterrupt()])
def test_what_is_nobodys_mistake_passes(host: Any, error: BaseException) -> None:
    with pytest.raises(type(error)) as caught:
        host(raising(error)).build("aggregators", {"name": "part"}, **PLACE)
    assert caught.value is error


@pytest.mark.parametrize("target", [object, type("Odd", (), {"Config": dict})], ids=["none", "another"])
def test_a_target_without_a_config_says_what_is_expected(host: Any, target: Any) -> None:
    expected = r"acme 1\.2: component 'part' \(acme_module:Part\) has no Config; expected a class that nests a Config"
    with pytest.raises(ComponentError, match=rf"^x.yaml:5: a.name: {expected}"):
        host(target).build("aggregators", {"name": "part"}, **PLACE)
    bare = expected.removeprefix(r"acme 1\.2: ")
    with pytest.raises(ComponentError, match=rf"^{bare}"):
        host(target).offer("aggregators", "part").component.load_target()


def test_a_target_that_ends_the_program_at_import(install: Any) -> None:
    part = "Component(name='part', target='acme_part:Part', summary='s')"
    install("acme", f"@hookimpl\ndef subjectgen_aggregators(): return [{part}]", version="1.2")
    install("acme-part", "raise SystemExit('bye')", target="acme")
    with pytest.raises(ComponentError, match=r"component 'part' of acme 1.2 failed to import: SystemExit: bye$"):
        Plugins.discover({}).part("aggregators", {"name": "acme:part"})


def test_options_that_do_not_match_the_constructor(host: Any) -> None:
    with pytest.raises(ComponentError, match=r"failed to build: TypeError: .*unexpected keyword argument 'depth'"):
        host(raising(ValueError())).build("aggregators", {"name": "part"}, depth=3, **PLACE)
