"""The plugin keeps the contracts of its kind; nothing more is needed."""

import pytest
from subjectgen_example_mean.mean import Mean

from subjectgen.testing import AggregatorContract, PluginContract


class TestMean(AggregatorContract):
    @pytest.fixture
    def aggregator(self) -> Mean:
        return Mean(Mean.Config(), **self.runtime)


class TestPlugin(PluginContract):
    distribution = "subjectgen-example-mean"
