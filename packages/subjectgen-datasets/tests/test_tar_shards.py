import io
import json
import multiprocessing
import tarfile

import fsspec
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image

from subjectgen.core import InputError, SampleError
from subjectgen.datasets.entries import as_key
from subjectgen.datasets.tar_members import index_place, read_shard, write_index
from subjectgen.datasets.tar_shards import TarShards


def png(colour: str = "red", size: tuple[int, int] = (8, 12)) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size[::-1], colour).save(content, format="PNG")
    return content.getvalue()


def members(key: str, prompt: str = "a thing", references: int = 1) -> dict[str, bytes]:
    found = {f"{key}.json": json.dumps({"prompt": prompt}).encode(), f"{key}.target.png": png("red")}
    return found | {f"{key}.reference{number}.png": png("blue") for number in range(references)}


def write_tar(path, files: list[tuple[str | tarfile.TarInfo, bytes]]):
    with tarfile.open(path, "w") as tar:
        for name, content in files:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(content) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(content))
    return path


def opened(*shards, **options) -> TarShards:
    return TarShards(TarShards.Config(shards=tuple(map(str, shards)), **options))


ALL = [*members("a", "first", 2).items(), *members("b", "second", 0).items(), *members("c", "third").items()]


@settings(max_examples=30)
@given(order=st.permutations(ALL), form=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]))
def test_members_may_stand_in_any_order(tmp_path_factory, order, form) -> None:
    path = tmp_path_factory.mktemp("tar") / "x.tar"
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in order:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    found = {sample.key: (sample.prompt, len(sample.references)) for sample in opened(path)}
    assert found == {"a": ("first", 2), "b": ("second", 0), "c": ("third", 1)}
    dataset = opened(path)
    assert list(dataset.keys()) == [sample.key for sample in dataset]


def test_what_other_tools_write_is_read(tmp_path) -> None:
    """A picture under its bare ending, the prompt as text, folders in the key, members that mean nothing here."""
    files = [("train/0001.jpg", png()), ("train/0001.txt", b"a caption\n"), ("train/0001.cls", b"7"), ("x.npy", b"7")]
    sample = opened(write_tar(tmp_path / "x.tar", files))[0]
    assert sample.prompt == "a caption"
    assert sample.target.shape == (3, 8, 12)
    assert sample.key == as_key("train/0001")


def test_json_says_names_weights_and_facts(tmp_path) -> None:
    told = {"prompt": "p", "score": 3, "facts": {"scene": "snow"}, "references": [{"name": "toy", "weight": 0.5}]}
    files = {**members("a"), "a.json": json.dumps(told).encode()}
    sample = opened(write_tar(tmp_path / "x.tar", list(files.items())))[0]
    assert sample.facts == {"score": 3, "scene": "snow"}
    assert (sample.references[0].name, sample.references[0].weight) == ("toy", 0.5)


def test_keys_of_any_letters_are_names_and_differ(tmp_path) -> None:
    stems = ["Ünï", "a b", "a_b", "x" * 150, "a~b", "猫/1", "犬/1"]
    path = write_tar(tmp_path / "x.tar", [item for stem in stems for item in members(stem).items()])
    keys = list(opened(path).keys())
    assert len({key.lower() for key in keys}) == len(stems)
    assert "a.b" in keys


def info(name: str, kind: bytes, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, link
    return made


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ([(info("b.reference0.png", tarfile.SYMTYPE, "/etc/passwd"), b"")], "member is no regular file"),
        ([(info("b.reference0.png", tarfile.LNKTYPE, "a.target.png"), b"")], "member is no regular file"),
        ([(info("b.reference0.png", tarfile.FIFOTYPE), b"")], "member is no regular file"),
        ([("../b.reference0.png", png())], "member's name leads out of the archive"),
        ([("/b.reference0.png", png())], "member's name leads out of the archive"),
        ([("b.reference1.png", png())], "references are not numbered from 0"),
        ([("b.reference0.png", png()), ("b.reference.jpg", png())], "the same member twice"),
        ([("b.mask0.png", png())], "a mask without its reference"),
    ],
)
def test_members_that_cannot_be_used_are_counted(tmp_path, files, reason) -> None:
    good = [*members("a").items(), *members("b", references=0).items()]
    path = write_tar(tmp_path / "x.tar", [*good, *files])
    with pytest.warns(UserWarning, match="1 of 3|1 of 2"):
        dataset = opened(path)
    assert dataset.left_out.counts == {reason: 1}
    assert dataset[0].key == "a"


