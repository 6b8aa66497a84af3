"""VOA news images with their captions: image-text pairs without gold, from three JSON files.

Captions (``voa_img_dataset.json``), the captions' words and named entities (``voa_text_entity.json``) and the images'
detected objects (``voa_image_entity.json``). The surprising fact: the two entity files were made only for captions
that are not empty and images that could be downloaded, so a caption without an entry in both is no pair.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

from xmtl_ray.data.ace05 import distinct_spans
from xmtl_ray.data.ace_layouts import EntityMention
from xmtl_ray.data.joined import join
from xmtl_ray.data.media_paths import inside
from xmtl_ray.events.records import Box, DataError, DetectedObject, Entity, Image, Pair, Report, Sentence
from xmtl_ray.events.strict_json import Number, PositiveCorners, attempt, stream_dict

log = logging.getLogger(__name__)

# No folder in a name: an image file cannot lie outside the images' folder.
_Name = Annotated[str, StringConstraints(pattern=r"^[^/\\]+$")]


class _Caption(BaseModel):
    model_config = ConfigDict(frozen=True)

    cap: str


class _Words(BaseModel):
    model_config = ConfigDict(frozen=True)

    words: list[str]
    entities: list[EntityMention] = Field(alias="golden-entity-mentions")


_Detection = tuple[
    PositiveCorners,
    Annotated[Number, Field(ge=0, le=1)],
    str,
]
_CAPTIONS = TypeAdapter(dict[_Name, _Caption])
_TEXT = TypeAdapter(_Words)
_OBJECTS = TypeAdapter(list[_Detection])


def read(
    captions: Path, text_entities: Path, image_entities: Path, images: Path, on_error: Report | None = None
) -> tuple[Pair, ...]:
    """All pairs of three files; see ``stream``."""
    return tuple(stream(captions, text_entities, image_entities, images, on_error))


def stream(
    captions: Path, text_entities: Path, image_entities: Path, images: Path, on_error: Report | None = None
) -> Iterator[Pair]:
    """The pairs that all three files know; the other captions are counted in one log line.

    A pair, its sentence and its image share the id ``<document>_<number>``; the image file is ``images/<id>.jpg``,
    whether it exists is not looked at. Words and spans are those of ``text_entities`` (the caption's own text differs:
    it was cleaned first). Detections of every confidence are kept. The order is that of ``captions`` as far as the
    other files have the same one (see ``join``). With ``on_error`` a bad record is reported there and its pair left
    out. Raises DataError, also if no pair is left.
    """
    count, first, stray = 0, "", ""

    def ids() -> Iterator[tuple[str, str]]:
        nonlocal count, first
        for document, own in stream_dict(captions, _CAPTIONS, lambda _, own: own, on_error):
            for number in own or ():
                count, first = count + 1, first or f"{document}_{number}"
                yield f"{document}_{number}", document

    def captioned() -> Iterator[tuple[str, Sentence]]:
        nonlocal stray
        texts = stream_dict(text_entities, _TEXT, lambda name, row: _sentence(text_entities, name, row), on_error)
        for name, document, sentence in join(ids(), texts):
            if document is None:
                stray = stray or name
            elif sentence is not None:
                yield name, sentence

    def pair(name: str, sentence: Sentence, objects: tuple[DetectedObject, ...]) -> Pair:
        path = inside(images, f"{name}.jpg", captions, name, "image name")
        return Pair(name, sentence, Image(name, path, objects=objects))

    pairs = 0
    for name, sentence, objects in join(captioned(), stream_objects(image_entities, on_error)):
        if sentence is not None and objects is not None:
            made = attempt(partial(pair, name, sentence, objects), on_error)
            if made is not None:
                pairs += 1
                yield made
    if count and not pairs and on_error is None:
        raise DataError(
            text_entities, None, "keys", [stray] if stray else [], f"captions of {captions}, e.g. {first!r}"
        )
    log.info("%s: %d pairs of %d captions; the others lack words or detections", captions, pairs, count)


def _sentence(file: Path, name: str, row: _Words) -> Sentence:
    for number, entity in enumerate(row.entities):
        entity.check(file, name, f"golden-entity-mentions.{number}", row.words)
    entities = distinct_spans(Entity(mention.span, mention.type) for mention in row.entities)
    return Sentence(name, tuple(row.words), entities)


def stream_objects(
    path: Path, on_error: Report | None = None
) -> Iterator[tuple[str, tuple[DetectedObject, ...] | None]]:
    """(image id, its detections) of a file in ``voa_image_entity.json``'s layout; ids are its keys without ``.jpg``.

    Every confidence is kept: which are used is a setting. None stands for what was given to ``on_error``. Raises
    DataError.
    """

    def detections(name: str, found: list[_Detection]) -> tuple[DetectedObject, ...]:
        if not name.endswith(".jpg") or "/" in name or "\\" in name:
            raise DataError(path, name, "[key]", name, "a name in no folder that ends in .jpg")
        return tuple(DetectedObject(Box(*corners), label, sure) for corners, sure, label in found)

    for name, objects in stream_dict(path, _OBJECTS, detections, on_error):
        yield name.removesuffix(".jpg"), objects


def read_objects(path: Path) -> dict[str, tuple[DetectedObject, ...]]:
    """All detections by image id; see ``stream_objects``."""
    return {name: objects for name, objects in stream_objects(path) if objects is not None}
