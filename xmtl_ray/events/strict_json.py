"""JSON from a file into typed values, or a DataError that says file, record, field, found and expected.

Formats are described as pydantic models beside their readers; this file only turns what pydantic and the JSON
parser complain about into one line that a person can act on. ``read_json`` takes a file whole; ``stream_list`` and
``stream_dict`` hold one record at a time, so memory does not grow with the file, and can go on after a bad record.
Beyond JSON itself, an object that repeats a key and half of a surrogate pair are errors: Python would keep the last
value of the one and could write the other to no file.

The surprising fact: the parser is Python's own on a window of the text. ijson, made for this, builds the path of every
value (five gigabytes for 100 000 brackets) and turns half a surrogate pair into a question mark.
"""

from __future__ import annotations

import codecs
import json
import re
from array import array
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from io import BufferedReader
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, Strict, TypeAdapter, ValidationError

from xmtl_ray.events.records import DataError

T = TypeVar("T")
R = TypeVar("R")
K = TypeVar("K", int, str)

Report = Callable[[DataError], None]
"""What a lenient reader does with a bad record before it goes on without it."""

Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
"""A finite JSON number; no text, no truth value."""
Corners = tuple[Number, Number, Number, Number]
"""x0, y0, x1, y1 as a file has them."""

AGAIN = "\0again"
"""Set behind a key that its object has already."""

RECORD_MIB = 16
"""The largest record that is streamed, in mebi-characters: what bounds the memory for a file that never ends one."""


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
    with _opened(path) as file:
        try:
            return file.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise _not_utf8(path, 0, error) from None


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
    with _opened(path) as file:
        text = _Text(path, file, whole=True, on_repeated_key=on_repeated_key)
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
    records: Callable[[_Text], Iterator[tuple[K, object]]],
    layout: TypeAdapter[T],
    make: Callable[[K, T], R],
    on_error: Report | None,
) -> Iterator[tuple[K, R | None]]:
    def made(key: K, value: object) -> R:
        if isinstance(value, DataError):
            raise value
        return make(key, validated(path, (key,), value, layout))

    with _opened(path) as file:
        for key, value in records(_Text(path, file)):
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


def _elements(text: _Text) -> Iterator[tuple[int, object]]:
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


def _members(text: _Text) -> Iterator[tuple[str, object]]:
    seen, sign = _Seen(), text.take("{")
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


