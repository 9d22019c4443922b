import pytest

from subjectgen.core import EVERYTHING, NOTHING, ConfigError, Visibility
from subjectgen.schedules.always_on import AlwaysOn
from subjectgen.schedules.three_stage import ThreeStage

TEXT_ONLY = Visibility(text=True, references=False)
REFERENCES_ONLY = Visibility(text=False, references=True)


def build(**guidance):
    return ThreeStage(ThreeStage.Config.model_validate({"guidance": guidance}), branches=["mllm", "vae"])


def test_one_setting_serves_all_stages():
    schedule = build(embedded=2.5)
    assert {schedule.guidance(t).embedded for t in (1.0, 0.9, 0.1)} == {2.5}
    assert {schedule.guidance(t).true_cfg for t in (1.0, 0.9, 0.1)} == {1.0}


def test_a_stage_overrides_only_what_it_writes():
    schedule = build(embedded=2.5, true_cfg=3.0, stages={"late": {"true_cfg": 1.0}, "early": {"embedded": None}})
    assert [(g.embedded, g.true_cfg) for g in map(schedule.guidance, (1.0, 0.9, 0.1))] == [
        (None, 3.0),
        (2.5, 3.0),
        (2.5, 1.0),
    ]


@pytest.mark.parametrize(
    ("negative", "expected"),
    [
        ("empty", {"mllm": NOTHING, "vae": NOTHING}),
        ("same", {"mllm": REFERENCES_ONLY, "vae": REFERENCES_ONLY}),
        ("no_references", {"mllm": TEXT_ONLY, "vae": TEXT_ONLY}),
        ({"mllm": ["text"]}, {"mllm": TEXT_ONLY, "vae": NOTHING}),
        ({"vae": ["text", "references"]}, {"mllm": NOTHING, "vae": EVERYTHING}),
    ],
)
def test_the_negative_pass_sees_what_is_written(negative, expected):
    assert build(negative=negative).guidance(0.5).negative == expected


def test_the_default_negative_pass_is_unconditional():
    schedule = build(true_cfg=2.5)
    assert not schedule.active(0.9).restricted(schedule.guidance(0.9).negative).names


def test_an_unknown_word_is_answered_with_the_known_ones():
    with pytest.raises(ValueError, match=r"negative(.|\n)*'same', 'no_references' or 'empty'"):
        build(negative="nothing")


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ConfigError, match=r"guidance\.stages: unknown stage 'erly'.*did you mean 'early'"):
        build(stages={"erly": {"true_cfg": 2.0}})
    with pytest.raises(ConfigError, match=r"guidance\.negative: unknown branch 'mlm'.*did you mean 'mllm'"):
        build(negative={"mlm": ["text"]})


def test_always_on_has_the_one_stage_all():
    config = AlwaysOn.Config.model_validate({"guidance": {"true_cfg": 2.0, "stages": {"all": {"true_cfg": 4.0}}}})
    schedule = AlwaysOn(config, branches=["text"])
    assert schedule.stage(0.3) == "all"
    assert schedule.guidance(0.3).true_cfg == 4.0
