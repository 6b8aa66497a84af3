"""Predictions that need no model, made from the gold: what a score has to be compared with before it means anything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from xmtl_ray.events.predictions import Predictions, from_gold
from xmtl_ray.events.records import Document, Image, MultimediaEvent, Sentence


def empty(documents: Iterable[Document]) -> Predictions:
    """Nothing is predicted: the gold counts alone."""
    return Predictions({}, {}, ())


def same_type(documents: Iterable[Document]) -> Predictions:
    """Gold events of both modalities; a sentence and an image of one document corefer where they have the same type."""
    return _joined(
        documents, lambda sentence, image: {e.type for e in sentence.events} & {e.type for e in image.events}
    )


def all_pairs(documents: Iterable[Document]) -> Predictions:
    """Gold events of both modalities; all sentences and images of a document corefer, for each type of either."""
    return _joined(
        documents, lambda sentence, image: {e.type for e in sentence.events} | {e.type for e in image.events}
    )


def majority(documents: Iterable[Document]) -> Predictions:
    """Gold mentions, each given its modality's most frequent type and no arguments; the same type corefers.

    Where events are is taken from the gold, since no baseline without a model finds triggers: this one shows what
    telling the types apart is worth.
    """
    documents = tuple(documents)
    text = Counter(e.type for d in documents for s in d.sentences for e in s.events)
    image = Counter(e.type for d in documents for i in d.images for e in i.events)
    return same_type(
        replace(
            document,
            sentences=tuple(
                replace(s, events=tuple(replace(e, type=text.most_common(1)[0][0], arguments=()) for e in s.events))
                for s in document.sentences
            ),
            images=tuple(
                replace(i, events=tuple(replace(e, type=image.most_common(1)[0][0], arguments=()) for e in i.events))
                for i in document.images
            ),
        )
        for document in documents
    )


BASELINES: dict[str, Callable[[Iterable[Document]], Predictions]] = {
    "empty": empty,
    "gold-same-type": same_type,
    "gold-all-pairs": all_pairs,
    "gold-majority": majority,
}


def _joined(documents: Iterable[Document], types: Callable[[Sentence, Image], Iterable[str]]) -> Predictions:
    documents = tuple(documents)
    gold = from_gold(documents)
    return Predictions(gold.text, gold.image, tuple(_pairs(documents, types)))


def _pairs(
    documents: Sequence[Document], types: Callable[[Sentence, Image], Iterable[str]]
) -> Iterator[MultimediaEvent]:
    for document in documents:
        for sentence in document.sentences:
            for image in document.images:
                if sentence.events and image.events:
                    for event_type in sorted(types(sentence, image)):
                        yield MultimediaEvent(sentence.id, image.id, event_type)