class _Text:
    """A file's text in a window: what was read is forgotten, what is needed is read."""

    def __init__(
        self, path: Path, file: BufferedReader, whole: bool = False, on_repeated_key: Report | None = None
    ) -> None:
        self.path = path
        self._on_repeated_key = on_repeated_key
        self._file = file
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._window = ""
        self._position = 0
        self._whole = whole
        self._bytes = self._lines = self._columns = 0
        self._ended = False
        self._repeated: list[str] = []
        self._json = json.JSONDecoder(object_pairs_hook=self._object)
        if self.peek() == "\ufeff":
            raise DataError(path, None, "byte 0", "a byte order mark", "UTF-8 without one")

    def peek(self) -> str:
        """The next character that is not white space, empty at the end."""
        while True:
            match = _SPACE.match(self._window, self._position)
            assert match is not None
            self._position = match.end()
            if self._position < len(self._window):
                return self._window[self._position]
            if not self._fill():
                return ""

    def take(self, signs: str) -> str:
        """The next character, which is one of ``signs``."""
        sign = self.peek()
        if not sign or sign not in signs:
            raise self.error(None, "JSON (" + " or ".join(signs) + ")")
        self._position += 1
        return sign

    def end(self) -> None:
        """Nothing but white space is left."""
        if self.peek():
            raise self.error(None, "JSON (nothing after its end)")

    def value(self, record: object) -> object:
        """The next JSON value; a DataError is *returned* where the value is bad and the text behind it is not."""
        self.peek()
        while True:
            self._repeated.clear()
            try:
                value, end = self._json.raw_decode(self._window, self._position)
            except json.JSONDecodeError as error:
                cut_off = error.msg.startswith("Unterminated") or error.pos > len(self._window) - _LONGEST_TOKEN
                if cut_off and self._fill(record):
                    continue
                raise self.error(record, f"JSON ({error.msg})", error.pos) from None
            except RecursionError:
                raise DataError(self.path, record, "nesting", "too deep", "JSON of ordinary depth") from None
            except ValueError as error:
                raise self.error(record, f"JSON ({error})") from None
            if end + len("e+") >= len(self._window) and self._fill(record):
                continue  # a number may go on
            start, self._position = self._position, end
            if self._repeated:
                return DataError(self.path, record, self._repeated[0], "the key again", "each key once")
            if _halved(value, self._window, start, end):
                return DataError(self.path, record, "text", "half of a surrogate pair", "text that UTF-8 can write")
            return value

    def skip_line(self) -> bool:
        """Go behind the end of this line; False where the file ends first."""
        while (found := self._window.find("\n", self._position)) < 0:
            self._position = len(self._window)
            if not self._fill():
                return False
        self._position = found + 1
        return True

    def error(self, record: object, expected: str, place: int | None = None) -> DataError:
        """What stands at ``place``, by default the present position, is not what was expected."""
        place = self._position if place is None else place
        line = self._window.count("\n", 0, place)
        column = place - self._window.rfind("\n", 0, place) if line else self._columns + place + 1
        found = self._window[max(0, place - 20) : place + 20]
        return DataError(self.path, record, f"line {self._lines + line + 1} column {column}", found, expected)

    def _fill(self, record: object = None) -> bool:
        """More of the file in the window, without what lies before the position; False at the end."""
        if self._ended:
            return False
        kept = self._window[self._position :]
        if not self._whole and len(kept) > RECORD_MIB << 20:
            raise DataError(self.path, record, "", f"more than {RECORD_MIB} MiB", "a smaller record")
        data = self._file.read(-1 if self._whole else max(_CHUNK, len(kept)))
        self._ended = not data or self._whole
        try:
            new = self._decoder.decode(data, final=self._ended)
        except UnicodeDecodeError as error:
            raise _not_utf8(self.path, self._bytes + len(data) - len(error.object), error) from None
        self._bytes += len(data)
        if self._ended and not new:
            return False
        gone = self._window.count("\n", 0, self._position)
        self._lines += gone
        before = self._position - self._window.rfind("\n", 0, self._position) - 1
        self._columns = before if gone else self._columns + self._position
        self._window, self._position = kept + new, 0
        return True

    def _object(self, pairs: list[tuple[str, object]]) -> dict[str, object]:
        value = dict(pairs)
        if len(value) == len(pairs):
            return value
        keys = [key for key, _ in pairs]
        key = next(key for key in keys if keys.count(key) > 1)
        if self._on_repeated_key is None:
            self._repeated.append(key)
            return value
        self._on_repeated_key(DataError(self.path, None, key, "the key again", "each key once"))
        value = {}
        for key, item in pairs:
            while key in value:
                key += AGAIN  # noqa: PLW2901
            value[key] = item
        return value


_SPACE = re.compile(r"[ \t\n\r]*")
_CHUNK = 1 << 18
_LONGEST_TOKEN = len(r"\ud83d\ude00") + len("-Infinity")
"""An error this near to the window's end may be one of a token that the window cuts."""


def _halved(value: object, window: str, start: int, end: int) -> bool:
    r"""Whether the value holds half of a pair, which only an escape ``\ud8..`` can have written."""
    if window.find(r"\ud", start, end) < 0 and window.find(r"\uD", start, end) < 0:
        return False
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return True
    return False


class _Seen:
    """Which keys were met, by the 64 bits of their hash in an open table; two of a million agree with 1 : 10^7."""

    def __init__(self) -> None:
        self._table = array("q", [0]) * 1024
        self._count = 0

    def add(self, key: str) -> bool:
        """Remember ``key``; True if it was there."""
        if 3 * self._count > 2 * len(self._table):
            old, self._table, self._count = self._table, array("q", [0]) * (2 * len(self._table)), 0
            for mark in filter(None, old):
                self._insert(mark)
        return self._insert(hash(key) or 1)

    def _insert(self, mark: int) -> bool:
        mask = len(self._table) - 1
        slot = mark & mask
        while self._table[slot]:
            if self._table[slot] == mark:
                return True
            slot = (slot + 1) & mask
        self._table[slot] = mark
        self._count += 1
        return False


def _opened(path: Path) -> BufferedReader:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise DataError(path, None, "file", "nothing", "an existing file") from None
    except IsADirectoryError:
        raise DataError(path, None, "file", "a folder", "a file") from None
    except (OSError, ValueError) as error:
        raise DataError(path, None, "file", str(error), "a file that can be opened") from None


def _not_utf8(path: Path, base: int, error: UnicodeDecodeError) -> DataError:
    return DataError(path, None, f"byte {base + error.start}", error.object[error.start : error.end], "UTF-8")
