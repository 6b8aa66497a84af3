"""VOA news images with their captions: image-text pairs without gold, from three JSON files.

Captions (``voa_img_dataset.json``), the captions' words and named entities (``voa_text_entity.json``) and the images'
detected objects (``voa_image_entity.json``). The surprising fact: the two entity files were made only for captions
that are not empty and images that could be downloaded, so a caption without an entry in both is no pair.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

from xmtl_ray.data.ace05 import EntityMention, distinct_spans
from xmtl_ray.events.records import Box, DataError, DetectedObject, Entity, Image, Pair, Sentence
from xmtl_ray.events.strict_json import Number, PositiveCorners, read_json

log = logging.getLogger(__name__)

# No folder in a name: an image file cannot lie outside the images' folder.
_Name = Annotated[str, StringConstraints(pattern=r"^[^/\\]+$")]
_ImageName = Annotated[str, StringConstraints(pattern=r"^[^/\\]+\.jpg$")]


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
_CAPTIONS = TypeAdapter(dict[_Name, dict[_Name, _Caption]])
_TEXT = TypeAdapter(dict[str, _Words])
_OBJECTS = TypeAdapter(dict[_ImageName, list[_Detection]])


def read(captions: Path, text_entities: Path, image_entities: Path, images: Path) -> tuple[Pair, ...]:
    """The pairs that all three files know, in the order of ``captions``; the others are counted in one log line.

    A pair, its sentence and its image share the id ``<document>_<number>``; the image file is ``images/<id>.jpg``,
    whether it exists is not looked at. Words and spans are those of ``text_entities`` (the caption's own text differs:
    it was cleaned first). Detections of every confidence are kept. Raises DataError, also if no pair is left.
    """
    texts = read_json(text_entities, _TEXT)
    objects = read_objects(image_entities)
    ids = [f"{document}_{number}" for document, own in read_json(captions, _CAPTIONS).items() for number in own]
    pairs = []
    for name in ids:
        if name in texts and name in objects:
            sentence = _sentence(text_entities, name, texts[name])
            pairs.append(Pair(name, sentence, Image(name, images / f"{name}.jpg", objects=objects[name])))
    if ids and not pairs:
        raise DataError(text_entities, None, "keys", list(texts)[:1], f"captions of {captions}, e.g. {ids[0]!r}")
    log.info("%s: %d pairs of %d captions; the others lack words or detections", captions, len(pairs), len(ids))
    return tuple(pairs)


def _sentence(file: Path, name: str, row: _Words) -> Sentence:
    for number, entity in enumerate(row.entities):
        if not 0 <= entity.start < entity.end <= len(row.words):
            expected = f"0 <= start < end <= {len(row.words)}, the number of words"
            raise DataError(file, name, f"golden-entity-mentions.{number}", [entity.start, entity.end], expected)
    entities = distinct_spans(Entity(mention.span, mention.type) for mention in row.entities)
    return Sentence(name, tuple(row.words), entities)


def read_objects(path: Path) -> dict[str, tuple[DetectedObject, ...]]:
    """Detections by image id (the file's keys without ``.jpg``) of a file in ``voa_image_entity.json``'s layout.

    Every confidence is kept: which are used is a setting. Raises DataError.
    """
    return {
        name.removesuffix(".jpg"): tuple(DetectedObject(Box(*corners), label, sure) for corners, sure, label in found)
        for name, found in read_json(path, _OBJECTS).items()
    }
