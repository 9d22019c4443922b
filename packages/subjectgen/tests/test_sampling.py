"""The sampler against ten lines, and what may not change an image."""

from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import nn

from subjectgen.core import Sample
from subjectgen.runner import sampling
from subjectgen.runner.conditioning import Conditioner
from subjectgen.runner.memory import Residency

START = sampling.noise([1, 2], (16, 8, 8))
GUIDED = {"guidance": {"true_cfg": 2.5}}


@torch.no_grad()
def test_sampling_equals_a_plain_loop_around_diffusers(system, toys, checkpoints: Path) -> None:
    """With diffusers' own transformer, packing and position ids; tau1 = 0.7, tau2 = 0.4, linear grid of five."""
    built = system({"backbone": {"lora": None}, "schedule": GUIDED})
    mllm, vae = built.branches["mllm"], built.branches["vae"]
    said, picture = mllm.aggregator(mllm.encoder.encode(toys[:1])), vae.encoder.encode(toys[:1]).values[0]
    transformer = FluxTransformer2DModel.from_pretrained(checkpoints / "transformer")
    x, reference = (FluxPipeline._pack_latents(one, len(one), 16, 8, 8) for one in (START, picture))
    ids = FluxPipeline._prepare_latent_image_ids(2, 4, 4, "cpu", torch.float32)
    for t, following in ((1.0, 0.8), (0.8, 0.6), (0.6, 0.4), (0.4, 0.2), (0.2, 0.0)):
        velocities = []
        for text, shown in ((t >= 0.4, t < 0.7), (False, False)):  # the negative pass sees nothing
            (velocity,) = transformer(
                hidden_states=torch.cat((x, reference.expand(2, -1, -1)), dim=1) if shown else x,
                encoder_hidden_states=said.tokens.expand(2, -1, -1)[:, : said.tokens.shape[1] * text],
                pooled_projections=said.pooled.expand(2, -1) * text,
                timestep=torch.full((2,), t),
                img_ids=torch.cat((ids, ids + torch.tensor([0, 4, 4]))) if shown else ids,
                txt_ids=torch.zeros(said.tokens.shape[1] * text, 3),
                return_dict=False,
            )
            velocities.append(velocity[:, :16])
        positive, negative = velocities
        x = x + (following - t) * (negative + 2.5 * (positive - negative))
    expected = FluxPipeline._unpack_latents(x, 64, 64, 8)
    torch.testing.assert_close(sampling.sample(built, toys[:1], START, index=torch.tensor([0, 0])), expected)


@torch.no_grad()
def test_guidance_of_one_is_one_pass(system, toys) -> None:
    built = system()
    expected = two_calls(built, toys[:2], START, 1.0)
    passes = []
    built.backbone.register_forward_hook(lambda *_: passes.append(1))
    torch.testing.assert_close(sampling.sample(built, toys[:2], START), expected)
    assert len(passes) == built.schedule.steps


def test_conditioning_is_computed_once_for_all_steps_and_seeds(system, toys, monkeypatch) -> None:
    built = system({"schedule": {"guidance": {"true_cfg": 2.5}}})
    calls = []
    for name, branch in built.branches.items():
        original = branch.encoder.encode

        def counted(samples, *, layers=None, name=name, original=original):
            calls.append((name, len(samples)))
            return original(samples, layers=layers)

        monkeypatch.setattr(branch.encoder, "encode", counted)
    index = torch.tensor([0, 0, 1])
    sampling.sample(built, toys[:2], sampling.noise([1, 2, 3], (16, 8, 8)), index=index, steps=8)
    assert sorted(calls) == [("mllm", 2), ("vae", 2)]


def test_noise_depends_on_its_seed_alone() -> None:
    together = sampling.noise([5, 6], (16, 8, 8))
    torch.testing.assert_close(together[1], sampling.noise([6], (16, 8, 8))[0])


