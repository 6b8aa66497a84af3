"""Scores of each event type: the evaluation's own function on what is left of gold and predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from xmtl_ray.evaluation.m2e2 import score
from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.events.ontology import m2e2
from xmtl_ray.events.predictions import Predictions
from xmtl_ray.events.records import Document


def scores_by_type(documents: Sequence[Document], predictions: Predictions) -> list[tuple[str, Prf, Prf]]:
    """(event type, text events, visual events) under protocol strict: types that gold or predictions have."""
    rows = []
    for event_type in _types(documents, predictions):
        counts = score(_only_gold(documents, event_type), _only_predicted(predictions, event_type), "strict")
        rows.append((event_type, counts["text_event"], counts["image_event"]))
    return rows


def _types(documents: Sequence[Document], predictions: Predictions) -> list[str]:
    """The ontology's types in their order, then those that only a prediction has."""
    named = {event.type for d in documents for sentence in d.sentences for event in sentence.events}
    named |= {event.type for d in documents for image in d.images for event in image.events}
    named |= {event.type for events in predictions.text.values() for event in events}
    named |= {event.type for shown in predictions.image.values() for event in shown}
    known = [event_type for event_type in m2e2().types if event_type in named]
    return known + sorted(named.difference(known))


def _only_gold(documents: Sequence[Document], event_type: str) -> list[Document]:
    return [
        replace(
            document,
            sentences=tuple(
                replace(s, events=tuple(e for e in s.events if e.type == event_type)) for s in document.sentences
            ),
            images=tuple(
                replace(i, events=tuple(e for e in i.events if e.type == event_type)) for i in document.images
            ),
            multimedia_events=(),
        )
        for document in documents
    ]


def _only_predicted(predictions: Predictions, event_type: str) -> Predictions:
    return Predictions(
        {name: tuple(e for e in events if e.type == event_type) for name, events in predictions.text.items()},
        {name: tuple(e for e in events if e.type == event_type) for name, events in predictions.image.items()},
        (),
    )
