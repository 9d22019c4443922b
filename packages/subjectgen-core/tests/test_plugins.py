"""The plugin host, tried on distributions that are really installed in a folder on the path."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from pydantic import Field

from subjectgen.core import KINDS, Component, ComponentError, Config, ConfigError, hookimpl
from subjectgen.core.plugins import Plugins


class Halver:
    """Component used as a target below."""

    class Config(Config):
        """Its options."""

        rate: float = Field(0.5, ge=0, le=1)
        """How much stays."""

    def __init__(self, config: Config, *, width: int) -> None:
        if width % 2:
            raise ComponentError(f"width must be even, got {width}")
        self.config, self.width, self.layers = config, width, (0,)

    def __call__(self, features: Any) -> Any:
        raise AssertionError("never called here")


@pytest.fixture
def target(monkeypatch: pytest.MonkeyPatch) -> str:
    """Import path of ``Halver``; test modules have none of their own."""
    module = ModuleType("halver_module")
    module.Halver = Halver  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "halver_module", module)
    return "halver_module:Halver"


def offering(*names: str, target: str = "nowhere:Nothing", kind: str = "aggregators") -> str:
    components = ", ".join(f"Component(name={name!r}, target={target!r}, summary='s')" for name in names)
    return f"@hookimpl\ndef subjectgen_{kind}():\n    return [{components}]\n"


def discover(**environment: str) -> Plugins:
    return Plugins.discover(environment)


def test_empty_has_nothing() -> None:
    plugins = Plugins.empty()
    assert all(plugins.offers(kind) == [] for kind in KINDS)
    assert plugins.broken == ()
    assert plugins.distributions() == {}


def test_finds_what_is_installed(install: Any) -> None:
    install("acme", offering("median", "mean"), version="3.1")
    found = [c for c in discover().offers("aggregators") if c.distribution == "acme"]
    assert [(one.distribution, one.version, one.component.name) for one in found] == [
        ("acme", "3.1", "mean"),
        ("acme", "3.1", "median"),
    ]
    assert discover().distributions()["acme"] == "3.1"


@pytest.mark.parametrize(
    ("source", "error"),
    [
        ("import a_module_that_is_not_there", "ModuleNotFoundError: No module named 'a_module_that_is_not_there'"),
        ("raise SystemExit('bye')", "SystemExit: bye"),
        ("1 / 0", "ZeroDivisionError"),
        ("@hookimpl\ndef subjectgen_agregators(): return []", "'subjectgen_aggregators'"),
        ("@hookimpl\ndef subjectgen_metrics(): 1 / 0", "ZeroDivisionError"),
        ("@hookimpl\ndef subjectgen_metrics(): yield 'mean'", "offers 'mean'; expected a Component"),
        ("@hookimpl\ndef subjectgen_metrics(): pass", "returned None; expected a list"),
        ("@hookimpl\ndef subjectgen_metrics(extra): return []", "extra"),
        ("def subjectgen_metrics(): return []", "not marked with @hookimpl"),
        (offering("a", "a"), "offers 'a' twice"),
        (offering("a:b"), "'a:b'"),
        (offering("a") + "@hookimpl\ndef subjectgen_metrics(): 1 / 0", "ZeroDivisionError"),
    ],
)
def test_a_broken_plugin_is_recorded_and_the_others_load(install: Any, source: str, error: str) -> None:
    install("bad", source, version="0.3")
    install("good", offering("mean"))
    plugins = discover()
    (broken,) = plugins.broken
    assert (broken.distribution, broken.version) == ("bad", "0.3")
    assert error in broken.error
    assert "\n" not in str(broken)
    assert plugins.offer("aggregators", "good:mean").component.name == "mean"
    assert "bad" not in {offer.distribution for kind in KINDS for offer in plugins.offers(kind)}


def test_a_module_that_is_not_there(install: Any) -> None:
    install("bad", "", target="bad:attribute")
    (broken,) = discover().broken
    assert "attribute" in broken.error


def test_equal_names_are_an_error_only_when_used(install: Any) -> None:
    install("one", offering("mean", "max"))
    install("two", offering("mean"))
    plugins = discover()
    assert plugins.offer("aggregators", "max").component.name == "max"
    with pytest.raises(ComponentError, match="'mean' is offered by one and by two; write 'one:mean' or 'two:mean'"):
        plugins.offer("aggregators", "mean")
    assert plugins.offer("aggregators", "two:mean").component.name == "mean"


def test_equal_entry_point_names_both_load(install: Any) -> None:
    install("one", offering("first"), entry="same")
    install("two", offering("second"), entry="same")
    assert {"one", "two"} <= set(discover().distributions())


def test_one_module_in_two_distributions_names_both(install: Any) -> None:
    install("one", offering("first"))
    install("two", offering("second"), target="one")
    (broken,) = discover().broken
    assert broken.distribution == "two"
    assert "one" in broken.error


def test_unknown_name_says_all_that_helps(install: Any) -> None:
    install("good", offering("mean", "median"))
    install("bad", "import nope_nope", version="0.3")
    with pytest.raises(ComponentError) as caught:
        discover().offer("aggregators", "meen")
    message = str(caught.value)
    assert "did you mean 'mean'?" in message
    assert "median" in message
    assert "bad 0.3 (ModuleNotFoundError: No module named 'nope_nope')" in message


def test_a_known_name_that_is_not_installed_gets_a_pip_line() -> None:
    with pytest.raises(ComponentError, match="pip install subjectgen-aggregators"):
        Plugins.empty().offer("aggregators", "dla")


def test_a_known_name_that_is_left_out_says_so() -> None:
    """Here subjectgen-encoders is not needed: metadata alone decides what is left out."""
    plugins = discover(SUBJECTGEN_PLUGINS="")
    if not plugins.left_out:
        pytest.skip("no first-party plugin installed")
    with pytest.raises(ComponentError) as caught:
        plugins.offer("aggregators", "dla")
    assert ("leaves out" in str(caught.value)) == ("subjectgen-aggregators" in plugins.left_out)


def test_unknown_owner_and_unknown_kind(install: Any) -> None:
    install("acme-parts", offering("mean"))
    with pytest.raises(ComponentError, match="'acme-prts' is not installed; did you mean 'acme-parts'"):
        discover().offer("aggregators", "acme-prts:mean")
    with pytest.raises(ComponentError, match="unknown kind 'agregators'; did you mean 'aggregators'"):
        discover().offers("agregators")
    assert discover().offer("aggregators", "Acme_Parts:mean").component.name == "mean"


def test_a_named_distribution_that_does_not_answer_says_why(install: Any) -> None:
    install("bad", "import nope_nope", version="0.3")
    install("good", offering("mean"))
    with pytest.raises(ComponentError, match=r"'acme_extras' is not installed; to get it: pip install acme-extras$"):
        discover().offer("aggregators", "acme_extras:mean")
    with pytest.raises(ComponentError, match=r"'bad' does not work: bad 0.3 \(ModuleNotFoundError: .*nope_nope'\)$"):
        discover().offer("aggregators", "bad:mean")
    with pytest.raises(ComponentError, match="'good' is installed, but SUBJECTGEN_PLUGINS or"):
        discover(SUBJECTGEN_DISABLE_PLUGINS="good").offer("aggregators", "good:mean")
    with pytest.raises(ComponentError, match="unknown aggregator 'mode' of good; did you mean 'mean'") as caught:
        discover().offer("aggregators", "good:mode")
    assert "pip install" not in str(caught.value)


@pytest.mark.parametrize("wanted", ["x; rm -rf .", "--index-url=http", "../here", "a b", "", "acme[all]"])
def test_no_pip_line_for_what_is_no_name(wanted: str) -> None:
    with pytest.raises(ComponentError) as caught:
        Plugins.empty().offer("aggregators", f"{wanted}:mean")
    assert "pip install" not in str(caught.value)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, {"one", "two"}),
        ({"SUBJECTGEN_PLUGINS": "one"}, {"one"}),
        ({"SUBJECTGEN_PLUGINS": " One , two"}, {"one", "two"}),
        ({"SUBJECTGEN_PLUGINS": ""}, set()),
        ({"SUBJECTGEN_DISABLE_PLUGINS": "two"}, {"one"}),
        ({"SUBJECTGEN_PLUGINS": "one,two", "SUBJECTGEN_DISABLE_PLUGINS": "one"}, {"two"}),
    ],
)
def test_the_environment_decides(install: Any, environment: dict[str, str], expected: set[str]) -> None:
    install("one", offering("a"))
    install("two", offering("b"))
    assert set(discover(**environment).distributions()) & {"one", "two"} == expected


def test_a_plugin_left_out_is_not_even_imported(install: Any) -> None:
    install("bad", "raise RuntimeError('imported')")
    assert discover(SUBJECTGEN_DISABLE_PLUGINS="bad").broken == ()


def test_a_misspelt_allow_list_is_answered(install: Any) -> None:
    install("acme", offering("a"))
    (broken,) = discover(SUBJECTGEN_PLUGINS="acne").broken
    assert "did you mean 'acme'" in broken.error


def test_registered_plugins_fail_loudly() -> None:
    plugins = Plugins.empty()
    with pytest.raises(ComponentError):
        plugins.register(SimpleNamespace(subjectgen_metrics=hookimpl(lambda: 3)), distribution="x")
    assert plugins.plugins == ()


# ----------------------------------------------------------------------------------------------------- building


@pytest.fixture
def plugins(target: str) -> Plugins:
    component = Component(name="halver", target=target, summary="halves")
    broken = Component(name="heavy", target="not_installed:X", summary="s", extra="pip install acme[heavy]")
    plugins = Plugins.empty()
    plugins.register(SimpleNamespace(subjectgen_aggregators=hookimpl(lambda: [component, broken])), distribution="acme")
    return plugins


def test_build_validates_and_constructs(plugins: Plugins) -> None:
    built = plugins.build("aggregators", {"name": "acme:halver", "rate": 0.25}, width=4)
    assert isinstance(built, Halver)
    assert built.config == Halver.Config(rate=0.25)
    assert built.width == 4


@pytest.mark.parametrize(
    ("spec", "kind", "message"),
    [
        ({"name": "halver", "rate": "high"}, ConfigError, "x.yaml:7: a.rate: got 'high'; expected a number in [0, 1]"),
        ({"name": "halver", "rte": 1}, ConfigError, "x.yaml:5: a.rte: unknown key; did you mean 'rate'?"),
        ({"name": "halve"}, ComponentError, "x.yaml:6: a.name: unknown aggregator 'halve'; did you mean 'halver'?"),
        ({"name": "halver"}, ComponentError, "x.yaml:5: a: width must be even, got 3"),
        ({"name": "heavy"}, ComponentError, "pip install acme[heavy]"),
        ({"rate": 1}, ConfigError, "x.yaml:6: a.name: got None; expected the name of one of the aggregators: halver"),
        ({"name": 3}, ConfigError, "x.yaml:6: a.name: got 3"),
    ],
)
def test_mistakes_name_file_line_and_key(
    plugins: Plugins, spec: dict[str, Any], kind: type[Exception], message: str
) -> None:
    lines = {"a": "x.yaml:5", "a.name": "x.yaml:6", "a.rate": "x.yaml:7"}
    with pytest.raises(kind) as caught:
        plugins.build("aggregators", spec, where="a", file="x.yaml", lines=lines, width=3)
    assert message in str(caught.value)


def test_one_name_from_two_entry_points_of_one_distribution() -> None:
    """No YAML could choose between them."""
    plugins = Plugins.empty()

    def module() -> ModuleType:
        made = ModuleType("made")
        component = Component(name="mean", target="a:B", summary="s")
        made.subjectgen_aggregators = hookimpl(lambda: [component])  # type: ignore[attr-defined]
        return made

    plugins.register(module(), distribution="acme")
    with pytest.raises(ComponentError, match="acme offers aggregator 'mean' from two entry points"):
        plugins.register(module(), distribution="acme")
    assert len(plugins.offers("aggregators")) == 1


def test_a_metric_of_the_old_contracts_is_refused_by_name_and_told_the_page() -> None:
    """One that asks for no version of the core loads, and is met when it is built."""

    class Old:
        class Config(Config):
            """Nothing to set."""

        def __init__(self, config: Config) -> None: ...

        def update(self, samples: Any, images: Any) -> None: ...

        def compute(self) -> Any: ...

    module = ModuleType("old_module")
    module.Old = Old  # type: ignore[attr-defined]
    component = Component(name="old", target="old_module:Old", summary="from before 0.2")
    plugins = Plugins.empty()
    plugins.register(SimpleNamespace(subjectgen_metrics=hookimpl(lambda: [component])), distribution="acme")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "old_module", module)
        with pytest.raises(ComponentError, match="component 'old' of acme 0 was written for older contracts") as told:
            plugins.build("metrics", {"name": "old"})
    assert "measure, scores" in str(told.value)
    assert "docs/how-to/upgrade.md" in str(told.value)