def test_an_image_does_not_depend_on_its_batch(system, toys) -> None:
    built = system()
    together = sampling.sample(built, toys[:3], sampling.noise([1, 2, 3], (16, 8, 8)))
    alone = sampling.sample(built, toys[1:2], sampling.noise([2], (16, 8, 8)))
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=1e-4)


def test_the_callback_hears_every_step_with_its_stage(system, toys) -> None:
    heard = []
    sampling.sample(system(), toys[:1], sampling.noise([1], (16, 8, 8)), on_step=heard.append)
    assert [step.stage for step in heard] == ["early", "early", "middle", "middle", "late"]
    assert [step.index for step in heard] == list(range(5))


class Plain(nn.Module):
    """A backbone with what the contract asks for, and nothing more."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.inner = backbone
        self.patch_size, self.latent_channels = backbone.patch_size, backbone.latent_channels

    def forward(self, latents, timestep, streams, *, guidance=None):
        return self.inner(latents, timestep, streams, guidance=guidance)


def recorded(system) -> list[tuple[str, int]]:
    """What runs, in order, with the number of rows."""
    events: list[tuple[str, int]] = []
    system.backbone.register_forward_pre_hook(lambda _, inputs: events.append(("backbone", len(inputs[0]))))
    for name, branch in system.branches.items():
        original = branch.encoder.encode

        def encode(samples, *, layers=None, name=name, original=original):
            events.append((name, len(samples)))
            return original(samples, layers=layers)

        branch.encoder.encode = encode
    return events


def test_everything_is_encoded_before_the_first_step(system, toys) -> None:
    built = system({"schedule": {"guidance": {"true_cfg": 2.5, "negative": "no_references"}}})
    events = recorded(built)
    sampling.sample(built, toys[:2], START)
    names = [name for name, _ in events]
    assert names.index("backbone") == 3  # the MLLM with and without references, the VAE
    assert set(names[3:]) == {"backbone"}


def test_passes_with_equal_tokens_are_one_batch(system, toys) -> None:
    """With ``inactive: zero`` the negative pass has the positive one's tokens."""
    built = system({"schedule": {"inactive": "zero", **GUIDED}})
    events = recorded(built)
    together = sampling.sample(built, toys[:2], START)
    assert [rows for name, rows in events if name == "backbone"] == [4] * built.schedule.steps
    torch.testing.assert_close(together, two_calls(built, toys[:2], START))
    work = sampling.plan(built, toys[:2], (8, 8)).work[0]
    parts = (Conditioner(built, toys[:2], target_grid=(4, 4)).streams(mask) for mask in masks(built, 1.0))
    apart = replace(work, joined=False, streams=tuple(parts))
    with torch.no_grad():
        one, two = (each.velocity(built.backbone, START, torch.tensor(1.0)) for each in (work, apart))
    torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-6)


def test_passes_with_other_tokens_are_two_calls(system, toys) -> None:
    built = system({"schedule": GUIDED})
    events = recorded(built)
    sampling.sample(built, toys[:2], START)
    assert [rows for name, rows in events if name == "backbone"] == [2] * 2 * built.schedule.steps


def masks(system, t: float) -> tuple:
    """Who speaks in the positive and in the negative pass."""
    active = system.schedule.active(t)
    return active, active.restricted(system.schedule.guidance(t).negative)


@torch.no_grad()
def two_calls(system, samples, latents, scale: float = 2.5) -> torch.Tensor:
    """Euler with a positive and a negative call, each with its own streams, made anew in every step."""
    for t, following in pairwise(system.schedule.timesteps().tolist()):
        when = torch.full((len(latents),), t)
        positive, negative = (
            system.backbone(latents, when, Conditioner(system, samples, target_grid=(4, 4)).streams(one))
            for one in masks(system, t)
        )
        latents = latents + (following - t) * (negative + scale * (positive - negative))
    return latents


