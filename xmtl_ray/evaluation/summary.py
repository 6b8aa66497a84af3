"""One prediction file under several protocols, side by side, with what tells how far a number can be trusted."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING

import yaml

from xmtl_ray.evaluation.m2e2 import METRICS, score_by_document
from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.evaluation.protocols import SIDE_BY_SIDE
from xmtl_ray.events.predictions import Predictions
from xmtl_ray.events.records import Document

if TYPE_CHECKING:
    from xmtl_ray.evaluation.significance import Difference

BASIS = "strict"
"""What inflation is measured against."""


@dataclass(frozen=True)
class Row:
    """One metric under one protocol."""

    metric: str
    counts: Prf
    inflation: float
    """F1 minus that of ``strict``, in points."""
    interval: tuple[float, float] | None = None
    """Bootstrap interval of F1 over documents, 95 %."""
    difference: Difference | None = None
    """F1 minus the other system's, with its p value."""

    @property
    def label(self) -> str:
        """For people: ``multimedia event``."""
        return metric_label(self.metric)

    def as_dict(self) -> dict[str, object]:
        """For JSON: the counts with P, R and F1; interval and difference where they were asked for."""
        found: dict[str, object] = {**self.counts.as_dict()}
        if self.interval is not None:
            found["interval"] = [round(end, 4) for end in self.interval]
        if self.difference is not None:
            found["difference"] = self.difference.as_dict()
        return found


Summary = dict[str, tuple[Row, ...]]
"""Rows by protocol."""


def summarise(
    documents: Iterable[Document],
    predictions: Predictions,
    protocols: Sequence[str] = SIDE_BY_SIDE,
    intervals: bool = False,
    against: Predictions | None = None,
) -> Summary:
    """Counts of all metrics under each protocol; with ``against``, the paired test between the two.

    Raises ValueError for an unknown protocol.
    """
    documents = tuple(documents)
    scores = {name: score_by_document(documents, predictions, name) for name in dict.fromkeys((*protocols, BASIS))}
    totals = {
        name: {metric: sum((counts[metric] for counts in parts.values()), Prf()) for metric in METRICS}
        for name, parts in scores.items()
    }
    found = {}
    for name in protocols:
        ends: dict[str, tuple[float, float]] = {}
        tests: dict[str, Difference] = {}
        if intervals or against is not None:  # scipy.stats takes longer to load than all else here
            from xmtl_ray.evaluation import significance

            ends = significance.intervals(scores[name]) if intervals else ends
            if against is not None:
                tests = significance.differences(scores[name], score_by_document(documents, against, name))
        found[name] = tuple(
            Row(
                metric,
                totals[name][metric],
                totals[name][metric].f1 - totals[BASIS][metric].f1,
                ends.get(metric),
                tests.get(metric),
            )
            for metric in METRICS
        )
    return found


def metric_label(metric: str) -> str:
    """``mm_event`` → ``multimedia event``."""
    return metric.replace("mm_", "multimedia_").replace("_", " ")


@dataclass(frozen=True)
class Published:
    """One system's figures for one metric, percent; None where its paper gives none."""

    metric: str
    system: str
    precision: float | None
    recall: float | None
    f1: float

    @property
    def recomputed(self) -> float | None:
        """F1 that follows from the printed P and R."""
        if self.precision is None or self.recall is None:
            return None
        return 2 * self.precision * self.recall / (self.precision + self.recall)

    @property
    def slip(self) -> bool:
        """Whether the printed F1 does not follow from the printed P and R, rounding of all three allowed for."""
        return self.recomputed is not None and abs(self.recomputed - self.f1) > 0.15


@cache
def published() -> tuple[Published, ...]:
    """Table 1 of X-MTL, by metric in the order of ``METRICS``."""
    raw = yaml.safe_load((files("xmtl_ray.evaluation") / "published.yaml").read_text(encoding="utf-8"))
    return tuple(
        Published(f"{modality}_{kind}", system, *figures[start : start + 3])
        for modality, systems in raw.items()
        for kind, start in (("event", 0), ("argument", 3))
        for system, figures in systems.items()
    )


@cache
def published_strategies() -> dict[str, dict[str, float]]:
    """Table 2 of X-MTL: training strategy → metric → F1."""
    raw = yaml.safe_load((files("xmtl_ray.evaluation") / "published_strategies.yaml").read_text(encoding="utf-8"))
    return {name: dict(zip(METRICS, figures, strict=True)) for name, figures in raw.items()}
