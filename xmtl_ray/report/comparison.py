"""What of one document was found, missed or made up: the scorer's matching, item by item.

Counted together, the outcomes are the counts of ``evaluation.m2e2`` under protocol ``strict``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from xmtl_ray.evaluation.m2e2 import matching
from xmtl_ray.events.records import Box, Span, TextEvent, VisualEvent

Outcome = Literal["correct", "missed", "wrong"]
"""In gold and predicted, only in gold, only predicted."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Mention:
    """A trigger or an argument in a sentence. ``label`` is the event type or the role."""

    kind: Literal["trigger", "argument"]
    label: str
    type: str
    span: Span
    outcome: Outcome | None
    """None: nothing is known that could judge it."""
    confidence: float | None = None
    """Of a prediction that is shown by itself."""


@dataclass(frozen=True)
class Region:
    """An argument in an image: its gold box, its predicted box, or both if they match."""

    type: str
    role: str
    gold: Box | None
    predicted: Box | None

    @property
    def outcome(self) -> Outcome:
        """Both boxes: correct; only one: missed or wrong."""
        if self.gold is None:
            return "wrong"
        return "missed" if self.predicted is None else "correct"


def outcomes(predicted: Iterable[Key], gold: Iterable[Key]) -> list[tuple[Key, Outcome]]:
    """Each item with its outcome; a gold item is used up once, so a second equal prediction is wrong."""
    found, there = Counter(predicted), Counter(gold)
    items: list[tuple[Key, Outcome]] = []
    for key in dict.fromkeys((*there, *found)):
        both = min(found[key], there[key])
        items += [(key, "correct")] * both
        items += [(key, "missed")] * (there[key] - both)
        items += [(key, "wrong")] * (found[key] - both)
    return items


def mentions(predicted: Sequence[TextEvent], gold: Sequence[TextEvent]) -> list[Mention]:
    """Triggers and arguments of one sentence. An argument of an event that is wrong is itself wrong."""
    triggers = outcomes(((e.type, e.trigger) for e in predicted), ((e.type, e.trigger) for e in gold))
    arguments = outcomes(
        ((e.type, e.trigger, a.role, a.span) for e in predicted for a in e.arguments),
        ((e.type, e.trigger, a.role, a.span) for e in gold for a in e.arguments),
    )
    return [
        *(Mention("trigger", event_type, event_type, span, outcome) for (event_type, span), outcome in triggers),
        *(Mention("argument", role, event_type, span, outcome) for (event_type, _, role, span), outcome in arguments),
    ]


def regions(predicted: Sequence[VisualEvent], gold: Sequence[VisualEvent]) -> list[Region]:
    """Arguments of one image, boxes of the same type and role matched one to one where they overlap enough."""
    found, there = _boxes(predicted), _boxes(gold)
    items: list[Region] = []
    for event_type, role in dict.fromkeys((*there, *found)):
        true, guessed = there.get((event_type, role), []), found.get((event_type, role), [])
        partner = {there: here for here, there in matching(guessed, true).items()}
        items += [
            Region(event_type, role, box, guessed[partner[index]] if index in partner else None)
            for index, box in enumerate(true)
        ]
        used = set(partner.values())
        items += [Region(event_type, role, None, box) for index, box in enumerate(guessed) if index not in used]
    return items


def _boxes(events: Sequence[VisualEvent]) -> dict[tuple[str, str], list[Box]]:
    boxes: dict[tuple[str, str], list[Box]] = {}
    for event in events:
        for argument in event.arguments:
            boxes.setdefault((event.type, argument.role), []).append(argument.box)
    return boxes
