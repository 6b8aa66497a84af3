"""Records as Parquet, and back: a column per field, so that other programs can filter and join them.

The columns follow from a record's class: text, numbers, truth values and paths as themselves, a record inside as a
struct, a tuple of many as a list, a pair as a struct of ``0`` and ``1``. The class's name stands in the file. The
surprising fact: only files that this module wrote are read, and by pyarrow alone; Ray's reader unpickles what a foreign
file tells it to.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import types
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from xmtl_ray.events.records import DataError

T = TypeVar("T")

_RECORD = b"xmtl_ray.record"
_ROWS = 2048


def write(path: Path, kind: type[T], records: Iterable[T]) -> int:
    """Write records of one class, some thousand in memory at a time; returns how many."""
    schema = pa.schema(_fields(kind), metadata={_RECORD: kind.__name__})
    count, rest = 0, iter(records)
    with pq.ParquetWriter(path, schema) as file:
        while rows := [_cell(record) for record in itertools.islice(rest, _ROWS)]:
            file.write_batch(pa.RecordBatch.from_pylist(rows, schema))
            count += len(rows)
    return count


def kind_of(path: Path, kinds: Iterable[type[T]]) -> type[T]:
    """Which of ``kinds`` a file that ``write`` made holds. Raises DataError for any other file."""
    known = {kind.__name__: kind for kind in kinds}
    with _opened(path) as file:
        found = (file.schema_arrow.metadata or {}).get(_RECORD, b"").decode(errors="replace")
        if found not in known or not file.schema_arrow.equals(pa.schema(_fields(known[found]))):
            raise DataError(path, None, "schema", found, f"records as written here, of one of {', '.join(known)}")
        return known[found]


def stream(path: Path, kind: type[T]) -> Iterator[T]:
    """The records of a file that ``write`` made of ``kind``. Raises DataError for any other file."""
    kind_of(path, (kind,))
    with _opened(path) as file:
        for batch in file.iter_batches(_ROWS):
            yield from (_value(row, kind) for row in batch.to_pylist())


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[pq.ParquetFile]:
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except FileNotFoundError:
        raise DataError(path, None, "file", "nothing", "an existing file") from None
    except DataError:
        raise
    # The last five: a column may say that it is of a type that Ray has told pyarrow of, and that it is not.
    except (pa.ArrowException, OSError, AttributeError, TypeError, ValueError, LookupError, EOFError) as error:
        raise DataError(path, None, "file", str(error), "a Parquet file") from None


@cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    return get_type_hints(kind)


def _fields(kind: type) -> list[pa.Field]:
    return [pa.field(name, _type(hint)) for name, hint in _hints(kind).items()]


_PLAIN = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_(), Path: pa.string()}


def _type(hint: Any) -> pa.DataType:
    """The column of a field; records have no others than these."""
    hint = _without_none(hint)
    if hint in _PLAIN:
        return _PLAIN[hint]
    if get_origin(hint) is Literal:
        return pa.string()
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        if inner[1:] == (...,):
            return pa.list_(_type(inner[0]))
        return pa.struct([pa.field(str(place), _type(each)) for place, each in enumerate(inner)])
    assert dataclasses.is_dataclass(hint), hint
    return pa.struct(_fields(hint))  # type: ignore[arg-type]


def _without_none(hint: Any) -> Any:
    if get_origin(hint) in {Union, types.UnionType}:
        (hint,) = (each for each in get_args(hint) if each is not type(None))
    return hint


def _cell(value: Any) -> Any:
    """A record as a dictionary of columns."""
    return {name: _plain(getattr(value, name), hint) for name, hint in _hints(value.__class__).items()}


def _plain(value: Any, hint: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        inner = get_args(_without_none(hint))
        if inner[1:] == (...,):
            return [_plain(each, inner[0]) for each in value]
        return {str(place): _plain(each, inner[place]) for place, each in enumerate(value)}
    return _cell(value) if dataclasses.is_dataclass(value) else value


def _value(value: Any, hint: Any) -> Any:
    """The reverse of ``_plain``."""
    hint = _without_none(hint)
    if value is None:
        return None
    if hint is Path:
        return Path(value)
    if get_origin(hint) is tuple:
        inner = get_args(hint)
        if inner[1:] == (...,):
            return tuple(_value(each, inner[0]) for each in value)
        return tuple(_value(value[str(place)], each) for place, each in enumerate(inner))
    if dataclasses.is_dataclass(hint):
        assert isinstance(hint, type)
        return hint(**{name: _value(value[name], each) for name, each in _hints(hint).items()})
    return value
