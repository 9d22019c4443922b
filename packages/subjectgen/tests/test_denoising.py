"""The sampler against ten lines, and what may not change an image."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from diffusers import FluxPipeline, FluxTransformer2DModel
from torch import nn

from subjectgen.core import Sample
from subjectgen.runner.generation.batches import Step, batches, denoise
from subjectgen.runner.generation.conditioner import Conditioner
from subjectgen.runner.generation.denoising import prepare, stage_inputs
from subjectgen.runner.generation.passes import row_pass
from subjectgen.runner.generation.request import Request
from subjectgen.runner.generation.samplers import noise

START = noise([1, 2], (16, 8, 8))
GUIDED = {"guidance": {"true_cfg": 2.5}}


def sample(system, samples, latents, *, index=None, steps=None, on_step=None) -> torch.Tensor:
    """Latents of rows that go together."""
    return denoise(prepare(system, samples, (8, 8), index=index, steps=steps), latents, on_step=on_step)


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
    torch.testing.assert_close(sample(built, toys[:1], START, index=torch.tensor([0, 0])), expected)


@torch.no_grad()
def test_guidance_of_one_is_one_pass(system, toys) -> None:
    built = system()
    expected = two_calls(built, toys[:2], START, 1.0)
    passes = []
    built.backbone.transformer.register_forward_hook(lambda *_: passes.append(1))
    torch.testing.assert_close(sample(built, toys[:2], START), expected)
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
    sample(built, toys[:2], noise([1, 2, 3], (16, 8, 8)), index=index, steps=8)
    assert sorted(calls) == [("mllm", 2), ("vae", 2)]


def test_noise_depends_on_its_seed_alone() -> None:
    together = noise([5, 6], (16, 8, 8))
    torch.testing.assert_close(together[1], noise([6], (16, 8, 8))[0])


def test_an_image_does_not_depend_on_its_batch(system, toys) -> None:
    built = system()
    together = sample(built, toys[:3], noise([1, 2, 3], (16, 8, 8)))
    alone = sample(built, toys[1:2], noise([2], (16, 8, 8)))
    torch.testing.assert_close(together[1:2], alone, atol=1e-4, rtol=1e-4)


def test_the_callback_hears_every_step_with_its_stage(system, toys) -> None:
    heard = []
    sample(system(), toys[:1], noise([1], (16, 8, 8)), on_step=heard.append)
    assert [step.stage for step in heard] == ["early", "early", "middle", "middle", "late"]
    assert [step.index for step in heard] == list(range(5))


def recorded(system) -> list[tuple[str, int]]:
    """What runs, in order, with the number of rows."""
    events: list[tuple[str, int]] = []
    hook = lambda _, arguments, given: events.append(("backbone", len(given["hidden_states"])))  # noqa: E731
    system.backbone.transformer.register_forward_pre_hook(hook, with_kwargs=True)
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
    sample(built, toys[:2], START)
    names = [name for name, _ in events]
    assert names.index("backbone") == 3  # the MLLM with and without references, the VAE
    assert set(names[3:]) == {"backbone"}


def test_passes_with_equal_tokens_are_one_batch(system, toys) -> None:
    """With ``inactive: zero`` the negative pass has the positive one's tokens."""
    built = system({"schedule": {"inactive": "zero", **GUIDED}})
    events = recorded(built)
    together = sample(built, toys[:2], START)
    assert [rows for name, rows in events if name == "backbone"] == [4] * built.schedule.steps
    torch.testing.assert_close(together, two_calls(built, toys[:2], START))
    prepared = prepare(built, toys[:2], (8, 8))
    stage = prepared.inputs[prepared.passes(1.0)]
    parts = (streams(built, toys[:2], mask) for mask in masks(built, 1.0))
    apart = replace(stage, joined=False, streams=tuple(parts))
    with torch.no_grad():
        one, two = (each.velocity(built.backbone, START, torch.tensor(1.0)) for each in (stage, apart))
    torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-6)


def test_passes_with_other_tokens_are_two_calls(system, toys) -> None:
    built = system({"schedule": GUIDED})
    events = recorded(built)
    sample(built, toys[:2], START)
    assert [rows for name, rows in events if name == "backbone"] == [2] * 2 * built.schedule.steps


def streams(system, samples, active):
    """What enters the backbone for rows that go together, made anew."""
    return Conditioner(system, samples, target_grid=(4, 4)).streams([row_pass(system.branches, samples[0], active)])


def masks(system, t: float) -> tuple:
    """Who speaks in the positive and in the negative pass."""
    active = system.schedule.active(t)
    return active, active.restricted(system.schedule.guidance(t).negative)


