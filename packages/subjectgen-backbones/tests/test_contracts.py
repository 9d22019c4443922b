import pytest

from subjectgen.backbones.context import ContextInjector
from subjectgen.backbones.reference_tokens import ReferenceTokensInjector
from subjectgen.testing import BackboneContract, InjectorContract


class TestFlux(BackboneContract):
    pass


class TestFluxWithGuidanceAndLoRA(BackboneContract):
    @pytest.fixture
    def backbone(self, build):
        return build(sizes={"guidance_embeds": True}, lora={"rank": 2}, gradient_checkpointing=True)


class TestContext(InjectorContract):
    @pytest.fixture
    def injector(self, backbone):
        return ContextInjector(ContextInjector.Config(), backbone=backbone)


class TestReferenceTokens(InjectorContract):
    @pytest.fixture
    def injector(self, backbone):
        return ReferenceTokensInjector(ReferenceTokensInjector.Config(), backbone=backbone)
