"""What can be said of a run's predictions once the gold of its test documents is at hand, for page and card alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xmtl_ray.evaluation.confusion import Confusion
from xmtl_ray.evaluation.m2e2 import score_by_document
from xmtl_ray.evaluation.m2e2_confusion import image_confusion, text_confusion
from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.evaluation.significance import intervals
from xmtl_ray.events.predictions import Predictions
from xmtl_ray.events.records import Document
from xmtl_ray.report.by_type import by_role, by_type
from xmtl_ray.report.calibration import Reliability, of_predictions
from xmtl_ray.report.confusion_heat import Heat, heat
from xmtl_ray.report.gallery import Card, cards
from xmtl_ray.report.measured import Measured, measured
from xmtl_ray.report.pictures import short_type
from xmtl_ray.report.run_folder import Counts

Interval = tuple[float, float]
Scores = dict[str, dict[str, Counts]]


@dataclass(frozen=True)
class Judged:
    """Predictions against gold, protocol strict unless another is named."""

    intervals: dict[str, dict[str, Interval]]
    """Protocol → metric → 95 % bootstrap interval of F1 over documents, percent; none of other documents' scores."""
    types: list[Measured]
    """Text events and visual events."""
    roles: list[Measured]
    """Text arguments and visual arguments."""
    heats: list[tuple[str, Heat]]
    """Event types taken for each other, in texts and in images."""
    reliability: list[Reliability]
    cards: list[Card]
    other_documents: bool
    """Whether the scores of the run were counted on other documents than these."""


def judge(
    documents: Sequence[Document], predictions: Predictions, sure: Predictions | None, scores: Scores | None
) -> Judged:
    """Everything that a page shows of ``predictions``.

    Args:
        documents: with their gold.
        predictions: of a run.
        sure: the same with confidences, if there are any.
        scores: what the run's own file says, by protocol and metric.
    """
    strict = score_by_document(documents, predictions, "strict")
    totals = {name: sum((part[name] for part in strict.values()), Prf()) for name in next(iter(strict.values()), {})}
    written = (scores or {}).get("strict", {})
    others = any(
        (written[name].correct, written[name].predicted, written[name].gold) != (c.correct, c.predicted, c.gold)
        for name, c in totals.items()
        if name in written
    )
    ends: dict[str, dict[str, Interval]] = {}
    if scores and not others:
        ends = {name: intervals(score_by_document(documents, predictions, name)) for name in scores}
    tables = [
        ("in texts", text_confusion(documents, predictions)),
        ("in images", image_confusion(documents, predictions)),
    ]
    return Judged(
        ends,
        [measured(*one) for one in by_type(documents, predictions)],
        [measured(*one) for one in by_role(documents, predictions)],
        [(title, drawn) for title, counted in tables if (drawn := heat(_short(counted))) is not None],
        [] if sure is None else of_predictions(documents, sure),
        cards(documents, predictions),
        others,
    )


def _short(found: Confusion) -> Confusion:
    """With types as the page names them, unless two of them would be named alike."""
    guessed = {guess for line in found["types"].values() for guess in line}
    names = {*found["types"], *guessed, *found["missed"], *found["extra"]}
    if len(set(map(short_type, names))) < len(names):
        return found
    return Confusion(
        types={
            short_type(true): {short_type(guess): count for guess, count in line.items()}
            for true, line in found["types"].items()
        },
        missed={short_type(name): count for name, count in found["missed"].items()},
        extra={short_type(name): count for name, count in found["extra"].items()},
    )
