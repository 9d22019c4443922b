import json

import pytest
from hypothesis import given, settings, strategies as st

from subjectgen.core import InputError
from subjectgen.datasets import json_array
from subjectgen.datasets.json_array import JsonArray
from subjectgen.datasets.left_out import RefusedError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=200)
@given(
    values=st.lists(VALUES, max_size=6),
    chunk=st.integers(1, 40),
    indent=st.sampled_from([None, 2]),
    plain=st.booleans(),
    mark=st.booleans(),
)
def test_a_window_of_any_width_reads_what_json_reads(tmp_path_factory, values, chunk, indent, plain, mark) -> None:
    path = tmp_path_factory.mktemp("json") / "list.json"
    content = json.dumps(values, indent=indent, ensure_ascii=plain).encode("utf-8", "surrogatepass")
    try:
        content.decode()
    except UnicodeDecodeError:
        return
    path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + content)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_array, "CHUNK", chunk)
        file = JsonArray(path)
        records = list(file.scan())
    assert [record.values for record in records] == values
    assert [file.parse(file.read(record.offset, record.length)) for record in records] == values
    assert [record.number for record in records] == list(range(len(values)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "got 'the end'; expected a JSON list"),
        ("{}", "got '{'; expected a JSON list"),
        ("[1, 2", "got 'the end'; expected a comma or the end"),
        ("[1, ]", "at byte 4: Expecting value"),
        ("[1 2]", "at byte 3: got '2'"),
        ('[1, {"a": tru}]', "at byte 4: Expecting value"),
        ("[1] 2", "expected nothing after the list"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_damage_is_named_with_its_place(tmp_path, text, message) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match="not a JSON list that can be read") as caught:
        list(JsonArray(tmp_path / "x.json").scan())
    assert message in str(caught.value)
    assert "x.json" in str(caught.value)


def test_an_element_that_is_not_utf8_is_refused_and_the_others_are_read(tmp_path) -> None:
    (tmp_path / "x.json").write_bytes(b'["a", "\xff", "c"]')
    values = [record.values for record in JsonArray(tmp_path / "x.json").scan()]
    assert values[::2] == ["a", "c"]
    assert isinstance(values[1], RefusedError)


def test_an_element_without_end_is_not_kept_in_memory(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(json_array, "CHUNK", 100)
    monkeypatch.setattr(json_array, "LARGEST", 1000)
    (tmp_path / "x.json").write_text('["' + "a" * 100_000)
    with pytest.raises(InputError, match="at byte 1: Unterminated string"):
        list(JsonArray(tmp_path / "x.json").scan())
