"""What was extracted from a user's documents: ``xmtl-events-1``, JSON lines, one document a line.

Unlike ``m2e2-pred-1`` a line carries the text itself, where each sentence and word stands in what the user gave, the
confidences, and what the candidates for arguments were. The surprising fact: what can be derived (texts, characters,
a pair's arguments) is in the file all the same, for programs that want no arithmetic; the reader derives it again and
refuses a line that says otherwise.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, StrictInt, TypeAdapter

from xmtl_ray.events.mending import WordSpan
from xmtl_ray.events.predictions import Predictions
from xmtl_ray.events.records import (
    Box,
    DataError,
    MultimediaEvent,
    Report,
    Span,
    TextArgument,
    TextEvent,
    VisualArgument,
    VisualEvent,
)
from xmtl_ray.events.strict_json import Number, PositiveCorners, stream_list

FORMAT = "xmtl-events-1"
DIGITS = 6
"""Decimals of confidences and similarities: the further ones differ between machines."""

Candidates = Literal["given", "found", "none"]
"""Where argument candidates are from: the user's file, a model (``--ner``, ``--detector``), or nowhere."""


@dataclass(frozen=True, slots=True)
class SourceSentence:
    """A sentence in the user's own text. Characters are code points of ``source``."""

    id: str
    text: str
    source: str
    """A file's name, or the field of a JSON document: ``text``, ``sentences.3``."""
    characters: Span
    words: tuple[Span, ...]
    """Characters of each word, like ``characters`` counted from the start of ``source``."""

    def quote(self, words: Span) -> str:
        """The text of some words, as the user wrote it."""
        where, start = self.place(words), self.characters.start
        return self.text[where.start - start : where.end - start]

    def place(self, words: Span) -> Span:
        """Characters of some words."""
        return Span(self.words[words.start].start, self.words[words.end - 1].end)


@dataclass(frozen=True, slots=True)
class SourceImage:
    """An image of a document; ``file`` is its path below the folder of the documents, None where it is not there."""

    id: str
    file: str | None
    objects: Candidates = "given"


@dataclass(frozen=True, slots=True)
class DocumentEvents:
    """A document and everything that was extracted from it; events as in ``Predictions``."""

    id: str
    sentences: tuple[SourceSentence, ...]
    images: tuple[SourceImage, ...]
    text: Mapping[str, tuple[TextEvent, ...]]
    image: Mapping[str, tuple[VisualEvent, ...]]
    multimedia: tuple[MultimediaEvent, ...]
    models: tuple[str, ...]
    """sha256 of each model's weights."""
    coreference: str
    """How pairs were decided, in words."""
    entities: Candidates = "given"
    cut_words: int = 0
    """Words beyond the model's longest input, in which no trigger can be found."""


def as_line(found: DocumentEvents) -> str:
    """The line of a document, without its end."""
    return json.dumps(as_json(found), ensure_ascii=False, allow_nan=False)


def as_json(found: DocumentEvents) -> dict[str, Any]:
    """The same as JSON values."""
    sentences = {sentence.id: sentence for sentence in found.sentences}
    return {
        "format": FORMAT,
        "id": found.id,
        "models": list(found.models),
        "coreference": found.coreference,
        "entities": found.entities,
        "cut_words": found.cut_words,
        "sentences": [
            {
                "id": sentence.id,
                "text": sentence.text,
                "source": sentence.source,
                "chars": _pair(sentence.characters),
                "words": [_pair(word) for word in sentence.words],
            }
            for sentence in found.sentences
        ],
        "images": [{"id": image.id, "file": image.file, "objects": image.objects} for image in found.images],
        "text_events": [
            {
                "sentence": name,
                "type": event.type,
                "trigger": _place(sentences[name], event.trigger),
                "confidence": _rounded(event.confidence),
                "arguments": [_text_argument(sentences[name], argument) for argument in event.arguments],
            }
            for name, events in found.text.items()
            for event in events
        ],
        "visual_events": [
            {
                "image": name,
                "type": event.type,
                "confidence": _rounded(event.confidence),
                "arguments": [_visual_argument(argument) for argument in event.arguments],
            }
            for name, events in found.image.items()
            for event in events
        ],
        "multimedia_events": [_multimedia(found, sentences[pair.sentence], pair) for pair in found.multimedia],
    }


def _multimedia(found: DocumentEvents, sentence: SourceSentence, pair: MultimediaEvent) -> dict[str, Any]:
    told = [event for event in found.text.get(pair.sentence, ()) if event.type == pair.type]
    shown = [event for event in found.image.get(pair.image, ()) if event.type == pair.type]
    return {
        "type": pair.type,
        "sentence": pair.sentence,
        "image": pair.image,
        "similarity": _rounded(pair.similarity),
        "triggers": [_place(sentence, event.trigger) for event in told],
        "text_arguments": [_text_argument(sentence, argument) for event in told for argument in event.arguments],
        "visual_arguments": [_visual_argument(argument) for event in shown for argument in event.arguments],
    }


def _place(sentence: SourceSentence, words: Span) -> dict[str, Any]:
    return {"text": sentence.quote(words), "words": _pair(words), "chars": _pair(sentence.place(words))}


def _text_argument(sentence: SourceSentence, argument: TextArgument) -> dict[str, Any]:
    place = _place(sentence, argument.span)
    return {"role": argument.role, **place, "confidence": _rounded(argument.confidence)}


def _visual_argument(argument: VisualArgument) -> dict[str, Any]:
    box = argument.box
    corners = [box.x0, box.y0, box.x1, box.y1]
    return {"role": argument.role, "box": corners, "confidence": _rounded(argument.confidence)}


