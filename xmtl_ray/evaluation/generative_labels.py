"""A model's answers by event type and by role, sample by sample, for scores of each and their intervals.

Labels are compared as everywhere, see ``accuracy.normalised_label``. The surprising fact: Eq. 10 counts an argument
whatever event it hangs on, so the arguments of a type, which are those of its events, do not add up to all that are
right, and those of a role do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from xmtl_ray.evaluation.accuracy import argument_keys, arguments, matched, normalised_label, triggers
from xmtl_ray.evaluation.generative import Scored
from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.events.records import GenerativeEvent


@dataclass
class Labelled:
    """What a type or a role has in each sample whose gold or answer has it."""

    name: str
    """As it is written first, in the gold if it is there."""
    triggers: list[Prf] = field(default_factory=list)
    """Empty of a role."""
    arguments: list[Prf] = field(default_factory=list)

    @property
    def gold(self) -> int:
        """Gold triggers and arguments."""
        return sum(counts.gold for counts in (*self.triggers, *self.arguments))

    @property
    def predicted(self) -> int:
        """Triggers and arguments of the answers."""
        return sum(counts.predicted for counts in (*self.triggers, *self.arguments))


def by_type(scored: Sequence[Scored]) -> list[Labelled]:
    """Each event type of gold or answers, those with most gold first."""
    names = _names(event.event_type for events in _all_events(scored) for event in events)
    found: dict[str, Labelled] = {}
    for one in scored:
        gold, told = (_grouped(events) for events in (one.sample.events, one.events))
        for key in dict.fromkeys((*gold, *told)):
            sides = gold.get(key, ()), told.get(key, ()), one.sample.language
            into = found.setdefault(key, Labelled(names[key]))
            into.triggers.append(triggers(*sides))
            into.arguments.append(arguments(*sides))
    return _ordered(found.values())


def by_role(scored: Sequence[Scored]) -> list[Labelled]:
    """Each role of gold or answers, those with most gold first."""
    names = _names(role for events in _all_events(scored) for event in events for role, _ in event.arguments)
    found: dict[str, Labelled] = {}
    for one in scored:
        gold, told = (argument_keys(events, one.sample.language) for events in (one.sample.events, one.events))
        for role in dict.fromkeys(key for key, _ in (*gold, *told)):
            own = matched(*([key for key in keys if key[0] == role] for keys in (told, gold)))
            found.setdefault(role, Labelled(names[role])).arguments.append(own)
    return _ordered(found.values())


def _all_events(scored: Sequence[Scored]) -> Iterator[Sequence[GenerativeEvent]]:
    """Of the gold, then of the answers."""
    yield from (one.sample.events for one in scored)
    yield from (one.events for one in scored)


def _names(labels: Iterable[str]) -> dict[str, str]:
    """How a label is compared → how it is written first."""
    found: dict[str, str] = {}
    for label in labels:
        found.setdefault(normalised_label(label), label)
    return found


def _grouped(events: Iterable[GenerativeEvent]) -> dict[str, list[GenerativeEvent]]:
    found: dict[str, list[GenerativeEvent]] = {}
    for event in events:
        found.setdefault(normalised_label(event.event_type), []).append(event)
    return found


def _ordered(labels: Iterable[Labelled]) -> list[Labelled]:
    return sorted(labels, key=lambda one: (-one.gold, -one.predicted, one.name))