@pytest.mark.parametrize("negative", ["same", "no_references", "empty"])
def test_each_negative_equals_two_plain_calls(system, toys, negative: str) -> None:
    built = system({"schedule": {"guidance": {"true_cfg": 2.5, "negative": negative}}})
    torch.testing.assert_close(sampling.sample(built, toys[:2], START), two_calls(built, toys[:2], START))


@pytest.mark.parametrize(("tau", "silent"), [(0.0, "vae"), (1.0, None)])
def test_a_branch_that_never_speaks_is_never_encoded(system, toys, tau: float, silent: str | None) -> None:
    """tau1 = tau2 = 0: the MLLM alone; = 1: the VAE alone after the first step, in which the MLLM speaks."""
    built = system({"schedule": {"tau1": tau, "tau2": tau, **GUIDED}})
    events = recorded(built)
    sampling.sample(built, toys[:2], START)
    names = {name for name, _ in events} - {"backbone"}
    assert names == {"mllm", "vae"} - {silent}


@pytest.mark.parametrize(("same_length", "masked"), [(True, False), (False, True)])
def test_attention_has_a_mask_only_where_tokens_are_padded(system, toys, monkeypatch, same_length, masked) -> None:
    """Several seeds, guidance and references need none; prompts of different lengths do, while they speak."""
    built = system({"schedule": {"guidance": {"true_cfg": 2.5, "negative": "same"}}})
    samples = toys[:1] if same_length else [toys[0], replace(toys[0], prompt="a toy " * 9)]
    prepared = sampling.plan(built, samples, (8, 8), index=torch.tensor([0, len(samples) - 1]))
    seen: list[bool] = []
    attention = nn.functional.scaled_dot_product_attention

    def spy(*arguments, attn_mask=None, **options):
        seen.append(attn_mask is not None)
        return attention(*arguments, attn_mask=attn_mask, **options)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", spy)
    with sampling.ready(built, [prepared]):
        sampling.denoise(built, prepared, START)
    assert len(seen) == prepared.passes * len(built.backbone.attention_sites)
    assert any(seen) is masked
    assert not all(seen)  # the last stage has no prompt


def test_latents_stay_float32_while_the_backbone_computes_in_bfloat16(system, toys) -> None:
    built = system()
    built.backbone.to(torch.bfloat16)
    heard: list[sampling.Step] = []
    final = sampling.sample(built, toys[:2], START, on_step=heard.append)
    assert {step.latents.dtype for step in heard} == {final.dtype} == {torch.float32}
    assert not torch.equal(final, final.bfloat16().float())


def test_a_negative_pass_that_sees_the_same_is_not_run(system, toys) -> None:
    """The VAE reads no text: in the late stage, where it speaks alone, ``same`` hides nothing from it."""
    built = system({"schedule": {"guidance": {"true_cfg": 2.5, "negative": "same"}}})
    steps = sampling.plan(built, toys[:2], (8, 8))
    calls = {stage: len(work.streams) for stage, work in zip(steps.stages, steps.work, strict=True)}
    assert calls == {"early": 2, "middle": 2, "late": 1}
    assert steps.passes == 2 * 4 + 1


def test_a_prompt_alone_has_no_references_to_hide(system, toys) -> None:
    built = system({"schedule": {"guidance": {"true_cfg": 2.5, "negative": "no_references"}}})
    bare = [Sample(prompt=toys[0].prompt)]
    assert sampling.plan(built, bare, (8, 8)).passes == built.schedule.steps


def test_stages_share_their_streams(system, toys) -> None:
    work = sampling.plan(system(), toys[:2], (8, 8), steps=20).work
    assert len({id(one) for one in work}) == 3


@pytest.mark.parametrize("attention", ["full", "isolated"])
def test_a_backbone_that_prepares_nothing_gives_the_same(system, toys, attention: str) -> None:
    built = system({"schedule": GUIDED, "backbone": {"reference_attention": attention}})
    expected = sampling.sample(built, toys[:2], START)
    built.backbone = Plain(built.backbone)
    torch.testing.assert_close(sampling.sample(built, toys[:2], START), expected)


