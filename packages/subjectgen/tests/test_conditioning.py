"""Laws of branches: absent is the same everywhere; conditioning is computed once."""

import pytest
import torch

from subjectgen.core import EVERYTHING, NOTHING, ActiveBranches, Sample, Visibility
from subjectgen.runner.conditioning import Conditioner, group_rows, present, training_streams

GRID = (4, 4)


def active(mllm: Visibility = EVERYTHING, vae: Visibility = EVERYTHING, inactive: str = "drop") -> ActiveBranches:
    return ActiveBranches(visibility={"mllm": mllm, "vae": vae}, inactive=inactive)


def velocity(system, streams, rows: int = 2) -> torch.Tensor:
    latents = torch.randn(rows, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return system.backbone(latents, torch.full((rows,), 0.5), streams)


def test_a_branch_that_is_off_costs_no_tokens(system, toys) -> None:
    conditioner = Conditioner(system(), toys[:2], target_grid=GRID)
    assert not conditioner.streams(active(vae=NOTHING)).image
    assert not conditioner.streams(active(mllm=NOTHING)).context
    both = conditioner.streams(active())
    assert len(both.context) == len(both.image) == 1
    assert both.image[0].tokens.shape[1] == 16


def test_a_branch_that_is_off_is_not_computed(system, toys) -> None:
    conditioner = Conditioner(system(), toys[:2], target_grid=GRID)
    conditioner.streams(active(mllm=NOTHING))
    assert conditioner.encoded == 1


def test_off_equals_a_system_without_the_branch(system, toys) -> None:
    both = system()
    off = velocity(both, Conditioner(both, toys[:2], target_grid=GRID).streams(active(vae=NOTHING)))
    del both.branches["vae"]
    alone = ActiveBranches(visibility={"mllm": EVERYTHING})
    torch.testing.assert_close(off, velocity(both, Conditioner(both, toys[:2], target_grid=GRID).streams(alone)))


def test_dropped_input_equals_a_sample_without_it(system, toys) -> None:
    built = system()
    hidden = Conditioner(built, toys[:2], target_grid=GRID).streams(active(mllm=Visibility(True, False), vae=NOTHING))
    bare = [Sample(prompt=sample.prompt) for sample in toys[:2]]
    without = Conditioner(built, bare, target_grid=GRID).streams(active())
    torch.testing.assert_close(hidden.context[0].tokens, without.context[0].tokens)
    assert not without.image


def test_nothing_at_all_still_works(system, toys) -> None:
    built = system()
    streams = Conditioner(built, toys[:2], target_grid=GRID).streams(active(NOTHING, NOTHING))
    assert velocity(built, streams).isfinite().all()


def test_zero_keeps_the_tokens_and_multiplies_them_by_zero(system, toys) -> None:
    conditioner = Conditioner(system(), toys[:2], target_grid=GRID)
    streams = conditioner.streams(active(mllm=NOTHING, inactive="zero"))
    assert streams.context[0].tokens.shape[1] > 0
    assert streams.context[0].tokens.abs().max() == 0


def test_zero_counts_only_what_the_branch_reads(system, toys) -> None:
    """The VAE reads no text: with its references hidden it is silent, however much text it may see."""
    built = system()
    text_only = Visibility(text=True, references=False)
    for hidden in (NOTHING, text_only):
        streams = Conditioner(built, toys[:2], target_grid=GRID).streams(active(vae=hidden, inactive="zero"))
        assert streams.image[0].tokens.abs().max() == 0
        assert not Conditioner(built, toys[:2], target_grid=GRID).streams(active(vae=hidden)).image


def test_training_rows_equal_sampling_rows(system, toys) -> None:
    built = system()
    sampling = Conditioner(built, toys, target_grid=GRID).streams(active())
    training = training_streams(built, toys, [active()] * 4, target_grid=GRID)
    torch.testing.assert_close(sampling.context[0].tokens, training.context[0].tokens)
    torch.testing.assert_close(sampling.image[0].tokens, training.image[0].tokens)


def test_rows_are_grouped_by_what_is_present(system, toys) -> None:
    built = system()
    masks = [active(), active(mllm=NOTHING), active(mllm=Visibility(True, False)), active(mllm=NOTHING)]
    assert group_rows(built, toys, masks) == [[0, 2], [1, 3]]
    assert present(built, toys[0], active(NOTHING, NOTHING)) == ()


def test_zero_mode_scales_single_rows(system, toys) -> None:
    built = system()
    masks = [active(inactive="zero"), active(mllm=NOTHING, inactive="zero")]
    assert group_rows(built, toys[:2], masks) == [[0, 1]]
    tokens = training_streams(built, toys[:2], masks, target_grid=GRID).context[0].tokens
    assert tokens[0].abs().max() > 0
    assert tokens[1].abs().max() == 0


@pytest.mark.parametrize("branch", ["mllm", "vae"])
def test_each_branch_matters(system, toys, branch: str) -> None:
    built = system()
    swapped = {branch: [toys[1], toys[0]]}
    plain = velocity(built, Conditioner(built, toys[:2], target_grid=GRID).streams(active()))
    other = velocity(built, Conditioner(built, toys[:2], target_grid=GRID, instead=swapped).streams(active()))
    assert (plain - other).abs().max() > 1e-5
