"""Scores on M2E2: text, image and multimedia events and arguments, under a named protocol.

A protocol is data: what it counts differently from another is a field of ``Protocol``. Everywhere a correct item uses
up one gold item (maximum one-to-one matching), so a duplicate prediction is wrong. Nothing is filtered by looking at
the gold's words. The surprising fact: a sentence or an image that stands in several pairs counts its arguments once
per pair, so multimedia arguments can outnumber text and image arguments.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from scipy.optimize import linear_sum_assignment

from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.events.predictions import Predictions
from xmtl_ray.events.records import Box, Document, MultimediaEvent, TextEvent, VisualEvent, document_id

log = logging.getLogger(__name__)

_Event = TypeVar("_Event", TextEvent, VisualEvent)

METRICS = ("text_event", "text_argument", "image_event", "image_argument", "mm_event", "mm_argument")


@dataclass(frozen=True)
class Protocol:
    """What is counted. The defaults are protocol ``table``."""

    images: Literal["with_event", "all"] = "with_event"
    """Images that are scored: those with a gold event, or all (an event where gold has none is wrong)."""
    pairs: Literal["multimedia", "all"] = "multimedia"
    """Pairs that are scored: those whose sentence and image the multimedia files list, or all."""
    multimedia_arguments: Literal["correct_pairs", "all_pairs"] = "correct_pairs"
    """Pairs whose arguments are counted as predicted and as gold. Only those of correct pairs can be correct."""
    iou_inclusive: bool = False
    """Whether an IoU of exactly 0.5 is enough."""


PROTOCOLS = {
    "table": Protocol(),
    "strict": Protocol(images="all", pairs="all", multimedia_arguments="all_pairs"),
    "table, iou_inclusive": Protocol(iou_inclusive=True),
}


REPORTED = ("table", "strict")
"""Protocols that are told where none is asked for: the headline and the demanding one."""


def score(
    documents: Iterable[Document], predictions: Predictions, protocol: str | Protocol = "table"
) -> dict[str, Prf]:
    """Micro-averaged counts of the six ``METRICS`` over all documents; see ``score_by_document``."""
    totals = dict.fromkeys(METRICS, Prf())
    for scores in score_by_document(documents, predictions, protocol).values():
        for metric, counts in scores.items():
            totals[metric] += counts
    return totals


def tables(
    documents: Iterable[Document], predictions: Predictions, protocols: Sequence[str] = REPORTED
) -> dict[str, dict[str, dict[str, float]]]:
    """Protocol → metric → counts and percentages: what is stored, printed and shown. Raises ValueError."""
    documents = tuple(documents)
    return {
        name: {metric: counts.as_dict() for metric, counts in score(documents, predictions, name).items()}
        for name in protocols
    }


def score_by_document(
    documents: Iterable[Document], predictions: Predictions, protocol: str | Protocol = "table"
) -> dict[str, dict[str, Prf]]:
    """Counts of the six ``METRICS`` for each document, by document id.

    Args:
        documents: the gold.
        predictions: what a system says. Ids that no document has are logged, and scored as what they are: mentions
            without gold. So an event in an unknown sentence is wrong under every protocol (every sentence is
            scored), one in an unknown image or pair is wrong where the protocol scores all of them.
        protocol: a name in ``PROTOCOLS``, or the options themselves.

    A predicted pair belongs to its sentence's document. Raises ValueError for an unknown protocol.
    """
    documents = tuple(documents)
    rules = _rules(protocol)
    scores = {document.id: dict.fromkeys(METRICS, Prf()) for document in documents}

    def add(mention: str, metric: str, counts: Prf) -> None:
        own = scores.setdefault(document_id(mention), dict.fromkeys(METRICS, Prf()))
        own[metric] += counts

    if unknown := unknown_ids(documents, predictions):
        log.warning("%d predicted ids are not in the gold, e.g. %s", len(unknown), ", ".join(unknown[:3]))

    told = {sentence.id: sentence.events for document in documents for sentence in document.sentences}
    for sentence, found, there in _aligned(predictions.text, told):
        add(sentence, "text_event", _text_events(found, there))
        add(sentence, "text_argument", _text_arguments(found, there))

    shown = {image.id: image.events for document in documents for image in document.images}
    for image, seen, depicted in _aligned(predictions.image, shown):
        if rules.images == "all" or depicted:
            add(image, "image_event", _image_events(seen, depicted))
            add(image, "image_argument", _image_arguments(seen, depicted, rules.iou_inclusive))

    listed = {s.id for d in documents for s in d.sentences if s.multimedia}
    pictured = {i.id for d in documents for i in d.images if i.multimedia}

    def scored(pairs: Iterable[MultimediaEvent]) -> Counter[MultimediaEvent]:
        return Counter(p for p in pairs if rules.pairs == "all" or (p.sentence in listed and p.image in pictured))

    guessed = scored(predictions.multimedia)
    true = scored(pair for document in documents for pair in document.multimedia_events)
    for pair in guessed | true:
        counts = Prf(min(guessed[pair], true[pair]), guessed[pair], true[pair])
        add(pair.sentence, "mm_event", counts)
        inside = _pair_arguments(pair, predictions, told, shown, rules.iou_inclusive)
        times = counts if rules.multimedia_arguments == "all_pairs" else Prf(*[counts.correct] * 3)
        add(
            pair.sentence,
            "mm_argument",
            Prf(times.correct * inside.correct, times.predicted * inside.predicted, times.gold * inside.gold),
        )
    return scores


def unknown_ids(documents: Iterable[Document], predictions: Predictions) -> tuple[str, ...]:
    """Sentence and image ids that the predictions name and no document has, in order of appearance."""
    sentences, images = set[str](), set[str]()
    for document in documents:
        sentences.update(sentence.id for sentence in document.sentences)
        images.update(image.id for image in document.images)
    pairs = predictions.multimedia
    named_sentences = (*predictions.text, *(pair.sentence for pair in pairs))
    named_images = (*predictions.image, *(pair.image for pair in pairs))
    missing = [name for name in named_sentences if name not in sentences]
    return tuple(dict.fromkeys(missing + [name for name in named_images if name not in images]))


def _rules(protocol: str | Protocol) -> Protocol:
    if isinstance(protocol, Protocol):
        return protocol
    if protocol not in PROTOCOLS:
        raise ValueError(f"protocol: found {protocol!r}, expected one of {tuple(PROTOCOLS)}")
    return PROTOCOLS[protocol]


def _aligned(
    predicted: Mapping[str, Sequence[_Event]], gold: Mapping[str, Sequence[_Event]]
) -> Iterator[tuple[str, Sequence[_Event], Sequence[_Event]]]:
    """Each mention id with its predicted and its gold events; ids without either are left out."""
    for mention in dict.fromkeys((*gold, *predicted)):
        found, there = predicted.get(mention, ()), gold.get(mention, ())
        if found or there:
            yield mention, found, there


def _exact(predicted: Iterable[Hashable], gold: Iterable[Hashable]) -> Prf:
    """Counts where a key must be equal: the multiset intersection is the maximum one-to-one matching."""
    found, there = Counter(predicted), Counter(gold)
    return Prf((found & there).total(), found.total(), there.total())


def _text_events(predicted: Iterable[TextEvent], gold: Iterable[TextEvent]) -> Prf:
    return _exact(((e.type, e.trigger) for e in predicted), ((e.type, e.trigger) for e in gold))


def _text_arguments(predicted: Iterable[TextEvent], gold: Iterable[TextEvent]) -> Prf:
    def keys(events: Iterable[TextEvent]) -> Iterator[Hashable]:
        return ((e.type, e.trigger, a.role, a.span) for e in events for a in e.arguments)

    return _exact(keys(predicted), keys(gold))


def _image_events(predicted: Iterable[VisualEvent], gold: Iterable[VisualEvent]) -> Prf:
    return _exact((e.type for e in predicted), (e.type for e in gold))


def _image_arguments(predicted: Iterable[VisualEvent], gold: Iterable[VisualEvent], inclusive: bool) -> Prf:
    def by_role(events: Iterable[VisualEvent]) -> dict[tuple[str, str], list[Box]]:
        boxes: dict[tuple[str, str], list[Box]] = {}
        for event in events:
            for argument in event.arguments:
                boxes.setdefault((event.type, argument.role), []).append(argument.box)
        return boxes

    found, there = by_role(predicted), by_role(gold)
    correct = sum(_matches(boxes, there[role], inclusive) for role, boxes in found.items() if role in there)
    return Prf(correct, sum(map(len, found.values())), sum(map(len, there.values())))


def _matches(predicted: Sequence[Box], gold: Sequence[Box], inclusive: bool) -> int:
    """Size of the largest one-to-one matching of boxes that overlap enough."""
    enough = np.array([[overlaps(guess, true, inclusive) for true in gold] for guess in predicted])
    rows, columns = linear_sum_assignment(enough, maximize=True)
    return int(enough[rows, columns].sum())


def overlaps(first: Box, second: Box, inclusive: bool = False) -> bool:
    """Whether the boxes' intersection over union is above 0.5, or at least 0.5 if ``inclusive``.

    Compared without a division, so that an IoU of exactly 0.5 is told apart for boxes with integer corners.
    """
    width = min(first.x1, second.x1) - max(first.x0, second.x0)
    height = min(first.y1, second.y1) - max(first.y0, second.y0)
    if width <= 0 or height <= 0:
        return False
    areas = (first.x1 - first.x0) * (first.y1 - first.y0) + (second.x1 - second.x0) * (second.y1 - second.y0)
    doubled, union = 2 * width * height, areas - width * height
    return doubled >= union if inclusive else doubled > union


def _pair_arguments(
    pair: MultimediaEvent,
    predictions: Predictions,
    told: Mapping[str, Sequence[TextEvent]],
    shown: Mapping[str, Sequence[VisualEvent]],
    inclusive: bool,
) -> Prf:
    """Arguments of the events of the pair's type in its sentence and in its image, both sides together."""

    def of_type(events: Sequence[_Event]) -> list[_Event]:
        return [event for event in events if event.type == pair.type]

    text = _text_arguments(
        of_type(predictions.text.get(pair.sentence, ())),
        of_type(told.get(pair.sentence, ())),
    )
    image = _image_arguments(
        of_type(predictions.image.get(pair.image, ())), of_type(shown.get(pair.image, ())), inclusive
    )
    return text + image
