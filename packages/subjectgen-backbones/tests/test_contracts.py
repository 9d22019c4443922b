import pytest

from subjectgen.backbones.context import ContextInjector
from subjectgen.backbones.reference_tokens import ReferenceTokensInjector
from subjectgen.testing import (
    BackboneContract,
    CachesReferencesContract,
    CheckpointsContract,
    InjectorContract,
    MergesContract,
    PreparesContract,
    TrainableContract,
)


class TestFlux(BackboneContract, PreparesContract):
    pass


class TestFluxWithGuidanceAndLoRA(
    BackboneContract, TrainableContract, PreparesContract, CheckpointsContract, MergesContract
):
    settings = {"sizes": {"guidance_embeds": True}, "lora": {"rank": 2}}  # noqa: RUF012

    @pytest.fixture
    def backbone(self, build):
        return build(**self.settings)

    @pytest.fixture
    def checkpointed(self, build):
        return build(**self.settings, gradient_checkpointing=True)


class TestFluxInFull(TrainableContract):
    @pytest.fixture
    def backbone(self, build):
        return build(full_training=True)


class TestIsolated(BackboneContract, PreparesContract, CachesReferencesContract):
    @pytest.fixture
    def backbone(self, build):
        return build(reference_attention="isolated")


class TestIsolatedTraining(BackboneContract, CheckpointsContract):
    @pytest.fixture
    def backbone(self, build):
        return build(reference_attention="isolated", full_training=True)

    @pytest.fixture
    def checkpointed(self, build):
        return build(reference_attention="isolated", full_training=True, gradient_checkpointing="selective")


class TestContext(InjectorContract):
    @pytest.fixture
    def injector(self, backbone):
        return ContextInjector(ContextInjector.Config(), backbone=backbone)


class TestReferenceTokens(InjectorContract):
    @pytest.fixture
    def injector(self, backbone):
        return ReferenceTokensInjector(ReferenceTokensInjector.Config(), backbone=backbone)
