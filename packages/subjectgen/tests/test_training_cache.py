"""What a cache gives is what the frozen part makes of that very content, whoever asks, in whatever order."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from subjectgen.core import ActiveBranches, ConfigError, InputError, Reference, Sample, Visibility
from subjectgen.runner.system.build import build_system
from subjectgen.runner.system.settings import CacheSettings
from subjectgen.runner.system.trained import facts
from subjectgen.runner.training import cache_size
from subjectgen.runner.training.caches import Caches
from subjectgen.runner.training.draws import TrainingBatch
from subjectgen.runner.training.losses import group_streams
from subjectgen.runner.training.order import Place
from subjectgen.runner.training.phases import phase_data
from subjectgen.runner.training.rows import Row
from subjectgen.runner.training.run import resume, train
from subjectgen.runner.training.run_directory import RunDirectory
from subjectgen.runner.training.targets import Targets

COUNT = 12
BOTH = {"targets": True, "features": True}
EVERYTHING = {"words": Visibility(), "pictures": Visibility()}


def trained(run: Path) -> dict[str, Tensor]:
    files = sorted((run / "trained").rglob("*.safetensors"))
    return {f"{file.name}:{name}": value for file in files for name, value in load_file(file).items()}


def assert_same(some: Path, other: Path) -> None:
    expected, found = trained(other), trained(some)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def heard(console: io.StringIO) -> Console:
    return Console(file=console, width=1000)


def opened(system: Any, **settings: Any) -> Caches:
    return Caches(system, CacheSettings(**{**BOTH, **settings}), known=facts(system), say=pytest.fail)


def counted(monkeypatch, tiny) -> dict[str, int]:
    """How many rows each frozen part is asked for."""
    asked = {"targets": 0, "words": 0, "pictures": 0}

    def counting(owner: Any, method: str, name: str) -> None:
        inner = getattr(owner, method)

        def count(self, rows: Any, **options: Any) -> Any:
            asked[name] += len(rows)
            return inner(self, rows, **options)

        monkeypatch.setattr(owner, method, count)

    counting(tiny.Halves, "encode_images", "targets")
    counting(tiny.Words, "encode", "words")
    counting(tiny.Pictures, "encode", "pictures")
    return asked


# ------------------------------------------------------------------------------ each row its own (the index is planted)


def planted(index: int) -> Sample:
    """A sample in which everything says its index."""
    value = index / 64
    return Sample(
        key="one-key-for-all",
        prompt=chr(ord("0") + index),
        references=(Reference(image=torch.full((3, 8, 8), value)),),
        target=torch.full((3, 8, 8), value),
    )


def rows_of(indices: Sequence[int]) -> list[Row]:
    """At positions that say nothing of the index."""
    return [Row(position=n, place=Place(source=0, index=0, epoch=0), sample=planted(i)) for n, i in enumerate(indices)]


def check_rows(system: Any, caches: Caches, targets: Targets, indices: Sequence[int]) -> None:
    """Latents of targets and references, and tokens of the prompt, say the index of their own row."""
    latents = targets.latents(rows_of(indices))
    batch = TrainingBatch(
        samples=[planted(index) for index in indices],
        data=latents,
        noise=latents,
        timesteps=torch.ones(len(indices), dtype=torch.float64),
        active=[ActiveBranches(visibility=EVERYTHING)] * len(indices),
        stages=["all"] * len(indices),
    )
    streams = group_streams(caches.system, batch, range(len(indices)))
    plain = group_streams(system, batch, range(len(indices)))
    for row, index in enumerate(indices):
        value = torch.full((3, 4, 4), index / 64) * 2 - 1
        assert torch.equal(latents[row], value)
        assert torch.equal(streams.references[0].tokens[row], value.flatten(1).mT)
    assert torch.equal(streams.context[0].tokens, plain.context[0].tokens)
    assert torch.equal(streams.context[0].mask, plain.context[0].mask)


@pytest.mark.parametrize("on_disk", [False, True])
def test_each_row_gets_its_own_in_any_order_and_batching(tiny, tiny_experiment, tmp_path, monkeypatch, on_disk) -> None:
    """Traversed forwards in batches of 4 and then mixed up in batches of 3; the second time nothing is made."""
    experiment = tiny_experiment()
    system, (data, _) = build_system(experiment), phase_data(experiment)
    caches = opened(system, folder=tmp_path if on_disk else None)
    targets = Targets(system, data.order, phase=0, cache=caches.targets)
    asked = counted(monkeypatch, tiny)
    for start in range(0, COUNT, 4):
        check_rows(system, caches, targets, range(start, start + 4))
    assert asked == {"targets": COUNT, "words": 2 * COUNT, "pictures": 2 * COUNT}  # the plain system asks, too
    caches.flush()
    if on_disk:
        caches = opened(system, folder=tmp_path)
        targets = Targets(system, data.order, phase=1, cache=caches.targets)
    made = dict(asked)
    with monkeypatch.context() as patch:
        patch.setattr(tiny.Halves, "encode_images", None)
        order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(3)).tolist()
        for start in range(0, COUNT, 3):
            before = asked["words"]
            check_rows(system, caches, targets, order[start : start + 3])
            assert asked["words"] == before + 3  # of the plain system
    assert asked["pictures"] == made["pictures"] + COUNT


def test_what_is_hidden_is_another_entry(tiny_experiment) -> None:
    """A prompt without references, references without the prompt, weights, masks: each is content."""
    system = build_system(tiny_experiment())
    words = opened(system).encoders["words"]
    sample, mask = planted(3), torch.ones(1, 8, 8)
    (reference,) = sample.references
    variants = [
        sample,
        Sample(prompt="another", references=sample.references),
        sample.seen(Visibility(text=False)),
        sample.seen(Visibility(references=False)),
        *(
            Sample(prompt=sample.prompt, references=(Reference(image=reference.image, **more),))
            for more in ({"weight": 0.5}, {"subject_mask": mask}, {"region_mask": mask})
        ),
        Sample(prompt=sample.prompt, references=(Reference(image=reference.image.double()),)),
        Sample(prompt=sample.prompt, references=(reference, reference)),
    ]
    for one in variants:
        found, plain = words.encode([one], layers=[1]), words.encoder.encode([one], layers=[1])
        assert torch.equal(found.hidden_states[1], plain.hidden_states[1])
    assert len(words._store._entries) == len(variants)


# ------------------------------------------------------------------------------------------------------ whole runs


@pytest.fixture(scope="module")
def uncached(tiny_experiment, tmp_path_factory) -> Path:
    return train(tiny_experiment(), tmp_path_factory.mktemp("uncached") / "run").folder


@pytest.mark.parametrize("cache", [{"targets": True}, {"features": True}, BOTH])
@pytest.mark.parametrize("on_disk", [False, True])
def test_a_cache_changes_no_weight(tiny_experiment, uncached, tmp_path, cache, on_disk) -> None:
    folder = {"folder": str(tmp_path / "cache")} if on_disk else {}
    runs = [
        train(tiny_experiment({"training": {"cache": {**cache, **folder}}}), tmp_path / name).folder
        for name in ("one", "two")
    ]
    for run in runs:
        assert_same(run, uncached)


def test_a_second_run_makes_nothing_again(tiny, tiny_experiment, uncached, tmp_path, monkeypatch) -> None:
    experiment = tiny_experiment({"training": {"cache": {**BOTH, "folder": str(tmp_path / "cache")}}})
    train(experiment, tmp_path / "one")
    names = sorted(file.name for file in (tmp_path / "cache").iterdir())
    assert names == ["branches.pictures.encoder", "branches.words.encoder", "targets"]
    files = set((tmp_path / "cache").rglob("*.safetensors"))
    assert len(files) >= 3
    asked, sums = counted(monkeypatch, tiny), []
    for name in ("two", "three"):
        assert_same(train(experiment, tmp_path / name).folder, uncached)
        sums.append(dict(asked))
    assert set((tmp_path / "cache").rglob("*.safetensors")) == files
    # What opening a cache and a look at the first rows ask of a part, and nothing for the 24 rows of each run.
    assert sums[0]["targets"] <= 5
    assert sums[0]["pictures"] <= 4
    assert sums[0]["words"] <= 4
    assert all(sums[1][name] == 2 * sums[0][name] for name in asked)


class Killed(BaseException):
    """As ``kill -9``."""


def killed_at_step_5(patch: pytest.MonkeyPatch) -> None:
    begin, made = RunDirectory.begin, []

    def at(self, *arguments: Any) -> None:
        begin(self, *arguments)
        made.append(1)
        if len(made) == 5:
            raise Killed

    patch.setattr(RunDirectory, "begin", at)


@pytest.mark.parametrize("on_disk", [False, True])
def test_a_run_goes_on_with_its_cache(tiny, tiny_experiment, uncached, tmp_path, monkeypatch, on_disk) -> None:
    """Killed between checkpoints, in the second phase; what was not yet written is made again."""
    folder = {"folder": str(tmp_path / "cache")} if on_disk else {}
    experiment = tiny_experiment({"training": {"cache": {**BOTH, **folder}, "save_every": 2}})
    with monkeypatch.context() as patch, pytest.raises(Killed):  # noqa: PT012
        killed_at_step_5(patch)
        patch.setattr(Caches, "__exit__", lambda *_: None)
        train(experiment, tmp_path / "run")
    resume(tmp_path / "run", plugins=tiny.plugins())
    assert_same(tmp_path / "run", uncached)


def test_a_cache_may_come_and_go_when_a_run_goes_on(tiny, tiny_experiment, uncached, tmp_path, monkeypatch) -> None:
    experiment = tiny_experiment({"training": {"save_every": 2}})
    with monkeypatch.context() as patch, pytest.raises(Killed):  # noqa: PT012
        killed_at_step_5(patch)
        train(experiment, tmp_path / "run")
    changes = [f"training.cache={{targets: true, features: true, folder: '{tmp_path / 'cache'}'}}"]
    resume(tmp_path / "run", plugins=tiny.plugins(), overrides=changes)
    assert_same(tmp_path / "run", uncached)


def test_augmented_samples_are_other_contents(tiny, tiny_experiment, tmp_path, monkeypatch) -> None:
    """Each row is varied by its position, so that each is an entry of its own, and none is another's."""

    def augmented(self, index: int, seed: int) -> Sample:
        plain = self[index]
        shift = torch.rand(3, 1, 1, generator=torch.Generator().manual_seed(seed)) / 10
        reference = Reference(image=plain.references[0].image * 0.9 + shift)
        return Sample(key=plain.key, prompt=plain.prompt, references=(reference,), target=plain.target * 0.9 + shift)

    monkeypatch.setattr(tiny.Pairs, "augmented", augmented, raising=False)
    plain = train(tiny_experiment(), tmp_path / "plain").folder
    said = io.StringIO()
    cached = train(tiny_experiment({"training": {"cache": BOTH}}), tmp_path / "cached", console=heard(said)).folder
    assert_same(cached, plain)
    assert "per sample x 24 samples" in said.getvalue()  # rows, and not the 12 samples of the data set


