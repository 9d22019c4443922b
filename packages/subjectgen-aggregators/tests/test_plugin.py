"""What the distribution offers loads, and can be swapped without another change."""

from __future__ import annotations

import subprocess
import sys

import pytest

from subjectgen.aggregators.plugin import subjectgen_aggregators
from subjectgen.testing.strategies import make_features

COMPONENTS = {component.name: component for component in subjectgen_aggregators()}


@pytest.mark.parametrize("name", COMPONENTS)
def test_every_component_runs_on_its_defaults(name):
    component = COMPONENTS[name].load()
    aggregator = component(component.Config(), width=8, depth=3, context_width=4, pooled_width=2)
    conditioning = aggregator(make_features([[-1, 0, 0], [-1]], width=8, depth=3))
    assert conditioning.tokens.shape == (2, 3, 4)
    assert conditioning.pooled.shape == (2, 2)


def test_the_five_of_table_six_are_there():
    assert set(COMPONENTS) == {"last_layer", "blend_vit", "mix_vit", "lap", "dla"}


def test_discovery_does_not_import_torch():
    code = "import sys, subjectgen.aggregators.plugin as plugin; plugin.subjectgen_aggregators()"
    code += "; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
