"""JSON record by record: the same records as the whole file has, errors that say where, and windows of any size."""

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import StrictInt, TypeAdapter

from xmtl_ray.events import json_window
from xmtl_ray.events.records import DataError
from xmtl_ray.events.strict_json import read_json, stream_dict, stream_list

ANY = TypeAdapter(object)
NUMBERS = TypeAdapter(dict[str, StrictInt])

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.fixture
def file(tmp_path):
    def write(content):
        path = tmp_path / "file.json"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


def records(path, layout=ANY, on_error=None):
    return list(stream_list(path, layout, lambda index, value: (index, value), on_error))


def members(path, layout=ANY, on_error=None):
    return list(stream_dict(path, layout, lambda key, value: value, on_error))


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(VALUES, max_size=6), keyed=st.dictionaries(st.text(), VALUES, max_size=6), data=st.data())
def test_a_stream_has_the_values_of_the_file(tmp_path, monkeypatch, rows, keyed, data):
    """List, JSON lines and object, however written, through windows that cut every token somewhere."""
    monkeypatch.setattr(json_window, "_CHUNK", data.draw(st.integers(1, 40)))
    style = {"indent": data.draw(st.sampled_from([None, 1])), "ensure_ascii": data.draw(st.booleans())}
    path = tmp_path / "file.json"
    path.write_text(json.dumps(rows, **style), encoding="utf-8", newline="\r\n")
    assert records(path) == list(enumerate(rows))
    path.write_text(json.dumps(keyed, **style), encoding="utf-8", newline="\r\n")
    assert members(path) == list(keyed.items())
    if rows and not isinstance(rows[0], list):
        path.write_text("".join(json.dumps(row) + "\r\n" for row in rows), encoding="utf-8", newline="")
        assert records(path) == list(enumerate(rows))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "file.json: whole|record 0: line 1 column 1: found '', expected JSON"),
        ('[{"a": 1}, {"a": 2', "record 1: line 1 column 19: found .* expected JSON"),
        ('[{"a": 1}\n {"a": 2}]', "line 2 column 2: found .* expected JSON"),
        ('[{"a": 1}] x', "line 1 column 12: found .* .nothing after its end"),
        ('[{"a": NaN}]', "record 0: a: found nan, expected a"),
        ('[{"a": 1e999}]', "record 0: a: found inf, expected a"),
        ('[{"a": 1}, {"a": 1, "a": 2}]', "record 1: a: found 'the key again'"),
        (b'[{"a": 1}, {"\xe9": 2}]', "byte 13: found b'\\\\xe9', expected UTF-8"),
        (b'\xef\xbb\xbf[{"a": 1}]', "byte 0: found 'a byte order mark'"),
        (r'[{"\ud800": 1}]', "record 0: text: found 'half of a surrogate pair'"),
        ('[{"a\x00": 1}]', "record 0: line 1 column .* .Invalid control character"),
        ('[{"a": ' + "[" * 100_000 + "]" * 100_000 + "}]", "nesting: found 'too deep'"),
        ('[{"a": ' + "9" * 5000 + "}]", "record 0: line 1 .* expected JSON"),
    ],
)
def test_what_is_wrong_with_a_list(file, content, message):
    """A DataError says where; nothing else is raised."""
    with pytest.raises(DataError, match=message):
        records(file(content), NUMBERS)


@pytest.mark.parametrize("content", ['[{"a": 1', r'{"a": "\udfff"}', "9" * 5000, '{"a": 1, "a": 2}', b"\xff", ""])
def test_a_whole_file_is_read_as_strictly(file, content):
    """``read_json`` refuses what the streams refuse."""
    with pytest.raises(DataError):
        read_json(file(content), ANY)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": {"x": 1}, "a": {"x": 2}}', "record 'a': whole record: found 'the key again'"),
        ('{"a": {"x": 1}, 3: {}}', "expected JSON|a key in quotation marks"),
        ('[{"a": 1}]', "line 1 column 1: found .* expected JSON"),
        ('{"a": {"x": 1}', "line 1 column 15: .* expected JSON"),
        ('{"a": {"x": "1"}}', "record 'a': x: found '1', expected a valid integer"),
    ],
)
def test_what_is_wrong_with_an_object(file, content, message):
    """A repeated record is an error although the streamed records are not kept."""
    with pytest.raises(DataError, match=message):
        members(file(content), NUMBERS)


def test_bad_records_are_reported_and_left_out(file):
    """With ``on_error`` a bad record costs itself alone; the place of the others stays theirs."""
    errors = []
    path = file('[{"a": 1}, {"a": "x"}, {"a": 1, "a": 2}, 7, {"a": 3}]')
    assert records(path, NUMBERS, errors.append) == [(0, {"a": 1}), (4, {"a": 3})]
    assert [str(error).split("record ")[1][0] for error in errors] == ["1", "2", "3"]

    errors.clear()
    assert members(file('{"p": {"a": 1}, "q": 2, "p": {}}'), NUMBERS, errors.append) == [
        ("p", {"a": 1}),
        ("q", None),
        ("p", None),
    ]
    assert len(errors) == 2


def test_a_broken_line_costs_one_line(file):
    """JSON lines go on behind a line that is no JSON, the last one included; a list does not."""
    errors = []
    path = file('{"a": 1}\n{"a": \n{"a": 2}\n{"a" 3}\n{"a": 4}\n{"a": 5')
    assert records(path, NUMBERS, errors.append) == [(0, {"a": 1}), (2, {"a": 2}), (4, {"a": 4})]
    assert len(errors) == 3
    with pytest.raises(DataError):
        records(file('[{"a": 1}, {"a" 3}]'), NUMBERS, errors.append)


def test_a_record_that_never_ends(file, monkeypatch):
    """The window does not grow with such a file."""
    monkeypatch.setattr(json_window, "RECORD_MIB", 1)
    with pytest.raises(DataError, match="record 0: whole record: found 'more than 1 MiB'"):
        records(file('[{"a": "' + "x" * (5 << 20)))


def test_repeated_keys_are_found_among_many():
    """The table of hashes grows and forgets nothing."""
    seen = json_window.Seen()
    keys = [f"image_{number}.jpg" for number in range(20_000)]
    assert not any(seen.add(key) for key in keys)
    assert all(seen.add(key) for key in random.Random(0).sample(keys, 2000))
    assert not seen.add("image_x.jpg")


def test_missing_files(tmp_path):
    """A file that is not there, and a folder in its place."""
    with pytest.raises(DataError, match="found 'nothing', expected an existing file"):
        records(tmp_path / "none.json")
    with pytest.raises(DataError, match="found 'a folder'"):
        records(tmp_path)
