"""How sure a score is: bootstrap intervals over documents, and a paired test between two systems.

Documents are what is drawn, not mentions: mentions of one document are alike, and intervals over mentions would be too
narrow. Both methods are scipy's. The surprising fact: F1 is no mean over documents, so what is resampled are documents'
counts, which are summed before F1 is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from xmtl_ray.evaluation.m2e2 import METRICS, Scores
from xmtl_ray.evaluation.prf import Prf

RESAMPLES = 2000


@dataclass(frozen=True)
class Difference:
    """F1 of the first system minus the second's, in points, and how likely as large a one is by chance."""

    f1: float
    p: float
    """Two-sided, 0 to 1, of the hypothesis that the systems can be swapped in any document."""

    def as_dict(self) -> dict[str, float]:
        """For JSON."""
        return {"F1": round(self.f1, 4), "p": round(self.p, 4)}


def intervals(
    scores: Mapping[str, Scores], resamples: int = RESAMPLES, level: float = 0.95, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """Percentile bootstrap interval of each metric's F1, in percent.

    Args:
        scores: counts by document, as ``m2e2.score_by_document`` gives them.
        resamples: how many times as many documents are drawn with replacement.
        level: share of the resampled F1 inside the interval.
        seed: the same seed gives the same interval.

    With fewer than two documents there is nothing to draw: both ends are the score itself.
    """
    return {
        metric: f1_interval([each.get(metric, Prf()) for each in scores.values()], resamples, level, seed)
        for metric in METRICS
    }


def f1_interval(
    counts: Sequence[Prf], resamples: int = RESAMPLES, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the F1 of documents' summed counts, in percent; otherwise as ``intervals``."""
    known = np.array([(each.correct, each.predicted, each.gold) for each in counts]).reshape(-1, 3)
    if len(known) < 2:
        return float(_f1(known)), float(_f1(known))
    return _percentile(
        [np.arange(len(known))], lambda documents, axis: _f1(known[documents], axis), resamples, level, seed
    )


def mean_interval(
    groups: Sequence[Sequence[float]], resamples: int = RESAMPLES, level: float = 0.95, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean of groups' means, as paper B's "overall" is one of languages.

    Args:
        groups: the samples' values, in each group one at least; samples are drawn within their group.
        resamples: how many times as many samples are drawn with replacement.
        level: share of the resampled means inside the interval.
        seed: the same seed gives the same interval.
    """
    # A single value is always drawn; scipy wants two to draw from.
    values = [np.array(group if len(group) > 1 else [*group, *group], dtype=float) for group in groups]
    return _percentile(
        values,
        lambda *drawn, axis: np.mean([group.mean(axis=axis) for group in drawn], axis=0),
        resamples,
        level,
        seed,
    )


def _percentile(
    samples: Sequence[np.ndarray],
    statistic: Callable[..., np.ndarray],
    resamples: int,
    level: float,
    seed: int,
    alternative: Literal["two-sided", "greater"] = "two-sided",
) -> tuple[float, float]:
    """Percentile bootstrap interval of ``statistic``, with ``greater`` open above; each of ``samples`` by itself."""
    drawn = stats.bootstrap(
        samples,
        statistic,
        n_resamples=resamples,
        confidence_level=level,
        alternative=alternative,
        method="percentile",
        vectorized=True,
        batch=200,
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(drawn.low), float(drawn.high)


def differences(
    first: Mapping[str, Scores], second: Mapping[str, Scores], resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, Difference]:
    """Paired permutation test of each metric: the two systems' counts are swapped document by document.

    Documents that only one system has counts for count as empty in the other. Args as in ``intervals``.
    """
    names = dict.fromkeys((*first, *second))
    found = {}
    for metric in METRICS:
        one, other = (_counts([scores.get(name, {}) for name in names], metric) for scores in (first, second))
        counts, size = np.concatenate([one, other]), len(names)
        observed = _f1(one) - _f1(other)
        if size < 2 or bool((one == other).all()):
            found[metric] = Difference(float(observed), 1.0)
            continue
        test = stats.permutation_test(
            (np.arange(size), np.arange(size, 2 * size)),
            lambda x, y, axis, counts=counts: _f1(counts[x], axis) - _f1(counts[y], axis),
            permutation_type="samples",
            n_resamples=resamples,
            vectorized=True,
            batch=200,
            rng=np.random.default_rng(seed),
        )
        found[metric] = Difference(float(observed), float(test.pvalue))
    return found


def gain(
    first: Mapping[str, Scores],
    second: Mapping[str, Scores],
    metric: str,
    confidence: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """F1 of the first system minus the second's, in points, and the lower end of its paired bootstrap interval.

    Documents are drawn with replacement, the same for both systems; with the one-sided ``confidence`` the gain is above
    that end. With fewer than two documents nothing can be told: the end is -100. Args as in ``differences``.
    """
    names = dict.fromkeys((*first, *second))
    one, other = (_counts([scores.get(name, {}) for name in names], metric) for scores in (first, second))
    observed = float(_f1(one) - _f1(other))
    if len(names) < 2:
        return observed, -100.0
    low, _ = _percentile(
        [np.arange(len(names))],
        lambda documents, axis: _f1(one[documents], axis) - _f1(other[documents], axis),
        resamples,
        confidence,
        seed,
        alternative="greater",
    )
    return observed, low


def _counts(scores: Iterable[Mapping[str, Prf]], metric: str) -> np.ndarray:
    """[documents, 3] correct, predicted, gold."""
    rows = [each.get(metric) for each in scores]
    return np.array([(row.correct, row.predicted, row.gold) if row else (0, 0, 0) for row in rows]).reshape(-1, 3)


def _f1(counts: np.ndarray, axis: int = -1) -> np.ndarray:
    """F1 in percent of [..., documents, 3], 0 where nothing is predicted and there is no gold."""
    correct, predicted, gold = np.moveaxis(counts.sum(axis=-2), -1, 0)
    total = predicted + gold
    return np.where(total > 0, 200 * correct / np.maximum(total, 1), 0.0)
