"""Which event types are taken for which: of triggers whose text agrees, the gold type against the predicted one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TypedDict

from xmtl_ray.evaluation.accuracy import normalised_label, normalised_text
from xmtl_ray.events.records import GenerativeEvent


class Confusion(TypedDict):
    """Counts of events; types are named as the gold names them, or, where it does not, as a prediction first does."""

    types: dict[str, dict[str, int]]
    """Gold type → predicted type → triggers that agree in text; gold types and predicted ones in alphabetical order."""
    missed: dict[str, int]
    """Gold type → triggers whose text no prediction has."""
    extra: dict[str, int]
    """Predicted type → triggers whose text no gold has."""


def confusion(
    samples: Iterable[tuple[Iterable[GenerativeEvent], Iterable[GenerativeEvent], str]],
) -> Confusion:
    """Count over samples, each its gold events, its predicted ones and its language.

    Within a sample triggers are paired one to one: first those that agree in type as well, then in order.
    """
    names = dict[str, str]()
    pairs, missed, extra = Counter[tuple[str, str]](), Counter[str](), Counter[str]()
    seen = [(list(gold), list(predicted), language) for gold, predicted, language in samples]
    for side in (0, 1):
        for sample in seen:
            for event in (sample[0], sample[1])[side]:
                names.setdefault(normalised_label(event.event_type), event.event_type)
    for gold, predicted, language in seen:
        true, guessed = (
            [(normalised_text(event.trigger, language), normalised_label(event.event_type)) for event in events]
            for events in (gold, predicted)
        )
        for trigger in list(true):
            if trigger in guessed:
                true.remove(trigger)
                guessed.remove(trigger)
                pairs[trigger[1], trigger[1]] += 1
        for text, label in true:
            guess = next((candidate for candidate in guessed if candidate[0] == text), None)
            if guess is None:
                missed[label] += 1
            else:
                guessed.remove(guess)
                pairs[label, guess[1]] += 1
        extra.update(label for _, label in guessed)
    types = dict[str, dict[str, int]]()
    for pair in sorted(pairs, key=lambda pair: (names[pair[0]], names[pair[1]])):
        types.setdefault(names[pair[0]], {})[names[pair[1]]] = pairs[pair]
    return Confusion(types=types, missed=_named(missed, names), extra=_named(extra, names))


def _named(counts: Counter[str], names: dict[str, str]) -> dict[str, int]:
    return {names[label]: counts[label] for label in sorted(counts, key=lambda label: names[label])}
