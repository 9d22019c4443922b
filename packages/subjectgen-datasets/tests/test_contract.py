import json

import pytest

from subjectgen.datasets.image_pairs import ImagePairs
from subjectgen.datasets.musar_gen import MusarGen
from subjectgen.datasets.shards import write_shards
from subjectgen.datasets.tar_shards import TarShards
from subjectgen.datasets.uno_1m import Uno1M
from subjectgen.datasets.uno_json import UnoJson
from subjectgen.testing import DatasetContract

from .conftest import label

BUCKETS = ((8, 8), (8, 12), (12, 8))


@pytest.fixture
def pairs(tmp_path, picture, mask):
    """A folder with an index of lines; references with and without a mask, one or two of them."""
    lines = []
    for number, size in enumerate([(8, 12), (12, 8), (9, 9)]):
        line = {"prompt": f"thing {number}", "target": picture(f"t{number}.jpg", size)}
        files = [picture(f"r{number}-{k}.png", (8, 12), "blue") for k in range(1 + number % 2)]
        masks = [mask(f"m{number}.png"), *[None] * (len(files) - 1)]
        lines.append({**line, "references": files, "masks": masks, "names": ["thing"] * len(files)})
    (tmp_path / "index.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return ImagePairs(ImagePairs.Config(folder=tmp_path))


class TestUno1M(DatasetContract):
    @pytest.fixture
    def dataset(self, uno):
        return Uno1M(Uno1M.Config(labels=uno([label(number) for number in range(6)])))


class TestUno1MInBuckets(DatasetContract):
    @pytest.fixture
    def dataset(self, uno):
        options = {"buckets": BUCKETS, "random_crop": True, "mirror": True, "both_ways": True, "reference_area": 30}
        return Uno1M(Uno1M.Config(labels=uno([label(number) for number in range(5)]), **options))


class TestUnoJson(DatasetContract):
    @pytest.fixture
    def dataset(self, tmp_path, picture):
        entries = [
            {"prompt": "a", "image_tgt_path": picture("a.png"), "image_paths": [picture("r.jpg"), picture("s.jpg")]},
            {"prompt": "b", "image_tgt_path": picture("b.png", (9, 7)), "image_path": "r.jpg"},
        ]
        (tmp_path / "train.json").write_text(json.dumps(entries))
        return UnoJson(UnoJson.Config(file=tmp_path / "train.json", size=(8, 10)))


class TestPairs(DatasetContract):
    @pytest.fixture
    def dataset(self, pairs):
        return pairs


class TestNamedPairs(DatasetContract):
    @pytest.fixture
    def dataset(self, tmp_path, picture, mask):
        for stem in ("a", "b.c", "Ä"):
            for name in (f"{stem}.jpg", f"{stem}.ref0.png", f"{stem}.ref1.png"):
                picture(name)
            mask(f"{stem}.mask1.png")
            (tmp_path / f"{stem}.txt").write_text(f"the thing {stem}", encoding="utf-8")
        return ImagePairs(ImagePairs.Config(folder=tmp_path, size=8, mirror=True))


class TestShards(DatasetContract):
    @pytest.fixture
    def dataset(self, pairs, tmp_path):
        write_shards(pairs, tmp_path / "shards", shard_size=2000)
        return TarShards(TarShards.Config(shards=str(tmp_path / "shards" / "*.tar"), buckets=BUCKETS, random_crop=True))


class TestMusarGen(DatasetContract):
    @pytest.fixture
    def dataset(self, tmp_path, picture):
        return MusarGen(MusarGen.Config(folder=write_musar(tmp_path, picture)))


def write_musar(folder, picture, rows: int = 5):
    """Two Parquet files in groups of two rows, with the columns of MUSAR's README."""
    arrow = pytest.importorskip("pyarrow", reason="the extra 'parquet' is not installed")
    import pyarrow.parquet

    (folder / "data").mkdir()
    for file in range(2):
        table = []
        for number in range(rows):
            pictures = {
                key: {"bytes": (folder / picture("one.png", (8, 8 + k), "blue")).read_bytes(), "path": f"{number}.png"}
                for k, key in enumerate(("cond_img_0", "cond_img_1", "tgt_img"))
            }
            words = {"cond_prompt_0": f"a toy {number}", "cond_prompt_1": "a cup", "prompt": f"both, {file} {number}"}
            table.append({**pictures, **words})
        made = arrow.Table.from_pylist(table)
        pyarrow.parquet.write_table(made, folder / "data" / f"train-{file}.parquet", row_group_size=2)
    return folder
