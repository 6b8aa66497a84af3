"""A page about a store of pseudo-labels: what each threshold keeps, how good that is, and pairs to look at.

Everything on it is filtered from the store; no teacher runs. Where the pairs are those of a miniature world, whose
truth is known, precision and recall of the kept types are beside the counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from xmtl_ray.config.schema import PSEUDO, TaskName, Term, Thresholds
from xmtl_ray.data import pseudo_labels
from xmtl_ray.data.pseudo_labels import LabelledPair
from xmtl_ray.data.pseudo_selection import Agreement, Selection, select
from xmtl_ray.data.world import PairTruth
from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.events.ontology import m2e2
from xmtl_ray.report import pseudo_figures as figures
from xmtl_ray.report.calibration import of_store
from xmtl_ray.report.pseudo_gallery import cards
from xmtl_ray.report.pseudo_truth import known_truth
from xmtl_ray.report.templates import render

TRIED = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99)
"""Thresholds of the page, each for all tasks alike, as far as the store can answer for them."""
RULES: dict[Agreement, figures.Look] = {
    "shared": ("ink", "o", False),
    "same": ("vc", "^", False),
    "none": ("td", "s", False),
}
"""Agreement rules in the order of the page."""
_TASKS: dict[TaskName, figures.Look] = {
    "td": ("td", "o", False),
    "ae": ("ae", "s", False),
    "vc": ("vc", "^", False),
    "rc": ("rc", "D", False),
}
_QUARANTINED = 30


@dataclass(frozen=True)
class Point:
    """What one threshold keeps."""

    threshold: float
    kept: dict[Agreement, int]
    """Pairs by each rule."""
    examples: dict[Term, int]
    """Of rule shared."""
    text: Prf | None
    """Kept (pair, type) of sentences against the truth; None where it is not known."""
    image: Prf | None


def write_pseudo_page(path: Path, store: Path, world: Path | None = None) -> Path:
    """Write the page of ``store``; returns ``path``.

    Args:
        path: HTML file, which needs neither network nor scripts.
        store: see ``pseudo_labels``.
        world: folder of the world that the pairs are of; None: the one that the source lies in, if it does.

    Raises DataError for a broken store, or a ``world`` that is none or knows none of the pairs.
    """
    manifest = pseudo_labels.read_manifest(store)
    rows = list(pseudo_labels.stream(store))
    truth = known_truth(manifest, store, world)
    reliability = [] if truth is None else of_store(rows, truth)
    points = sweep(rows, manifest.floor, truth)
    chosen = Thresholds()
    page = render(
        "pseudo.html",
        title=f"Pseudo-labels of {Path(manifest.source).name}",
        manifest=manifest,
        sha256=manifest.sha256,
        points=points,
        rules=list(RULES),
        twins=[(task, PSEUDO[task]) for task in _TASKS],
        figures=_figures(points, rows),
        types=_by_type(select(rows, chosen)),
        confidences=_confidences(rows),
        paper=figures.PAPER,
        judged=truth is not None,
        reliability=reliability,
        quarantined=list(pseudo_labels.quarantine(store).items())[:_QUARANTINED],
        cards=cards(rows, manifest, chosen, truth),
    )
    path.write_text(page, encoding="utf-8")
    return path


def sweep(
    rows: Sequence[LabelledPair],
    floor: float,
    truth: Mapping[str, PairTruth] | None = None,
    tried: Sequence[float] = TRIED,
) -> list[Point]:
    """What each threshold of ``tried`` from ``floor`` on keeps, the same one for all tasks."""
    points = []
    for value in tried:
        if value < floor:
            continue
        threshold = Thresholds(td=value, ae=value, vc=value, rc=value)
        selections = {rule: select(rows, threshold, rule) for rule in RULES}
        shared = selections["shared"]
        points.append(
            Point(
                value,
                {rule: len(selection.kept) for rule, selection in selections.items()},
                shared.examples,
                *(judged(shared, rows, truth) if truth is not None else (None, None)),
            )
        )
    return points


def judged(selection: Selection, rows: Sequence[LabelledPair], truth: Mapping[str, PairTruth]) -> tuple[Prf, Prf]:
    """Kept types of sentences and of images, (pair, type) by (pair, type), against the truth about all pairs.

    Recall is of all that the sentences tell and the images show, so it cannot reach 100 where sides differ in truth.
    """
    known = [row for row in rows if row.id in truth]
    kept = [each for each in selection.kept if each.pair.id in truth]
    text = Prf(
        sum(name in truth[each.pair.id].text for each in kept for name in each.text_types),
        sum(len(each.text_types) for each in kept),
        sum(len(truth[row.id].text) for row in known),
    )
    image = Prf(
        sum(name in truth[each.pair.id].image for each in kept for name in each.image_types),
        sum(len(each.image_types) for each in kept),
        sum(len(truth[row.id].image) for row in known),
    )
    return text, image


def _figures(points: Sequence[Point], rows: Sequence[LabelledPair]) -> dict[str, Markup]:
    tried = [point.threshold for point in points]
    found = {
        "kept": figures.over_threshold(
            "kept",
            f"Pairs kept of {len(rows)} at each threshold, by agreement rule",
            tried,
            {rule: ([point.kept[rule] for point in points], look) for rule, look in RULES.items()},
            "pairs kept",
        ),
        "examples": figures.over_threshold(
            "examples",
            "Examples of each pseudo-label task at each threshold",
            tried,
            {task: ([point.examples[PSEUDO[task]] for point in points], look) for task, look in _TASKS.items()},
            "examples",
        ),
    }
    for side, task in (("text", "td"), ("image", "vc")):
        scores: list[Prf | None] = [getattr(point, side) for point in points]
        own = [score for score in scores if score is not None]
        if own:
            found[side] = figures.over_threshold(
                f"truth-{side}",
                f"Precision and recall of the kept {side} types at each threshold",
                tried,
                {
                    "precision": ([score.precision for score in own], _TASKS[task]),  # type: ignore[index]
                    "recall": ([score.recall for score in own], (task, "o", True)),  # type: ignore[dict-item]
                },
                "percent",
                top=100,
            )
    return found


def _by_type(selection: Selection) -> list[tuple[str, int, int]]:
    """Type, kept sentences that tell it, kept images that show it."""
    text = Counter(name for each in selection.kept for name in each.text_types)
    image = Counter(name for each in selection.kept for name in each.image_types)
    return [(name, text[name], image[name]) for name in m2e2().types]


def _confidences(rows: Sequence[LabelledPair]) -> list[tuple[TaskName, str, int, Markup]]:
    """Task, whose probability, how many, and their histogram; tasks that were never asked are left out."""
    answers: list[tuple[TaskName, str, list[float]]] = [
        ("td", "best tag path of sentences with a trigger", [r.path_probability for r in rows if set(r.tags) != {"O"}]),
        ("vc", "most probable type of an image", [max(row.types) for row in rows]),
        ("ae", "most probable role of an entity", [a.probability for row in rows for a in row.text_arguments]),
        ("rc", "most probable role of an object", [a.probability for row in rows for a in row.image_arguments]),
    ]
    return [
        (task, what, len(values), figures.confidences(f"sure-{task}", f"Probabilities: {what}", values, task))
        for task, what, values in answers
        if values
    ]