def _pair(span: Span) -> list[int]:
    return [span.start, span.end]


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


_Characters = tuple[StrictInt, StrictInt]


class _Item(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _Place(_Item):
    text: str
    words: WordSpan
    chars: _Characters


class _TextArgument(_Place):
    role: str
    confidence: Number | None


class _VisualArgument(_Item):
    role: str
    box: PositiveCorners
    confidence: Number | None


class _Sentence(_Item):
    id: str
    text: str
    source: str
    chars: _Characters
    words: list[_Characters]


class _Image(_Item):
    id: str
    file: str | None
    objects: Candidates


class _TextEvent(_Item):
    sentence: str
    type: str
    trigger: _Place
    confidence: Number | None
    arguments: list[_TextArgument]


class _VisualEvent(_Item):
    image: str
    type: str
    confidence: Number | None
    arguments: list[_VisualArgument]


class _MultimediaEvent(_Item):
    type: str
    sentence: str
    image: str
    similarity: Number | None
    triggers: list[_Place]
    text_arguments: list[_TextArgument]
    visual_arguments: list[_VisualArgument]


class _Line(_Item):
    format: Literal["xmtl-events-1"]
    id: str
    models: list[str]
    coreference: str
    entities: Candidates
    cut_words: int
    sentences: list[_Sentence]
    images: list[_Image]
    text_events: list[_TextEvent]
    visual_events: list[_VisualEvent]
    multimedia_events: list[_MultimediaEvent]


_LINE = TypeAdapter(_Line)


def read(path: Path, on_error: Report | None = None) -> Iterator[DocumentEvents]:
    """The documents of an ``xmtl-events-1`` file, one in memory at a time; see ``strict_json.stream_list``.

    A span outside its sentence, an event of a sentence or image that the document does not have, and anything derived
    that is not what it is derived from are a DataError.
    """
    return stream_list(path, _LINE, lambda index, line: _document(path, index, line), on_error)


def _document(path: Path, index: int, line: _Line) -> DocumentEvents:
    record = f"{index}, {line.id}"
    for number, sentence in enumerate(line.sentences):
        start, end = sentence.chars
        outside = [word for word in sentence.words if not start <= word[0] <= word[1] <= end]
        if outside or end - start != len(sentence.text):
            expected = f"{len(sentence.text)} characters with all words among them"
            raise DataError(path, record, f"sentences.{number}.chars", sentence.chars, expected)
    words = {sentence.id: len(sentence.words) for sentence in line.sentences}
    images = {image.id for image in line.images}
    for number, told in enumerate(line.text_events):
        for place in (told.trigger, *told.arguments):
            if place.words[1] > words.get(told.sentence, 0):
                expected = f"words of a sentence of the document; {told.sentence!r} has {words.get(told.sentence)}"
                raise DataError(path, record, f"text_events.{number}", place.words, expected)
    for number, shown in enumerate(line.visual_events):
        if shown.image not in images:
            raise DataError(path, record, f"visual_events.{number}.image", shown.image, "an image of the document")
    for number, pair in enumerate(line.multimedia_events):
        if pair.sentence not in words or pair.image not in images:
            found = [pair.sentence, pair.image]
            raise DataError(path, record, f"multimedia_events.{number}", found, "a sentence and an image of it")
    made = DocumentEvents(
        line.id,
        tuple(
            SourceSentence(
                item.id, item.text, item.source, Span(*item.chars), tuple(Span(*word) for word in item.words)
            )
            for item in line.sentences
        ),
        tuple(SourceImage(item.id, item.file, item.objects) for item in line.images),
        _by_place((event.sentence, _text_event(event)) for event in line.text_events),
        _by_place((event.image, _visual_event(event)) for event in line.visual_events),
        tuple(
            MultimediaEvent(item.sentence, item.image, item.type, item.similarity) for item in line.multimedia_events
        ),
        tuple(line.models),
        line.coreference,
        line.entities,
        line.cut_words,
    )
    derived = as_json(made)
    for field, value in line.model_dump(mode="json").items():
        if derived[field] != value:
            raise DataError(path, record, field, value, f"what follows from the rest: {str(derived[field])[:200]}")
    return made


def _by_place(items: Any) -> dict[str, tuple[Any, ...]]:
    found: dict[str, list[Any]] = {}
    for place, event in items:
        found.setdefault(place, []).append(event)
    return {place: tuple(events) for place, events in found.items()}


def _text_event(item: _TextEvent) -> TextEvent:
    arguments = (TextArgument(each.role, Span(*each.words), each.confidence) for each in item.arguments)
    return TextEvent(item.type, Span(*item.trigger.words), tuple(arguments), item.confidence)


def _visual_event(item: _VisualEvent) -> VisualEvent:
    arguments = (VisualArgument(each.role, Box(*each.box), confidence=each.confidence) for each in item.arguments)
    return VisualEvent(item.type, tuple(arguments), item.confidence)


def as_predictions(documents: Sequence[DocumentEvents] | Iterator[DocumentEvents]) -> Predictions:
    """All documents' events in one, as ``m2e2-pred-1`` has them."""
    text: dict[str, tuple[TextEvent, ...]] = {}
    image: dict[str, tuple[VisualEvent, ...]] = {}
    pairs: list[MultimediaEvent] = []
    for found in documents:
        text.update(found.text)
        image.update(found.image)
        pairs += found.multimedia
    return Predictions(text, image, tuple(pairs))
