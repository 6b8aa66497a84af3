"""What a system predicts for M2E2, and the ``m2e2-pred-1`` file that carries it.

One JSON object: ``text`` and ``image`` map ids to events, ``coref`` lists the pairs; what is absent is not predicted.
Further top-level keys are notes (how coreference was decided, which model) and ignored by the reader; anything
unknown inside an event is an error, since it would be a misspelt field. The surprising facts: image ids may end in
``.jpg`` in the file and never do here; and since an event has no place for it, how sure a model was of its events
stands in a note of its own, ``xmtl.confidence``, which only ``read_confidences`` reads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from xmtl_ray.events.mending import MALFORMED, NOWHERE, PairItem, TextEventItem, VisualEventItem, mended
from xmtl_ray.events.ontology import m2e2
from xmtl_ray.events.records import (
    Box,
    DataError,
    Document,
    MultimediaEvent,
    Report,
    Span,
    TextArgument,
    TextEvent,
    VisualArgument,
    VisualEvent,
    document_id,
)
from xmtl_ray.events.strict_json import parse_json, validated

FORMAT = "m2e2-pred-1"
CONFIDENCE = "xmtl.confidence"
"""Note: ``text`` and ``image``, id → for each event its confidence and a list of its arguments', as they stand."""


@dataclass(frozen=True)
class Predictions:
    """Predicted events by sentence id, by image id, and the pairs that tell the same event."""

    text: dict[str, tuple[TextEvent, ...]]
    image: dict[str, tuple[VisualEvent, ...]]
    multimedia: tuple[MultimediaEvent, ...]


class _File(BaseModel):
    model_config = ConfigDict(frozen=True)

    format: Literal["m2e2-pred-1"]
    text: dict[str, list[TextEventItem]] = {}
    image: dict[str, list[VisualEventItem]] = {}
    coref: list[PairItem] = []


_Sure = tuple[float | None, list[float | None]]


class _Confidences(BaseModel):
    text: dict[str, list[_Sure]] = {}
    image: dict[str, list[_Sure]] = {}


class _Notes(BaseModel):
    confidence: _Confidences | None = Field(default=None, alias=CONFIDENCE)


_LAYOUT = TypeAdapter(_File)
_NOTES = TypeAdapter(_Notes)


def read(path: Path, on_error: Report | None = None) -> Predictions:
    """Read an ``m2e2-pred-1`` file. Whether ids, types and roles exist is for ``check``.

    Equal events stay, for the scorer to judge. Anything malformed, a repeated key, and both spellings of one image's id
    are a DataError. With ``on_error`` a malformed event, argument or pair is told there instead and becomes one that
    matches nothing (``events.mending``), so that it counts as predicted and wrong; what is no JSON of the format raises
    all the same.
    """
    value = parse_json(path, on_error)
    if on_error is not None:
        value = mended(path, value, on_error)
    raw = validated(path, (), value, _LAYOUT)
    image: dict[str, tuple[VisualEvent, ...]] = {}
    for name, shown in raw.image.items():
        image_id = name.removesuffix(".jpg")
        if image_id in image:
            raise DataError(path, "image", name, "a second entry", f"{image_id!r} with or without .jpg, not both")
        image[image_id] = tuple(
            VisualEvent(event.type, tuple(VisualArgument(item.role, Box(*item.box)) for item in event.arguments))
            for event in shown
        )
    text = {
        sentence: tuple(
            TextEvent(
                event.type,
                Span(*event.trigger),
                tuple(TextArgument(item.role, Span(*item.span)) for item in event.arguments),
            )
            for event in told
        )
        for sentence, told in raw.text.items()
    }
    pairs = tuple(MultimediaEvent(pair.sentence, pair.image.removesuffix(".jpg"), pair.type) for pair in raw.coref)
    return Predictions(text, image, pairs)


def read_confidences(path: Path) -> Predictions | None:
    """The predictions of a file with how sure their model was of each; None where the file does not say it.

    Raises DataError where what it says does not fit its events.
    """
    noted = validated(path, (), parse_json(path), _NOTES).confidence
    if noted is None:
        return None
    predictions = read(path)
    sides: Any = ((predictions.text, noted.text, "text"), (predictions.image, noted.image, "image"))
    found: list[dict[str, tuple[Any, ...]]] = []
    for events, noted_of, name in sides:
        sure = {key.removesuffix(".jpg"): value for key, value in noted_of.items()}
        found.append({})
        for mention, told in events.items():
            beside = sure.get(mention, [])
            sizes = [len(event.arguments) for event in told]
            if [len(arguments) for _, arguments in beside] != sizes:
                raise DataError(path, f"{CONFIDENCE}.{name}", mention, beside, f"one for each of its {sizes}")
            found[-1][mention] = tuple(
                replace(
                    event,
                    confidence=own,
                    arguments=tuple(replace(a, confidence=c) for a, c in zip(event.arguments, others, strict=True)),
                )
                for event, (own, others) in zip(told, beside, strict=True)
            )
    return Predictions(found[0], found[1], predictions.multimedia)