def test_a_key_twice_is_left_out_the_second_time(tmp_path) -> None:
    one = write_tar(tmp_path / "1.tar", list(members("a", "first").items()))
    two = write_tar(tmp_path / "2.tar", [*members("A", "again").items(), *members("b").items()])
    with pytest.warns(UserWarning, match="1 of 3"):
        dataset = opened(one, two)
    assert dataset.left_out.counts == {"key is that of another sample": 1}
    assert [sample.prompt for sample in dataset] == ["first", "a thing"]


@pytest.mark.parametrize("cut", [100, 700, 2000, 2600])
def test_a_tar_that_is_cut_off_gives_what_is_whole(tmp_path, cut) -> None:
    path = write_tar(tmp_path / "x.tar", [*members("a").items(), *members("b").items()])
    with tarfile.open(path) as tar:
        end = tar.getmember("b.reference0.png").offset_data + len(png("blue"))
    path.write_bytes(path.read_bytes()[: end - cut])
    with pytest.warns(UserWarning, match=r"left out \(1 x ") as caught:
        dataset = opened(path)
    assert dataset[0].key == "a"
    assert len(dataset[0].references) == 1
    assert "x.tar: " in str(caught[0].message)


def test_damage_in_the_middle_is_not_taken_for_the_end(tmp_path) -> None:
    path = write_tar(tmp_path / "x.tar", [*members("a").items(), *members("b").items()])
    with tarfile.open(path) as tar:
        start = tar.getmember("b.json").offset
    content = bytearray(path.read_bytes())
    content[start : start + 512] = b"\x07" * 512
    path.write_bytes(bytes(content))
    with pytest.warns(UserWarning, match=f"byte {start}: damaged: no header where one should be"):
        assert list(opened(path).keys()) == ["a"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no tar that can be read"),
        (b"nonsense" * 200, "no tar that can be read"),
        (b"\x1f\x8b" + b"0" * 600, r"is compressed \(gzip\)"),
    ],
)
def test_what_is_no_tar_is_named(tmp_path, content, message) -> None:
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(InputError, match=message):
        opened(tmp_path / "x.tar")


def test_shards_that_are_not_there(tmp_path) -> None:
    write_tar(tmp_path / "shard.tar", ALL)
    with pytest.raises(InputError, match=r"shrd\.tar: no such file; did you mean 'shard\.tar'"):
        opened(tmp_path / "shrd.tar")
    with pytest.raises(InputError, match=r"\*\.tgz: no such file; expected a file, a glob"):
        opened(tmp_path / "*.tgz")
    with pytest.raises(InputError, match=r"nonsense://x\.tar: cannot be listed"):
        opened("nonsense://x.tar")


# ------------------------------------------------------------------------------------------------------- indexes


