"""What backbones promise that can do more than answer: one contract per capability, beside ``BackboneContract``.

Each asks for a fixture ``backbone``: small, float32, on the CPU, in the state in which the capability is there.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from threading import Barrier
from typing import Any, TypeAlias

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from subjectgen.core import (
    Backbone,
    CachesReferences,
    CheckpointError,
    Checkpoints,
    Merges,
    Prepares,
    StepConditions,
    Streams,
    Trainable,
)
from subjectgen.testing.backbone import assert_same, make_streams, module_of, velocity, wake
from subjectgen.testing.base import Contract

Steps: TypeAlias = list[float]
STEPS = st.lists(st.sampled_from([1.0, 0.83, 0.5, 0.31, 0.02]), min_size=1, max_size=3, unique=True)


def _guidance(backbone: Backbone, value: float = 1.0) -> float | None:
    return value if backbone.guidance_embedded else None


def _conditions(backbone: Backbone, streams: Streams, steps: Steps) -> list[StepConditions]:
    return [StepConditions(time, streams.pooled, _guidance(backbone)) for time in steps]


def _answers(backbone: Backbone, streams: Streams, steps: Steps) -> list[Tensor]:
    with torch.no_grad():  # each thread has its own
        return [velocity(backbone, streams, timestep=time) for time in steps]


class TrainableContract(Contract):
    """Laws of a backbone with parameters to train. ``backbone``: as its config says that something is trained."""

    def test_is_trainable(self, backbone: Backbone) -> None:
        """What it names are parameters of its own that require gradients; everything else is frozen."""
        assert isinstance(backbone, Trainable)
        named = backbone.trainable_parameters()
        assert named
        own = {id(p) for p in module_of(backbone).parameters() if p.requires_grad}
        assert {id(p) for p in named.values()} == own

    def test_a_step_of_training_changes_the_velocity(self, backbone: Backbone) -> None:
        """Gradients are numbers, and following them is another answer."""
        assert isinstance(backbone, Trainable)
        wake(module_of(backbone))
        streams = make_streams(backbone, references=())
        before = velocity(backbone, streams)
        torch.autograd.backward(before.square().sum())
        gradients = [(p, p.grad) for p in backbone.trainable_parameters().values() if p.grad is not None]
        assert gradients
        with torch.no_grad():
            for parameter, gradient in gradients:
                assert gradient.isfinite().all()
                parameter.sub_(0.01 * gradient)
            assert not torch.equal(velocity(backbone, streams), before)

    def test_what_was_saved_comes_back(self, backbone: Backbone, tmp_path: Path) -> None:
        """Bit for bit, over whatever was trained since; and saving again replaces what is there."""
        assert isinstance(backbone, Trainable)
        backbone.save_trained(tmp_path)
        for number in range(2):
            _train(backbone, 0.1 * number)
            values = {name: p.detach().clone() for name, p in backbone.trainable_parameters().items()}
            backbone.save_trained(tmp_path)
            _train(backbone, 1.0)
            backbone.load_trained(tmp_path)
            for name, parameter in backbone.trainable_parameters().items():
                assert torch.equal(parameter, values[name]), name

    def test_other_values_are_written_in_place_of_its_own(self, backbone: Backbone, tmp_path: Path) -> None:
        """Averages, or what was gathered from many devices; the parameters stay as they are."""
        assert isinstance(backbone, Trainable)
        before = {name: p.detach().clone() for name, p in backbone.trainable_parameters().items()}
        values = {name: value + 1 for name, value in before.items()}
        backbone.save_trained(tmp_path, values)
        assert all(torch.equal(p, before[name]) for name, p in backbone.trainable_parameters().items())
        backbone.load_trained(tmp_path)
        assert all(torch.equal(p, values[name]) for name, p in backbone.trainable_parameters().items())

    def test_what_is_not_there_is_an_error(self, backbone: Backbone, tmp_path: Path) -> None:
        """A folder without its weights is refused, and nothing is changed."""
        assert isinstance(backbone, Trainable)
        before = {name: p.detach().clone() for name, p in backbone.trainable_parameters().items()}
        with pytest.raises(CheckpointError, match=tmp_path.name):
            backbone.load_trained(tmp_path)
        assert all(torch.equal(p, before[name]) for name, p in backbone.trainable_parameters().items())


def _train(backbone: Trainable, amount: float) -> None:
    with torch.no_grad():
        for parameter in backbone.trainable_parameters().values():
            parameter.add_(amount)


class PreparesContract(Contract):
    """Laws of a backbone that computes ahead for one denoising."""

    def test_prepared_is_the_same_function(self, backbone: Backbone) -> None:
        """For the conditions it was given, and for others."""
        wake(module_of(backbone))

        @settings(deadline=None, max_examples=15)
        @given(given_steps=STEPS, asked=STEPS, pooled=st.booleans(), batch=st.integers(1, 3))
        def law(given_steps: Steps, asked: Steps, pooled: bool, batch: int) -> None:
            assert isinstance(backbone, Prepares)
            streams = make_streams(backbone, pooled=pooled, batch=batch, references=())
            prepared = backbone.prepare(_conditions(backbone, streams, given_steps))
            assert isinstance(prepared, Backbone)
            with torch.no_grad():
                for time in asked:
                    found, expected = (
                        velocity(one, streams, timestep=time, batch=batch) for one in (prepared, backbone)
                    )
                    assert_same(found, expected)

        law()

    def test_the_backbone_stays_as_it_is(self, backbone: Backbone) -> None:
        """The same modules, values and answers, during and after."""
        assert isinstance(backbone, Prepares)
        module, streams = module_of(backbone), make_streams(backbone, references=())
        modules, values = dict(module.named_modules()), {n: v.clone() for n, v in module.state_dict().items()}
        plain = _answers(backbone, streams, [0.5])
        prepared = backbone.prepare(_conditions(backbone, streams, [0.5]))
        _answers(prepared, streams, [0.5, 0.2])
        found = dict(module.named_modules())
        assert found.keys() == modules.keys()
        assert all(found[name] is one for name, one in modules.items())
        assert all(torch.equal(value, values[name]) for name, value in module.state_dict().items())
        assert torch.equal(_answers(backbone, streams, [0.5])[0], plain[0])

    def test_gradients_are_never_lost(self, backbone: Backbone) -> None:
        """With gradients it computes as the backbone does."""
        assert isinstance(backbone, Prepares)
        wake(module_of(backbone))
        found = []
        for ready in (False, True):
            streams = make_streams(backbone, references=())
            inputs = [tensor for tensor in (streams.context[0].tokens, streams.pooled) if tensor is not None]
            used = backbone.prepare(_conditions(backbone, streams, [0.5])) if ready else backbone
            for tensor in inputs:
                tensor.requires_grad_(True)
            torch.autograd.backward(velocity(used, streams, timestep=0.5).square().sum())
            found.append([tensor.grad for tensor in inputs])
        for plain, prepared in zip(*found, strict=True):
            assert plain is not None
            assert prepared is not None
            assert_same(prepared, plain)

    def test_what_only_prepares_is_not_needed_later(self, backbone: Backbone) -> None:
        """Its modules may be anything afterwards, as long as all conditions were given; here they are no numbers."""
        assert isinstance(backbone, Prepares)
        module, streams = module_of(backbone), make_streams(backbone, references=())
        chosen, own = backbone.only_prepares(), {id(one) for one in module.modules()}
        assert all(id(one) in own for one in chosen)
        prepared = backbone.prepare(_conditions(backbone, streams, [0.9, 0.5]))
        expected = _answers(prepared, streams, [0.9, 0.5])
        kept = [[p.detach().clone() for p in one.parameters()] for one in chosen]
        try:
            for parameter in (p for one in chosen for p in one.parameters()):
                parameter.data.fill_(float("nan"))
            for one, other in zip(_answers(prepared, streams, [0.9, 0.5]), expected, strict=True):
                assert torch.equal(one, other)
        finally:
            for layer, values in zip(chosen, kept, strict=True):
                for parameter, value in zip(layer.parameters(), values, strict=True):
                    parameter.data.copy_(value)

    def test_two_denoisings_at_once_are_two_single_ones(self, backbone: Backbone) -> None:
        """Bit for bit, whatever their steps and pooled vectors, in two threads that start together."""
        wake(module_of(backbone))

        @settings(deadline=None, max_examples=10)
        @given(first=STEPS, second=STEPS, pooled=st.booleans())
        def law(first: Steps, second: Steps, pooled: bool) -> None:
            def denoise(steps: Steps, seed: int, start: Barrier | None = None) -> list[Tensor]:
                assert isinstance(backbone, Prepares)
                streams = make_streams(backbone, seed=seed, pooled=pooled, references=())
                if start is not None:
                    start.wait(timeout=60)
                return _answers(backbone.prepare(_conditions(backbone, streams, steps)), streams, steps)

            expected = denoise(first, 0), denoise(second, 1)
            start = Barrier(2)
            with ThreadPoolExecutor(2) as threads:
                running = [threads.submit(denoise, *case, start) for case in ((first, 0), (second, 1))]
                found = [one.result(timeout=120) for one in running]
            for one, other in zip(
                (a for case in found for a in case), (a for case in expected for a in case), strict=True
            ):
                assert torch.equal(one, other)

        law()


class CachesReferencesContract(Contract):
    """Laws of a backbone that keeps what references say. ``backbone``: one that has something to keep."""

    def test_kept_is_computed(self, backbone: Backbone) -> None:
        """At every step, beside any context; the streams are otherwise the same."""
        assert isinstance(backbone, CachesReferences)
        streams = make_streams(backbone, references=((2, 2), (1, 3)))
        kept = backbone.cache_references(streams)
        assert kept is not streams
        assert (kept.target_grid, kept.context, kept.references) == (
            streams.target_grid,
            streams.context,
            streams.references,
        )
        for one, other in zip(
            _answers(backbone, kept, [0.9, 0.4]), _answers(backbone, streams, [0.9, 0.4]), strict=True
        ):
            assert torch.equal(one, other)

    def test_sharing_is_the_same(self, backbone: Backbone) -> None:
        """Streams cached before are shared with where references are equal, and not where they differ."""
        assert isinstance(backbone, CachesReferences)
        kept = backbone.cache_references(make_streams(backbone))
        for seed in (0, 7):
            streams = make_streams(backbone, seed=seed, context=5)
            shared = backbone.cache_references(streams, like=[kept])
            assert torch.equal(_answers(backbone, shared, [0.6])[0], _answers(backbone, streams, [0.6])[0])

    def test_other_inputs_are_not_mistaken(self, backbone: Backbone) -> None:
        """What was kept is not used for other references, and not for a target of another size."""
        assert isinstance(backbone, CachesReferences)
        streams, other = make_streams(backbone), make_streams(backbone, seed=7)
        for changes in ({"references": other.references}, {"target_grid": (3, 3)}, {"references": ()}):
            stale, plain = (replace(one, **changes) for one in (backbone.cache_references(streams), streams))
            assert torch.equal(_answers(backbone, stale, [0.6])[0], _answers(backbone, plain, [0.6])[0])

    def test_nothing_to_keep(self, backbone: Backbone) -> None:
        """Without references streams pass as they are."""
        assert isinstance(backbone, CachesReferences)
        streams = make_streams(backbone, references=())
        assert backbone.cache_references(streams) is streams


class MergesContract(Contract):
    """Laws of a backbone whose adapter can be folded in. ``backbone``: with an adapter, not merged."""

    def test_merged_is_the_same_function(self, backbone: Backbone) -> None:
        """The awake adapter's effect stays, its parameters go, and merging again does nothing."""
        assert isinstance(backbone, Merges)
        wake(module_of(backbone))
        streams = make_streams(backbone, references=())
        count = len(list(module_of(backbone).parameters()))
        (expected,) = _answers(backbone, streams, [0.7])
        for _ in range(2):
            backbone.merge_adapter()
            (found,) = _answers(backbone, streams, [0.7])
            assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()
        assert len(list(module_of(backbone).parameters())) < count


class CheckpointsContract(Contract):
    """Laws of a backbone that computes activations again.

    Give a second fixture ``checkpointed``: the same weights, with gradient checkpointing.
    """

    def test_gradients_are_the_same(self, backbone: Backbone, checkpointed: Backbone) -> None:
        """For all parameters that have any; and the attribute says which is which."""
        found: list[dict[str, Any]] = []
        for one in (backbone, checkpointed):
            assert isinstance(one, Checkpoints)
            module = module_of(one).train()
            wake(module)
            torch.autograd.backward(velocity(one, make_streams(one, references=())).square().sum())
            found.append({name: p.grad for name, p in module.named_parameters() if p.grad is not None})
        assert isinstance(backbone, Checkpoints)
        assert isinstance(checkpointed, Checkpoints)
        assert not backbone.gradient_checkpointing
        assert checkpointed.gradient_checkpointing
        assert found[0]
        assert found[0].keys() == found[1].keys()
        for name, gradient in found[0].items():
            assert_same(found[1][name], gradient)