def test_models_give_the_same_alone_and_in_a_batch_but_for_rounding(write, plugins, tmp_path) -> None:
    """A multimodal model with padding on the left, and a VAE; the rows that a cache holds were encoded one by one."""
    from subjectgen.runner.system.experiment import Experiment

    cache, runs = f"training.cache={{targets: true, features: true, folder: '{tmp_path / 'cache'}'}}", []
    for name, overrides in (("plain", ()), ("cached", (cache,)), ("again", (cache,))):
        runs.append(train(Experiment.read(write(), overrides, plugins=plugins), tmp_path / name).folder)
    plain, cached, again = (trained(run) for run in runs)
    for name, value in plain.items():
        torch.testing.assert_close(cached[name], value, atol=1e-5, rtol=1e-4)
        assert torch.equal(again[name], cached[name])


# ---------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("changes", "key", "then", "now"),
    [
        ({"autoencoder": {"name": "tiny_other"}}, "component", '"tiny_halves"', '"tiny_other"'),
        ({"autoencoder": {"scale": 2.0}}, "options.scale", "1.0", "2.0"),
    ],
)
def test_a_cache_of_another_autoencoder_is_refused(tiny, tmp_path, monkeypatch, changes, key, then, now) -> None:
    """The folder, the key, both values and the way out; nothing of a run is begun."""
    read = with_scaled(tiny, tmp_path, monkeypatch)
    cache = {"training": {"cache": {**BOTH, "folder": str(tmp_path / "cache")}}}
    train(read(cache), tmp_path / "one")
    with pytest.raises(ConfigError) as refusal:
        train(read({**cache, **changes}), tmp_path / "two")
    said = str(refusal.value)
    assert f"{tmp_path / 'cache' / 'targets' / 'cache.json'}: {key}: made with {then}; now {now}" in said
    assert "--set training.cache.folder=ANOTHER" in said
    assert not (tmp_path / "two").exists()


