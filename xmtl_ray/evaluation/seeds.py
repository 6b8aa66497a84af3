"""A training method's F1 over several seeds, and the difference between two, with intervals.

Two things vary: the documents that a method is tested on and the seeds that it is trained with. Both are drawn with
replacement, crossed: each drawn seed is scored on the same drawn documents, and F1 is averaged over drawn seeds. Two
methods are compared within the same draw, so whatever makes documents hard, or a seed's shared teachers good, is in
both and cancels. scipy's bootstrap draws along one axis, hence our own. The surprising fact: with three seeds the
seeds' part of an interval is hardly more than from the worst to the best that was seen, and with one there is none:
what such an interval tells is about these very models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from xmtl_ray.evaluation.m2e2 import METRICS, Scores
from xmtl_ray.evaluation.significance import RESAMPLES

MEAN = "mean"
"""Stands for the mean of the six metrics' F1."""
COLUMNS = (*METRICS, MEAN)

Verdict = Literal["holds", "does not hold", "cannot be told"]


@dataclass(frozen=True)
class Estimate:
    """An F1, or a difference of two, in percent points, with its 95 % interval."""

    mean: float
    low: float
    high: float
    deviation: float | None = None
    """Standard deviation over seeds; None with one seed."""

    @property
    def verdict(self) -> Verdict:
        """Of the claim that it is above 0."""
        if self.low > 0:
            return "holds"
        return "does not hold" if self.high < 0 else "cannot be told"

    def as_dict(self) -> dict[str, float | None]:
        """For JSON."""
        deviation = None if self.deviation is None else round(self.deviation, 4)
        return {
            "mean": round(self.mean, 4),
            "low": round(self.low, 4),
            "high": round(self.high, 4),
            "deviation": deviation,
        }


class Runs:
    """Counts of a method's runs, one for each seed, on the same documents.

    Args:
        by_seed: seed → counts by document, as ``m2e2.score_by_document`` gives them.
    """

    def __init__(self, by_seed: Mapping[int, Mapping[str, Scores]]) -> None:
        self.by_seed = dict(sorted(by_seed.items()))

    @property
    def seeds(self) -> tuple[int, ...]:
        """In their order."""
        return tuple(self.by_seed)

    def counts(self, seeds: Sequence[int], documents: Sequence[str]) -> np.ndarray:
        """[seeds, documents, metrics, 3] correct, predicted, gold."""
        nothing = (0, 0, 0)
        rows = [[self.by_seed[seed].get(name, {}) for name in documents] for seed in seeds]
        found = [
            [[(c.correct, c.predicted, c.gold) if (c := row.get(m)) else nothing for m in METRICS] for row in own]
            for own in rows
        ]
        return np.array(found, dtype=np.int64).reshape(len(seeds), len(documents), len(METRICS), 3)


def estimates(runs: Runs, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Estimate]:
    """F1 of each of ``COLUMNS``: mean over seeds, crossed bootstrap interval. Raises ValueError without a run."""
    return _estimates(runs, None, resamples, seed)


def differences(first: Runs, second: Runs, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, Estimate]:
    """F1 of the first method minus the second's, of each of ``COLUMNS``, over the seeds that both have.

    Raises ValueError where they have none in common.
    """
    return _estimates(first, second, resamples, seed)


def _estimates(first: Runs, second: Runs | None, resamples: int, seed: int) -> dict[str, Estimate]:
    seeds = [each for each in first.seeds if second is None or each in second.by_seed]
    if not seeds:
        raise ValueError("found no run" if second is None else "found no seed in common, expected at least one")
    sides = [first] if second is None else [first, second]
    documents = sorted({name for runs in sides for each in seeds for name in runs.by_seed[each]})
    rng = np.random.default_rng(seed)
    size, count = len(documents), len(seeds)
    often = rng.multinomial(size, np.full(size, 1 / size), resamples) if size else np.zeros((resamples, 0), np.int64)
    share = rng.multinomial(count, np.full(count, 1 / count), resamples) / count
    point, drawn = np.zeros((count, len(COLUMNS))), np.zeros((resamples, len(COLUMNS)))
    for runs, sign in zip(sides, (1, -1), strict=False):
        counts = runs.counts(seeds, documents)
        point += sign * _f1(counts.sum(axis=1))
        resampled = _f1(np.einsum("rd,sdmc->rsmc", often, counts, optimize=True))
        drawn += sign * np.einsum("rs,rsm->rm", share, resampled)
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    spread = point.std(axis=0, ddof=1) if count > 1 else None
    return {
        name: Estimate(
            float(point[:, index].mean()),
            float(low[index]),
            float(high[index]),
            None if spread is None else float(spread[index]),
        )
        for index, name in enumerate(COLUMNS)
    }


def _f1(counts: np.ndarray) -> np.ndarray:
    """F1 in percent of [..., metrics, 3], with the metrics' mean behind them: [..., metrics + 1]."""
    correct, predicted, gold = np.moveaxis(counts, -1, 0)
    total = predicted + gold
    f1 = np.where(total > 0, 200 * correct / np.maximum(total, 1), 0.0)
    return np.concatenate([f1, f1.mean(axis=-1, keepdims=True)], axis=-1)
