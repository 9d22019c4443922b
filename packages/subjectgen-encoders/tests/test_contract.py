"""The conformance kit on every encoder of this distribution."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from subjectgen.encoders.flux_text import FluxText
from subjectgen.encoders.internvl3 import InternVL3
from subjectgen.encoders.qwen2_5_vl import Qwen25VL
from subjectgen.encoders.vae import VAE
from subjectgen.testing import AutoencoderContract, EncoderContract


class TestInternVL3(EncoderContract):
    @pytest.fixture
    def encoder(self, internvl3_checkpoint: Path) -> Any:
        return InternVL3(InternVL3.Config(checkpoint=str(internvl3_checkpoint)))


class TestInternVL3WithEveryOption(EncoderContract):
    @pytest.fixture
    def encoder(self, internvl3_checkpoint: Path, pipeline_checkpoint: Path) -> Any:
        return InternVL3(
            InternVL3.Config(
                checkpoint=str(internvl3_checkpoint),
                clip=str(pipeline_checkpoint),
                system="be brief",
                number_references=True,
                keep_template_tokens=True,
                raw_last_layer=True,
                fit="crop",
                attention_implementation="eager",
            )
        )


class TestQwen25VL(EncoderContract):
    @pytest.fixture
    def encoder(self, qwen_checkpoint: Path) -> Any:
        return Qwen25VL(Qwen25VL.Config(checkpoint=str(qwen_checkpoint)))


class TestQwen25VLPlain(EncoderContract):
    @pytest.fixture
    def encoder(self, qwen_checkpoint: Path) -> Any:
        return Qwen25VL(Qwen25VL.Config(checkpoint=str(qwen_checkpoint), template="plain", max_tokens=4))


class TestVAE(EncoderContract):
    @pytest.fixture(params=[{}, {"deterministic": False}], ids=["mode", "drawn"])
    def encoder(self, request: pytest.FixtureRequest, pipeline_checkpoint: Path) -> Any:
        return VAE(VAE.Config(checkpoint=str(pipeline_checkpoint), size=32, **request.param))


class TestVAEAsAutoencoder(AutoencoderContract):
    @pytest.fixture
    def autoencoder(self, pipeline_checkpoint: Path) -> Any:
        return VAE(VAE.Config(checkpoint=str(pipeline_checkpoint)))


class TestVAEThatDraws(AutoencoderContract):
    draws = True

    @pytest.fixture
    def autoencoder(self, pipeline_checkpoint: Path) -> Any:
        return VAE(VAE.Config(checkpoint=str(pipeline_checkpoint), deterministic=False))


class TestFluxText(EncoderContract):
    unknown = ("zebra",)

    @pytest.fixture(params=[{}, {"attend_padding": True, "max_length": 9}, {"output": "pooled"}])
    def encoder(self, request: pytest.FixtureRequest, pipeline_checkpoint: Path) -> Any:
        return FluxText(FluxText.Config(checkpoint=str(pipeline_checkpoint), **request.param))