def test_references_are_cached_once_for_all_stages(system, toys) -> None:
    """Two stages with the same references, and one extra forward of the transformer."""
    built = system({"backbone": {"reference_attention": "isolated"}})
    forwards = []
    built.backbone.transformer.register_forward_hook(lambda *_: forwards.append(1))
    sampling.sample(built, toys[:2], START)
    assert len(forwards) == built.schedule.steps + 1


def test_all_conditions_are_prepared(system, toys) -> None:
    """With its modulation weights released, a backbone refuses a forward that was not announced."""
    from subjectgen.core import ComponentError

    built = system({"schedule": GUIDED})
    expected = sampling.sample(built, toys[:2], START)
    ready = sampling.plan(built, toys[:2], (8, 8))
    built.memory.settings = built.experiment.settings.memory.model_copy(update={"release_modulation": True})
    with sampling.ready(built, [ready]):
        assert torch.equal(sampling.denoise(built, ready, START), expected)
    with torch.no_grad(), sampling.ready(built, [ready]), pytest.raises(ComponentError, match="not prepared"):
        built.backbone(START, torch.full((2,), 0.123), ready.work[0].streams[0])


def test_the_estimate_is_where_the_velocity_leads(system, toys) -> None:
    heard: list[sampling.Step] = []
    built = system()
    final = sampling.sample(built, toys[:1], START[:1], on_step=heard.append)
    torch.testing.assert_close(heard[-1].estimate, final)  # the last step goes there
    first, velocity = heard[0], (heard[0].latents - START[:1]) / (heard[1].timestep - heard[0].timestep)
    torch.testing.assert_close(first.estimate, START[:1] - first.timestep * velocity)


def test_seeds_of_one_prompt_equal_single_images(system, toys) -> None:
    built = system({"schedule": GUIDED})
    batch = ([toys[0], toys[1], toys[0]], [1, 2, 3])
    (together,) = sampling.images(built, [batch], (16, 8, 8))
    (alone,) = sampling.images(built, [([toys[0]], [3])], (16, 8, 8))
    torch.testing.assert_close(together[2:], alone, atol=1e-4, rtol=1e-4)


class Announcing(Plain):
    """A backbone of one's own that wants to know the conditions, and writes down what happens to it."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__(backbone)
        self.log: list[str] = []

    @contextmanager
    def prepare(self, requests, *, release=False):
        self.log.append(f"told of {sorted({request.timestep for request in requests})}, release {release}")
        yield
        self.log.append("over")

    def to(self, device):
        self.log.append(f"to {device}")
        return self

    def forward(self, latents, timestep, streams, *, guidance=None):
        self.log.append("step")
        return super().forward(latents, timestep, streams, guidance=guidance)


@pytest.mark.parametrize(
    ("release", "log"),
    [
        (True, ["to cpu", "told of [1.0], release True", "to cpu", "step", "to cpu", "over", "to cpu"]),
        (False, ["to cpu", "to cpu", "told of [1.0], release False", "to cpu", "step", "to cpu", "over", "to cpu"]),
    ],
)
def test_released_weights_never_come_to_the_device(system, toys, release: bool, log: list[str]) -> None:
    """Encoders run; then the backbone comes after it was told, and leaves before its released weights are back. Without
    release it comes before, so that it computes modulation on the device, and leaves once more when it is whole.
    """
    built = system()
    backbone = Announcing(built.backbone)
    changes = {"offload": "mllm", "release_modulation": release}
    settings = built.experiment.settings.memory.model_copy(update=changes)
    built.backbone = backbone
    built.memory = Residency(settings, torch.device("cpu"), backbone=backbone, encoders=[], others=[])
    sampling.images(built, [(toys[:1], [1])], (16, 8, 8), steps=1)
    assert backbone.log == log
