"""A prediction file's scores for people: the HTML page with the errors in place, and the tables as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from xmtl_ray.evaluation.m2e2 import METRICS
from xmtl_ray.evaluation.protocols import PROTOCOLS
from xmtl_ray.evaluation.summary import Summary, metric_label, published
from xmtl_ray.events.predictions import Predictions
from xmtl_ray.events.records import DataError, Document
from xmtl_ray.report.gallery import cards
from xmtl_ray.report.templates import render


@dataclass(frozen=True)
class Listed:
    """A system's figures beside others'. ``own``: of the file that is scored."""

    label: str
    system: str
    precision: float | None
    recall: float | None
    f1: float
    recomputed: float | None = None
    slip: bool = False
    own: bool = False


def write_page(
    path: Path,
    title: str,
    documents: Sequence[Document],
    predictions: Predictions,
    summary: Summary,
    problems: Sequence[DataError] = (),
    other: str | None = None,
    shown: int = 24,
) -> None:
    """Write one HTML file that needs neither network nor scripts.

    Args:
        path: the file.
        title: the predictions' name.
        documents: the gold, with images' paths where they are to be seen.
        predictions: what is shown against it.
        summary: by protocol; the first is the headline.
        problems: what a lenient reader found.
        other: name of the system that ``summary`` has differences to.
        shown: documents that are shown with their errors, at most.
    """
    headline = next(iter(summary))
    page = render(
        "scores.html",
        title=title,
        facts=_facts(documents, predictions),
        headline=headline,
        rows=summary[headline],
        protocols=list(summary),
        about={name: PROTOCOLS[name].about for name in summary},
        summary={name: {row.metric: row for row in rows} for name, rows in summary.items()},
        metrics=[(metric, metric_label(metric)) for metric in METRICS],
        problems=[str(problem) for problem in problems],
        other=other,
        cards=cards(documents, predictions, shown),
        documents=len(documents),
        published=list(beside_published(title, summary)),
    )
    path.write_text(page, encoding="utf-8")


def markdown(title: str, summary: Summary, other: str | None = None) -> str:
    """The same tables for a pull request or a paper's draft."""
    headline = next(iter(summary))
    rows = summary[headline]
    head = ["", "P", "R", "F1", "95 %", "correct", "predicted", "gold", "inflation"]
    head += [f"against {other}", "p"] if other else []
    lines = [f"## {title}: M2E2, protocol `{headline}`", "", *_table_head(head)]
    for row in rows:
        counts = row.counts
        cells = [row.label, *(f"{value:.1f}" for value in (counts.precision, counts.recall, counts.f1))]
        cells.append("" if row.interval is None else f"{row.interval[0]:.1f}–{row.interval[1]:.1f}")
        cells += [str(counts.correct), str(counts.predicted), str(counts.gold), f"{row.inflation:+.1f}"]
        if row.difference is not None:
            cells += [f"{row.difference.f1:+.1f}", f"{row.difference.p:.3f}"]
        lines.append(_line(cells))
    if len(summary) > 1:
        lines += ["", "F1 (inflation over `strict`) under each protocol:", "", *_table_head(["", *summary])]
        for index, metric in enumerate(METRICS):
            own = [summary[name][index] for name in summary]
            lines.append(_line([metric_label(metric), *(f"{row.counts.f1:.1f} ({row.inflation:+.1f})" for row in own)]))
    lines += [
        "",
        "Published (Table 1 of X-MTL; whole benchmark; F1 recomputed where it does not follow from P and R):",
        "",
    ]
    lines += _table_head(["", "system", "P", "R", "F1", "recomputed"])
    for listed in beside_published(title, summary):
        figures = (listed.precision, listed.recall, listed.f1, listed.recomputed if listed.slip else None)
        name = f"**{listed.system}**" if listed.own else listed.system
        lines.append(_line([listed.label, name, *("" if value is None else f"{value:.1f}" for value in figures)]))
    return "\n".join(lines) + "\n"


def beside_published(title: str, summary: Summary) -> Iterator[Listed]:
    """Published figures by metric, each metric's followed by the file's own under the headline protocol."""
    for row in next(iter(summary.values())):
        for item in published():
            if item.metric == row.metric:
                yield Listed(row.label, item.system, item.precision, item.recall, item.f1, item.recomputed, item.slip)
        yield Listed(row.label, title, row.counts.precision, row.counts.recall, row.counts.f1, own=True)


def _facts(documents: Sequence[Document], predictions: Predictions) -> list[tuple[str, str]]:
    sentences = [sentence for document in documents for sentence in document.sentences]
    images = [image for document in documents for image in document.images]
    pairs = sum(len(document.multimedia_events) for document in documents)
    return [
        ("Documents", f"{len(documents):,}"),
        ("Sentences", f"{len(sentences):,}, {sum(map(bool, (s.events for s in sentences))):,} with an event"),
        ("Images", f"{len(images):,}, {sum(map(bool, (i.events for i in images))):,} with an event"),
        ("Pairs", f"{pairs:,} in gold, {len(predictions.multimedia):,} predicted"),
    ]


def _table_head(cells: Sequence[str]) -> list[str]:
    return [_line(cells), "|" + "---|" * len(cells)]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
