"""Every option of every component says what it changes, and loading heeds it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from subjectgen.core import KINDS, Changes
from subjectgen.core.plugins import Plugins
from subjectgen.core.roles import differences, role, values
from subjectgen.runner.system.settings import ExperimentSettings

HOST = Plugins.discover({})
OFFERS = [(kind, offer) for kind in KINDS for offer in HOST.offers(kind)]


def configs(model: type[BaseModel], seen: set[type[BaseModel]] | None = None) -> Iterator[type[BaseModel]]:
    """A config and all configs inside it."""
    seen = set() if seen is None else seen
    if model in seen:
        return
    seen.add(model)
    yield model
    for field in model.model_fields.values():
        for inner in models(field.annotation):
            yield from configs(inner, seen)


def models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    else:  # a list, a dict, a union of some
        for argument in get_args(annotation):
            yield from models(argument)


@pytest.mark.parametrize(("kind", "offer"), OFFERS, ids=lambda value: getattr(value, "component", value))
def test_every_option_says_what_it_changes(kind: str, offer: Any) -> None:
    for config in configs(offer.component.load_target().Config):
        silent = [name for name, field in config.model_fields.items() if role(field) is None]
        assert not silent, f"{config.__qualname__}: {silent}"


def test_every_key_of_an_experiment_says_what_it_changes() -> None:
    for config in configs(ExperimentSettings):
        assert not [name for name, field in config.model_fields.items() if role(field) is None], config


def test_every_option_is_described() -> None:
    for _, offer in OFFERS:
        for config in configs(offer.component.load_target().Config):
            assert not [name for name, field in config.model_fields.items() if not field.description], config


@pytest.mark.parametrize(("kind", "offer"), OFFERS, ids=lambda value: getattr(value, "component", value))
def test_a_flipped_option_is_a_difference_exactly_if_it_changes_weights(kind: str, offer: Any) -> None:
    """Whatever the option: what loading compares heeds its role."""
    config = offer.component.load_config()
    defaults = {
        name: field.get_default(call_default_factory=True) for name, field in config.model_fields.items()
        if not field.is_required()
    }  # fmt: skip
    given = config.model_construct(**dict.fromkeys(config.model_fields, "given") | defaults)
    before = values(given, Changes.WEIGHTS)
    for name, field in config.model_fields.items():
        after = values(given.model_copy(update={name: "flipped"}), Changes.WEIGHTS)
        found = {key.partition(".")[0] for key in differences(before, after, {})}
        assert found == ({name} if role(field) is Changes.WEIGHTS else set()), name


@pytest.mark.parametrize(
    ("kind", "name", "option", "changes"),
    [
        ("aggregators", "dla", "heads", Changes.WEIGHTS),
        ("aggregators", "dla", "residual", Changes.WEIGHTS),
        ("aggregators", "dla", "zero_out", Changes.RESULTS),
        ("backbones", "flux", "reference_offset", Changes.WEIGHTS),
        ("backbones", "flux", "reference_attention", Changes.WEIGHTS),
        ("backbones", "flux", "checkpoint", Changes.NOTHING),
        ("schedules", "three_stage", "inactive", Changes.WEIGHTS),
        ("schedules", "three_stage", "tau1", Changes.RESULTS),
        ("schedules", "three_stage", "steps", Changes.RESULTS),
    ],
)
def test_options_that_outsiders_found_silent(kind: str, name: str, option: str, changes: Changes) -> None:
    config = HOST.offer(kind, name).component.load_target().Config
    assert role(config.model_fields[option]) is changes
