"""torch.compile: one graph per shape, no breaks, the same numbers."""

from dataclasses import replace
from functools import wraps

import jaxtyping
import pytest
import torch
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

from subjectgen.core import StepConditions
from subjectgen.testing.backbone import make_streams, velocity

pytestmark = pytest.mark.slow

BLOCKS = {"num_layers": 2, "num_single_layers": 3}
GRAPHS = 2
"""Per shape: double blocks and single blocks."""


@pytest.fixture(autouse=True)
def fresh():
    """No graphs of other tests, and no shape checks: what compiles is the code itself."""
    torch.compiler.reset()
    counters.clear()
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
    torch.compiler.reset()


def twice(site, query, output, layout):
    """An addition that differs from site to site."""
    return output + (site + 1) * query


@pytest.fixture
def counter(monkeypatch):
    """Compiles nothing, but counts. torch's own limit is low, so that ours is needed."""
    counter, compiled = CompileCounter(), torch.compile

    @wraps(compiled)
    def counted(*given, **named):
        return compiled(*given, **named, backend=counter)

    monkeypatch.setattr(torch, "compile", counted)
    with torch._dynamo.config.patch(recompile_limit=1):
        yield counter


def stages(backbone):
    """The streams of three stages; in the middle one something is added."""
    middle = make_streams(backbone)
    return {
        "early": replace(middle, references=()),
        "middle": replace(middle, attention=(twice,)),
        "late": replace(middle, context=(), pooled=None),
    }


def answer(backbone, streams, timestep=0.7):
    with torch.no_grad():
        return velocity(backbone, streams, timestep=timestep)


@pytest.mark.parametrize(
    ("reference_attention", "names"), [("full", ("early", "middle", "late")), ("isolated", ("middle", "late"))]
)
def test_the_transformer_is_one_graph_in_every_stage(build, reference_attention, names):
    backbone = build(reference_attention=reference_attention)
    everything = [backbone.cache_references(stages(backbone)[name]) for name in names]
    expected = [answer(backbone, streams, time) for streams in everything for time in (0.9, 0.4)]
    counter = CompileCounter()
    backbone.transformer.compile(backend=counter, fullgraph=True, dynamic=False)
    found = [answer(backbone, streams, time) for streams in everything for time in (0.9, 0.4)]
    assert counter.frame_count == len(everything)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_blocks_of_one_kind_share_a_graph(build, counter):
    """Each kind of block has one graph per shape, however many blocks and steps there are."""
    plain, backbone = build(sizes=BLOCKS), build(sizes=BLOCKS, compile=True)
    for number, name in enumerate(("early", "late"), 1):  # more shapes than torch's limit here
        streams = stages(backbone)[name]
        for time in (0.9, 0.4):
            torch.testing.assert_close(answer(backbone, streams, time), answer(plain, streams, time))
        assert counter.frame_count == GRAPHS * number


def test_graphs_outlive_prompts_and_tables(build, counter):
    """References are kept, modulation is looked up; another prompt, and a table of another length, is nothing new."""
    settings = {"sizes": BLOCKS, "reference_attention": "isolated", "lora": {"rank": 2}}
    plain, backbone = build(**settings), build(**settings, compile=True)
    for seed, times in enumerate([(0.9, 0.4), (0.9, 0.7, 0.4)]):
        streams = make_streams(backbone, seed=seed)
        requests = [StepConditions(time, streams.pooled) for time in times]
        prepared = backbone.prepare(requests)
        kept = prepared.cache_references(streams)
        for time in times:
            torch.testing.assert_close(answer(prepared, kept, time), answer(plain, streams, time))
        assert counter.frame_count == 2 * GRAPHS  # of references, and of steps


def test_additions_run_apart_from_shared_graphs(build, counter):
    """They break each block in four: itself, its attention, what comes before the additions and after them."""
    plain, backbone = build(sizes=BLOCKS), build(sizes=BLOCKS, compile=True)
    streams = stages(backbone)["middle"]
    for time in (0.9, 0.4):
        torch.testing.assert_close(answer(backbone, streams, time), answer(plain, streams, time))
        assert counter.frame_count == 4 * GRAPHS


@pytest.mark.parametrize(("reference_attention", "checkpointing"), [("full", False), ("isolated", "selective")])
def test_gradients_of_compiled_blocks(build, reference_attention, checkpointing):
    found = []
    for settings in ({}, {"gradient_checkpointing": checkpointing, "compile": True}):
        backbone = build(full_training=True, reference_attention=reference_attention, **settings)
        if settings:
            backbone.transformer.compile_repeated_blocks(backend="aot_eager", dynamic=False)
        velocity(backbone, make_streams(backbone)).square().sum().backward()
        found.append({name: p.grad for name, p in backbone.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)
