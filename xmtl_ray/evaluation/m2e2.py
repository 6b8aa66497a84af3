"""Scores on M2E2: text, image and multimedia events and arguments, under a named protocol.

How protocols differ is data (``evaluation.protocols``); this file counts. Nothing is filtered by looking at the gold's
words. The surprising fact: a sentence or an image that stands in several pairs counts its arguments once per pair under
most protocols, so multimedia arguments can outnumber text and image arguments.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np
from scipy.optimize import linear_sum_assignment

from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.evaluation.protocols import PROTOCOLS, Protocol
from xmtl_ray.events.predictions import Predictions
from xmtl_ray.events.records import (
    Box,
    Document,
    Image,
    MultimediaEvent,
    Sentence,
    TextEvent,
    VisualEvent,
    document_id,
)

log = logging.getLogger(__name__)

_Event = TypeVar("_Event", TextEvent, VisualEvent)

METRICS = ("text_event", "text_argument", "image_event", "image_argument", "mm_event", "mm_argument")

REPORTED = ("table", "strict")
"""Protocols that a training run reports."""

Scores = dict[str, Prf]
"""Counts by metric."""


def score(documents: Iterable[Document], predictions: Predictions, protocol: str | Protocol = "table") -> Scores:
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
) -> dict[str, Scores]:
    """Counts of the six ``METRICS`` for each document, by document id.

    Args:
        documents: the gold.
        predictions: what a system says. Ids that no document has are logged, and scored as what they are: mentions
            without gold. So an event in an unknown sentence is wrong where the protocol scores every sentence, one in
            an unknown image or pair where it scores all of them.
        protocol: a name in ``PROTOCOLS``, or the options themselves.

    A predicted pair belongs to its sentence's document. Raises ValueError for an unknown protocol.
    """
    documents = tuple(documents)
    rules = _rules(protocol)
    count = _Counting(rules)
    scores = {document.id: dict.fromkeys(METRICS, Prf()) for document in documents}

    def add(mention: str, metric: str, counts: Prf) -> None:
        own = scores.setdefault(document_id(mention), dict.fromkeys(METRICS, Prf()))
        own[metric] += counts

    if unknown := unknown_ids(documents, predictions):
        log.warning("%d predicted ids are not in the gold, e.g. %s", len(unknown), ", ".join(unknown[:3]))

    sentences = {sentence.id: sentence for document in documents for sentence in document.sentences}
    images = {image.id: image for document in documents for image in document.images}
    told = {name: sentence.events for name, sentence in sentences.items()}
    shown = {name: image.events for name, image in images.items()}
    for sentence, found, there in _aligned(predictions.text, told):
        if rules.sentences == "all" or there:
            add(sentence, "text_event", count.events(_text_keys(found), _text_keys(there)))
            add(sentence, "text_argument", count.text_arguments(found, there))
    for image, seen, depicted in _aligned(predictions.image, shown):
        if rules.images == "all" or depicted:
            add(image, "image_event", count.events((e.type for e in seen), (e.type for e in depicted)))
            add(image, "image_argument", count.image_arguments(seen, depicted))

    def scored(pairs: Iterable[MultimediaEvent]) -> Counter[MultimediaEvent]:
        kept = Counter(
            pair
            for pair in pairs
            if rules.pairs == "all"
            or (_multimedia(sentences.get(pair.sentence)) and _multimedia(images.get(pair.image)))
        )
        return Counter(kept.keys()) if rules.duplicates == "once" else kept

    guessed = scored(predictions.multimedia)
    true = scored(pair for document in documents for pair in document.multimedia_events)
    pairs = {pair: count.pair(guessed[pair], true[pair]) for pair in guessed | true}
    for pair, counts in pairs.items():
        add(pair.sentence, "mm_event", counts)

    if rules.multimedia_arguments == "files_once":
        _once(count, pairs, predictions, sentences, images, add)
        return scores
    for pair, counts in pairs.items():
        inside = count.text_arguments(
            _of_type(predictions.text.get(pair.sentence, ()), pair.type),
            _of_type(told.get(pair.sentence, ()), pair.type),
        ) + count.image_arguments(
            _of_type(predictions.image.get(pair.image, ()), pair.type),
            _of_type(shown.get(pair.image, ()), pair.type),
        )
        times = {
            "correct_pairs": Prf(counts.correct, counts.correct, counts.correct),
            "all_pairs": counts,
            "files_and_pairs": Prf(counts.correct, counts.predicted, 0),
        }[rules.multimedia_arguments]
        product = Prf(times.correct * inside.correct, times.predicted * inside.predicted, times.gold * inside.gold)
        add(pair.sentence, "mm_argument", product)
    if rules.multimedia_arguments == "files_and_pairs":
        for item in sentences.values():
            add(item.id, "mm_argument", count.text_arguments((), item.multimedia_events))
        for picture in images.values():
            if picture.multimedia:
                add(picture.id, "mm_argument", count.image_arguments((), picture.events))
    return scores


def _once(
    count: _Counting,
    pairs: Mapping[MultimediaEvent, Prf],
    predictions: Predictions,
    sentences: Mapping[str, Sentence],
    images: Mapping[str, Image],
    add: Callable[[str, str, Prf], None],
) -> None:
    """Multimedia arguments by ``files_once``: each sentence and each image once, whatever pairs it stands in."""
    predicted = [pair for pair, counts in pairs.items() if counts.predicted]
    correct = [pair for pair, counts in pairs.items() if counts.correct]
    in_predicted, in_correct = ({pair.sentence for pair in some} for some in (predicted, correct))
    for name, sentence in sentences.items():
        if sentence.multimedia or name in in_predicted:
            found = predictions.text.get(name, ()) if name in in_predicted else ()
            counts = count.text_arguments(found, sentence.events)
            add(name, "mm_argument", counts if name in in_correct else Prf(0, counts.predicted, counts.gold))
    in_predicted, in_correct = ({pair.image for pair in some} for some in (predicted, correct))
    for name, image in images.items():
        if image.multimedia or name in in_predicted:
            seen = predictions.image.get(name, ()) if name in in_predicted else ()
            counts = count.image_arguments(seen, image.events)
            add(name, "mm_argument", counts if name in in_correct else Prf(0, counts.predicted, counts.gold))


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


def _multimedia(mention: Sentence | Image | None) -> bool:
    return mention is not None and mention.multimedia


def _of_type(events: Sequence[_Event], event_type: str) -> list[_Event]:
    return [event for event in events if event.type == event_type]


def _text_keys(events: Iterable[TextEvent]) -> Iterator[Hashable]:
    return ((event.type, event.trigger) for event in events)


class _Counting:
    """Counts of one mention's events and arguments by a protocol's rules."""

    def __init__(self, rules: Protocol) -> None:
        self.rules = rules

    def events(self, predicted: Iterable[Hashable], gold: Iterable[Hashable]) -> Prf:
        """Counts where a key must be equal."""
        found, there = Counter(predicted), Counter(gold)
        if self.rules.duplicates == "once":
            found, there = Counter(found.keys()), Counter(there.keys())
        if self.rules.matching == "every_pair":
            correct = sum(number * there[key] for key, number in found.items())
        else:  # The multiset intersection is the maximum one-to-one matching.
            correct = (found & there).total()
        return Prf(correct, found.total(), there.total())

    def pair(self, predicted: int, gold: int) -> Prf:
        """Counts of one pair that is predicted and gold so many times."""
        every = self.rules.matching == "every_pair"
        return Prf(predicted * gold if every else min(predicted, gold), predicted, gold)

    def text_arguments(self, predicted: Iterable[TextEvent], gold: Iterable[TextEvent]) -> Prf:
        """Counts of the events' arguments."""
        return self.events(self._argument_keys(predicted), self._argument_keys(gold))

    def _argument_keys(self, events: Iterable[TextEvent]) -> Iterator[Hashable]:
        for event in events:
            for argument in event.arguments:
                key: tuple[Hashable, ...] = (event.type, argument.role)
                if self.rules.text_argument != "span":
                    key += (event.trigger,)
                yield (*key, argument.span.start if self.rules.text_argument == "trigger_and_start" else argument.span)

    def image_arguments(self, predicted: Iterable[VisualEvent], gold: Iterable[VisualEvent]) -> Prf:
        """Counts of the events' boxes."""
        found, there = self._boxes(predicted), self._boxes(gold)
        correct = sum(self._matches(boxes, there[role]) for role, boxes in found.items() if role in there)
        return Prf(correct, sum(map(len, found.values())), sum(map(len, there.values())))

    def _boxes(self, events: Iterable[VisualEvent]) -> dict[tuple[str, str], list[Box]]:
        left_out = self.rules.visual_roles_left_out
        boxes: dict[tuple[str, str], list[Box]] = {}
        for event in events:
            for argument in event.arguments:
                if argument.role in left_out or f"{event.type}.{argument.role}" in left_out:
                    continue
                event_type = event.type if self.rules.visual_argument_type else ""
                boxes.setdefault((event_type, argument.role), []).append(argument.box)
        return boxes

    def _matches(self, predicted: Sequence[Box], gold: Sequence[Box]) -> int:
        if self.rules.matching == "one_to_one":
            return len(matching(predicted, gold, self.rules.box))
        enough = _overlapping(predicted, gold, self.rules.box)
        return int(enough.sum() if self.rules.matching == "every_pair" else enough.any(axis=1).sum())


