"""The page about predictions: a user's documents with their events marked in the text and drawn on the images.

Nothing is judged here, for nobody knows the truth; every mark carries the model's confidence instead.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from xmtl_ray.events.event_lines import DocumentEvents, SourceImage, SourceSentence
from xmtl_ray.events.records import MultimediaEvent, Span, TextEvent
from xmtl_ray.report.comparison import Mention, Region
from xmtl_ray.report.gallery import ShownSentence, marked
from xmtl_ray.report.pictures import Framed, framed
from xmtl_ray.report.templates import render

Item = TypeVar("Item", SourceSentence, SourceImage)
DOCUMENTS = 24
_SENTENCES, _IMAGES = 30, 12
"""Most of one document that are shown; the page says how many are not."""


@dataclass(frozen=True)
class ShownImage:
    """An image with the boxes of its arguments, and (type, sign of its roles, confidence) of its events."""

    number: str
    file: str | None
    frame: Framed
    events: tuple[tuple[str, str, float | None], ...]


@dataclass(frozen=True)
class Card:
    """A document."""

    id: str
    found: DocumentEvents
    sentences: tuple[ShownSentence, ...]
    images: tuple[ShownImage, ...]
    pairs: tuple[tuple[str, str, MultimediaEvent], ...]
    """Numbers of sentence and image, and what they share."""
    notes: tuple[str, ...]
    """What is not shown, and what could not be predicted."""


def write_prediction_page(
    path: Path,
    root: Path,
    documents: Iterable[DocumentEvents],
    counts: Mapping[str, int],
    refused: int,
    shown: int = DOCUMENTS,
) -> None:
    """Write one HTML file that needs neither network nor scripts.

    Args:
        path: the file.
        root: folder that the images' files are named from.
        documents: all; only those that are shown stay in memory.
        counts: of ``documents``, ``sentences``, ``images`` and the three kinds of events, over all documents.
        refused: documents that were left out.
        shown: documents with most events of both modalities, then with most events, at most.
    """
    ranked = heapq.nsmallest(shown, enumerate(documents), key=lambda item: (*_rank(item[1]), item[0]))
    chosen = [found for _, found in sorted(ranked, key=lambda item: item[0])]
    page = render(
        "prediction.html",
        title=root.name or str(root),
        counts=counts,
        refused=refused,
        coreference=chosen[0].coreference if chosen else "",
        models=chosen[0].models if chosen else (),
        cards=[_card(found, root) for found in chosen],
    )
    path.write_text(page, encoding="utf-8")


def _rank(found: DocumentEvents) -> tuple[int, int]:
    events = sum(len(events) for side in (found.text, found.image) for events in side.values())
    return -len(found.multimedia), -events


def _card(found: DocumentEvents, root: Path) -> Card:
    sentences, quiet = _chosen(found.sentences, found.text, _SENTENCES)
    images, unseen = _chosen(found.images, found.image, _IMAGES)
    notes = [
        f"{count} more {noun}{'' if count == 1 else 's'}, {told} with events"
        for noun, (count, told) in (("sentence", quiet), ("image", unseen))
        if count
    ]
    if found.sentences and found.entities == "none":
        notes.append("no entities were given or looked for, so its text events have no arguments")
    if bare := sum(image.objects == "none" for image in found.images):
        notes.append(f"{bare} image{' has' if bare == 1 else 's have'} no objects, so no arguments")
    if found.cut_words:
        notes.append(f"{found.cut_words} words lie beyond the model's longest input")
    return Card(
        found.id,
        found,
        tuple(_sentence(sentence, found.text.get(sentence.id, ())) for sentence in sentences),
        tuple(_image(image, found, root) for image in images),
        tuple((_number(pair.sentence), _number(pair.image), pair) for pair in found.multimedia),
        tuple(notes),
    )


def _chosen(items: Iterable[Item], events: Mapping[str, object], most: int) -> tuple[list[Item], tuple[int, int]]:
    """All items if they are few, else those with events; and how many are left out, and of these have events."""
    every = list(items)
    told = every if len(every) <= most else [item for item in every if item.id in events]
    kept = told[:most]
    return kept, (len(every) - len(kept), sum(item.id in events for item in every) - sum(k.id in events for k in kept))


def _sentence(sentence: SourceSentence, events: Iterable[TextEvent]) -> ShownSentence:
    words = [sentence.quote(Span(index, index + 1)) for index in range(len(sentence.words))]
    start, ends = sentence.characters.start, [sentence.characters.start, *(word.end for word in sentence.words)]
    gaps = [sentence.text[end - start : word.start - start] for end, word in zip(ends, sentence.words, strict=False)]
    pieces, aside = marked(words, list(_mentions(events)), gaps)
    return ShownSentence(_number(sentence.id), pieces, tuple(aside))


def _mentions(events: Iterable[TextEvent]) -> Iterable[Mention]:
    for event in events:
        yield Mention("trigger", event.type, event.type, event.trigger, None, event.confidence)
        for argument in event.arguments:
            yield Mention("argument", argument.role, event.type, argument.span, None, argument.confidence)


def _image(image: SourceImage, found: DocumentEvents, root: Path) -> ShownImage:
    events = found.image.get(image.id, ())
    marks = {event.type: f" {chr(ord('①') + index)}" if len(events) > 1 else "" for index, event in enumerate(events)}
    regions = [
        Region(event.type, argument.role + _sure(argument.confidence), argument.box, None)
        for event in events
        for argument in event.arguments
    ]
    return ShownImage(
        _number(image.id),
        image.file,
        framed(None if image.file is None else root / image.file, regions, marks, signs=False),
        tuple((event.type, marks[event.type], event.confidence) for event in events),
    )


def _sure(confidence: float | None) -> str:
    return "" if confidence is None else f" {confidence:.2f}"


def _number(mention: str) -> str:
    return mention.rpartition("_")[2]
