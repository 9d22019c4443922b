"""One optimizer step is what ten plain lines say, for any batch, any dropout and any stage."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st

from subjectgen.core import Reference, Sample, Streams
from subjectgen.runner.system.build import build_system
from subjectgen.runner.system.settings import PhaseSettings
from subjectgen.runner.training.draws import draw_batch
from subjectgen.runner.training.engine import Engine
from subjectgen.runner.training.losses import FlowMatching, flow_matching_loss
from subjectgen.runner.training.phases import phase_schedule
from subjectgen.runner.training.positions import derived_seed
from subjectgen.runner.training.step import StepModule, batch_groups, optimizer_step

PHASES = [PhaseSettings(steps=1), PhaseSettings(steps=1, stage_masks=True)]
PHASES += [PhaseSettings(steps=1, branches=(name,)) for name in ("words", "pictures")]
SIDES = st.sampled_from([8, 12])
ROW = st.tuples(st.sampled_from(["", "a", "a duck"]), st.lists(SIDES, max_size=2), SIDES)


@pytest.fixture(scope="module")
def systems(tiny_experiment):
    """One that drops silent branches, one that multiplies their tokens by 0."""
    return [build_system(tiny_experiment({"schedule": {"inactive": way}})) for way in ("drop", "zero")]


@pytest.fixture
def system(systems):
    return systems[0]


def sample_of(row: tuple[str, list[int], int], seed: int) -> Sample:
    prompt, sides, target = row
    draw = torch.Generator().manual_seed(seed)
    pictures = [torch.rand(3, side, side, generator=draw) for side in (*sides, target)]
    references = tuple(Reference(image=picture) for picture in pictures[:-1])
    return Sample(key=f"row-{seed}", prompt=prompt, references=references, target=pictures[-1])


def batch_of(tiny, system, schedule, rows, seed):
    samples = [sample_of(row, number) for number, row in enumerate(rows)]
    data = [tiny.latents_of(sample.target[None])[0] for sample in samples]
    return draw_batch(system, schedule, samples, data, seeds=[seed + number for number in range(len(rows))])


def made_step(system, batch, loss, **options):
    """One step in this process alone."""
    engine = Engine(system.experiment.settings.training, "cpu")
    return optimizer_step(StepModule(system), system, batch, loss=loss, engine=engine, **options)


@pytest.mark.parametrize("t", [0.9, 0.25])
def test_the_loss_is_of_noise_minus_data(tiny, system, t: float) -> None:
    """Mean of (v(x_t) - (noise - data))^2 with x_t = (1 - t) data + t noise, as UNO trains (arXiv 2504.02160)."""
    data, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    times, streams = torch.full((2,), t), Streams(target_grid=(4, 4))
    velocity = system.backbone((1 - t) * data + t * noise, times, streams, guidance=4.0)
    error = velocity - noise + data
    losses = flow_matching_loss(system.backbone, data, noise, times, streams, guidance=4.0)
    torch.testing.assert_close(losses, error.square().mean(dim=(1, 2, 3)))


def clipped(gradients: list[torch.Tensor], largest: float) -> list[torch.Tensor]:
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
    return [gradient * min(1.0, largest / (float(norm) + 1e-6)) for gradient in gradients]


def plain_step(tiny, system, batch, largest: float) -> tuple[list[float], list[torch.Tensor]]:
    """Losses, and parameters after a step of gradient descent with rate 1."""
    parameters = list(system.trainable().values())
    rows = zip(batch.samples, batch.active, batch.timesteps, batch.data, batch.noise, strict=True)
    losses = torch.stack([tiny.row_loss(system, *row) for row in rows])
    gradients = torch.autograd.grad(losses.mean(), parameters, materialize_grads=True)
    steps = clipped(list(gradients), largest)
    return losses.tolist(), [value.detach() - step for value, step in zip(parameters, steps, strict=True)]


def test_a_step_is_ten_plain_lines(tiny, systems) -> None:
    starts = [{name: value.detach().clone() for name, value in system.trainable().items()} for system in systems]

    @settings(deadline=None, max_examples=20, derandomize=True)
    @given(
        rows=st.lists(ROW, min_size=1, max_size=6),
        which=st.integers(0, 1),
        phase=st.sampled_from(PHASES),
        seed=st.integers(0, 2**32),
        largest=st.sampled_from([0.01, 100.0]),
        micro_batch=st.sampled_from([None, 1, 2]),
    )
    def law(rows, which: int, phase: PhaseSettings, seed: int, largest: float, micro_batch: int | None) -> None:
        system, schedule = systems[which], phase_schedule(systems[which], phase)
        parameters = list(system.trainable().values())
        for parameter, start in zip(parameters, starts[which].values(), strict=True):
            parameter.data.copy_(start)
        optimizer = torch.optim.SGD(parameters, lr=1.0)
        for number in range(2):  # the second step knows nothing of the first one's gradients
            batch = batch_of(tiny, system, schedule, rows, seed + number)
            losses, expected = plain_step(tiny, system, batch, largest)
            loss = FlowMatching(guidance=tiny.GUIDANCE)
            options = {"optimizer": optimizer, "parameters": parameters, "max_grad_norm": largest}
            result = made_step(system, batch, loss, micro_batch=micro_batch, **options)
            torch.testing.assert_close(torch.tensor(result.losses), torch.tensor(losses))
            torch.testing.assert_close([value.detach() for value in parameters], expected)

    law()


def test_what_chance_decides_of_a_row_follows_from_its_seed_alone(tiny, systems) -> None:
    """Timestep, dropout, noise, in this order; neither other rows nor their number matter."""

    @settings(deadline=None, max_examples=20)
    @given(rows=st.lists(ROW, min_size=1, max_size=6), phase=st.sampled_from(PHASES), seed=st.integers(0, 2**32))
    def law(rows, phase: PhaseSettings, seed: int) -> None:
        system, schedule = systems[0], phase_schedule(systems[0], phase)
        batch = batch_of(tiny, system, schedule, rows, seed)
        for number, row in enumerate(rows):
            draw, half = torch.Generator().manual_seed(seed + number), row[2] // 2
            t = float(schedule.sample_timesteps(1, image_tokens=half * half, generator=draw))
            (hidden,) = schedule.sample_dropout(1, generator=draw)
            assert float(batch.timesteps[number]) == t
            assert batch.active[number] == schedule.active(t).restricted(hidden)
            assert batch.stages[number] == schedule.stage(t)
            assert torch.equal(batch.noise[number], torch.randn(3, half, half, generator=draw))

    law()


def test_inputs_are_hidden_as_often_as_the_table_says(tiny, systems) -> None:
    """The four rows of the table and the rest, 0.2 each: realised over 4,000 positions, within four standard errors."""
    count = 4000
    system, schedule = systems[0], phase_schedule(systems[0], PhaseSettings(steps=1))
    sample = sample_of(("a", [8], 8), 0)
    data = [tiny.latents_of(sample.target[None])[0]] * count
    seeds = [derived_seed(0, "row", 0, position) for position in range(count)]
    batch = draw_batch(system, schedule, [sample] * count, data, seeds=seeds)
    seen = [(active.visibility["words"], active.visibility["pictures"]) for active in batch.active]
    found = Counter((words.text, words.references, pictures.references) for words, pictures in seen)
    assert len(found) == 5
    for outcome, times in found.items():
        assert abs(times / count - 0.2) < 4 * (0.2 * 0.8 / count) ** 0.5, outcome


def test_rows_of_a_group_have_the_same_branches_and_sizes(tiny, systems) -> None:
    @settings(deadline=None, max_examples=20)
    @given(rows=st.lists(ROW, min_size=1, max_size=6), seed=st.integers(0, 2**32))
    def law(rows, seed: int) -> None:
        batch = batch_of(tiny, systems[0], systems[0].schedule, rows, seed)
        groups = batch_groups(systems[0], batch)
        assert sorted(row for group in groups for row in group) == list(range(len(rows)))
        for group in groups:
            assert len({batch.data[row].shape for row in group}) == 1
            assert (
                len({bool(rows[row][1]) and batch.active[row].visibility["pictures"].references for row in group}) == 1
            )

    law()


def step_with(tiny, system, **changes):
    batch = batch_of(tiny, system, system.schedule, [("a", [8], 8), ("b", [8], 8)], 0)
    parameters = list(system.trainable().values())
    options = {"optimizer": torch.optim.SGD(parameters, lr=1.0), "parameters": parameters, "max_grad_norm": 1.0}
    loss = changes.pop("loss", FlowMatching())
    return made_step(system, changes.pop("batch", batch), loss, **options | changes), batch


def test_nothing_changes_where_the_gradient_is_not_finite(tiny, system) -> None:
    before = {name: value.detach().clone() for name, value in system.trainable().items()}

    def steep(system, batch, rows):
        found = FlowMatching()(system, batch, rows)
        return found.detach() + (found - found.detach()) * 1e38 * 1e38

    result, _ = step_with(tiny, system, loss=steep)
    assert result.problem is not None
    assert "gradient norm" in result.problem
    for name, value in system.trainable().items():
        assert torch.equal(value, before[name])
        assert value.grad is None


def test_nothing_changes_where_the_loss_is_not_finite(tiny, system) -> None:
    before = {name: value.detach().clone() for name, value in system.trainable().items()}
    _, batch = step_with(tiny, system)
    for name, value in system.trainable().items():
        value.data.copy_(before[name])
    harmed = replace(batch, data=[batch.data[0], batch.data[1] * torch.nan])
    result, _ = step_with(tiny, system, batch=harmed)
    assert result.problem == "the loss is nan"
    assert all(torch.equal(value, before[name]) for name, value in system.trainable().items())


def test_nothing_to_train_in_a_group_is_no_error(tiny, tiny_experiment) -> None:
    """A frozen backbone, and a batch in which the aggregator is hidden."""
    system = build_system(tiny_experiment({"backbone": {"trained": False}}))
    bare = PhaseSettings(steps=1, branches=("pictures",))
    batch = batch_of(tiny, system, phase_schedule(system, bare), [("a", [], 8)], 0)
    result, _ = step_with(tiny, system, batch=batch)
    assert result.problem is None
    assert result.gradient_norm == 0
