import json
import tarfile
from dataclasses import replace

import pytest
import torch

from subjectgen.core import InputError, Reference, Sample, SampleError
from subjectgen.datasets.image_pairs import ImagePairs
from subjectgen.datasets.shards import write_shards
from subjectgen.datasets.tar_shards import TarShards
from subjectgen.testing.dataset import assert_same_sample


def packed(folder, **options) -> TarShards:
    return TarShards(TarShards.Config(shards=str(folder / "*.tar"), **options))


@pytest.fixture
def pairs(tmp_path, picture, mask):
    lines = []
    for number in range(5):
        files = [picture(f"r{number}-{k}.webp", (9, 7), "blue") for k in range(1 + number % 3)]
        lines.append(
            {
                "prompt": f"thing {number} ☃",
                "target": picture(f"t{number}.jpg", (8 + number, 12), quality=40),
                "references": files,
                "masks": [mask(f"m{number}.png", (9, 7)), *[None] * (len(files) - 1)],
                "key": f"a.b-{number}",
                "facts": {"scene": "snow", "shares": [0.1, None]},
            }
        )
    (tmp_path / "index.json").write_text(json.dumps(lines))
    return lambda **options: ImagePairs(ImagePairs.Config(folder=tmp_path, **options))


@pytest.mark.parametrize("options", [{}, {"buckets": ((8, 8), (8, 16)), "random_crop": True, "reference_area": 20}])
def test_shards_give_the_same_samples_bit_by_bit(pairs, tmp_path, options) -> None:
    dataset = pairs(**options)
    written = write_shards(dataset, tmp_path / "out", shard_size=3000)
    assert written.samples == 5
    assert len(written.shards) > 1
    read = packed(tmp_path / "out", **options)
    assert list(read.keys()) == dataset.keys()
    assert list(read.sizes) == list(dataset.sizes)
    for index in range(5):
        assert_same_sample(read[index], dataset[index])
        assert_same_sample(read.augmented(index, 7), dataset.augmented(index, 7))


def test_pictures_keep_the_bytes_of_their_files(pairs, tmp_path) -> None:
    write_shards(pairs(size=4), tmp_path / "out")
    with tarfile.open(tmp_path / "out" / "shard-000000.tar") as tar:
        assert tar.extractfile("a~b-2.target.jpg").read() == (tmp_path / "t2.jpg").read_bytes()
        assert tar.extractfile("a~b-2.reference1.webp").read() == (tmp_path / "r2-1.webp").read_bytes()
        assert tar.extractfile("a~b-2.mask0.png").read() == (tmp_path / "m2.png").read_bytes()


def test_the_same_data_give_the_same_bytes_and_shards_can_be_packed_again(pairs, tmp_path) -> None:
    write_shards(pairs(), tmp_path / "one")
    write_shards(packed(tmp_path / "one"), tmp_path / "two")
    for name in ("shard-000000.tar", "shard-000000.tar.index.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


class InMemory:
    """A data set that knows nothing of files."""

    def __init__(self, bits: int = 255, broken: tuple[int, ...] = ()) -> None:
        self.bits, self.broken = bits, broken

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> Sample:
        if index >= 4:
            raise IndexError(index)
        if index in self.broken:
            raise SampleError(f"row {index}: gone")
        draw = torch.Generator().manual_seed(index)

        def image(channels: int, *size: int) -> torch.Tensor:
            return torch.randint(self.bits + 1, (channels, *size), generator=draw).float().div(self.bits)

        reference = Reference(image=image(3, 8, 6), subject_mask=image(1, 8, 6), region_mask=image(1, 4, 4), weight=0.3)
        return Sample(key=f"k{index}", prompt="p", references=(reference,), target=image(3, 8, 8), facts={"a": [1]})


def test_a_data_set_without_files_is_packed_as_png(tmp_path) -> None:
    dataset = InMemory()
    assert write_shards(dataset, tmp_path / "out").rounded == 0
    for sample, expected in zip(packed(tmp_path / "out"), dataset, strict=True):
        assert_same_sample(sample, expected)


def test_what_has_more_than_8_bits_is_rounded_and_counted(tmp_path) -> None:
    written = write_shards(InMemory(bits=1000), tmp_path / "out")
    assert written.rounded == 16
    for sample, expected in zip(packed(tmp_path / "out"), InMemory(bits=1000), strict=True):
        assert torch.allclose(sample.target, expected.target, atol=0.5 / 255 + 1e-6)


def test_broken_samples_are_left_out_and_counted(pairs, tmp_path) -> None:
    dataset = pairs()
    (tmp_path / "t1.jpg").write_bytes(b"no picture")
    (tmp_path / "m3.png").unlink()
    written = write_shards(dataset, tmp_path / "out")
    assert written.samples == 3
    assert written.left_out.counts == {"target: not an image": 1, "mask: no such file": 1}
    assert list(packed(tmp_path / "out").keys()) == ["a.b-0", "a.b-2", "a.b-4"]
    assert json.loads((tmp_path / "out" / "packed.json").read_text())["left_out"] == written.left_out.counts


def test_a_key_twice_is_packed_once(tmp_path) -> None:
    class Twice(InMemory):
        def __getitem__(self, index: int) -> Sample:
            return replace(super().__getitem__(index), key=f"{'kK'[index % 2]}{index // 2}")

    written = write_shards(Twice(), tmp_path / "out")
    assert written.left_out.counts == {"key is that of another sample": 2}
    assert list(packed(tmp_path / "out").keys()) == ["k0", "k1"]


def test_nothing_is_left_of_a_folder_that_could_not_be_finished(tmp_path) -> None:
    class Dies(InMemory):
        def __getitem__(self, index: int) -> Sample:
            if index == 2:
                raise KeyboardInterrupt
            return super().__getitem__(index)

    with pytest.raises(KeyboardInterrupt):
        write_shards(Dies(), tmp_path / "out")
    with pytest.raises(InputError, match="no sample can be read, so nothing is written"):
        write_shards(InMemory(broken=(0, 1, 2, 3)), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_refused(tmp_path) -> None:
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="exists and is not empty; expected a new folder"):
        write_shards(InMemory(), tmp_path)
    with pytest.raises(InputError, match="is a file"):
        write_shards(InMemory(), tmp_path / "mine.txt")
    assert (tmp_path / "mine.txt").read_text() == "x"
