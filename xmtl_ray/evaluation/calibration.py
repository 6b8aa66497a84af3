"""Whether a confidence can be taken at its word: of answers given with 0.8, how many are right.

Expected calibration error (Guo et al., 2017): answers are put into classes of equal width by their confidence; the
differences between mean confidence and share of right answers are averaged over the answers.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from scipy import stats

BINS = 10


@dataclass(frozen=True)
class Bin:
    """Answers whose confidence is above ``low`` and at most ``high``; the first class holds 0 as well."""

    low: float
    high: float
    count: int
    confidence: float
    """Mean, 0 to 1."""
    accuracy: float
    """Share of right answers, 0 to 1."""
    interval: tuple[float, float]
    """Wilson's 95 % interval of ``accuracy``."""


@dataclass(frozen=True)
class Calibration:
    """Answers of one kind, class by class; classes without answers are left out."""

    bins: tuple[Bin, ...]
    count: int
    confidence: float
    """Mean over all answers."""
    accuracy: float
    """Share of right ones of all answers."""
    error: float
    """Expected calibration error, 0 to 1."""


def calibration(answers: Iterable[tuple[float, bool]], bins: int = BINS) -> Calibration | None:
    """Classes of (confidence from 0 to 1, right) pairs; None without any.

    >>> found = calibration([(0.95, True), (0.91, False), (0.25, False)])
    >>> [(one.high, one.count, one.accuracy) for one in found.bins], round(found.error, 3)
    ([(0.3, 1, 0.0), (1.0, 2, 0.5)], 0.37)
    """
    groups: dict[int, list[tuple[float, bool]]] = {}
    for confidence, right in answers:
        # Above low, at most high: -(-x // 1) is x rounded up, and 0.3 * 10 must not be rounded to 4.
        place = max(0, int(-(-round(confidence * bins, 9) // 1)) - 1)
        groups.setdefault(min(place, bins - 1), []).append((confidence, right))
    if not groups:
        return None
    found = []
    for place, group in sorted(groups.items()):
        hits, count = sum(right for _, right in group), len(group)
        ends = stats.binomtest(hits, count).proportion_ci(method="wilson")
        mean = sum(confidence for confidence, _ in group) / count
        edges = round(place / bins, 9), round((place + 1) / bins, 9)
        found.append(Bin(*edges, count, mean, hits / count, (float(ends.low), float(ends.high))))
    total = sum(one.count for one in found)
    return Calibration(
        tuple(found),
        total,
        sum(one.count * one.confidence for one in found) / total,
        sum(one.count * one.accuracy for one in found) / total,
        sum(one.count * abs(one.accuracy - one.confidence) for one in found) / total,
    )
