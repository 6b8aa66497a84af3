"""Detected objects: what a detector is, the store that keeps what it found, and one reader for three layouts.

A store is a folder. Detections lie in it by what they depend on alone, the image's content and the detector, so
nothing is detected twice and a shard once written is never changed; a list of images says which content each image id
had when the folder was last filled. All confidences from ``FLOOR`` on are kept: how sure a detection must be is a
filter over the store, not another run.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol

import pyarrow as pa
import pyarrow.parquet as pq
from PIL.Image import Image as Picture
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from xmtl_ray.data import voa
from xmtl_ray.events.records import Box, DataError, DetectedObject
from xmtl_ray.events.strict_json import Number, PositiveCorners, read_json, stream_dict

FLOOR = 0.05
"""Least confidence of a detection that is kept."""

SUMMARY = "objects.json"
"""Written last: a folder that has it is a store."""
QUARANTINE = "quarantine.jsonl"
"""Images without detections, one JSON object a line: image, reason."""
_IMAGES = "images.parquet"
_VERSION = "objects-1"


class Detector(Protocol):
    """Finds objects in pictures."""

    hash: str
    """Of the weights and of every setting that changes what is found."""

    def __call__(self, pictures: Sequence[Picture]) -> tuple[tuple[DetectedObject, ...], ...]:
        """For each RGB picture its objects of at least ``FLOOR`` confidence, in pixels of the picture, surest first."""
        ...


@dataclass(frozen=True)
class Detected:
    """What one image content gave: objects, or the reason why it could not be read. ``sha256`` is of its bytes."""

    sha256: str
    objects: tuple[DetectedObject, ...] = ()
    reason: str | None = None


_OBJECT = pa.struct(
    [
        *((corner, pa.float64()) for corner in ("x0", "y0", "x1", "y1")),
        ("label", pa.string()),
        ("confidence", pa.float64()),
    ]
)
_SHARD = pa.schema([("sha256", pa.string()), ("objects", pa.list_(_OBJECT)), ("reason", pa.string())])
_LISTING = pa.schema([("id", pa.string()), ("sha256", pa.string())])


def shard_path(store: Path, detector: str, contents: Iterable[str]) -> Path:
    """The file of what ``detector`` (its hash) found in images of these ``contents`` (sha256), and in no others."""
    key = hashlib.sha256("\n".join(sorted(contents)).encode()).hexdigest()
    return store / "detections" / detector / f"{key}.parquet"


def commit(store: Path, detector: str, found: Sequence[Detected]) -> Path:
    """Write one shard, whole or not at all; written again it is the same file. Returns its path."""
    path = shard_path(store, detector, (each.sha256 for each in found))
    rows = [
        {
            "sha256": each.sha256,
            "objects": [
                {
                    **{corner: getattr(item.box, corner) for corner in ("x0", "y0", "x1", "y1")},
                    "label": item.label,
                    "confidence": item.confidence,
                }
                for item in each.objects
            ],
            "reason": each.reason,
        }
        for each in found
    ]
    write_whole(path, lambda file: pq.write_table(pa.Table.from_pylist(rows, _SHARD), file))
    return path


def known(store: Path, detector: str) -> dict[str, str | None]:
    """Contents that ``detector`` has seen, each with the reason why it could not be read. Raises DataError."""
    found: dict[str, str | None] = {}
    for table in _shards(store, detector, ["sha256", "reason"]):
        found.update(zip(table["sha256"].to_pylist(), table["reason"].to_pylist(), strict=True))
    return found


def seal(store: Path, detector: str, name: str, contents: Mapping[str, str], refused: Mapping[str, str]) -> None:
    """Say what the store holds now.

    Args:
        store: the folder.
        detector: hash of the detector that has seen all of ``contents``.
        name: what the user called it.
        contents: image id → sha256 of each image that has detections. Ids of an earlier run stay unless named again.
        refused: file → why it has none.
    """
    listed = {**(_listing(store) if (store / SUMMARY).exists() else {}), **contents}
    table = pa.Table.from_pylist([{"id": key, "sha256": value} for key, value in sorted(listed.items())], _LISTING)
    write_whole(store / _IMAGES, lambda file: pq.write_table(table, file))
    lines = "".join(json.dumps({"image": key, "reason": value}) + "\n" for key, value in sorted(refused.items()))
    write_whole(store / QUARANTINE, lambda file: file.write_text(lines, encoding="utf-8"))
    digest = hashlib.sha256("".join(f"{key} {value}\n" for key, value in sorted(listed.items())).encode()).hexdigest()
    summary = {"version": _VERSION, "name": name, "detector": detector, "images": len(listed), "contents": digest}
    write_whole(store / SUMMARY, lambda file: file.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8"))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a file beside ``path``, bring it to the disk and give it its name in one step.

    Raises DataError where there is no room; what was written of it is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{path.name}.{uuid.uuid4().hex}.part"
    try:
        write(temporary)
        _to_disk(temporary)
        temporary.replace(path)
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise
        written = temporary.stat().st_size if temporary.exists() else 0
        found = f"{os.strerror(error.errno)} after {written} bytes"
        expected = "room for it; what was written is removed: make room and give the same command again"
        raise DataError(path, None, "file", found, expected) from None
    finally:
        temporary.unlink(missing_ok=True)
    _to_disk(path.parent)


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class _Summary(BaseModel):
    model_config = ConfigDict(frozen=True)

    version: str
    detector: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class _Detection(BaseModel):
    """Layout of the published detections of MMUTF's authors, as JSON."""

    model_config = ConfigDict(frozen=True)

    label: str = Field(alias="class")
    confidence: Annotated[Number, Field(ge=0, le=1, alias="conf")]
    box: PositiveCorners


