import pytest

from subjectgen.backbones.plugin import subjectgen_backbones, subjectgen_injectors


@pytest.mark.parametrize("component", [*subjectgen_backbones(), *subjectgen_injectors()], ids=lambda c: c.name)
def test_components_load_and_document_every_setting(component):
    target = component.load()
    assert target.__doc__
    assert target.Config.__doc__


@pytest.mark.parametrize("component", subjectgen_injectors(), ids=lambda c: c.name)
def test_injectors_stand_with_their_defaults(component, backbone):
    injector = component.load()
    assert injector(injector.Config(), backbone=backbone).width > 0
