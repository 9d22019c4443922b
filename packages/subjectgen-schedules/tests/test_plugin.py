import pytest

from subjectgen.schedules.plugin import subjectgen_schedules


@pytest.mark.parametrize("component", subjectgen_schedules(), ids=lambda component: component.name)
def test_components_load_and_stand_with_their_defaults(component):
    schedule = component.load()
    built = schedule(schedule.Config(), branches=["mllm", "vae"])
    assert built.steps == schedule.Config().steps