@torch.no_grad()
def two_calls(system, samples, latents, scale: float = 2.5) -> torch.Tensor:
    """Euler with a positive and a negative call, each with its own streams, made anew in every step."""
    for t, following in pairwise(system.schedule.timesteps().tolist()):
        when = torch.full((len(latents),), t)
        positive, negative = (system.backbone(latents, when, streams(system, samples, one)) for one in masks(system, t))
        latents = latents + (following - t) * (negative + scale * (positive - negative))
    return latents


@pytest.mark.parametrize("negative", ["same", "no_references", "empty"])
def test_each_negative_equals_two_plain_calls(system, toys, negative: str) -> None:
    built = system({"schedule": {"guidance": {"true_cfg": 2.5, "negative": negative}}})
    torch.testing.assert_close(sample(built, toys[:2], START), two_calls(built, toys[:2], START))


@pytest.mark.parametrize(("tau", "silent"), [(0.0, "vae"), (1.0, None)])
def test_a_branch_that_never_speaks_is_never_encoded(system, toys, tau: float, silent: str | None) -> None:
    """tau1 = tau2 = 0: the MLLM alone; = 1: the VAE alone after the first step, in which the MLLM speaks."""
    built = system({"schedule": {"tau1": tau, "tau2": tau, **GUIDED}})
    events = recorded(built)
    sample(built, toys[:2], START)
    names = {name for name, _ in events} - {"backbone"}
    assert names == {"mllm", "vae"} - {silent}


@pytest.mark.parametrize(("same_length", "masked"), [(True, False), (False, True)])
def test_attention_has_a_mask_only_where_tokens_are_padded(system, toys, monkeypatch, same_length, masked) -> None:
    """Several seeds, guidance and references need none; prompts of different lengths do, while they speak."""
    built = system({"schedule": {"guidance": {"true_cfg": 2.5, "negative": "same"}}})
    samples = toys[:1] if same_length else [toys[0], replace(toys[0], prompt="a toy " * 9)]
    prepared = prepare(built, samples, (8, 8), index=torch.tensor([0, len(samples) - 1]))
    seen: list[bool] = []
    attention = nn.functional.scaled_dot_product_attention

    def spy(*arguments, attn_mask=None, **options):
        seen.append(attn_mask is not None)
        return attention(*arguments, attn_mask=attn_mask, **options)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", spy)
    denoise(prepared, START)
    assert len(seen) == calls(prepared) * len(built.backbone.attention_sites)
    assert any(seen) is masked
    assert not all(seen)  # the last stage has no prompt


def test_latents_stay_float32_while_the_backbone_computes_in_bfloat16(system, toys) -> None:
    built = system()
    built.backbone.to(torch.bfloat16)
    heard: list[Step] = []
    final = sample(built, toys[:2], START, on_step=heard.append)
    assert {step.latents.dtype for step in heard} == {final.dtype} == {torch.float32}
    assert not torch.equal(final, final.bfloat16().float())


def test_a_negative_pass_that_sees_the_same_is_not_run(system, toys) -> None:
    """The VAE reads no text: in the late stage, where it speaks alone, ``same`` hides nothing from it."""
    built = system({"schedule": {"guidance": {"true_cfg": 2.5, "negative": "same"}}})
    prepared = prepare(built, toys[:2], (8, 8))
    times = prepared.times[:-1]
    found = {built.schedule.stage(t): len(prepared.inputs[prepared.passes(t)].streams) for t in times}
    assert found == {"early": 2, "middle": 2, "late": 1}
    assert calls(prepared) == 2 * 4 + 1
    rows = recorded(built)
    denoise(prepared, START)
    assert sum(count for name, count in rows if name == "backbone") == 2 * (2 * 4 + 1)


def test_a_prompt_alone_has_no_references_to_hide(system, toys) -> None:
    built = system({"schedule": {"guidance": {"true_cfg": 2.5, "negative": "no_references"}}})
    bare = [Sample(prompt=toys[0].prompt)]
    rows = recorded(built)
    sample(built, bare, START[:1])
    assert [count for name, count in rows if name == "backbone"] == [1] * built.schedule.steps


def test_stages_share_their_streams(system, toys) -> None:
    assert len(prepare(system(), toys[:2], (8, 8), steps=20).inputs) == 3


