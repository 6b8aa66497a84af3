"""JSON from a file into typed values, or a DataError that says file, record, field, found and expected.

Formats are described as pydantic models beside their readers; this file only turns what pydantic and the JSON
parser complain about into one line that a person can act on. ``read_json`` takes a file whole; ``stream_list`` and
``stream_dict`` hold one record at a time, so memory does not grow with the file, and can go on after a bad record.
Beyond JSON itself, an object that repeats a key and half of a surrogate pair are errors: Python would keep the last
value of the one and could write the other to no file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, Strict, TypeAdapter, ValidationError

from xmtl_ray.events.json_window import Seen, Window, not_utf8, opened
from xmtl_ray.events.records import DataError, Report

T = TypeVar("T")
R = TypeVar("R")
K = TypeVar("K", int, str)

Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
"""A finite JSON number; no text, no truth value."""
Corners = tuple[Number, Number, Number, Number]
"""x0, y0, x1, y1 as a file has them."""


def positive(corners: Corners) -> Corners:
    """The corners of a box with an area; for pydantic, so what it raises tells what was expected."""
    x0, y0, x1, y1 = corners
    if not (x0 < x1 and y0 < y1):
        raise ValueError("x0, y0, x1, y1 with x1 > x0 and y1 > y0")
    return corners


PositiveCorners = Annotated[Corners, AfterValidator(positive)]
"""Corners of a box with an area."""


def read_text(path: Path) -> str:
    """The whole file as text; a missing file or broken UTF-8 is a DataError."""
    with opened(path) as file:
        try:
            return file.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise not_utf8(path, 0, error) from None


def read_json(path: Path, layout: TypeAdapter[T]) -> T:
    """Read ``path`` and check it against ``layout``.

    The first element of a failing location is taken as the record (list index or key), the rest as the field.
    Raises DataError.
    """
    return validated(path, (), parse_json(path), layout)


def parse_json(path: Path, on_repeated_key: Report | None = None) -> object:
    """The file's value. Raises DataError.

    An object with a key twice is an error; with ``on_repeated_key`` it is told there, and the later value is kept under
    the key with ``AGAIN`` behind it.
    """
    with opened(path) as file:
        text = Window(path, file, whole=True, on_repeated_key=on_repeated_key)
        value = text.value(None)
        text.end()
    if isinstance(value, DataError):
        raise value
    return value


def stream_list(
    path: Path, layout: TypeAdapter[T], make: Callable[[int, T], R], on_error: Report | None = None
) -> Iterator[R]:
    """What ``make(index, record)`` makes of the elements of a JSON list, or of JSON lines.

    Args:
        path: the file; one that begins with ``[`` is a list, another one value after the other.
        layout: of one element.
        make: may raise DataError.
        on_error: None raises the first DataError. Otherwise it is given the error of each bad record, which is left
            out; of JSON lines that may be a line that is no JSON. What breaks the file as a whole is raised all the
            same.

    Raises DataError.
    """
    for _, made in _stream(path, _elements, layout, make, on_error):
        if made is not None:
            yield made


def stream_dict(
    path: Path, layout: TypeAdapter[T], make: Callable[[str, T], R], on_error: Report | None = None
) -> Iterator[tuple[str, R | None]]:
    """(key, ``make(key, record)``) of each member of a JSON object, with None for what ``on_error`` was given.

    A key that comes again is an error, found by 64 bits of each key (16 to 24 bytes per record). See ``stream_list``.
    """
    yield from _stream(path, _members, layout, make, on_error)


def write_list(path: Path, rows: Iterable[object]) -> int:
    """Write a JSON list with one row per line, letters of all scripts as themselves; returns how many."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for count, row in enumerate(rows, start=1):
            line = json.dumps(row, ensure_ascii=False, allow_nan=False)
            file.write(("\n" if count == 1 else ",\n") + line)
        file.write("\n]\n")
    return count


def attempt(make: Callable[[], R], on_error: Report | None) -> R | None:
    """What ``make`` returns; its DataError is raised, or given to ``on_error`` and answered with None."""
    try:
        return make()
    except DataError as error:
        if on_error is None:
            raise
        on_error(error)
        return None


def _stream(
    path: Path,
    records: Callable[[Window], Iterator[tuple[K, object]]],
    layout: TypeAdapter[T],
    make: Callable[[K, T], R],
    on_error: Report | None,
) -> Iterator[tuple[K, R | None]]:
    def made(key: K, value: object) -> R:
        if isinstance(value, DataError):
            raise value
        return make(key, validated(path, (key,), value, layout))

    with opened(path) as file:
        for key, value in records(Window(path, file)):
            yield key, attempt(partial(made, key, value), on_error)


def validated(path: Path, place: tuple[int | str, ...], value: object, layout: TypeAdapter[T]) -> T:
    """``value``, which stands at ``place`` (record, then field) in the file, as ``layout`` says. Raises DataError."""
    try:
        return layout.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        record, *field = (*place, *first["loc"]) or (None,)
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        expected = first["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        raise DataError(path, record, ".".join(map(str, field)), first["input"], expected + more) from None


def _elements(text: Window) -> Iterator[tuple[int, object]]:
    if text.peek() == "[":
        index, sign = 0, text.take("[")
        if text.peek() == "]":
            sign = text.take("]")
        while sign != "]":
            yield index, text.value(index)
            index, sign = index + 1, text.take(",]")
        text.end()
        return
    index = 0
    while text.peek() or not index:
        try:
            value: object = text.value(index)
        except DataError as error:
            if not text.skip_line() and not index:
                raise
            value = error
        yield index, value
        index += 1


def _members(text: Window) -> Iterator[tuple[str, object]]:
    seen, sign = Seen(), text.take("{")
    if text.peek() == "}":
        sign = text.take("}")
    while sign != "}":
        key = text.value(None)
        if not isinstance(key, str):
            raise key if isinstance(key, DataError) else text.error(None, "a key in quotation marks")
        text.take(":")
        value = text.value(key)
        if seen.add(key):
            value = DataError(text.path, key, "", "the key again", "each key once")
        yield key, value
        sign = text.take(",}")
    text.end()
