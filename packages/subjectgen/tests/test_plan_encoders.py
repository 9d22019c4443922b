"""Encoders without weights: sizes, tokens and operations of the real ones, and of the published ones."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from subjectgen.aggregators.dla import DualLayerAggregator
from subjectgen.aggregators.last_layer import LastLayer
from subjectgen.core import CheckpointError, Component, Latents, Reference, Sample, hookimpl
from subjectgen.core.plugins import Plugins
from subjectgen.encoders.flux_text import FluxText
from subjectgen.encoders.internvl3 import InternVL3
from subjectgen.encoders.qwen2_5_vl import Qwen25VL
from subjectgen.encoders.vae import VAE
from subjectgen.runner.planning.dry_run import dry_run
from subjectgen.runner.planning.shipped import Shipped
from subjectgen.runner.planning.stand_ins import StandIns

SHIPPED = Shipped(Plugins.discover())


def fused(query, key, value, *_, **__):
    batch, heads, tokens, width = query
    return 2 * batch * heads * tokens * key[2] * (width + value[3])


ON_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: fused}

TINY = {
    "internvl3": (InternVL3, {"dtype": "float32", "template": "plain"}),
    "qwen2_5_vl": (Qwen25VL, {"dtype": "float32", "template": "plain"}),
    "flux_text": (FluxText, {"dtype": "float32"}),
    "vae": (VAE, {"subfolder": "", "size": 64}),
}
SAMPLE = Sample(prompt="the toy at night", references=(Reference(image=torch.rand(3, 64, 64)),) * 2)


@pytest.mark.parametrize("name", TINY)
def test_an_encoder_without_weights_costs_what_the_real_one_costs(name: str, checkpoints: Path) -> None:
    target, options = TINY[name]
    config = target.Config(checkpoint=str(checkpoints / name), **options)
    real = target(config)
    with FlopCounterMode(display=False, custom_mapping=ON_CPU) as counter:
        encoded = real.encode([SAMPLE])
    with torch.device("meta"):
        planned = target.planned(config, StandIns(SHIPPED))
    with dry_run(planned) as cost:
        shapes = planned.encode([SAMPLE])
    assert sizes(planned) == sizes(real)
    assert cost.flops == counter.get_total_flops()
    assert layout(shapes) == layout(encoded)


def sizes(encoder) -> dict:
    shapes = {name: tuple(p.shape) for name, p in encoder.named_parameters()}
    return {"width": encoder.width, "depth": encoder.depth, "pooled": encoder.pooled_width, **shapes}


def layout(encoded) -> object:
    if isinstance(encoded, Latents):
        return [tuple(value.shape) for value in encoded.values]
    if hasattr(encoded, "modality"):
        return encoded.modality.tolist(), encoded.reference.tolist()
    return tuple(encoded.tokens.shape), encoded.mask.tolist()


@pytest.mark.parametrize("target", [DualLayerAggregator, LastLayer])
def test_aggregators_on_shapes(target, checkpoints: Path) -> None:
    """Operations forward and backward; the features are the encoder's, once real and once as shapes."""
    config = InternVL3.Config(checkpoint=str(checkpoints / "internvl3"), dtype="float32", template="plain")
    real = InternVL3(config)
    widths = {"width": real.width, "depth": real.depth, "context_width": 128, "pooled_width": 64}
    aggregator, features = target(target.Config(), **widths), real.encode([SAMPLE])
    with FlopCounterMode(display=False, custom_mapping=ON_CPU) as counter:
        aggregator(features).tokens.sum().backward()
    with torch.device("meta"):
        planned, shapes = InternVL3.planned(config, StandIns(SHIPPED)), target(target.Config(), **widths)
    with dry_run(planned):
        encoded = planned.encode([SAMPLE])
    with torch.enable_grad(), dry_run(shapes) as cost:
        shapes(encoded).tokens.sum().backward()
    assert cost.flops == counter.get_total_flops()
    assert cost.saved_bytes > 0


def projector(width: int) -> int:
    """Norm of four neighbours' 1024 channels, and two linear maps."""
    return 2 * 4096 + (4096 + 1) * width + (width + 1) * width


