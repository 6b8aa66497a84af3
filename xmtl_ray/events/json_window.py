"""The text of a JSON file in a window, from which values are taken one by one; all that is wrong is a DataError.

The surprising fact: the parser is Python's own, tried again with more text where the window cuts a value. ijson, made
for this, builds the path of every value (five gigabytes for 100 000 brackets) and turns half a surrogate pair into a
question mark.
"""

from __future__ import annotations

import codecs
import json
import re
from array import array
from io import BufferedReader
from pathlib import Path

from xmtl_ray.events.records import DataError, Report

AGAIN = "\0again"
"""Set behind a key that its object has already."""

RECORD_MIB = 16
"""The largest record that is streamed, in mebi-characters: what bounds the memory for a file that never ends one."""


class Window:
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
            raise not_utf8(self.path, self._bytes + len(data) - len(error.object), error) from None
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


class Seen:
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


def opened(path: Path) -> BufferedReader:
    """The file to read bytes from. Raises DataError where there is none."""
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise DataError(path, None, "file", "nothing", "an existing file") from None
    except IsADirectoryError:
        raise DataError(path, None, "file", "a folder", "a file") from None
    except (OSError, ValueError) as error:
        raise DataError(path, None, "file", str(error), "a file that can be opened") from None


def not_utf8(path: Path, base: int, error: UnicodeDecodeError) -> DataError:
    """The error for bytes that are no text; ``base`` is where the decoder began."""
    return DataError(path, None, f"byte {base + error.start}", error.object[error.start : error.end], "UTF-8")