def with_scaled(tiny, tmp_path: Path, monkeypatch):
    """Reads experiments in which the autoencoder has an option, and a twin of another name."""
    import yaml

    from subjectgen.core import ChangesResults
    from subjectgen.core.config import merge
    from subjectgen.runner.system.experiment import Experiment

    class Config(tiny.Halves.Config):
        """Options."""

        scale: ChangesResults[float] = 1.0
        """What it says of itself; the latents stay."""

    monkeypatch.setattr(tiny.Halves, "Config", Config)
    monkeypatch.setitem(tiny.OFFERS, "autoencoders", {"tiny_halves": tiny.Halves, "tiny_other": tiny.Halves})
    host, path = tiny.plugins(), tmp_path / "scaled.yaml"

    def read(changes: dict) -> Any:
        path.write_text(yaml.safe_dump(merge(tiny.EXPERIMENT, changes)))
        return Experiment.read(path, plugins=host)

    return read


def test_a_cache_of_other_layers_is_refused(tiny, tiny_experiment, tmp_path, monkeypatch) -> None:
    experiment = tiny_experiment({"training": {"cache": {"features": True, "folder": str(tmp_path / "cache")}}})
    train(experiment, tmp_path / "one")
    monkeypatch.setattr(tiny.Mix, "layers", (0, 1))
    with pytest.raises(
        ConfigError, match=r"branches\.words\.encoder/cache\.json: layers: made with \[1\]; now \[0, 1\]"
    ):
        train(experiment, tmp_path / "two")


