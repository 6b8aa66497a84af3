"""Whether the confidences that select pseudo-labels can be taken at their word: reliability diagrams.

Of a store of pseudo-labels where the truth about its pairs is known, as the miniature world's is; and of a model's own
answers to test documents, whose gold is known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup
from matplotlib.ticker import FixedLocator

from xmtl_ray.config.schema import TaskName
from xmtl_ray.data.pseudo_labels import LabelledPair
from xmtl_ray.data.world import PairTruth
from xmtl_ray.evaluation.calibration import Calibration, calibration
from xmtl_ray.evaluation.m2e2 import matching
from xmtl_ray.events.ontology import m2e2, mentions
from xmtl_ray.events.predictions import Predictions
from xmtl_ray.events.records import Document
from xmtl_ray.report.figures import STAND_IN, panel, svg

Answers = list[tuple[float, bool]]
"""Confidence, and whether the answer is right."""


@dataclass(frozen=True)
class Reliability:
    """The answers of one task, and their diagram."""

    task: TaskName
    what: str
    found: Calibration
    figure: Markup


def of_store(rows: Iterable[LabelledPair], truth: Mapping[str, PairTruth]) -> list[Reliability]:
    """Of the teachers' answers to pairs whose truth is known; it is known of types, not of roles.

    td: each type that a sentence's tags tell, with the probability of the whole tag path. vc: an image's most probable
    type with its probability.
    """
    told, shown = Answers(), Answers()
    for row in rows:
        if row.id not in truth:
            continue
        known = truth[row.id]
        types = dict.fromkeys(event_type for event_type, _ in mentions(row.tags))
        told += [(row.path_probability, name in known.text) for name in types]
        best = max(range(len(row.types)), key=lambda place: row.types[place])
        shown.append((row.types[best], m2e2().types[best] in known.image))
    return _drawn("store", {"td": ("types told by sentences", told), "vc": ("most probable type of images", shown)})


def of_predictions(documents: Sequence[Document], predictions: Predictions) -> list[Reliability]:
    """Of a model's answers to documents with gold, as far as it said how sure it was; right is what strict counts."""
    found: dict[TaskName, Answers] = {"td": [], "ae": [], "vc": [], "rc": []}

    def judge(task: TaskName, answers: Iterable[tuple[Hashable, float | None]], gold: Iterable[Hashable]) -> None:
        left = Counter(gold)
        for key, sure in answers:
            if sure is not None:
                found[task].append((sure, left[key] > 0))
            left[key] -= 1

    for document in documents:
        for sentence in document.sentences:
            guessed = predictions.text.get(sentence.id, ())
            judge(
                "td",
                (((e.type, e.trigger), e.confidence) for e in guessed),
                ((e.type, e.trigger) for e in sentence.events),
            )
            judge(
                "ae",
                (((e.type, e.trigger, a.role, a.span), a.confidence) for e in guessed for a in e.arguments),
                ((e.type, e.trigger, a.role, a.span) for e in sentence.events for a in e.arguments),
            )
        for image in document.images:
            seen = predictions.image.get(image.id, ())
            judge("vc", ((e.type, e.confidence) for e in seen), (e.type for e in image.events))
            boxes = [(e.type, a.role, a.box, a.confidence) for e in seen for a in e.arguments]
            gold = [(e.type, a.role, a.box) for e in image.events for a in e.arguments]
            for key in dict.fromkeys(one[:2] for one in boxes):
                own = [one for one in boxes if one[:2] == key]
                matched = matching([one[2] for one in own], [one[2] for one in gold if one[:2] == key])
                found["rc"] += [(one[3], place in matched) for place, one in enumerate(own) if one[3] is not None]
    words: dict[TaskName, str] = {"td": "triggers", "ae": "text arguments", "vc": "types of images", "rc": "boxes"}
    return _drawn("test", {task: (words[task], answers) for task, answers in found.items()})


def _drawn(name: str, answers: Mapping[TaskName, tuple[str, Answers]]) -> list[Reliability]:
    drawn = []
    for task, (what, own) in answers.items():
        if (found := calibration(own)) is not None:
            drawn.append(Reliability(task, what, found, _diagram(f"reliability-{name}-{task}", what, task, found)))
    return drawn


def _diagram(name: str, what: str, task: TaskName, found: Calibration) -> Markup:
    """Share of right answers against confidence, each class a dot as large as it has answers, with its interval."""
    figure, axes = panel(3.1, 2.5, x="confidence")
    axes.plot([0, 1], [0, 1], color=STAND_IN["muted"], linewidth=1, linestyle=(0, (4, 2)))
    at = [one.confidence for one in found.bins]
    axes.vlines(at, [one.interval[0] for one in found.bins], [one.interval[1] for one in found.bins],
                color=STAND_IN[task], linewidth=1.4, alpha=0.6)  # fmt: skip
    most = max(one.count for one in found.bins)
    axes.plot(at, [one.accuracy for one in found.bins], color=STAND_IN[task], linewidth=1.4, alpha=0.5)
    for one in found.bins:
        axes.plot([one.confidence], [one.accuracy], "o", color=STAND_IN[task],
                  markersize=3.5 + 5 * (one.count / most) ** 0.5)  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
    axes.set_xlim(0, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.set_ylabel("share right", color=STAND_IN["muted"], fontsize=9)
    told = "; ".join(f"{one.confidence:.2f}: {one.accuracy:.2f} of {one.count}" for one in found.bins)
    return svg(figure, name, f"Share of right {what} against their confidence. {told}")