def check(path: Path, predictions: Predictions, documents: Iterable[Document]) -> list[DataError]:
    """What the predictions name and the gold's documents do not have: ids, words, event types, roles.

    ``path`` is named in the errors. What ``events.mending`` put in place of malformed items is not told again.
    """
    documents = tuple(documents)
    words = {sentence.id: len(sentence.words) for document in documents for sentence in document.sentences}
    images = {image.id for document in documents for image in document.images}
    found: list[DataError] = []

    def expect(condition: bool, record: str, field: str, value: object, expected: str) -> None:
        if not condition:
            found.append(DataError(path, record, field, value, expected))

    def labels(record: str, place: str, event_type: str, roles: Iterable[str]) -> None:
        if event_type == MALFORMED:
            return
        known = m2e2().roles_of.get(event_type)
        expect(known is not None, record, f"{place}.type", event_type, f"one of {m2e2().types}")
        for number, role in enumerate(roles if known is not None else ()):
            expect(role in {*(known or ()), MALFORMED}, record, f"{place}.arguments.{number}.role", role,
                   f"one of {event_type}'s {known}")  # fmt: skip

    for name, told in predictions.text.items():
        expect(name in words, "text", "sentence", name, "a sentence of the gold")
        for number, event in enumerate(told):
            labels(f"text.{name}", str(number), event.type, (argument.role for argument in event.arguments))
            spans = {f"{number}.trigger": event.trigger}
            spans |= {f"{number}.arguments.{i}.span": argument.span for i, argument in enumerate(event.arguments)}
            for field, span in spans.items():
                inside = span.end <= words.get(name, span.end) or span == Span(*NOWHERE)
                expect(inside, f"text.{name}", field, [span.start, span.end], f"at most {words.get(name)} words")
    for name, shown in predictions.image.items():
        expect(name in images, "image", "image", name, "an image of the gold")
        for number, seen in enumerate(shown):
            labels(f"image.{name}", str(number), seen.type, (argument.role for argument in seen.arguments))
    for number, pair in enumerate(predictions.multimedia):
        if pair.type == MALFORMED:
            continue
        record = f"coref.{number}"
        labels(record, "pair", pair.type, ())
        expect(pair.sentence in words, record, "sentence", pair.sentence, "a sentence of the gold")
        expect(pair.image in images, record, "image", pair.image, "an image of the gold")
        document = document_id(pair.sentence)
        expect(document_id(pair.image) == document, record, "image", pair.image, f"an image of document {document!r}")
    return found


def write(path: Path, predictions: Predictions, **notes: object) -> None:
    """Write an ``m2e2-pred-1`` file, one line per top-level key; ``notes`` (JSON values) become further keys.

    Whether a visual argument is a union box has no place in the format. Raises ValueError for a note named like a
    key of the format.
    """
    if sure := _confidences(predictions):
        notes = {**notes, CONFIDENCE: sure}
    body: dict[str, object] = {
        "format": FORMAT,
        "text": {
            sentence: [
                {
                    "type": event.type,
                    "trigger": [event.trigger.start, event.trigger.end],
                    "arguments": [{"role": a.role, "span": [a.span.start, a.span.end]} for a in event.arguments],
                }
                for event in events
            ]
            for sentence, events in predictions.text.items()
        },
        "image": {
            image: [
                {
                    "type": event.type,
                    "arguments": [
                        {"role": a.role, "box": [a.box.x0, a.box.y0, a.box.x1, a.box.y1]} for a in event.arguments
                    ],
                }
                for event in events
            ]
            for image, events in predictions.image.items()
        },
        "coref": [
            {"sentence": pair.sentence, "image": pair.image, "type": pair.type} for pair in predictions.multimedia
        ],
    }
    if taken := sorted(body.keys() & notes.keys()):
        raise ValueError(f"notes: found {taken[0]!r}, expected a name that is no key of {FORMAT}: {sorted(body)}")
    lines = (
        f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False, allow_nan=False)}"
        for key, value in {**body, **notes}.items()
    )
    path.write_text("{" + ",\n".join(lines) + "}\n", encoding="utf-8")


def _confidences(predictions: Predictions) -> dict[str, object]:
    """The note; nothing where no event has any."""
    sides: dict[str, dict[str, list[TextEvent] | list[VisualEvent]]] = {
        "text": {name: list(events) for name, events in predictions.text.items()},
        "image": {name: list(events) for name, events in predictions.image.items()},
    }
    if all(event.confidence is None for side in sides.values() for events in side.values() for event in events):
        return {}

    def short(value: float | None) -> float | None:
        return None if value is None else round(value, 4)

    return {
        kind: {
            name: [[short(event.confidence), [short(a.confidence) for a in event.arguments]] for event in events]
            for name, events in side.items()
        }
        for kind, side in sides.items()
    }


def from_gold(documents: Iterable[Document]) -> Predictions:
    """The gold as if a system had predicted it; sentences and images without an event are left out."""
    text: dict[str, tuple[TextEvent, ...]] = {}
    image: dict[str, tuple[VisualEvent, ...]] = {}
    pairs: list[MultimediaEvent] = []
    for document in documents:
        text.update((sentence.id, sentence.events) for sentence in document.sentences if sentence.events)
        image.update((shown.id, _without_union(shown.events)) for shown in document.images if shown.events)
        pairs.extend(document.multimedia_events)
    return Predictions(text, image, tuple(pairs))


def _without_union(events: tuple[VisualEvent, ...]) -> tuple[VisualEvent, ...]:
    # A prediction file cannot say which box is a union box: equal to what it would read back.
    return tuple(
        replace(event, arguments=tuple(replace(argument, union=False) for argument in event.arguments))
        for event in events
    )
