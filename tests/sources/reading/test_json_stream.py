"""JSON read element by element: equal to the library's reader, in bounded memory, hostile files refused."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embedstore.errors import SourceError
from embedstore.sources.reading import json_stream
from embedstore.sources.reading.json_stream import At, json_parts, json_value, list_of, number_of, text_of

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
WHOLES = st.lists(VALUES, max_size=6) | st.dictionaries(st.text(), VALUES, max_size=6)


def written(tmp_path, text):
    path = tmp_path / "file.json"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass"))
    return path


def expected(whole, name="file.json"):
    if isinstance(whole, list):
        return [(At(name, k), value) for k, value in enumerate(whole)]
    parts = []
    for key, value in whole.items():
        if isinstance(value, list):
            parts += [(At(name, key), []), *((At(name, key, k), one) for k, one in enumerate(value))]
        else:
            parts.append((At(name, key), value))
    return parts


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(whole=WHOLES, chunk=st.integers(1, 40), indent=st.none() | st.integers(0, 2), ascii_only=st.booleans())
def test_parts_are_those_of_the_library(tmp_path, whole, chunk, indent, ascii_only):
    path = written(tmp_path, json.dumps(whole, indent=indent, ensure_ascii=ascii_only))
    before, json_stream._CHUNK = json_stream._CHUNK, chunk
    try:
        assert list(json_parts(path)) == expected(whole)
        assert json_value(path) == whole
    finally:
        json_stream._CHUNK = before


def test_a_byte_order_mark_and_blanks_are_passed_over(tmp_path):
    path = written(tmp_path, b'\xef\xbb\xbf \r\n\t{ "a" : [ 1 , 2 ] }\n ')
    assert list(json_parts(path)) == expected({"a": [1, 2]})


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("", "neither a JSON object nor an array"),
        ("7", "neither a JSON object nor an array"),
        ('{"a": 1', "not valid JSON: ',' is missing"),
        ('{"a" 1}', "not valid JSON: ':' is missing"),
        ('{"a": [1 2]}', "not valid JSON: ',' is missing"),
        ('{"a": [1,]}', "not valid JSON: Expecting value"),
        ('{"a": [1, {"b": "cut', "not valid JSON: Unterminated string"),
        ("{1: 2}", "a key that is no text"),
        ('{"a": 1} x', "something follows the JSON value"),
        ('{"a": 1, "a": 2}', "a key stands twice"),
        ("[" + "[" * 100_000, "nested too deeply"),
        ('["a\nb"]', "Invalid control character"),
        (b'["\xff"]', "not UTF-8"),
        ("[" + "9" * 5000 + "]", "not valid JSON"),
    ],
)
def test_what_is_no_json(tmp_path, text, what):
    path = written(tmp_path, text)
    with pytest.raises(SourceError, match=what) as caught:
        list(json_parts(path))
    assert "file.json" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_the_place_of_a_fault_is_a_character(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "_CHUNK", 16)
    text = '{"images": [' + '{"id": 1},' * 50 + "?]}"
    with pytest.raises(SourceError, match="not valid JSON") as caught:
        list(json_parts(written(tmp_path, text)))
    assert f"character {text.index('?')}" in str(caught.value)


def test_one_value_that_is_too_long(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "MOST_CHARACTERS", 1000)
    monkeypatch.setattr(json_stream, "_CHUNK", 100)
    assert len(list(json_parts(written(tmp_path, json.dumps(["x" * 900, "y" * 900]))))) == 2
    with pytest.raises(SourceError, match="a value of more than 1000 characters"):
        list(json_parts(written(tmp_path, json.dumps(["x" * 5000]))))


def test_memory_does_not_grow_with_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "_CHUNK", 1 << 14)

    def peak(items):
        path = written(tmp_path, json.dumps({"images": [{"id": k, "pad": "x" * 80} for k in range(items)]}))
        tracemalloc.start()
        count = sum(1 for _ in json_parts(path))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == items + 1
        return used

    few, many = peak(2000), peak(32_000)
    assert many < 1.2 * few


def test_no_such_file(tmp_path):
    with pytest.raises(SourceError, match="there is no such file"):
        list(json_parts(tmp_path / "nowhere.json"))


def test_an_object_of_strange_keys_makes_a_short_message(tmp_path):
    for item in ({"k" * 100_000: 1}, {f"key {k}": 1 for k in range(9000)}, {"\x1b[31m": 1}):
        for read in (text_of, number_of, list_of):
            with pytest.raises(SourceError, match="no 'id'") as caught:
                read(item, "id", "x.json")
            assert len(str(caught.value)) < 300
            assert "\x1b" not in str(caught.value)
    with pytest.raises(SourceError, match="found: an empty object"):
        text_of({}, "id", "x.json")