PUBLISHED = {
    # Qwen2.5-7B and 1.5B without a language head and with InternVL's vocabulary, InternViT-300M, and the projector
    (InternVL3, "OpenGVLab/InternVL3-8B-hf"): (
        3584,
        29,
        7_615_616_512 - (2 * 152064 - 151674) * 3584 + 304_012_288 + projector(3584),
    ),
    (InternVL3, "OpenGVLab/InternVL3-2B-hf"): (
        1536,
        29,
        1_543_714_304 - (151936 - 151674) * 1536 + 304_012_288 + projector(1536),
    ),
    (Qwen25VL, "Qwen/Qwen2.5-VL-7B-Instruct"): (3584, 29, 8.292e9 - 152064 * 3584),
    (Qwen25VL, "Qwen/Qwen2.5-VL-3B-Instruct"): (2048, 37, 3.755e9),  # its head is its embedding
    (FluxText, "black-forest-labs/FLUX.1-dev"): (4096, 1, 4.762e9 + 0.123e9),  # T5-XXL's encoder, CLIP-L's text model
    (VAE, "black-forest-labs/FLUX.1-dev"): (16, 1, 83_819_683),
}


@pytest.mark.parametrize(("target", "checkpoint"), PUBLISHED, ids=lambda one: getattr(one, "__name__", one))
def test_published_sizes(target, checkpoint: str) -> None:
    width, depth, parameters = PUBLISHED[target, checkpoint]
    with torch.device("meta"):
        encoder = target.planned(target.Config(checkpoint=checkpoint), StandIns(SHIPPED))
    assert (encoder.width, encoder.depth) == (width, depth)
    assert sum(p.numel() for p in encoder.parameters()) == pytest.approx(parameters, rel=1e-3)


def test_every_shipped_id_has_sizes() -> None:
    found = set(SHIPPED.ids())
    assert {checkpoint for _, checkpoint in PUBLISHED} <= found
    for checkpoint in found:
        folders = ("", "transformer", "vae", "text_encoder", "text_encoder_2")
        assert any(SHIPPED.find(checkpoint, folder) for folder in folders), checkpoint


def test_a_third_party_ships_sizes_of_its_own_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of one model may come from several distributions."""
    for model, folder in (("acme--tower", ""), ("black-forest-labs--FLUX.1-dev", "image_encoder")):
        place = tmp_path / "acme_plugin" / "sizes" / model / folder
        place.mkdir(parents=True)
        (place / "config.json").write_text('{"model_type": "acme"}')
    (tmp_path / "acme_plugin" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)

    class Plugin:
        @hookimpl
        def subjectgen_encoders(self) -> list[Component]:
            place = "package:acme_plugin/sizes"
            return [Component(name="acme", target="acme_plugin:Acme", summary="a tower", sizes=place)]

    plugins = Plugins.discover()
    plugins.register(Plugin(), distribution="acme-plugin")
    shipped = Shipped(plugins)
    assert {"acme/tower", *SHIPPED.ids()} == set(shipped.ids())
    assert shipped.read("acme/tower") == shipped.read("black-forest-labs/FLUX.1-dev", "image_encoder")
    assert shipped.read("black-forest-labs/FLUX.1-dev", "vae") == SHIPPED.read("black-forest-labs/FLUX.1-dev", "vae")


def test_an_unknown_id_is_answered_with_the_known_ones() -> None:
    with pytest.raises(CheckpointError, match=r"did you mean 'OpenGVLab/InternVL3-8B-hf'.*Qwen/Qwen2.5-VL-3B-Instruct"):
        SHIPPED.read("OpenGVLab/InternVL3-8B")


def test_a_missing_and_a_broken_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no vae/config\.json"):
        SHIPPED.read(str(tmp_path), "vae")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        SHIPPED.read(str(tmp_path))


def test_another_architecture_is_refused() -> None:
    with torch.device("meta"), pytest.raises(CheckpointError, match=r"type 'internvl', expected 'qwen2_5_vl'"):
        Qwen25VL.planned(Qwen25VL.Config(checkpoint="OpenGVLab/InternVL3-8B-hf"), StandIns(SHIPPED))
