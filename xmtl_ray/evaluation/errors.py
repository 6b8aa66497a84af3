"""What is wrong with a model's answer: the kinds of error of paper B, section 4.1, each a detector of its own.

A sample counts once for each kind that it shows. The kinds are found from what agreement leaves over, one to one: a
predicted event with a gold trigger but another type is a wrong type, and neither missing nor extra. A malformed answer
is that alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Literal, TypeVar

from xmtl_ray.evaluation.accuracy import normalised_label, normalised_text, trigger_key
from xmtl_ray.evaluation.language import judge
from xmtl_ray.events.json_format import Parsed
from xmtl_ray.events.records import GenerativeEvent, GenerativeSample

T = TypeVar("T")

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


def _language(sample: GenerativeSample, parsed: Parsed) -> list[Finding]:
    strings = [text for event in parsed.events for text in (event.trigger, *(text for _, text in event.arguments))]
    if judge(sample.language, sample.source, strings) != "other":
        return []
    return [Finding("language_mismatch", "", " ".join(strings), sample.language)]


def _events(sample: GenerativeSample, parsed: Parsed) -> list[Finding]:
    gold, predicted = list(sample.events), list(parsed.events)
    language = sample.language

    def trigger(event: GenerativeEvent) -> str:
        return normalised_text(event.trigger, language)

    def same_type(guess: GenerativeEvent, true: GenerativeEvent) -> bool:
        return normalised_label(guess.event_type) == normalised_label(true.event_type)

    def nested(guess: GenerativeEvent, true: GenerativeEvent) -> bool:
        return same_type(guess, true) and (trigger(guess) in trigger(true) or trigger(true) in trigger(guess))

    _paired(predicted, gold, _equal(lambda event: trigger_key(event, language)))
    found = [
        Finding("wrong_type", "", f"{guess.event_type}: {guess.trigger}", true.event_type)
        for guess, true in _paired(predicted, gold, _equal(trigger))
    ]
    for guess, true in [*_paired(predicted, gold, nested), *_paired(predicted, gold, same_type)]:
        detail = _extent(trigger(guess), trigger(true))
        found.append(Finding("wrong_trigger", detail, f"{guess.event_type}: {guess.trigger}", true.trigger))
    found += [Finding("incomplete", "event", "", f"{event.event_type}: {event.trigger}") for event in gold]
    return found + [Finding("extra", "event", f"{event.event_type}: {event.trigger}", "") for event in predicted]


def _arguments(sample: GenerativeSample, parsed: Parsed) -> list[Finding]:
    def role(argument: tuple[str, str]) -> str:
        return normalised_label(argument[0])

    def text(argument: tuple[str, str]) -> str:
        return normalised_text(argument[1], sample.language)

    gold = [(role, text) for event in sample.events for role, text in event.arguments]
    predicted = [(role, text) for event in parsed.events for role, text in event.arguments]
    _paired(predicted, gold, _equal(lambda argument: (role(argument), text(argument))))
    found = [
        Finding("wrong_role", "", ": ".join(guess), true[0]) for guess, true in _paired(predicted, gold, _equal(text))
    ]
    found += [
        Finding("incomplete", "other words", ": ".join(guess), true[1])
        for guess, true in _paired(predicted, gold, _equal(role))
    ]
    found += [Finding("incomplete", "argument", "", ": ".join(argument)) for argument in gold]
    return found + [Finding("extra", "argument", ": ".join(argument), "") for argument in predicted]


def _extent(guess: str, true: str) -> str:
    if true in guess:
        return "too long"
    return "too short" if guess in true else "other words"


def _equal(key: Callable[[T], Hashable]) -> Callable[[T, T], bool]:
    return lambda guess, true: key(guess) == key(true)


def _paired(predicted: list[T], gold: list[T], agree: Callable[[T, T], bool]) -> list[tuple[T, T]]:
    """Pairs that agree, first come first served; they are taken out of both lists."""
    pairs = []
    for guess in list(predicted):
        true = next((candidate for candidate in gold if agree(guess, candidate)), None)
        if true is not None:
            predicted.remove(guess)
            gold.remove(true)
            pairs.append((guess, true))
    return pairs
