import pytest

from subjectgen.schedules.always_on import AlwaysOn
from subjectgen.schedules.three_stage import ThreeStage
from subjectgen.testing import ScheduleContract


class TestThreeStage(ScheduleContract):
    @pytest.fixture
    def schedule(self):
        return ThreeStage(ThreeStage.Config(), branches=["mllm", "vae"])


class TestThreeStageWithEveryOption(ScheduleContract):
    @pytest.fixture
    def schedule(self):
        config = ThreeStage.Config.model_validate(
            {
                "tau1": 0.8,
                "tau2": 0.3,
                "grid": "flux_shift",
                "early": ["layout", "style"],
                "keep_text": True,
                "inactive": "zero",
                "training_timesteps": "logit_normal",
                "guidance": {"true_cfg": 2.5, "negative": "no_references", "stages": {"late": {"true_cfg": 1.0}}},
                "dropout": {"table": [{"probability": 0.5, "hide": {"style": ["references"]}}]},
            }
        )
        return ThreeStage(config, branches=["layout", "style", "detail"])


class TestMllmOnly(ScheduleContract):
    @pytest.fixture
    def schedule(self):
        return ThreeStage(ThreeStage.Config(tau1=0, tau2=0, grid="linear"), branches=["mllm", "vae"])


class TestVaeOnly(ScheduleContract):
    @pytest.fixture
    def schedule(self):
        return ThreeStage(ThreeStage.Config(tau1=1, tau2=1, grid="half_cosine"), branches=["mllm", "vae"])


class TestFirstBranchNeverSpeaks(ScheduleContract):
    @pytest.fixture
    def schedule(self):
        config = ThreeStage.Config(tau1=1.1, tau2=1.1, grid="linear", guidance={"true_cfg": 2.5})
        return ThreeStage(config, branches=["mllm", "vae"])


class TestAlwaysOn(ScheduleContract):
    @pytest.fixture
    def schedule(self):
        return AlwaysOn(AlwaysOn.Config(training_timesteps="uniform"), branches=["text"])
