"""Added cross-attention: exactly the plain backbone at first, exactly Eq. 2-5 and 9 after, and nothing leaks."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st

from subjectgen.core import (
    AttentionLayout,
    Backbone,
    ComponentError,
    Conditioning,
    InputError,
    Latents,
    Placement,
    Streams,
)
from subjectgen.testing import InjectorContract
from subjectgen.testing.backbone import make_streams, velocity
from subjectgen_dynaip.cross_attention import CrossAttentionInjector

WIDTH = 10
BOTH = ("text", "image")


def conditioning(
    references: int = 2, tokens: int = 3, *, rows: int = 2, seed: int = 5, text: int = 0, width: int = WIDTH
) -> Conditioning:
    """Random tokens: ``text`` tokens of no reference, then ``tokens`` of each reference."""
    length = text + references * tokens
    owner = torch.tensor([-1] * text + [number for number in range(references) for _ in range(tokens)])
    values = torch.randn(rows, length, width, generator=torch.Generator().manual_seed(seed))
    return Conditioning(
        tokens=values, mask=torch.ones(rows, length, dtype=torch.bool), reference=owner.expand(rows, length).clone()
    )


def build(backbone: Backbone, *, trained: bool = True, **options: object) -> CrossAttentionInjector:
    """An injector, by default with values as after some training."""
    torch.manual_seed(1)
    injector = CrossAttentionInjector(CrossAttentionInjector.Config(width=WIDTH, **options), backbone=backbone)
    if trained:
        for value in injector.values.values():
            torch.nn.init.normal_(value.weight, std=0.5)
    return injector.eval()


def placed(streams: Streams, *regions: torch.Tensor, weights: tuple[float, ...] | None = None) -> Streams:
    """Streams with a region per reference, the same in both rows."""
    stacked = torch.stack(regions).expand(2, -1, -1, -1)
    strengths = torch.tensor(weights or (1.0,) * len(regions)).expand(2, -1)
    return replace(streams, placement=Placement(regions=stacked, weights=strengths))


def halves(rows: int = 2, columns: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    left = torch.zeros(rows, columns)
    left[:, : columns // 2] = 1
    return left, 1 - left


class TestContract(InjectorContract):
    @pytest.fixture
    def injector(self, backbone: Backbone) -> CrossAttentionInjector:
        return CrossAttentionInjector(CrossAttentionInjector.Config(width=WIDTH), backbone=backbone)


# ------------------------------------------------------------------------------------------------- the equations


class PlainLoop:
    """Eq. 2-5 and 9 written out: over rows, references, heads and single queries, in float64."""

    def __init__(self, injector, conditioning, *, streams, strengths, regions=None):
        self.injector, self.conditioning = injector, conditioning
        self.streams, self.strengths, self.regions = streams, strengths, regions

    def __call__(self, site, query, output, layout):
        heads, width = query.shape[2:]
        result = output.double().clone()
        readers = {"text": layout.context, "image": layout.target, "references": layout.references}
        for row in range(len(query)):
            for number in sorted(set(self.conditioning.reference[row].tolist())):
                own = self.conditioning.tokens[row][self.conditioning.reference[row] == number].double()
                keys = own @ self.injector.keys[str(site)].weight.double().T
                values = own @ self.injector.values[str(site)].weight.double().T
                for name in self.streams:
                    for position in range(readers[name].start, readers[name].stop):
                        factor = self.strengths[number]
                        if name == "image" and self.regions is not None:
                            factor *= float(self.regions[number].flatten()[position - layout.target.start])
                        for head in range(heads):
                            part = slice(head * width, (head + 1) * width)
                            logits = keys[:, part] @ query[row, position, head].double() / math.sqrt(width)
                            result[row, position, head] += factor * (logits.softmax(0) @ values[:, part])
        return result.to(output)


@pytest.mark.parametrize("training", [True, False], ids=["training", "inference"])
def test_equals_the_equations_written_out(backbone, training):
    """In training text and image tokens read (Eq. 4-5), at inference image tokens only (Eq. 2-3)."""
    injector = build(backbone).train(training)
    said = conditioning(references=1, tokens=4)
    streams = make_streams(backbone)
    plain = PlainLoop(injector, said, streams=BOTH if training else ("image",), strengths=[1.0])
    with torch.no_grad():
        expected = velocity(backbone, replace(streams, attention=(plain,)))
        torch.testing.assert_close(velocity(backbone, injector(streams, said)), expected, rtol=1e-4, atol=1e-5)


def test_several_subjects_in_regions_equal_the_sum_written_out(backbone):
    """Eq. 9 with a lambda of its own for each reference."""
    injector = build(backbone, scale=(0.5, 1.5))
    said = conditioning(references=2)
    left, right = halves(2, 4)
    left[0, 2] = 0.25  # a token at the border, and an overlap
    streams = placed(make_streams(backbone, grid=(2, 4)), left, right, weights=(1.0, -0.5))
    plain = PlainLoop(injector, said, streams=("image",), strengths=[0.5, -0.75], regions=(left, right))
    with torch.no_grad():
        expected = velocity(backbone, replace(streams, attention=(plain,)))
        torch.testing.assert_close(velocity(backbone, injector(streams, said)), expected, rtol=1e-4, atol=1e-5)


def test_decoupling_changes_the_result(backbone):
    said, streams = conditioning(), make_streams(backbone)
    with torch.no_grad():
        decoupled = velocity(backbone, build(backbone)(streams, said))
        entangled = velocity(backbone, build(backbone, inference_streams=BOTH)(streams, said))
    assert not torch.allclose(decoupled, entangled)


def test_the_image_stream_is_the_target_alone(backbone):
    """Tokens of other branches' references read only when asked to."""
    seen = []

    def watch(site, query, output, layout):
        seen.append((output, layout))
        return output

    streams = replace(make_streams(backbone), attention=())
    said = conditioning()
    for readers in (("image",), ("image", "references")):
        injector = build(backbone, inference_streams=readers)
        addition = injector(streams, said).attention[0]
        query = torch.randn(2, 13, 2, 16)
        output = torch.randn(2, 13, 2, 16)
        layout = AttentionLayout(context=slice(0, 3), target=slice(3, 9), references=slice(9, 13))
        changed = (addition(0, query, output.clone(), layout) != output).flatten(2).any(dim=2).all(dim=0)
        assert changed.tolist() == [False] * 3 + [True] * 6 + [len(readers) == 2] * 4