class Plain(nn.Module):
    """A backbone with what the contract asks for, and nothing more."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.inner = backbone
        for name in ("patch_size", "latent_channels", "context_width", "pooled_width", "guidance_embedded"):
            setattr(self, name, getattr(backbone, name))
        self.attention_sites = backbone.attention_sites

    def forward(self, latents, timestep, streams, *, guidance=None):
        return self.inner(latents, timestep, streams, guidance=guidance)


@pytest.mark.parametrize("attention", ["full", "isolated"])
def test_a_backbone_that_prepares_nothing_gives_the_same(system, toys, attention: str) -> None:
    built = system({"schedule": GUIDED, "backbone": {"reference_attention": attention}})
    plain = replace(built, backbone=Plain(built.backbone))
    torch.testing.assert_close(sample(plain, toys[:2], START), sample(built, toys[:2], START))


def test_references_are_cached_once_for_all_stages(system, toys) -> None:
    """Two stages with the same references, and one extra forward of the transformer."""
    built = system({"backbone": {"reference_attention": "isolated"}})
    forwards = []
    built.backbone.transformer.register_forward_hook(lambda *_: forwards.append(1))
    sample(built, toys[:2], START)
    assert len(forwards) == built.schedule.steps + 1


def test_all_conditions_are_prepared(system, toys) -> None:
    """Without the modules that only prepare needs, a forward whose conditions were not given is refused."""
    from subjectgen.core import ComponentError

    built = system({"schedule": GUIDED})
    expected = sample(built, toys[:2], START)
    prepared = prepare(built, toys[:2], (8, 8)).ready()
    for module in built.backbone.only_prepares():
        module.to("meta")  # elsewhere
    with torch.no_grad():
        assert torch.equal(
            denoise(replace(prepared, system=replace(built, backbone=prepared.backbone)), START), expected
        )
        with pytest.raises(ComponentError, match="not prepared"):
            prepared(START, 0.123)


def test_the_estimate_is_where_the_velocity_leads(system, toys) -> None:
    heard: list[Step] = []
    built = system()
    final = sample(built, toys[:1], START[:1], on_step=heard.append)
    torch.testing.assert_close(heard[-1].estimate, final)  # the last step goes there
    first, velocity = heard[0], (heard[0].latents - START[:1]) / (heard[1].timestep - heard[0].timestep)
    torch.testing.assert_close(first.estimate, START[:1] - first.timestep * velocity)


def test_seeds_of_one_prompt_equal_single_images(system, toys) -> None:
    built = system({"schedule": GUIDED})
    (together,) = batches(built, Request.of([toys[0], toys[1], toys[0]], [1, 2, 3]))
    (alone,) = batches(built, Request.of([toys[0]], [3]))
    torch.testing.assert_close(together.images[2:], alone.images, atol=1e-4, rtol=1e-4)


def test_a_sampler_of_ones_own(system, toys) -> None:
    """Heun's method asks for velocities between the stages' points too; with one step it is two evaluations."""
    built = system()

    @torch.no_grad()
    def heun(velocity, latents, times, *, on_step=None):
        for t, following in pairwise(times):
            first = velocity(latents, t)
            second = velocity(latents + (following - t) * first, following) if following > 0 else first
            latents = latents + (following - t) * (first + second) / 2
        return latents

    (batch,) = batches(built, Request.of(toys[:1], [1]), sampler=heun)
    (euler,) = batches(built, Request.of(toys[:1], [1]))
    assert batch.images.isfinite().all()
    assert not torch.equal(batch.images, euler.images)


def test_a_stage_without_anything_to_read_is_told_and_the_others_speak(system, toys) -> None:
    """Three stages without a reference: the VAE alone would be 16 of 25 steps on nothing."""
    built = system()
    bare = Sample(prompt=toys[0].prompt)
    with pytest.warns(UserWarning, match="stage late: vae have nothing to read without references"):
        (batch,) = batches(built, Request.of([bare], [1]))
    always = system({"schedule": {"tau1": 0.0, "tau2": 0.0}})
    (expected,) = batches(always, Request.of([bare], [1]))
    torch.testing.assert_close(batch.images, expected.images)


def calls(prepared) -> int:
    """Backbone calls of all steps, a batch of two passes counted once."""
    return sum(len(prepared.inputs[prepared.passes(t)].streams) for t in prepared.times[:-1])


def test_inputs_between_the_points_of_the_grid(system, toys) -> None:
    prepared = prepare(system(), toys[:1], (8, 8))
    passes = prepared.passes(0.97)
    assert passes == prepared.passes(1.0)
    made = stage_inputs(prepared.conditioner, passes, None)
    torch.testing.assert_close(made.streams[0].context[0].tokens, prepared.inputs[passes].streams[0].context[0].tokens)
