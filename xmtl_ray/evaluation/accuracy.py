"""Trigger and argument accuracy of generated events (paper B, Eq. 9-10), and how their strings are compared.

The surprising fact: the denominators are gold counts, so what a model writes too much costs it nothing here; the
pooled precision and F1 beside tell.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.events.records import GenerativeEvent


def normalised_text(text: str, language: str) -> str:
    """A trigger or an argument as it is compared.

    NFKC, case folding, white space joined (none at all in Chinese), ё as е in Russian, no punctuation at both ends.

    >>> normalised_text("  «Ёлка»,\\n Москва. ", "ru")
    'елка», москва'
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    joined = ("" if language == "zh" else " ").join(folded.split())
    if language == "ru":
        joined = joined.replace("ё", "е")
    start, end = 0, len(joined)
    while start < end and _outer(joined[start]):
        start += 1
    while start < end and _outer(joined[end - 1]):
        end -= 1
    return joined[start:end]


def _outer(letter: str) -> bool:
    return letter == " " or unicodedata.category(letter).startswith("P")


def normalised_label(label: str) -> str:
    """A type or role as it is compared: case folded, with space, ``_`` and ``-`` alike.

    >>> normalised_label("Policy_Change")
    'policy-change'
    """
    return re.sub(r"[\s_-]+", "-", label.casefold().strip())


def trigger_key(event: GenerativeEvent, language: str) -> tuple[str, str]:
    """What must agree for a trigger to be correct: its string and the event's type."""
    return normalised_text(event.trigger, language), normalised_label(event.event_type)


def argument_keys(events: Iterable[GenerativeEvent], language: str) -> list[tuple[str, str]]:
    """What must agree for an argument to be correct: role and string, whatever event it hangs on."""
    return [
        (normalised_label(role), normalised_text(text, language)) for event in events for role, text in event.arguments
    ]


def triggers(gold: Iterable[GenerativeEvent], predicted: Iterable[GenerativeEvent], language: str) -> Prf:
    """Eq. 9's counts for one sample: triggers that agree, one to one."""
    return matched((trigger_key(e, language) for e in predicted), (trigger_key(e, language) for e in gold))


def arguments(gold: Iterable[GenerativeEvent], predicted: Iterable[GenerativeEvent], language: str) -> Prf:
    """Eq. 10's counts for one sample: arguments that agree, one to one."""
    return matched(argument_keys(predicted, language), argument_keys(gold, language))


def matched(predicted: Iterable[Hashable], gold: Iterable[Hashable]) -> Prf:
    """Counts of keys that agree, one to one."""
    found, there = Counter(predicted), Counter(gold)
    return Prf((found & there).total(), found.total(), there.total())


@dataclass(frozen=True)
class Accuracy:
    """Counts of a group of samples, one ``Prf`` each."""

    samples: Sequence[Prf]

    @property
    def pooled(self) -> Prf:
        """Over all items of the group."""
        return sum(self.samples, Prf())

    @property
    def mean(self) -> float | None:
        """Eq. 9-10: the mean of correct / gold over samples that have gold items, percent; None without any."""
        shares = self.shares
        return sum(shares) / len(shares) if shares else None

    @property
    def shares(self) -> list[float]:
        """Correct / gold of each sample that has gold items, percent."""
        return [100 * counts.correct / counts.gold for counts in self.samples if counts.gold]

    def as_dict(self) -> dict[str, float | None]:
        """Accuracies and pooled precision in percent, rounded to four decimals, and the counts."""
        pooled, mean = self.pooled, self.mean
        return {
            "accuracy_mean_of_samples": None if mean is None else round(mean, 4),
            "accuracy_pooled": round(pooled.recall, 4) if pooled.gold else None,
            "precision_pooled": round(pooled.precision, 4),
            "correct": pooled.correct,
            "predicted": pooled.predicted,
            "gold": pooled.gold,
        }


def mean_of_languages(groups: Iterable[Accuracy]) -> float | None:
    """The paper's "overall": the plain mean of the languages' accuracies, percent; None without any."""
    means = [mean for group in groups if (mean := group.mean) is not None]
    return sum(means) / len(means) if means else None
