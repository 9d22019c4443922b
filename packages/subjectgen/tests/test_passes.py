"""Laws of branches: absent is the same everywhere; conditioning is computed once."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st

from subjectgen.core import EVERYTHING, NOTHING, ActiveBranches, Sample, Visibility
from subjectgen.runner.generation.batches import batches
from subjectgen.runner.generation.conditioner import Conditioner
from subjectgen.runner.generation.passes import grouped, row_pass
from subjectgen.runner.generation.request import Request

GRID = (4, 4)


def active(mllm: Visibility = EVERYTHING, vae: Visibility = EVERYTHING, inactive: str = "drop") -> ActiveBranches:
    return ActiveBranches(visibility={"mllm": mllm, "vae": vae}, inactive=inactive)


def streams(system, samples, active, instead=None):
    """What enters the backbone for rows that go together."""
    conditioner = Conditioner(system, samples, target_grid=GRID, instead=instead)
    return conditioner.streams([row_pass(system.branches, samples[0], active)])


def velocity(system, streams, rows: int = 2) -> torch.Tensor:
    latents = torch.randn(rows, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return system.backbone(latents, torch.full((rows,), 0.5), streams)


def test_a_branch_that_is_off_costs_no_tokens(system, toys) -> None:
    built = system()
    assert not streams(built, toys[:2], active(vae=NOTHING)).references
    assert not streams(built, toys[:2], active(mllm=NOTHING)).context
    both = streams(built, toys[:2], active())
    assert len(both.context) == len(both.references) == 1
    assert both.references[0].tokens.shape[1] == 16


def test_off_equals_a_system_without_the_branch(system, toys) -> None:
    both = system()
    off = velocity(both, streams(both, toys[:2], active(vae=NOTHING)))
    without = replace(both, branches={"mllm": both.branches["mllm"]})
    alone = ActiveBranches(visibility={"mllm": EVERYTHING})
    torch.testing.assert_close(off, velocity(both, streams(without, toys[:2], alone)))


def test_dropped_input_equals_a_sample_without_it(system, toys) -> None:
    built = system()
    hidden = streams(built, toys[:2], active(mllm=Visibility(True, False), vae=NOTHING))
    bare = [Sample(prompt=sample.prompt) for sample in toys[:2]]
    without = streams(built, bare, active())
    torch.testing.assert_close(hidden.context[0].tokens, without.context[0].tokens)
    assert not without.references


def test_nothing_at_all_still_works(system, toys) -> None:
    built = system()
    found = streams(built, toys[:2], active(NOTHING, NOTHING))
    assert velocity(built, found).isfinite().all()


def test_zero_keeps_the_tokens_and_multiplies_them_by_zero(system, toys) -> None:
    found = streams(system(), toys[:2], active(mllm=NOTHING, inactive="zero"))
    assert found.context[0].tokens.shape[1] > 0
    assert found.context[0].tokens.abs().max() == 0


def test_zero_counts_only_what_the_branch_reads(system, toys) -> None:
    """The VAE reads no text: with its references hidden it is silent, however much text it may see."""
    built = system()
    text_only = Visibility(text=True, references=False)
    for hidden in (NOTHING, text_only):
        found = streams(built, toys[:2], active(vae=hidden, inactive="zero"))
        assert found.references[0].tokens.abs().max() == 0
        assert not streams(built, toys[:2], active(vae=hidden)).references


def test_rows_are_grouped_by_what_they_see(system, toys) -> None:
    built = system()
    masks = [active(), active(mllm=NOTHING), active(mllm=Visibility(True, False)), active(mllm=NOTHING)]
    keys = [row_pass(built.branches, sample, mask) for sample, mask in zip(toys, masks, strict=True)]
    assert grouped(keys) == [[0], [1, 3], [2]]
    assert row_pass(built.branches, toys[0], active(NOTHING, NOTHING)) == ()


NEGATIVES = ["empty", "no_references", "same"]


def test_an_image_does_not_depend_on_its_batch(system, toys) -> None:
    """Rows with and without prompt and references, under any guidance: each is what it is alone (fault P3)."""
    built = {name: system({"schedule": {"guidance": {"true_cfg": 2.5, "negative": name}}}) for name in NEGATIVES}
    row = st.tuples(st.booleans(), st.booleans()).filter(any)

    @settings(deadline=None, max_examples=8)
    @given(negative=st.sampled_from(NEGATIVES), rows=st.lists(row, min_size=2, max_size=3))
    def law(negative: str, rows: list[tuple[bool, bool]]) -> None:
        samples = [
            replace(toy, prompt=toy.prompt * text, references=toy.references * shown)
            for toy, (text, shown) in zip(toys, rows, strict=False)
        ]
        seeds = list(range(len(samples)))
        together = torch.empty(len(samples), 3, 64, 64)
        for batch in batches(built[negative], Request.of(samples, seeds)):
            together[list(batch.cases)] = batch.images
        for number, one in enumerate(samples):
            (alone,) = batches(built[negative], Request.of([one], [number]))
            torch.testing.assert_close(together[number], alone.images[0], atol=2e-4, rtol=1e-3)

    law()


@pytest.mark.parametrize("branch", ["mllm", "vae"])
def test_each_branch_matters(system, toys, branch: str) -> None:
    built = system()
    swapped = {branch: [toys[1], toys[0]]}
    plain = velocity(built, streams(built, toys[:2], active()))
    other = velocity(built, streams(built, toys[:2], active(), swapped))
    assert (plain - other).abs().max() > 1e-5
