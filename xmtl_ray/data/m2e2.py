"""M2E2: news documents with events in text, in images and in both (Li et al., ACL 2020), from its five files.

The text files have the JMEE layout. The surprising fact: some sentences (38 in the whole benchmark) stand in both
text files with different events; they are one sentence with the union. Another: every ``sentence`` text lacks its last
character, so only ``words`` is read; the text beside each span is compared with them (see ``ace_layouts``).
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

from xmtl_ray.data import objects as object_files
from xmtl_ray.data.ace05 import distinct_spans, union
from xmtl_ray.data.ace_layouts import JmeeSentence
from xmtl_ray.events.ontology import m2e2
from xmtl_ray.events.records import (
    Box,
    DataError,
    Document,
    Entity,
    Image,
    MultimediaEvent,
    Report,
    Sentence,
    TextArgument,
    TextEvent,
    VisualArgument,
    VisualEvent,
    document_id,
)
from xmtl_ray.events.strict_json import (
    Number,
    attempt,
    positive,
    read_text,
    stream_dict,
    stream_list,
    validated,
)

log = logging.getLogger(__name__)

# Document, underscore, number; no folder in it: an image file cannot lie outside the images' folder.
_Id = Annotated[str, StringConstraints(pattern=r"^[^/\\]+_\d+$")]
_ImageName = Annotated[str, StringConstraints(pattern=r"^[^/\\]+_\d+\.jpg$")]
_FlaggedBox = tuple[Literal["0", "1"], Number, Number, Number, Number]


def _positive(box: _FlaggedBox) -> _FlaggedBox:
    try:
        positive(box[1:])
    except ValueError as error:
        raise ValueError(f"flag, {error}") from None
    return box


class _TextRow(JmeeSentence):
    id: _Id = Field(alias="sentence_id")
    image: list[_ImageName]


class _ImageRow(BaseModel):
    model_config = ConfigDict(frozen=True)

    event_type: str
    role: dict[str, list[Annotated[_FlaggedBox, AfterValidator(_positive)]]]


_TEXT = TypeAdapter(_TextRow)
_IMAGE = TypeAdapter(_ImageRow)
_NAME = TypeAdapter(_Id)


def read(
    folder: Path, images: Path | None = None, objects: Path | None = None, on_error: Report | None = None
) -> tuple[Document, ...]:
    """The documents, in the order in which the files first name them; sentences and images by their number.

    Args:
        folder: holds text_only_event.json, text_multimedia_event.json, image_only_event.json,
            image_multimedia_event.json and crossmedia_coref.txt.
        images: folder of the image files ``<id>.jpg``; default ``folder/image`` if there is one. An image without a
            file there has no path.
        objects: detections, see ``objects.read``; those of images that no file names are not used.
        on_error: see ``strict_json.stream_list``; a record is a row, an image or a line of pairs. What refers to a
            record that was left out is a bad record, too.

    Images are those with an event and those that a sentence lists. ``multimedia`` marks what the multimedia files
    list. Raises DataError.
    """
    if images is not None and not images.is_dir():
        raise DataError(images, None, "images", "no folder", "the folder of the image files")
    sentences, listed = _sentences(folder, on_error)
    gold = _images(folder, on_error)
    for image_id in listed:
        gold.setdefault(image_id, Image(image_id, None))
    folder_of_images = folder / "image" if images is None else images
    with_pixels = folder_of_images.is_dir()
    detections = {} if objects is None else object_files.read(objects)
    for image_id, image in gold.items():
        path = folder_of_images / f"{image_id}.jpg"
        path_or_none = path if with_pixels and path.is_file() else None
        gold[image_id] = replace(image, path=path_or_none, objects=detections.get(image_id, ()))
    documents = _documents(sentences, gold, _coreference(folder / "crossmedia_coref.txt", sentences, gold, on_error))
    log.info(
        "%s: %d documents, %d sentences, %d images, %d with a file, %d with detections (%d detected images are in no "
        "document)",
        *(folder, len(documents), len(sentences), len(gold), sum(image.path is not None for image in gold.values())),
        *(len(gold.keys() & detections.keys()), len(detections.keys() - gold.keys())),
    )
    return documents


def _sentences(folder: Path, on_error: Report | None) -> tuple[dict[str, Sentence], tuple[str, ...]]:
    """Sentences by id, and the ids of the images that they list."""
    sentences: dict[str, Sentence] = {}
    listed: dict[str, None] = {}

    def sentence(file: Path, multimedia: bool, index: int, row: _TextRow) -> tuple[_TextRow, Sentence]:
        row.check_spans(file, row.id)
        entities = tuple(Entity(mention.span, mention.type) for mention in row.entities)
        events = tuple(_text_events(file, row))
        own = union(events) if multimedia else ()
        new = Sentence(row.id, tuple(row.words), entities, events, multimedia, own)
        old = sentences.get(row.id, replace(new, entities=(), events=()))
        if old.words != new.words:
            raise DataError(file, row.id, "words", list(new.words), f"{list(old.words)}, as before")
        merged = distinct_spans(old.entities + new.entities)
        return row, replace(new, entities=merged, events=union(old.events + new.events))

    for file, multimedia in ((folder / "text_only_event.json", False), (folder / "text_multimedia_event.json", True)):
        for row, made in stream_list(file, _TEXT, partial(sentence, file, multimedia), on_error):
            listed.update(dict.fromkeys(name.removesuffix(".jpg") for name in row.image))
            sentences[row.id] = made
    return sentences, tuple(listed)


def _text_events(file: Path, row: _TextRow) -> Iterable[TextEvent]:
    for event in row.events:
        _check_known(file, row.id, event.event_type, (argument.role for argument in event.arguments))
        arguments = tuple(TextArgument(argument.role, argument.span) for argument in event.arguments)
        yield TextEvent(event.event_type, event.trigger.span, arguments)


def _images(folder: Path, on_error: Report | None) -> dict[str, Image]:
    """Images with an event, by id; one that both files have gets the events of both."""
    images: dict[str, Image] = {}

    def event(file: Path, image_id: str, row: _ImageRow) -> VisualEvent:
        validated(file, (image_id, "[key]"), image_id, _NAME)
        _check_known(file, image_id, row.event_type, row.role)
        arguments = tuple(
            VisualArgument(role, Box(*corners), union=flag == "0")
            for role, boxes in row.role.items()
            for flag, *corners in boxes
        )
        return VisualEvent(row.event_type, arguments)

    for file, multimedia in ((folder / "image_only_event.json", False), (folder / "image_multimedia_event.json", True)):
        for image_id, shown in stream_dict(file, _IMAGE, partial(event, file), on_error):
            if shown is None:
                continue
            events = {event.type: event.arguments for event in images[image_id].events} if image_id in images else {}
            earlier = events.get(shown.type, ())
            events[shown.type] = earlier + tuple(box for box in shown.arguments if box not in earlier)
            both = tuple(VisualEvent(event_type, filled) for event_type, filled in events.items())
            images[image_id] = Image(image_id, None, both, multimedia=multimedia)
    return images


def _check_known(file: Path, record: str, event_type: str, roles: Iterable[str]) -> None:
    """Gold outside the ontology could never be predicted: that is an error of the file."""
    ontology = m2e2()
    if event_type not in ontology.roles_of:
        raise DataError(file, record, "event_type", event_type, f"one of {ontology.types}")
    for role in roles:
        if not ontology.allows(event_type, role):
            raise DataError(file, record, "role", role, f"one of {event_type}'s {ontology.roles_of[event_type]}")


def _coreference(
    file: Path, sentences: dict[str, Sentence], images: dict[str, Image], on_error: Report | None
) -> list[MultimediaEvent]:
    def pair(record: str, line: str) -> MultimediaEvent:
        columns = line.split("\t")
        if len(columns) != 3:
            raise DataError(file, record, "", line, "sentence id, image name and event type, tab-separated")
        sentence, image, event_type = columns[0], columns[1].removesuffix(".jpg"), columns[2].strip()
        if sentence not in sentences:
            raise DataError(file, record, "sentence", sentence, "a sentence of the text files")
        if image not in images:
            raise DataError(file, record, "image", image, "an image of the image files or of a sentence's list")
        if document_id(sentence) != document_id(image):
            raise DataError(file, record, "image", image, f"an image of document {document_id(sentence)!r}")
        _check_known(file, record, event_type, ())
        return MultimediaEvent(sentence, image, event_type)

    lines = enumerate(read_text(file).splitlines(), start=1)
    pairs = (attempt(partial(pair, f"line {number}", line), on_error) for number, line in lines if line.strip())
    return list(dict.fromkeys(made for made in pairs if made is not None))


def _documents(
    sentences: dict[str, Sentence], images: dict[str, Image], pairs: list[MultimediaEvent]
) -> tuple[Document, ...]:
    ids = dict.fromkeys(document_id(mention) for mention in (*sentences, *images))
    text: dict[str, list[Sentence]] = {document: [] for document in ids}
    shown: dict[str, list[Image]] = {document: [] for document in ids}
    joined: dict[str, list[MultimediaEvent]] = {document: [] for document in ids}
    for sentence in sorted(sentences.values(), key=lambda item: _number(item.id)):
        text[sentence.document].append(sentence)
    for image in sorted(images.values(), key=lambda item: _number(item.id)):
        shown[image.document].append(image)
    for pair in pairs:
        joined[document_id(pair.sentence)].append(pair)
    return tuple(Document(name, tuple(text[name]), tuple(shown[name]), tuple(joined[name])) for name in ids)


def _number(mention: str) -> int:
    return int(mention.rpartition("_")[2])
