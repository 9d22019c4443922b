import pytest

from subjectgen.core import InputError
from subjectgen.datasets.musar_gen import MusarGen

from .test_contract import write_musar


def test_rows_come_in_order_over_groups_and_files(tmp_path, picture) -> None:
    dataset = MusarGen(MusarGen.Config(folder=write_musar(tmp_path, picture)))
    prompts = [f"both, {file} {number}" for file in range(2) for number in range(5)]
    assert [sample.prompt for sample in dataset] == prompts
    assert dataset[9].prompt == prompts[9]
    assert dataset[0].prompt == prompts[0]
    assert [one.name for one in dataset[3].references] == ["a toy 3", "a cup"]
    assert dataset[3].target.shape == (3, 8, 10)


def test_a_file_without_the_columns_is_named(tmp_path) -> None:
    arrow = pytest.importorskip("pyarrow", reason="the extra 'parquet' is not installed")
    import pyarrow.parquet

    pyarrow.parquet.write_table(arrow.table({"prompt": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"x\.parquet: lacks the columns cond_img_0, cond_img_1, tgt_img"):
        MusarGen(MusarGen.Config(folder=tmp_path))