_MMUTF = TypeAdapter(list[_Detection])


def read(path: Path, confidence: float = 0.0) -> dict[str, tuple[DetectedObject, ...]]:
    """Detections by image id, those of at least ``confidence``.

    Args:
        path: a store; a JSON file in the layout of VOA's ``voa_image_entity.json``; or one of
            ``{image id: [{"class", "conf", "box"}]}``.
        confidence: 0 keeps all.

    An image in which nothing was found is there, one that could not be read is not. Raises DataError.
    """
    if path.is_dir():
        found = _read_store(path)
    elif _first_record(path) == "{":
        found = {
            name: objects
            for name, objects in stream_dict(path, _MMUTF, lambda _, rows: tuple(map(_object, rows)))
            if objects is not None
        }
    else:
        found = voa.read_objects(path)
    if confidence <= 0:
        return found
    return {name: tuple(item for item in own if item.confidence >= confidence) for name, own in found.items()}


def write_voa(path: Path, found: Mapping[str, Sequence[DetectedObject]]) -> None:
    """Write detections in the layout of VOA's ``voa_image_entity.json``."""
    body = {
        f"{name}.jpg": [
            [[item.box.x0, item.box.y0, item.box.x1, item.box.y1], item.confidence, item.label] for item in own
        ]
        for name, own in found.items()
    }
    write_whole(path, lambda file: file.write_text(json.dumps(body) + "\n", encoding="utf-8"))


def read_contents(store: Path) -> dict[str, tuple[DetectedObject, ...]]:
    """What the detector that filled a store last has found, by the sha256 of each image's bytes. Raises DataError."""
    if not (store / SUMMARY).exists():
        raise DataError(store, None, "folder", "no " + SUMMARY, "what `xmtl data objects` has written to its end")
    return {
        row["sha256"]: tuple(
            DetectedObject(Box(item["x0"], item["y0"], item["x1"], item["y1"]), item["label"], item["confidence"])
            for item in row["objects"]
        )
        for table in _shards(store, _summary(store).detector, _SHARD.names)
        for row in table.to_pylist()
        if row["reason"] is None
    }


def _read_store(store: Path) -> dict[str, tuple[DetectedObject, ...]]:
    by_content, contents = read_contents(store), _listing(store)
    missing = [name for name, content in contents.items() if content not in by_content]
    if missing:
        raise DataError(store, missing[0], "detections", "none", f"those of {len(contents)} images; detect again")
    return {name: by_content[content] for name, content in contents.items()}


def _summary(store: Path) -> _Summary:
    summary = read_json(store / SUMMARY, TypeAdapter(_Summary))
    if summary.version != _VERSION:
        raise DataError(store / SUMMARY, None, "version", summary.version, _VERSION)
    return summary


def _listing(store: Path) -> dict[str, str]:
    table = _table(store / _IMAGES, _LISTING.names)
    return dict(zip(table["id"].to_pylist(), table["sha256"].to_pylist(), strict=True))


def _shards(store: Path, detector: str, columns: list[str]) -> Iterable[pa.Table]:
    # sorted, so that of two shards with one image the same is read each time
    for path in sorted((store / "detections" / detector).glob("*.parquet")):
        yield _table(path, columns)


def _table(path: Path, columns: list[str]) -> pa.Table:
    try:
        file = pq.ParquetFile(path)
        if missing := set(columns) - set(file.schema_arrow.names):
            raise DataError(path, None, "columns", sorted(missing), "to be there")
        return file.read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise DataError(path, None, "file", str(error), f"Parquet with columns {columns}") from None


def _object(row: _Detection) -> DetectedObject:
    return DetectedObject(Box(*row.box), row.label, row.confidence)


def _first_record(path: Path) -> str:
    """The sign with which the first detection of a JSON file begins: ``[`` in VOA's layout."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            first = re.search(r"\[\s*([\[{])", file.read(1 << 20))
    except OSError:
        return "["  # the reader of that layout says what is wrong
    return first[1] if first else "["
