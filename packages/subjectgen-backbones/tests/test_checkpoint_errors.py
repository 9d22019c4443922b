"""A folder in diffusers' format, sharded as on the hub, and what may be wrong with it."""

import json

import pytest
import torch
from diffusers import FluxTransformer2DModel
from safetensors.torch import load_file, save_file

from subjectgen.backbones.flux import FluxBackbone
from subjectgen.core import CheckpointError
from subjectgen.testing.backbone import make_streams, velocity

INDEX = "diffusion_pytorch_model.safetensors.index.json"


@pytest.fixture
def sharded(build, tmp_path):
    build().transformer.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(shards(tmp_path)) > 2
    return tmp_path


def shards(folder):
    return sorted(folder.glob("*.safetensors"))


def load(folder, **options):
    return FluxBackbone(FluxBackbone.Config(checkpoint=str(folder), **options))


def edit(file, **changes):
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def rewrite(folder, change):
    """Change the first tensor of the first shard: ``change`` gives what takes its place."""
    tensors = load_file(shards(folder)[0])
    name = min(tensors)
    tensors |= change(name, tensors.pop(name))
    save_file(tensors, shards(folder)[0], metadata={"format": "pt"})
    return name


def test_shards_are_joined(build, sharded):
    backbone = build()
    streams = make_streams(backbone)
    with torch.no_grad():
        assert torch.equal(velocity(load(sharded), streams), velocity(backbone, streams))


def missing(folder):
    shards(folder)[1].unlink()
    return rf"-00002-of-\S+ is missing: {INDEX} lists {len(shards(folder)) + 1} files"


def truncated(folder):
    shards(folder)[1].write_bytes(shards(folder)[1].read_bytes()[:-10])
    return r"-00002-of-\d+\.safetensors is truncated"


def another_shape(folder):
    name = rewrite(folder, lambda name, tensor: {name: tensor[:1].contiguous()})
    return rf"does not fit its config\.json: {name} has shape \[1\], expected \[32\]"


def not_in_its_shard(folder):
    """diffusers loads this without a word, and leaves the tensor without values."""
    return rf"has no {rewrite(folder, lambda name, tensor: {})}, which {INDEX} says it has"


def not_listed(folder):
    places = json.loads((folder / INDEX).read_text())["weight_map"]
    name = min(places)
    edit(folder / INDEX, weight_map={key: place for key, place in places.items() if key != name})
    return rf"lacks 1 weights of the model, the first is '{name}'"


def fewer_blocks(folder):
    edit(folder / "config.json", num_layers=0)
    return r"config\.json, which has no place for 32 of its weights, the first is 'transformer_blocks\.0\."


def another_architecture(folder):
    edit(folder / "config.json", _class_name="SD3Transformer2DModel")
    return "holds a model of type 'SD3Transformer2DModel', expected 'FluxTransformer2DModel'"


def nameless(folder):
    (folder / "config.json").write_text("{}")
    return "holds a model of type None, expected 'FluxTransformer2DModel'"


def impossible_sizes(folder):
    edit(folder / "config.json", axes_dims_rope=[4, 6, 8])
    return "expected even numbers that add up to attention_head_dim = 16"


def no_number(folder):
    edit(folder / "config.json", num_layers="many")
    return r"config\.json: num_layers: got 'many'"


def broken_config(folder):
    (folder / "config.json").write_text("{")
    return r"config\.json is damaged: not readable as JSON"


def broken_index(folder):
    (folder / INDEX).write_text("{")
    return "index.json is damaged: not readable as JSON"


def empty_index(folder):
    (folder / INDEX).write_text('{"weight_map": {"x_embedder.weight": null}}')
    return "index.json is damaged: expected a weight_map from names to files"


def no_index(folder):
    (folder / INDEX).unlink()
    return r"has no weights: expected .*, found config\.json, diffusion_pytorch_model-00001-of"


def pickled(folder):
    for file in [*shards(folder), folder / INDEX]:
        file.rename(file.with_suffix(".bin"))
    return r"\.bin may be a pickle"


@pytest.mark.parametrize(
    "damage",
    [
        missing,
        truncated,
        another_shape,
        not_in_its_shard,
        not_listed,
        fewer_blocks,
        another_architecture,
        nameless,
        impossible_sizes,
        no_number,
        broken_config,
        broken_index,
        empty_index,
        no_index,
        pickled,
    ],
)
def test_what_is_wrong_is_one_clear_line(sharded, damage):
    message = damage(sharded)
    with pytest.raises(CheckpointError, match=message) as raised:
        load(sharded)
    assert "\n" not in str(raised.value)
    assert str(sharded) in str(raised.value)


def test_a_checkpoint_of_one_file(build, tmp_path):
    """The layout of ``save_pretrained`` for small models, in a folder of a pipeline."""
    build().transformer.save_pretrained(tmp_path / "transformer")
    (file,) = shards(tmp_path / "transformer")
    assert load(tmp_path, subfolder="transformer").transformer.config.num_layers == 1
    with pytest.raises(CheckpointError, match="did you mean subfolder 'transformer'"):
        load(tmp_path)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match="truncated"):
        load(tmp_path, subfolder="transformer")


def test_the_folder_is_what_diffusers_writes_and_reads(build, sharded):
    theirs = FluxTransformer2DModel.from_pretrained(sharded).state_dict()
    ours = load(sharded).transformer.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