# ------------------------------------------------------------------------------------------- nothing to be seen


def test_untrained_it_is_the_plain_backbone_bit_for_bit(make_backbone):
    for options in ({}, {"dtype": "bfloat16"}, {"lora": {"rank": 2}}):
        backbone = make_backbone(**options)
        streams = make_streams(backbone)
        for training in (True, False):
            injector = build(backbone, trained=False).train(training)
            with torch.no_grad():
                assert torch.equal(velocity(backbone, injector(streams, conditioning())), velocity(backbone, streams))


def test_all_zero_masks_equal_no_reference(backbone):
    streams = make_streams(backbone, grid=(2, 4))
    nowhere = placed(streams, torch.zeros(2, 4), torch.zeros(2, 4))
    with torch.no_grad():
        assert torch.equal(velocity(backbone, build(backbone)(nowhere, conditioning())), velocity(backbone, streams))


def test_zero_scale_and_zero_weight_equal_no_reference(backbone):
    streams = make_streams(backbone, grid=(2, 4))
    weightless = placed(streams, torch.ones(2, 4), torch.ones(2, 4), weights=(0.0, 0.0))
    with torch.no_grad():
        plain = velocity(backbone, streams)
        assert torch.equal(velocity(backbone, build(backbone, scale=0.0)(streams, conditioning())), plain)
        assert torch.equal(velocity(backbone, build(backbone)(weightless, conditioning())), plain)


def test_full_masks_equal_the_form_without_masks(backbone):
    streams = make_streams(backbone, grid=(2, 4))
    for count in (1, 2):
        everywhere = placed(streams, *[torch.ones(2, 4)] * count)
        said = conditioning(references=count)
        with torch.no_grad():
            masked = velocity(backbone, build(backbone)(everywhere, said))
            assert torch.equal(masked, velocity(backbone, build(backbone)(streams, said)))


# ----------------------------------------------------------------------------------------------------- no leaks


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.integers(1, 3), seed=st.integers(0, 100))
def test_halves_never_leak(backbone, cut, seed):
    """Another second reference changes nothing of what region 1 gets from the cross-attention."""
    left = torch.zeros(2, 4)
    left[:, :cut] = 1
    streams = placed(make_streams(backbone, grid=(2, 4)), left, 1 - left)
    injector = build(backbone)
    first = conditioning(seed=seed)
    other = replace(first, tokens=torch.where(first.reference[..., None] == 1, 9.0 - first.tokens, first.tokens))
    generator = torch.Generator().manual_seed(seed)
    query, output = (torch.randn(2, 11, 2, 16, generator=generator) for _ in range(2))
    layout = AttentionLayout(context=slice(0, 3), target=slice(3, 11), references=slice(11, 11))
    for site in injector.sites:
        additions = (injector(streams, said).attention[-1] for said in (first, other))
        before, after = (addition(site, query, output.clone(), layout) for addition in additions)
        inside = left.flatten().bool()
        assert torch.equal(before[:, 3:][:, inside], after[:, 3:][:, inside])
        assert not torch.equal(before[:, 3:][:, ~inside], after[:, 3:][:, ~inside])
        assert torch.equal(before[:, :3], output[:, :3]), "text tokens do not read at inference"