def test_a_part_that_gives_something_else_is_refused_though_it_says_the_same(
    tiny, tiny_experiment, tmp_path, monkeypatch
) -> None:
    """As when a library changes what it does."""
    experiment = tiny_experiment({"training": {"cache": {**BOTH, "folder": str(tmp_path / "cache")}}})
    train(experiment, tmp_path / "one")
    tokens = tiny.Words.tokens
    with monkeypatch.context() as patch, pytest.raises(ConfigError, match=r"features\.layer 0: differs by \d+%.*torch"):  # noqa: PT012
        patch.setattr(tiny.Words, "tokens", staticmethod(lambda sample: tokens(sample) * 2 + 1))
        train(experiment, tmp_path / "two")
    encode = tiny.Halves.encode_images
    with monkeypatch.context() as patch, pytest.raises(ConfigError, match=r"targets/cache\.json: latents: differs by"):  # noqa: PT012
        patch.setattr(tiny.Halves, "encode_images", lambda self, images, **_: encode(self, images) + 1)
        train(experiment, tmp_path / "two")


def test_targets_of_an_autoencoder_that_draws_are_refused(tiny_experiment, tmp_path) -> None:
    changes = {"autoencoder": {"draws": True}, "training": {"cache": {"targets": True}}}
    with pytest.raises(ConfigError, match=r"training\.cache\.targets: got true, but autoencoder 'tiny_halves' draws"):
        train(tiny_experiment(changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    changes["training"]["cache"] = {"features": True}
    train(tiny_experiment(changes), tmp_path / "run")


def test_the_old_switch_is_answered_with_the_new_one(tiny_experiment) -> None:
    with pytest.raises(ConfigError, match=r"cache_targets: is now training\.cache\.targets; expected cache: {targets"):
        tiny_experiment({"training": {"cache_targets": True}})


# ------------------------------------------------------------------------------------------------------------- size


def test_the_size_is_said_before_the_first_step(tiny_experiment, tmp_path) -> None:
    """48 values of a latent; 3 tokens of width 4 in one layer with modality and reference, and two facts."""
    said = io.StringIO()
    changes = {"training": {"cache": {**BOTH, "folder": str(tmp_path / "cache")}}}
    train(tiny_experiment(changes), tmp_path / "run", console=heard(said))
    text = said.getvalue()
    assert text.index("cache of targets") < text.index("phase 1")
    assert f"cache of targets: about {48 * 4} B per sample x 12 samples = 2.3 kB in {tmp_path / 'cache'}" in text
    words = 2 * (3 * 4 * 4 + 2 * 3 * 8 + 8 + 1)  # with its prompt and without; with neither the branch is absent
    assert f"cache of branches.words.encoder: about {words} B per sample x 12" in text
    assert f"cache of branches.pictures.encoder: about {48 * 4 + 8} B per sample x 12" in text


@pytest.mark.parametrize("on_disk", [False, True])
def test_less_room_than_is_needed_is_refused(tiny_experiment, tmp_path, monkeypatch, on_disk) -> None:
    """2304 B of targets: one byte less is refused, and not where the folder holds them already."""
    room = [2303]
    monkeypatch.setattr(cache_size, "available_memory", lambda: room[0])
    monkeypatch.setattr(cache_size.shutil, "disk_usage", lambda _: type("Usage", (), {"free": room[0]}))
    cache = {"targets": True, **({"folder": str(tmp_path / "cache")} if on_disk else {})}
    experiment = tiny_experiment({"training": {"cache": cache}})
    with pytest.raises(InputError, match=r"training\.cache: needs 2\.3 kB more in .*, which has 2\.3 kB free"):
        train(experiment, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    room[0] = 2304
    train(experiment, tmp_path / "run")
    if on_disk:
        room[0] = 0
        train(experiment, tmp_path / "again")


def test_memory_is_shared_by_the_processes_of_a_machine(tiny_experiment, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(cache_size, "available_memory", lambda: 4000)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"the CPU's memory, which has 2\.0 kB free"):
        train(tiny_experiment({"training": {"cache": {"targets": True}}}), tmp_path / "run")


def test_memory_lets_go_of_data_sets_that_are_done(tiny_experiment, tmp_path, monkeypatch) -> None:
    """Two phases with data of their own need room for the larger one, and not for both."""
    phases = [{"steps": 3, "dataset": {"name": "tiny_pairs", "seed": seed}} for seed in (1, 2)]
    experiment = tiny_experiment({"training": {"cache": {"targets": True}, "phases": phases}})
    monkeypatch.setattr(cache_size, "available_memory", lambda: 2304)
    held, forget = [], Caches.forget

    def forgets(self: Caches) -> None:
        forget(self)
        held.append(self.targets.held_bytes())

    monkeypatch.setattr(Caches, "forget", forgets)
    train(experiment, tmp_path / "run")
    assert held == [0]


def test_available_memory_is_read_where_linux_says_it(tmp_path) -> None:
    file = tmp_path / "meminfo"
    assert cache_size.available_memory(file) is None
    file.write_text("MemTotal: 9 kB\nMemAvailable:       5 kB\n")
    assert cache_size.available_memory(file) == 5 * 1024


def test_what_is_written_is_as_it_was_made(tiny_experiment, tmp_path) -> None:
    """No value of less precision than the encoder's, and nothing that is not the entry's own."""
    system = build_system(tiny_experiment())
    caches = opened(system, folder=tmp_path)
    caches.encoders["words"].encode([planted(1)], layers=[1])
    caches.flush()
    (file,) = (tmp_path / "branches.words.encoder").glob("*.safetensors")
    kept = {name.partition("/")[2]: value for name, value in load_file(file).items()}
    assert kept.keys() == {"kind", "modality", "reference", "state.1", "last_layer_normalized"}
    assert kept["state.1"].dtype is torch.float32
    assert torch.equal(kept["state.1"], 2 * system.branches["words"].encoder.tokens(planted(1)))
