"""The conformance kit: one contract per kind of component, to be inherited by a nearly empty test.

.. code-block:: python

    from subjectgen.testing import AggregatorContract

    class TestMean(AggregatorContract):
        @pytest.fixture
        def aggregator(self): ...

Install it with ``pip install subjectgen-core[testing]``. Every contract says in its docstring which fixtures it needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from subjectgen.testing.aggregator import AggregatorContract as AggregatorContract
    from subjectgen.testing.autoencoder import AutoencoderContract as AutoencoderContract
    from subjectgen.testing.backbone import BackboneContract as BackboneContract
    from subjectgen.testing.base import Contract as Contract
    from subjectgen.testing.capabilities import (
        CachesReferencesContract as CachesReferencesContract,
        CheckpointsContract as CheckpointsContract,
        MergesContract as MergesContract,
        PreparesContract as PreparesContract,
        TrainableContract as TrainableContract,
    )
    from subjectgen.testing.dataset import DatasetContract as DatasetContract
    from subjectgen.testing.encoder import EncoderContract as EncoderContract
    from subjectgen.testing.finder import FinderContract as FinderContract
    from subjectgen.testing.injector import InjectorContract as InjectorContract
    from subjectgen.testing.metric import MetricContract as MetricContract, SetMetricContract as SetMetricContract
    from subjectgen.testing.plugin import PluginContract as PluginContract
    from subjectgen.testing.schedule import ScheduleContract as ScheduleContract
    from subjectgen.testing.strategies import features_strategy as features_strategy

_LAZY = {
    "AggregatorContract": "aggregator",
    "AutoencoderContract": "autoencoder",
    "BackboneContract": "backbone",
    "CachesReferencesContract": "capabilities",
    "CheckpointsContract": "capabilities",
    "Contract": "base",
    "DatasetContract": "dataset",
    "EncoderContract": "encoder",
    "FinderContract": "finder",
    "InjectorContract": "injector",
    "MergesContract": "capabilities",
    "MetricContract": "metric",
    "PluginContract": "plugin",
    "PreparesContract": "capabilities",
    "ScheduleContract": "schedule",
    "TrainableContract": "capabilities",
    "SetMetricContract": "metric",
    "features_strategy": "strategies",
}

__all__ = list(_LAZY)

# Before the modules are imported, or a failing law would say no more than "AssertionError".
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in dict.fromkeys(_LAZY.values())))


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