def test_rows_with_fewer_references_are_as_alone(backbone):
    """A row that lacks the second reference gets what it would get without any other row."""
    said = conditioning(references=2)
    mask = said.mask & ~((said.reference == 1) & (torch.arange(2) == 1)[:, None])
    streams = make_streams(backbone)
    with torch.no_grad():
        together = velocity(backbone, build(backbone)(streams, replace(said, mask=mask)))
        alone = velocity(backbone, build(backbone)(streams, conditioning_of_first(said)))
        whole = velocity(backbone, build(backbone)(streams, said))
    torch.testing.assert_close(together[1], alone[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(together[0], whole[0], rtol=1e-4, atol=1e-5)
    assert together.isfinite().all()


def conditioning_of_first(said: Conditioning) -> Conditioning:
    return Conditioning(tokens=said.tokens[:, :3], mask=said.mask[:, :3], reference=said.reference[:, :3])


def test_order_and_padding_of_tokens_do_not_matter(backbone):
    said = conditioning(references=2, tokens=4, text=2)
    order = torch.randperm(said.tokens.shape[1], generator=torch.Generator().manual_seed(3))
    shuffled = Conditioning(tokens=said.tokens[:, order], mask=said.mask[:, order], reference=said.reference[:, order])
    streams = make_streams(backbone)
    with torch.no_grad():
        before, after = (velocity(backbone, build(backbone)(streams, one)) for one in (said, shuffled))
    torch.testing.assert_close(before, after, rtol=1e-4, atol=1e-5)


# ------------------------------------------------------------------------------------------------- with others


def test_together_with_lora_and_reference_tokens(make_backbone):
    """All three take part at once, and gradients reach LoRA and the new layers but not the backbone."""
    from subjectgen.core.plugins import Plugins

    backbone = make_backbone(lora={"rank": 2})
    tokens = Plugins.discover().build("injectors", {"name": "reference_tokens"}, backbone=backbone)
    latents = Latents(values=(torch.randn(2, backbone.latent_channels, 4, 4),))
    injector = build(backbone).train()
    bare = make_streams(backbone, references=())
    streams = tokens(injector(bare, conditioning()), latents)
    velocity(backbone, streams).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in injector.parameters())
    lora = backbone.trainable_parameters()
    assert lora
    assert all(p.grad is not None and p.grad.any() for name, p in lora.items() if "lora_B" in name)
    assert all(p.grad is None for name, p in backbone.named_parameters() if "lora" not in name)
    with torch.no_grad():
        parts = [velocity(backbone, one) for one in (streams, injector(bare, conditioning()), tokens(bare, latents))]
    assert not torch.allclose(parts[0], parts[1])
    assert not torch.allclose(parts[0], parts[2])


def test_with_and_without_gradients_give_the_same(backbone):
    """With gradients nothing is written to what the attention saved."""
    injector, streams = build(backbone), placed(make_streams(backbone, grid=(2, 4)), *halves())
    with torch.no_grad():
        without = velocity(backbone, injector(streams, conditioning()))
    assert torch.equal(velocity(backbone, injector(streams, conditioning())).detach(), without)


def test_gradient_checkpointing_gives_the_same_gradients(make_backbone):
    gradients = []
    for checkpointing in (False, True):
        backbone = make_backbone(gradient_checkpointing=checkpointing)
        injector = build(backbone).train()
        velocity(backbone, injector(make_streams(backbone), conditioning())).square().sum().backward()
        gradients.append([p.grad for p in injector.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_two_injectors_add_up(backbone):
    """Two branches through two injectors: each adds its own."""
    first, second = build(backbone), build(backbone)
    streams = make_streams(backbone)
    both = second(first(streams, conditioning(seed=1)), conditioning(seed=2))
    assert len(both.attention) == 2
    with torch.no_grad():
        together, one = velocity(backbone, both), velocity(backbone, first(streams, conditioning(seed=1)))
    assert not torch.allclose(together, one)


def test_chosen_sites_alone_are_augmented(backbone):
    injector = build(backbone, sites=(0, 2))
    assert len(injector.keys) == 2
    (addition,) = injector(make_streams(backbone), conditioning()).attention
    query = torch.randn(2, 13, 2, 16)
    layout = AttentionLayout(context=slice(0, 3), target=slice(3, 9), references=slice(9, 13))
    changed = [not torch.equal(addition(site, query, query.clone(), layout), query) for site in range(3)]
    assert changed == [True, False, True]


def test_binary_masks_count_half_covered_tokens_whole(backbone):
    share = torch.tensor([[0.2, 0.5, 0.8, 0.0]]).expand(2, 4)
    streams = make_streams(backbone, grid=(2, 4))
    with torch.no_grad():
        binary = velocity(backbone, build(backbone, masks="binary")(placed(streams, share, share), conditioning()))
        cut = (share >= 0.5).float()
        soft = velocity(backbone, build(backbone)(placed(streams, cut, cut), conditioning()))
    assert torch.equal(binary, soft)


def test_flux_gets_the_papers_parameters():
    """Method 8: 57 * 2 * 4096 * 3072, the paper's 1.4 billion with width 4096."""
    from subjectgen.core.plugins import Plugins

    with torch.device("meta"):
        flux = Plugins.discover().build("backbones", {"name": "flux", "architecture": {}})
        injector = CrossAttentionInjector(CrossAttentionInjector.Config(), backbone=flux)
    assert sum(p.numel() for p in injector.parameters()) == 57 * 2 * 4096 * 3072 == 1_434_451_968


def test_keys_and_values_are_computed_once_for_all_steps(backbone):
    """Streams of a stage serve all its steps: the linear layers run when they are made, and never again."""
    calls = []
    injector = build(backbone)
    for layer in (*injector.keys.values(), *injector.values.values()):
        layer.register_forward_hook(lambda *_: calls.append(1))
    streams = injector(make_streams(backbone), conditioning())
    assert len(calls) == 2 * len(backbone.attention_sites)
    with torch.no_grad():
        for step in range(4):
            velocity(backbone, streams, timestep=1 - step / 4)
    assert len(calls) == 2 * len(backbone.attention_sites)


# --------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sites": (7,)}, r"sites: 7 is none of 0-2"),
        ({"sites": (1, 1)}, "named twice"),
    ],
)
def test_wrong_sites(backbone, options, message):
    with pytest.raises(ComponentError, match=message):
        build(backbone, **options)


def test_a_backbone_without_attentions_is_refused(backbone):
    backbone.attention_sites = ()
    with pytest.raises(ComponentError, match="no attention"):
        build(backbone)


def test_fewer_scales_than_references(backbone):
    with pytest.raises(ComponentError, match=r"scale has 1 numbers.*reference 2"):
        build(backbone, scale=(1.0,))(make_streams(backbone), conditioning(references=2))


def test_regions_need_to_know_whose_a_token_is(backbone):
    streams = placed(make_streams(backbone, grid=(2, 4)), *halves())
    said = replace(conditioning(), reference=None)
    with pytest.raises(ComponentError, match="does not say which token"):
        build(backbone)(streams, said)


def test_a_region_too_thin_for_binary_masks_is_refused(backbone):
    thin = torch.full((2, 4), 0.25)
    streams = placed(make_streams(backbone, grid=(2, 4)), thin, torch.ones(2, 4))
    with pytest.raises(InputError, match=r"region of reference 1: covers no token by half \(at most 0\.25\)"):
        build(backbone, masks="binary")(streams, conditioning())


def test_only_reference_tokens_that_are_not_there(backbone):
    streams = build(backbone, inference_streams=("references",))(make_streams(backbone, references=()), conditioning())
    with pytest.raises(ComponentError, match="there are no reference tokens"):
        velocity(backbone, streams)


def test_weights_of_other_sites_do_not_load(backbone):
    one, other = build(backbone, sites=(0, 1)), build(backbone, sites=(1, 2))
    with pytest.raises(RuntimeError, match=r"keys\.0"):
        other.load_state_dict(one.state_dict())


def test_a_pass_without_gradients_does_not_end_those_of_the_next(backbone):
    streams = build(backbone).train()(make_streams(backbone), conditioning())
    with torch.no_grad():
        velocity(backbone, streams)
    assert velocity(backbone, streams).requires_grad
