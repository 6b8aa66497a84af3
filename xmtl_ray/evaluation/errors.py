"""What is wrong with a model's answer: the kinds of error of paper B, section 4.1, each a detector of its own.

A sample counts once for each kind that it shows. The kinds are found from what agreement leaves over, one to one: a
predicted event with a gold trigger but another type is a wrong type, and neither missing nor extra. A malformed answer
is that alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from xmtl_ray.evaluation.accuracy import normalised_label, normalised_text
from xmtl_ray.evaluation.language import judge
from xmtl_ray.events.json_format import Parsed
from xmtl_ray.events.records import GenerativeSample

Kind = Literal[
    "malformed_json", "language_mismatch", "wrong_type", "incomplete", "wrong_role", "wrong_trigger", "extra"
]
KINDS: tuple[Kind, ...] = (
    "malformed_json",
    "language_mismatch",
    "wrong_type",
    "incomplete",
    "wrong_role",
    "wrong_trigger",
    "extra",
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One error: what stands in the answer and what does in the gold, either of them empty where there is nothing."""

    kind: Kind
    detail: str
    """What the kind leaves open: which trigger is too long, whether an event or an argument is missing."""
    found: str
    expected: str


def findings(sample: GenerativeSample, output: str, parsed: Parsed) -> list[Finding]:
    """The errors of one answer, in the order of ``KINDS``; empty where all agrees.

    Args:
        sample: with the gold.
        output: the model's raw answer.
        parsed: the same, read.
    """
    if parsed.state == "malformed":
        return [Finding("malformed_json", "", output, "")]
    found = [*_language(sample, parsed), *_events(sample, parsed), *_arguments(sample, parsed)]
    return sorted(found, key=lambda finding: KINDS.index(finding.kind))


class _Item(NamedTuple):
    """A trigger with its type, or an argument with its role: as they are compared, and as they stand."""

    label: str
    text: str
    shown: tuple[str, str]

    def __str__(self) -> str:
        return ": ".join(self.shown)


def _item(label: str, text: str, language: str) -> _Item:
    return _Item(normalised_label(label), normalised_text(text, language), (label, text))


def _language(sample: GenerativeSample, parsed: Parsed) -> list[Finding]:
    strings = [text for event in parsed.events for text in (event.trigger, *(text for _, text in event.arguments))]
    if judge(sample.language, sample.source, strings) != "other":
        return []
    return [Finding("language_mismatch", "", " ".join(strings), sample.language)]


def _events(sample: GenerativeSample, parsed: Parsed) -> list[Finding]:
    gold, predicted = (
        [_item(event.event_type, event.trigger, sample.language) for event in events]
        for events in (sample.events, parsed.events)
    )
    _paired(predicted, gold, _equal)
    found = [
        Finding("wrong_type", "", str(guess), true.shown[0]) for guess, true in _paired(predicted, gold, _same_text)
    ]
    found += [
        Finding("wrong_trigger", _extent(guess.text, true.text), str(guess), true.shown[1])
        for agree in (_nested, _same_label)
        for guess, true in _paired(predicted, gold, agree)
    ]
    found += [Finding("incomplete", "event", "", str(event)) for event in gold]
    return found + [Finding("extra", "event", str(event), "") for event in predicted]


def _arguments(sample: GenerativeSample, parsed: Parsed) -> list[Finding]:
    gold, predicted = (
        [_item(role, text, sample.language) for event in events for role, text in event.arguments]
        for events in (sample.events, parsed.events)
    )
    _paired(predicted, gold, _equal)
    found = [
        Finding("wrong_role", "", str(guess), true.shown[0]) for guess, true in _paired(predicted, gold, _same_text)
    ]
    found += [
        Finding("incomplete", "other words", str(guess), true.shown[1])
        for guess, true in _paired(predicted, gold, _same_label)
    ]
    found += [Finding("incomplete", "argument", "", str(argument)) for argument in gold]
    return found + [Finding("extra", "argument", str(argument), "") for argument in predicted]


def _extent(guess: str, true: str) -> str:
    if true in guess:
        return "too long"
    return "too short" if guess in true else "other words"


def _equal(guess: _Item, true: _Item) -> bool:
    return guess[:2] == true[:2]


def _same_text(guess: _Item, true: _Item) -> bool:
    return guess.text == true.text


def _same_label(guess: _Item, true: _Item) -> bool:
    return guess.label == true.label


def _nested(guess: _Item, true: _Item) -> bool:
    return guess.label == true.label and (guess.text in true.text or true.text in guess.text)


def _paired(
    predicted: list[_Item], gold: list[_Item], agree: Callable[[_Item, _Item], bool]
) -> list[tuple[_Item, _Item]]:
    """Pairs that agree, first come first served; they are taken out of both lists."""
    pairs = []
    for guess in list(predicted):
        true = next((candidate for candidate in gold if agree(guess, candidate)), None)
        if true is not None:
            predicted.remove(guess)
            gold.remove(true)
            pairs.append((guess, true))
    return pairs
