"""Scores of each event type and of each role: the evaluation's own function on what is left of gold and predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from xmtl_ray.evaluation.m2e2 import score_by_document
from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.events.ontology import m2e2
from xmtl_ray.events.predictions import Predictions
from xmtl_ray.events.records import Document, TextEvent, VisualEvent

ByDocument = tuple[str, list[Prf], list[Prf]]
"""Type or role, and the counts of text and image."""
_Text = Callable[[tuple[TextEvent, ...]], tuple[TextEvent, ...]]
_Visual = Callable[[tuple[VisualEvent, ...]], tuple[VisualEvent, ...]]


def scores_by_type(documents: Sequence[Document], predictions: Predictions) -> list[tuple[str, Prf, Prf]]:
    """(event type, text events, visual events) under protocol strict: types that gold or predictions have."""
    return [(name, sum(text, Prf()), sum(image, Prf())) for name, text, image in by_type(documents, predictions)]


def by_type(documents: Sequence[Document], predictions: Predictions) -> Iterator[ByDocument]:
    """As ``scores_by_type``, each side's counts document by document."""
    for event_type in _ordered(m2e2().types, _types(documents, predictions)):

        def text(events: tuple[TextEvent, ...], name: str = event_type) -> tuple[TextEvent, ...]:
            return tuple(event for event in events if event.type == name)

        def visual(events: tuple[VisualEvent, ...], name: str = event_type) -> tuple[VisualEvent, ...]:
            return tuple(event for event in events if event.type == name)

        yield event_type, *_counted(documents, predictions, text, visual, ("text_event", "image_event"))


def scores_by_role(documents: Sequence[Document], predictions: Predictions) -> list[tuple[str, Prf, Prf]]:
    """(role, text arguments, visual arguments) under protocol strict: roles that gold or predictions have."""
    return [(name, sum(text, Prf()), sum(image, Prf())) for name, text, image in by_role(documents, predictions)]


def by_role(documents: Sequence[Document], predictions: Predictions) -> Iterator[ByDocument]:
    """As ``scores_by_role``, each side's counts document by document."""
    for role in _ordered(m2e2().roles, _roles(documents, predictions)):

        def text(events: tuple[TextEvent, ...], name: str = role) -> tuple[TextEvent, ...]:
            return tuple(replace(e, arguments=tuple(a for a in e.arguments if a.role == name)) for e in events)

        def visual(events: tuple[VisualEvent, ...], name: str = role) -> tuple[VisualEvent, ...]:
            return tuple(replace(e, arguments=tuple(a for a in e.arguments if a.role == name)) for e in events)

        yield role, *_counted(documents, predictions, text, visual, ("text_argument", "image_argument"))


def _counted(
    documents: Sequence[Document], predictions: Predictions, text: _Text, visual: _Visual, metrics: tuple[str, str]
) -> tuple[list[Prf], list[Prf]]:
    """Counts of both metrics, document by document, of what ``text`` and ``visual`` leave of the events."""
    gold, predicted = _gold(documents, text, visual), _predicted(predictions, text, visual)
    found = score_by_document(gold, predicted, "strict").values()
    return [one[metrics[0]] for one in found], [one[metrics[1]] for one in found]


def _types(documents: Sequence[Document], predictions: Predictions) -> set[str]:
    named = {event.type for d in documents for sentence in d.sentences for event in sentence.events}
    named |= {event.type for d in documents for image in d.images for event in image.events}
    named |= {event.type for events in predictions.text.values() for event in events}
    return named | {event.type for shown in predictions.image.values() for event in shown}


def _roles(documents: Sequence[Document], predictions: Predictions) -> set[str]:
    text = [e for d in documents for sentence in d.sentences for e in sentence.events]
    text += [event for events in predictions.text.values() for event in events]
    visual = [e for d in documents for image in d.images for e in image.events]
    visual += [event for shown in predictions.image.values() for event in shown]
    named = {argument.role for event in text for argument in event.arguments}
    return named | {argument.role for event in visual for argument in event.arguments}


def _ordered(known: Sequence[str], named: set[str]) -> list[str]:
    """Names in the ontology's order, then those that only a prediction has."""
    first = [name for name in known if name in named]
    return first + sorted(named.difference(first))


def _gold(documents: Sequence[Document], text: _Text, visual: _Visual) -> list[Document]:
    return [
        replace(
            document,
            sentences=tuple(replace(sentence, events=text(sentence.events)) for sentence in document.sentences),
            images=tuple(replace(image, events=visual(image.events)) for image in document.images),
            multimedia_events=(),
        )
        for document in documents
    ]


def _predicted(predictions: Predictions, text: _Text, visual: _Visual) -> Predictions:
    return Predictions(
        {name: text(events) for name, events in predictions.text.items()},
        {name: visual(events) for name, events in predictions.image.items()},
        (),
    )
