"""What a system predicts for M2E2, and the ``m2e2-pred-1`` file that carries it.

One JSON object: ``text`` and ``image`` map ids to events, ``coref`` lists the pairs; what is absent is not predicted.
Further top-level keys are notes (how coreference was decided, which model) and ignored by the reader; anything
unknown inside an event is an error, since it would be a misspelt field. The surprising fact: image ids may end in
``.jpg`` in the file and never do here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, StrictInt, TypeAdapter

from xmtl_ray.events.records import (
    Box,
    DataError,
    Document,
    MultimediaEvent,
    Span,
    TextArgument,
    TextEvent,
    VisualArgument,
    VisualEvent,
)
from xmtl_ray.events.strict_json import PositiveCorners, read_json

FORMAT = "m2e2-pred-1"


@dataclass(frozen=True)
class Predictions:
    """Predicted events by sentence id, by image id, and the pairs that tell the same event."""

    text: dict[str, tuple[TextEvent, ...]]
    image: dict[str, tuple[VisualEvent, ...]]
    multimedia: tuple[MultimediaEvent, ...]


def _increasing(span: tuple[int, int]) -> tuple[int, int]:
    if not 0 <= span[0] < span[1]:
        raise ValueError("[start, end] with 0 <= start < end")
    return span


_Words = Annotated[tuple[StrictInt, StrictInt], AfterValidator(_increasing)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class _TextArgument(_Strict):
    role: str
    span: _Words


class _TextEvent(_Strict):
    type: str
    trigger: _Words
    arguments: list[_TextArgument] = []


class _VisualArgument(_Strict):
    role: str
    box: PositiveCorners


class _VisualEvent(_Strict):
    type: str
    arguments: list[_VisualArgument] = []


class _Pair(_Strict):
    sentence: str
    image: str
    type: str


class _File(BaseModel):
    model_config = ConfigDict(frozen=True)

    format: Literal["m2e2-pred-1"]
    text: dict[str, list[_TextEvent]] = {}
    image: dict[str, list[_VisualEvent]] = {}
    coref: list[_Pair] = []


_LAYOUT = TypeAdapter(_File)


def read(path: Path) -> Predictions:
    """Read an ``m2e2-pred-1`` file. Types, roles and ids are not checked: a wrong one is a wrong prediction.

    Duplicates stay, for the scorer to judge. Raises DataError, also if one image has both spellings of its id.
    """
    raw = read_json(path, _LAYOUT)
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


def write(path: Path, predictions: Predictions, **notes: object) -> None:
    """Write an ``m2e2-pred-1`` file, one line per top-level key; ``notes`` (JSON values) become further keys.

    Whether a visual argument is a union box has no place in the format. Raises ValueError for a note named like a
    key of the format.
    """
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