def matching(predicted: Sequence[Box], gold: Sequence[Box], rule: str = "over_half") -> dict[int, int]:
    """Index of predicted → index of gold box, of a largest one-to-one matching of boxes that overlap enough."""
    enough = _overlapping(predicted, gold, rule)
    rows, columns = linear_sum_assignment(enough, maximize=True)
    return {int(row): int(column) for row, column in zip(rows, columns, strict=True) if enough[row, column]}


def _overlapping(predicted: Sequence[Box], gold: Sequence[Box], rule: str) -> np.ndarray:
    pairs = [[overlaps(guess, true, rule) for true in gold] for guess in predicted]
    return np.array(pairs, dtype=bool).reshape(len(predicted), len(gold))


def overlaps(predicted: Box, gold: Box, rule: str = "over_half") -> bool:
    """Whether the boxes match by ``Protocol.box``: by default, IoU above 0.5.

    Compared without a division, so that an IoU of exactly 0.5 is told apart for boxes with integer corners.
    """
    width = min(predicted.x1, gold.x1) - max(predicted.x0, gold.x0)
    height = min(predicted.y1, gold.y1) - max(predicted.y0, gold.y0)
    if width <= 0 or height <= 0:
        return False
    inside, own = width * height, _area(predicted)
    union = own + _area(gold) - inside
    if rule == "over_half":
        return 2 * inside > union
    return 2 * inside >= union or (rule == "half_or_inside" and 10 * inside >= 9 * own)


def _area(box: Box) -> float:
    return (box.x1 - box.x0) * (box.y1 - box.y0)
