"""What the backward pass computes again: nothing, all, all but attention, or every n-th block."""

import pytest
import torch
from pydantic import ValidationError
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from subjectgen.backbones.flux import FluxBackbone
from subjectgen.testing.backbone import make_streams, velocity

MODES = (False, True, "selective", 2)
BLOCKS = {"num_layers": 2, "num_single_layers": 3}
KERNEL = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default


class Work(TorchDispatchMode):
    """Counts operations that really run, and the bytes of their results that are still alive, weights left out."""

    def __init__(self, backbone):
        super().__init__()
        self.ran, self._results = [], {}
        self._weights = {parameter.untyped_storage()._cdata for parameter in backbone.parameters()}

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        self.ran.append(function)
        for tensor in result if isinstance(result, tuple) else (result,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self._results[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return result

    @property
    def alive(self):
        results = {key: value for key, value in self._results.items() if key not in self._weights}
        return sum(size for reference, size in results.values() if not reference.expired())


def trained(build, mode, **settings):
    backbone = build(sizes=BLOCKS, lora={"rank": 2}, gradient_checkpointing=mode, **settings)
    generator = torch.Generator().manual_seed(3)
    for parameter in backbone.trainable_parameters().values():
        torch.nn.init.normal_(parameter, std=0.1, generator=generator)
    return backbone


def measured(backbone):
    """Gradients; attentions run in the forward and in the backward pass; bytes kept between the two."""
    streams = make_streams(backbone, grid=(6, 6))
    with Work(backbone) as forward:
        loss = velocity(backbone, streams).square().sum()
    kept = forward.alive
    with Work(backbone) as backward:
        loss.backward()
    gradients = {name: p.grad for name, p in backbone.trainable_parameters().items()}
    return gradients, forward.ran.count(KERNEL), backward.ran.count(KERNEL), kept


@pytest.mark.parametrize("reference_attention", ["full", "isolated"])
def test_modes_differ_in_work_and_memory_not_in_gradients(build, reference_attention):
    found = {mode: measured(trained(build, mode, reference_attention=reference_attention)) for mode in MODES}
    attentions = 5 if reference_attention == "full" else 10
    expected = found[False][0]
    assert all(gradient.any() for gradient in expected.values())
    for gradients, forward, _, _ in found.values():
        assert forward == attentions
        assert gradients.keys() == expected.keys()
        assert all(torch.equal(gradients[name], value) for name, value in expected.items())
    again = {mode: found[mode][2] for mode in MODES}
    assert again == {False: 0, True: attentions, "selective": 0, 2: attentions * 3 // 5}
    kept = {mode: found[mode][3] for mode in MODES}
    assert kept[True] < kept["selective"] < kept[2] < kept[False]
    assert kept["selective"] < 0.3 * kept[False]


def test_nothing_is_kept_without_gradients(build):
    backbone = trained(build, "selective")
    with torch.no_grad(), Work(backbone) as work:
        result = velocity(backbone, make_streams(backbone, grid=(6, 6)))
    assert work.ran.count(KERNEL) == 5
    assert work.alive <= 2 * result.untyped_storage().nbytes()


@pytest.mark.parametrize("mode", ["selected", 0.5, -2, None])
def test_other_modes_are_refused(mode):
    with pytest.raises(ValidationError, match="gradient_checkpointing"):
        FluxBackbone.Config.model_validate({"architecture": {}, "gradient_checkpointing": mode})