def test_an_index_is_believed_if_it_is_the_tars_own(tmp_path) -> None:
    path = write_tar(tmp_path / "x.tar", ALL)
    place = tmp_path / "x.tar.index.json"
    place.write_text(write_index(read_shard(str(path))))
    assert [sample.prompt for sample in opened(path)] == ["first", "second", "third"]
    with tarfile.open(path, "a") as tar:
        tar.addfile(info("d.json", tarfile.REGTYPE))
    path.write_bytes(path.read_bytes() + b"\0" * 512)
    with pytest.raises(InputError, match=r"x\.tar\.index\.json: was written for a tar of \d+ bytes, and .*x\.tar has"):
        opened(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is damaged"),
        ("[]", "expected {"),
        ('{"format": 2, "members": []}', "expected {"),
        ('{"format": 1, "size": SIZE, "members": [["a", 1]]}', "got the member"),
        ('{"format": 1, "size": SIZE, "members": [["a", -1, 3]]}', "got the member"),
    ],
)
def test_a_damaged_index_is_named(tmp_path, text, message) -> None:
    path = write_tar(tmp_path / "x.tar", ALL)
    place = tmp_path / "x.tar.index.json"
    place.write_text(text.replace("SIZE", str(path.stat().st_size)))
    with pytest.raises(InputError, match=r"x\.tar\.index\.json") as caught:
        opened(path)
    assert message in str(caught.value)


def test_an_index_that_points_outside_of_the_tar_is_not_followed(tmp_path) -> None:
    path = write_tar(tmp_path / "x.tar", ALL)
    shard = read_shard(str(path))
    told = json.loads(write_index(shard))
    told["members"][0][1] = 10**9
    (tmp_path / "x.tar.index.json").write_text(json.dumps(told))
    with pytest.warns(UserWarning, match="member is cut off"):
        assert list(opened(path).keys()) == ["b", "c"]


# -------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (b"{", "a.json: "),
        (b"[]", "expected a mapping"),
        (b'{"prompt": 3}', "prompt: got int 3; expected text"),
        (b'{"facts": {}}', "no prompt in its JSON"),
        (b'{"prompt": "x", "references": [{}, {}]}', "says 2, but 1 are there"),
        (b'{"prompt": "x", "references": [{"weight": "big"}]}', "weight: got 'big'"),
        (b'{"prompt": "x", "score": NaN}', "a.json: "),
    ],
)
def test_json_that_cannot_be_used_is_a_sample_error(tmp_path, told, message) -> None:
    files = {**members("a"), "a.json": told}
    dataset = opened(write_tar(tmp_path / "x.tar", list(files.items())))
    with pytest.raises(SampleError, match=r"x\.tar: a: ") as caught:
        dataset[0]
    assert message in str(caught.value)


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_urls_give_what_the_file_gives(tmp_path, protocol) -> None:
    path = write_tar(tmp_path / "x.tar", ALL)
    url = f"file://{path}"
    if protocol == "memory":
        url = "memory://shards/x.tar"
        fsspec.filesystem("memory").pipe("/shards/x.tar", path.read_bytes())
    local = opened(path)
    for place in (url, url.replace("x.tar", "*.tar")):
        remote = opened(place)
        for mine, other in zip(local, remote, strict=True):
            assert mine.key == other.key
            assert torch.equal(mine.target, other.target)
        assert list(remote.sizes) == list(local.sizes)
    fsspec.filesystem("memory").pipe(index_place("/shards/x.tar"), b'{"format": 1, "size": 1, "members": []}')
    if protocol == "memory":
        with pytest.raises(InputError, match=r"memory://shards/x\.tar\.index\.json: was written for a tar of 1 bytes"):
            opened(url)
    fsspec.filesystem("memory").rm("/shards", recursive=True) if protocol == "memory" else None


def _read(dataset: TarShards, indices: range) -> list[tuple[str, float]]:
    return [(dataset[index].key, float(dataset[index].target.sum())) for index in indices]


def test_forks_share_no_position(tmp_path) -> None:
    """Two processes forked from one data set read it in opposite orders, many times."""
    files = [item for number in range(40) for item in members(f"s{number}", references=0).items()]
    dataset = opened(write_tar(tmp_path / "x.tar", files))
    expected = _read(dataset, range(40))
    torch.set_num_threads(1)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        orders = [range(40), range(39, -1, -1)] * 4
        results = pool.starmap(_read, [(dataset, order) for order in orders])
    for order, result in zip(orders, results, strict=True):
        assert result == [expected[index] for index in order]
