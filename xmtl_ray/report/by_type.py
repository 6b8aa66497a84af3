"""Scores of each event type and of each role: the evaluation's own function on what is left of gold and predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from xmtl_ray.evaluation.m2e2 import score
from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.events.ontology import m2e2
from xmtl_ray.events.predictions import Predictions
from xmtl_ray.events.records import Document, TextEvent, VisualEvent

_Text = Callable[[tuple[TextEvent, ...]], tuple[TextEvent, ...]]
_Visual = Callable[[tuple[VisualEvent, ...]], tuple[VisualEvent, ...]]


def scores_by_type(documents: Sequence[Document], predictions: Predictions) -> list[tuple[str, Prf, Prf]]:
    """(event type, text events, visual events) under protocol strict: types that gold or predictions have."""
    rows = []
    for event_type in _ordered(m2e2().types, _types(documents, predictions)):

        def text(events: tuple[TextEvent, ...], name: str = event_type) -> tuple[TextEvent, ...]:
            return tuple(event for event in events if event.type == name)

        def visual(events: tuple[VisualEvent, ...], name: str = event_type) -> tuple[VisualEvent, ...]:
            return tuple(event for event in events if event.type == name)

        counts = score(_gold(documents, text, visual), _predicted(predictions, text, visual), "strict")
        rows.append((event_type, counts["text_event"], counts["image_event"]))
    return rows


def scores_by_role(documents: Sequence[Document], predictions: Predictions) -> list[tuple[str, Prf, Prf]]:
    """(role, text arguments, visual arguments) under protocol strict: roles that gold or predictions have."""
    rows = []
    for role in _ordered(m2e2().roles, _roles(documents, predictions)):

        def text(events: tuple[TextEvent, ...], name: str = role) -> tuple[TextEvent, ...]:
            return tuple(replace(e, arguments=tuple(a for a in e.arguments if a.role == name)) for e in events)

        def visual(events: tuple[VisualEvent, ...], name: str = role) -> tuple[VisualEvent, ...]:
            return tuple(replace(e, arguments=tuple(a for a in e.arguments if a.role == name)) for e in events)

        counts = score(_gold(documents, text, visual), _predicted(predictions, text, visual), "strict")
        rows.append((role, counts["text_argument"], counts["image_argument"]))
    return rows


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
