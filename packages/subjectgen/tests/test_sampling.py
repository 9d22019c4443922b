"""The sampler against ten lines, and what may not change an image."""

from itertools import pairwise

import torch

from subjectgen.core import ActiveBranches
from subjectgen.runner import sampling
from subjectgen.runner.conditioning import Conditioner


def reference_loop(system, samples, latents, scale: float) -> torch.Tensor:
    """Euler with two-pass guidance, written out."""
    conditioner = Conditioner(system, samples, target_grid=(4, 4))
    times = system.schedule.timesteps().tolist()
    for t, following in pairwise(times):
        when = torch.full((len(latents),), t)
        active = system.schedule.active(t)
        positive = system.backbone(latents, when, conditioner.streams(active))
        nothing = dict.fromkeys(active.visibility, system.schedule.guidance(t).negative["mllm"])
        negative = system.backbone(latents, when, conditioner.streams(ActiveBranches(visibility=nothing)))
        latents = latents + (following - t) * (negative + scale * (positive - negative))
    return latents


@torch.no_grad()
def test_sampling_equals_a_plain_loop(system, toys) -> None:
    built = system({"schedule": {"guidance": {"true_cfg": 2.5}}})
    start = sampling.noise([1, 2], (16, 8, 8))
    expected = reference_loop(built, toys[:2], start, 2.5)
    torch.testing.assert_close(sampling.sample(built, toys[:2], start), expected)


@torch.no_grad()
def test_guidance_of_one_is_one_pass(system, toys) -> None:
    built = system()
    start = sampling.noise([1, 2], (16, 8, 8))
    expected = reference_loop(built, toys[:2], start, 1.0)
    passes = []
    built.backbone.register_forward_hook(lambda *_: passes.append(1))
    torch.testing.assert_close(sampling.sample(built, toys[:2], start), expected)
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
