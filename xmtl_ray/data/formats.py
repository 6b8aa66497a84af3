"""Every source of records behind one door: its format by name or by its content, and a stream of its records.

The surprising fact: a JSON file is recognised by the keys of its first record, never by its name; only the files that
belong to it are looked for by name.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import TypeAdapter

from xmtl_ray.data import ace05, audit, imsitu, label_studio, m2e2, parquet, videollama2, voa
from xmtl_ray.data.ace_layouts import Layout, layout_of
from xmtl_ray.data.format_names import Format
from xmtl_ray.events import predictions
from xmtl_ray.events.records import Annotation, Conversation, DataError, Document, Pair, Report, Sentence, Situation
from xmtl_ray.events.strict_json import stream_dict, stream_list

Record = Sentence | Situation | Pair | Document | Conversation | Annotation | predictions.Predictions
_KINDS: tuple[type[Record], ...] = (Sentence, Situation, Pair, Document, Conversation, Annotation)


@dataclass(frozen=True)
class Source:
    """An opened source. ``kind`` is the class of its ``records``, which are read once, as they are asked for."""

    path: Path
    format: Format
    kind: type[Record]
    records: Iterator[Record]


def open_source(
    path: Path,
    format: Format | None = None,
    on_error: Report | None = None,
    images: Path | None = None,
    boxes: Path | None = None,
    space: Path | None = None,
    objects: Path | None = None,
) -> Source:
    """The records of a file or folder.

    Args:
        path: a file (imSitu: its annotations); for VOA and M2E2 the folder of their files.
        format: default the one that the content has.
        on_error: see ``strict_json.stream_list``; ignored by formats whose file is one record.
        images: folder of the image files; default ``images`` beside an imSitu file or in VOA's folder, ``image`` in
            M2E2's.
        boxes: SWiG's file of an imSitu file; default ``swig/`` beside it, the same name.
        space: imsitu_space.json; default the one beside an imSitu file, if any.
        objects: detections of M2E2's images.

    Records are read when they are asked for, and so are most errors raised. Raises DataError where there is nothing or
    its format cannot be told.
    """
    if not path.exists():
        raise DataError(path, None, "source", "nothing", "a file or folder")
    format = format or recognise(path)
    kind: type[Record]
    records: Iterator[Record]
    match format:
        case Format.JMEE | Format.ONEIE | Format.TEXTEE | Format.DYGIEPP:
            kind, records = Sentence, ace05.stream(path, layout=cast(Layout, format.value), on_error=on_error)
        case Format.IMSITU:
            beside = path.parent / "imsitu_space.json"
            space = space or (beside if beside.is_file() else None)
            boxes, images = boxes or path.parent / "swig" / path.name, images or path.parent / "images"
            kind, records = Situation, imsitu.stream(path, boxes, images, space, on_error)
        case Format.VOA:
            captions, words, detections = (
                next(iter(sorted(path.glob(f"*{name}.json"))), path / f"voa_{name}.json") for name in _VOA
            )
            kind, records = Pair, voa.stream(captions, words, detections, images or _images_in(path), on_error)
        case Format.M2E2:
            kind, records = Document, (each for _ in "1" for each in m2e2.read(path, images, objects, on_error))
        case Format.VIDEOLLAMA2:
            kind, records = Conversation, videollama2.stream(path, on_error)
        case Format.LABEL_STUDIO:
            kind, records = Annotation, label_studio.stream(path, on_error=on_error)
        case Format.PREDICTIONS:
            kind, records = predictions.Predictions, (predictions.read(each) for each in (path,))
        case Format.PARQUET:
            kind = parquet.kind_of(path, _KINDS)
            records = parquet.stream(path, kind)
    return Source(path, format, kind, records)


def _images_in(folder: Path) -> Path:
    """``images`` or, as M2E2 has it, ``image``."""
    return folder / ("images" if (folder / "images").is_dir() else "image")


_VOA = ("img_dataset", "text_entity", "image_entity")


def recognise(path: Path) -> Format:
    """The format of a file or folder, by its content. Raises DataError that lists the formats where none fits."""
    formats = ", ".join(format.value for format in Format)
    expected = f"the content of one of {formats}, or its name given"
    if path.is_dir():
        if (path / "text_only_event.json").is_file():
            return Format.M2E2
        if all(any(path.glob(f"*{name}.json")) for name in _VOA):
            return Format.VOA
        raise DataError(path, None, "format", sorted(each.name for each in path.iterdir())[:8], expected)
    with path.open("rb") as file:
        if file.read(4) == b"PAR1":
            return Format.PARQUET
    keys = _first_keys(path)
    if layout := layout_of(keys):
        return Format(layout)
    for format, own in _KEYS.items():
        if own & keys:
            return format
    raise DataError(path, None, "format", sorted(keys)[:8], expected)


_KEYS = {
    Format.VIDEOLLAMA2: {"conversations"},
    Format.LABEL_STUDIO: {"annotations", "predictions", "completed_by"},
    Format.IMSITU: {"frames"},
    Format.PREDICTIONS: {"format"},
}
"""A key that no other format's records have; of an object of records, those of the first one count."""
_OBJECT, _ANY = TypeAdapter(dict[str, Any]), TypeAdapter(Any)


def _first_keys(path: Path) -> set[str]:
    try:
        members = itertools.islice(stream_dict(path, _ANY, lambda _, value: [value]), 16)
        first = next(members, None)
        if first is not None and first[1] is not None and isinstance(first[1][0], dict):
            return set(first[1][0])
        keys = set() if first is None else {first[0]}
        for key, _ in members:
            keys.add(key)
    except DataError:  # a list, or JSON lines, whose second line is what is wrong with an object
        errors = list[DataError]()
        found = next(stream_list(path, _OBJECT, lambda _, record: set(record), errors.append), None)
        if found is None and errors:  # not one record can be read: that is what is wrong, not the format
            raise errors[0] from None
        return found or set()
    return keys


def audit_source(
    path: Path,
    format: Format | None = None,
    images: Path | None = None,
    boxes: Path | None = None,
    objects: Path | None = None,
    media: Path | None = None,
) -> audit.Source:
    """The same for ``audit``: what is bad is told to it, also where it ends the file. Arguments as above."""
    errors: list[DataError] = []

    def records() -> Iterator[audit.Record]:
        try:
            opened = open_source(path, format, errors.append, images, boxes, objects=objects)
            if opened.kind is predictions.Predictions:
                raise DataError(path, None, "format", opened.format.value, "data; `xmtl evaluate m2e2` reads this")
            yield from cast(Iterator[audit.Record], opened.records)
        except DataError as error:
            errors.append(error)

    return audit.Source(str(path), records(), errors, media or (path if path.is_dir() else path.parent))
