"""Requests at once on one pipeline give what single ones give, and leave it as it was (fault P6)."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, settings, strategies as st

from subjectgen.runner.generation.pipeline import SubjectPipeline
from subjectgen.runner.generation.request import Request

MEMORY = [{}, {"offload": "encoders"}, {"release_modulation": True}]


def test_two_requests_at_once_give_what_two_single_ones_give(system, toys) -> None:
    guided = {"schedule": {"guidance": {"true_cfg": 2.5}}}
    attention = {"backbone": {"reference_attention": "isolated"}}
    pipelines = [SubjectPipeline(system({**guided, "memory": memory})) for memory in MEMORY]
    pipelines.append(SubjectPipeline(system({**guided, **attention})))
    for pipeline, memory in zip(pipelines, [*MEMORY, {}], strict=True):
        assert pipeline.system.experiment.settings.memory.model_dump() | memory  # as asked
    request = st.tuples(st.integers(0, 3), st.integers(0, 9), st.integers(1, 3))

    @settings(deadline=None, max_examples=6)
    @given(which=st.integers(0, len(pipelines) - 1), requests=st.lists(request, min_size=2, max_size=4))
    def law(which: int, requests: list[tuple[int, int, int]]) -> None:
        pipeline = pipelines[which]
        asked = [Request.of([toys[toy]], [seed], steps=steps) for toy, seed, steps in requests]
        with ThreadPoolExecutor(len(asked)) as threads:
            together = list(threads.map(lambda one: pipeline.generate(one).tensors[0], asked))
        for one, image in zip(asked, together, strict=True):
            assert torch.equal(pipeline.generate(one).tensors[0], image)

    law()


def test_a_request_that_fails_leaves_the_pipeline_as_it_was(system, toys) -> None:
    pipeline = SubjectPipeline(system())
    request = Request.of(toys[:1], [1])
    expected = pipeline.generate(request).tensors[0]

    def fail(step) -> None:
        raise RuntimeError("the caller's own mistake")

    for _ in range(2):
        with pytest.raises(RuntimeError, match="own mistake"):
            pipeline.generate(request, on_step=fail)
        assert torch.equal(pipeline.generate(request).tensors[0], expected)
