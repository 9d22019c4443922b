"""Operations by formula and on shapes equal what torch counts while real parts compute."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from subjectgen.backbones.flux import FluxBackbone
from subjectgen.core import Streams, TokenGroup
from subjectgen.runner.planning.backbone_runs import BackboneRuns
from subjectgen.runner.planning.dry_run import dry_run
from subjectgen.runner.planning.formulas import Tokens, flux_modulation, flux_work

SMALL = {
    "num_layers": 2,
    "num_single_layers": 3,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 24,
    "pooled_projection_dim": 12,
    "axes_dims_rope": (4, 6, 6),
}
COUNTS = [(5, 16, 0), (5, 16, 9), (0, 16, 9), (0, 16, 0)]


def fused(query, key, value, *_, **__):
    """torch's counter does not know the CPU's attention kernel: two products, QK^T and PV."""
    batch, heads, tokens, width = query
    return 2 * batch * heads * tokens * key[2] * (width + value[3])


def fused_backward(_, query, key, value, *__, **___):
    """Five products: QK^T again, and the gradients of V, P, Q and K."""
    batch, heads, tokens, width = query
    return 2 * batch * heads * tokens * key[2] * (3 * width + 2 * value[3])


ON_CPU = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: fused,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: fused_backward,
}


def counted(run) -> int:
    with FlopCounterMode(display=False, custom_mapping=ON_CPU) as counter:
        run()
    return counter.get_total_flops()


def backbone(**options) -> FluxBackbone:
    torch.manual_seed(0)
    return FluxBackbone(FluxBackbone.Config(architecture=SMALL, **options)).eval()


def streams(context: int, references: int) -> Streams:
    def group(role: str, count: int, width: int) -> tuple[TokenGroup, ...]:
        mask = torch.ones(1, count, dtype=torch.bool)
        if role == "context":
            return (TokenGroup(tokens=torch.randn(1, count, width), mask=mask),)
        values = torch.randn(1, count, width)
        return (TokenGroup(tokens=values, mask=mask, role="reference", reference=0, grid=(1, count)),)

    return Streams(
        target_grid=(4, 4), context=group("context", context, 24), references=group("reference", references, 64)
    )


def velocity(model: FluxBackbone, context: int, references: int) -> torch.Tensor:
    return model(torch.randn(1, 16, 8, 8), torch.ones(1), streams(context, references), guidance=1.0)


@pytest.mark.parametrize("lora", [None, {"rank": 3}, {"rank": 3, "targets": "attention_and_proj_out"}])
@pytest.mark.parametrize(("context", "target", "references"), COUNTS)
def test_a_forward_pass(context: int, target: int, references: int, lora) -> None:
    model = backbone(lora=lora)
    with torch.no_grad():
        real = counted(lambda: velocity(model, context, references))
    tokens = Tokens(context=context, target=target, references=references)
    assert work(model, tokens).total == real


def test_isolated_references_have_a_pass_of_their_own() -> None:
    model = backbone(reference_attention="isolated", lora={"rank": 3})
    with torch.no_grad():
        real = counted(lambda: velocity(model, 5, 9))
        given = model.cache_references(streams(5, 9))
        cached = counted(lambda: model(torch.randn(1, 16, 8, 8), torch.ones(1), given, guidance=1.0))
    tokens = Tokens(context=5, target=16, references=9)
    assert work(model, tokens).total == real
    assert BackboneRuns(model, (4, 4)).with_cache(tokens).total == cached


def work(model: FluxBackbone, tokens: Tokens):
    return BackboneRuns(model, (4, 4)).work(tokens)


TRAINING = {False: "hardware_training", "selective": "selective_training", True: "checkpointed_training"}


@pytest.mark.parametrize("mode", TRAINING)
@pytest.mark.parametrize("references", [0, 48])
def test_a_training_step(references: int, mode: bool | str) -> None:
    """What the counter saves us: gradients towards the inputs of the first block, which nothing trains."""
    model = backbone(lora={"rank": 4}, gradient_checkpointing=mode).train()
    real = counted(lambda: velocity(model, 32, references).sum().backward())
    found = work(model, Tokens(context=32, target=16, references=references))
    first = 2 * 12 * 32**2 * (32 + 16 + references)  # one double block's linear maps
    counted_so = getattr(found, TRAINING[mode])
    assert 0 <= counted_so - real <= first + 2 * found.other + found.adapter // 2
    assert found.useful_training < found.hardware_training < found.selective_training < found.checkpointed_training


def test_cached_references_bring_keys_and_values_alone() -> None:
    tokens = Tokens(context=5, target=16, references=9)
    sizes = backbone().transformer.config
    cached, plain = flux_work(sizes, tokens.with_cache()), flux_work(sizes, Tokens(context=5, target=16))

    def attention() -> None:
        query, key = torch.randn(1, 2, 21, 16), torch.randn(1, 2, 30, 16)
        for _ in range(5):
            torch.nn.functional.scaled_dot_product_attention(query, key, key)

    assert cached.attention == counted(attention)
    assert (cached.linear, cached.other) == (plain.linear, plain.other)


def test_what_modulation_weighs() -> None:
    model = backbone().transformer
    names = ("norm1.linear.weight", "norm1_context.linear.weight", "norm.linear.weight", "norm_out.linear.weight")
    weights = (p.numel() for name, p in model.named_parameters() if name.endswith(names))
    assert flux_modulation(model.config) == sum(weights)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_on_shapes_counts_as_a_real_one(dtype: str) -> None:
    with torch.device("meta"):
        model = backbone(dtype=dtype, lora={"rank": 4})
    with torch.no_grad(), dry_run(model) as cost:
        result = velocity(model, 5, 9)
    assert result.device.type == "meta"
    assert result.shape == (1, 16, 8, 8)
    assert cost.flops == work(model, Tokens(context=5, target=16, references=9)).total
    assert cost.peak_bytes > 0
    assert cost.saved_bytes == 0


def test_the_backward_pass_keeps_what_a_linear_chain_needs() -> None:
    """y = W2 relu(W1 x) with everything trained: x, and relu's result once, although two operations hold it."""
    with torch.device("meta"):
        chain = torch.nn.Sequential(torch.nn.Linear(8, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
        x = torch.empty(10, 8)
    with dry_run(chain) as cost:
        chain(x)
    assert cost.saved_bytes == 4 * 10 * (8 + 32)
    with torch.no_grad(), dry_run(chain) as cost:
        chain(x)
    assert cost.peak_bytes == 4 * 10 * (32 + 32)  # before and after relu; the last result is smaller
    assert cost.flops == 2 * 10 * (8 * 32 + 32 * 4)


def test_attention_keeps_no_matrix_of_tokens_times_tokens() -> None:
    query = torch.empty(1, 2, 1000, 16, device="meta", requires_grad=True)
    with dry_run() as cost:
        torch.nn.functional.scaled_dot_product_attention(query, query, query)
    assert cost.saved_bytes < 4 * 1000 * 1000


def test_what_comes_from_the_input_stays_real() -> None:
    states = torch.empty(2, 3, 8, device="meta")
    mask = torch.tensor([[True, False, True], [True, True, False]])
    with dry_run():
        index = mask.to(states.device).flatten().nonzero().squeeze(1)
        rows = states.flatten(0, 1).index_select(0, index)
        chosen = states[mask]
        filled = torch.where(mask[..., None], states, 0).masked_fill(~mask[..., None], 0)
        made = states.new_ones(2, dtype=torch.bool)
        back = states.to("cpu")
    assert index.tolist() == [0, 2, 3, 4]
    assert rows.shape == chosen.shape == (4, 8)
    assert filled.device.type == back.device.type == "meta"
    assert bool(made.all())
