"""JSON from a file into a typed value, or a DataError that says file, record, field, found and expected.

Formats are described as pydantic models beside their readers; this file only turns what pydantic and the JSON
parser complain about into one line that a person can act on.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, Field, Strict, TypeAdapter, ValidationError

from xmtl_ray.events.records import DataError

T = TypeVar("T")

AGAIN = "\0again"
"""Set behind a key that stands in an object already."""

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
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DataError(path, None, "file", "nothing", "an existing file") from None
    except IsADirectoryError:
        raise DataError(path, None, "file", "a folder", "a file") from None
    except UnicodeDecodeError as error:
        raise DataError(path, None, f"byte {error.start}", error.object[error.start : error.end], "UTF-8") from None


def read_json(path: Path, layout: TypeAdapter[T]) -> T:
    """Read ``path`` and check it against ``layout``. Raises DataError."""
    return validated(path, parse_json(path), layout)


def parse_json(path: Path, on_repeated_key: Callable[[DataError], None] | None = None) -> object:
    """The file's JSON value. Raises DataError.

    An object that has a key twice is an error; with ``on_repeated_key`` it is told there, and the later value is kept
    under the key with ``AGAIN`` behind it.
    """
    text = read_text(path)

    def once(pairs: list[tuple[str, object]]) -> dict[str, object]:
        items = dict(pairs)
        if len(items) == len(pairs):
            return items
        items = {}
        for key, value in pairs:
            place = key
            if key in items:
                error = DataError(path, None, key, "the key again", "each key once in an object")
                if on_repeated_key is None:
                    raise error
                on_repeated_key(error)
                while place in items:
                    place += AGAIN
            items[place] = value
        return items

    try:
        value: object = json.loads(text, object_pairs_hook=once)
    except json.JSONDecodeError as error:
        found = text[max(0, error.pos - 20) : error.pos + 20]
        raise DataError(path, None, f"line {error.lineno} column {error.colno}", found, f"JSON ({error.msg})") from None
    except RecursionError:
        raise DataError(path, None, "nesting", "too deep", "JSON of ordinary depth") from None
    return value


def validated(path: Path, value: object, layout: TypeAdapter[T], record: object = None) -> T:
    """``value`` of the file ``path`` as ``layout`` says.

    Where ``record`` is not given, the first element of a failing location is taken as the record (list index or key).
    The rest is the field. Raises DataError.
    """
    try:
        return layout.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = list(first["loc"])
        if record is None and field:
            record = field.pop(0)
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        raise DataError(
            path, record, ".".join(map(str, field)), first["input"], _expected(first["msg"]) + more
        ) from None


def _expected(message: str) -> str:
    return message.removeprefix("Input should be ").removeprefix("Value error, ")
