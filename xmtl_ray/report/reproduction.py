"""A reproduced table of the paper for people: HTML, Markdown and JSON of the same figures.

Nothing is counted here; ``pipeline.reproduce`` has counted it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from xmtl_ray.evaluation.m2e2 import METRICS
from xmtl_ray.evaluation.seeds import COLUMNS, MEAN, Estimate, Verdict
from xmtl_ray.evaluation.summary import metric_label
from xmtl_ray.report.interval_figure import intervals
from xmtl_ray.report.templates import render

MISSING = "a row is missing"
HEADLINE = "table"
"""Protocol that claims are decided by and figures show."""


@dataclass(frozen=True)
class RowResult:
    """A row: a way of training, its figures and the paper's."""

    name: str
    label: str
    seeds: tuple[int, ...]
    """Those that came out well."""
    f1: Mapping[str, Mapping[str, Estimate]]
    """Protocol → column → F1; empty where no seed came out."""
    paper: Mapping[str, float]
    """Metric → the paper's F1; empty where it gives none."""

    def published(self, column: str) -> float | None:
        """The paper's figure, or the mean of its six."""
        if column != MEAN:
            return self.paper.get(column)
        return sum(self.paper.values()) / len(self.paper) if self.paper else None


@dataclass(frozen=True)
class ClaimResult:
    """A claim of the paper that one row is above another, and what came out here."""

    text: str
    column: str
    """Which figure decides it; ``MEAN``: the mean of the six."""
    first: str
    second: str
    paper: float | None
    """The paper's difference in that figure."""
    differences: Mapping[str, Mapping[str, Estimate]]
    """Protocol → column → first minus second; empty where a row is missing."""

    @property
    def verdict(self) -> Verdict | None:
        """By the headline protocol; None where a row is missing."""
        return self.differences[HEADLINE][self.column].verdict if self.differences else None


@dataclass(frozen=True)
class Listing:
    """A small table of what may explain the figures."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


@dataclass(frozen=True)
class Reproduction:
    """A table of the paper, done again."""

    name: str
    title: str
    facts: tuple[tuple[str, str], ...]
    """What was run, as (name, value)."""
    rows: tuple[RowResult, ...]
    claims: tuple[ClaimResult, ...]
    listings: tuple[Listing, ...]
    notes: tuple[str, ...]
    """How to read it."""

    @property
    def protocols(self) -> tuple[str, ...]:
        """Of the rows, the headline's first."""
        found = dict.fromkeys(name for row in self.rows for name in row.f1)
        return tuple(sorted(found, key=lambda name: name != HEADLINE))


def column_label(column: str) -> str:
    """For people."""
    return "mean of six" if column == MEAN else metric_label(column)


def cell(estimate: Estimate) -> str:
    """``61.2 (58.0 to 64.9)``."""
    return f"{estimate.mean:.1f} ({estimate.low:.1f} to {estimate.high:.1f})"


def difference(estimate: Estimate) -> str:
    """``+1.2 (-0.3 to +2.8)``."""
    return f"{estimate.mean:+.1f} ({estimate.low:+.1f} to {estimate.high:+.1f})"


def write(folder: Path, found: Reproduction) -> tuple[Path, Path, Path]:
    """Write ``NAME.html``, ``NAME.md`` and ``NAME.json`` into ``folder``; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    html, text, data = (folder / f"{found.name}.{ending}" for ending in ("html", "md", "json"))
    page = render(
        "reproduction.html",
        found=found,
        columns=[(column, column_label(column)) for column in COLUMNS],
        missing=MISSING,
        difference=difference,
        headline=HEADLINE,
        figure=_figure(found),
    )
    html.write_text(page, encoding="utf-8")
    text.write_text(markdown(found), encoding="utf-8")
    data.write_text(json.dumps(as_dict(found), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return html, text, data


def markdown(found: Reproduction) -> str:
    """All tables, to be put into a pull request."""
    labels = [column_label(column) for column in COLUMNS]
    lines = [f"# {found.title}", "", *(f"- {name}: {value}" for name, value in found.facts), ""]
    for protocol in found.protocols:
        lines += [f"## Protocol `{protocol}`", "", *_head(["row", "", *labels])]
        for row in found.rows:
            own = [cell(row.f1[protocol][column]) if row.f1 else "failed" for column in COLUMNS]
            lines.append(_line([row.label, "ours", *own]))
            if row.paper:
                lines.append(_line(["", "paper", *(_plain(row.published(column)) for column in COLUMNS)]))
        lines.append("")
    if found.claims:
        lines += ["## What the paper claims", ""]
        lines += _head(["claim", "decided by", "paper", *(f"ours, `{name}`" for name in found.protocols), "verdict"])
        for claim in found.claims:
            told = [claim.text, column_label(claim.column), "" if claim.paper is None else f"{claim.paper:+.1f}"]
            for name in found.protocols:
                told.append(difference(claim.differences[name][claim.column]) if claim.differences else "")
            lines.append(_line([*told, claim.verdict or MISSING]))
        lines += ["", f"Differences of every figure, protocol `{HEADLINE}`:", "", *_head(["claim", *labels])]
        for claim in found.claims:
            if claim.differences:
                own = [difference(claim.differences[HEADLINE][column]) for column in COLUMNS]
                lines.append(_line([claim.text, *own]))
        lines.append("")
    for listing in found.listings:
        lines += [f"## {listing.title}", "", *_head(listing.head), *(_line(row) for row in listing.rows), ""]
        lines += [listing.note, ""] if listing.note else []
    lines += ["## How to read this", "", *(f"- {note}" for note in found.notes)]
    return "\n".join(lines) + "\n"


def as_dict(found: Reproduction) -> dict[str, object]:
    """Everything as JSON values."""

    def of(estimates: Mapping[str, Mapping[str, Estimate]]) -> dict[str, object]:
        return {name: {column: each.as_dict() for column, each in own.items()} for name, own in estimates.items()}

    return {
        "name": found.name,
        "facts": dict(found.facts),
        "rows": {
            row.name: {"label": row.label, "seeds": list(row.seeds), "ours": of(row.f1), "paper": dict(row.paper)}
            for row in found.rows
        },
        "claims": [
            {
                "claim": claim.text,
                "first": claim.first,
                "second": claim.second,
                "decided_by": claim.column,
                "paper": claim.paper,
                "ours": of(claim.differences),
                "verdict": claim.verdict,
            }
            for claim in found.claims
        ],
        "listings": {
            each.title: [dict(zip(each.head, row, strict=True)) for row in each.rows] for each in found.listings
        },
        "notes": list(found.notes),
    }


def _figure(found: Reproduction) -> Markup | None:
    rows = [row for row in found.rows if row.f1]
    if not rows:
        return None
    panels = [
        (
            metric_label(metric),
            [(each.mean, each.low, each.high) for each in (row.f1[HEADLINE][metric] for row in rows)],
            [row.published(metric) for row in rows],
        )
        for metric in METRICS
    ]
    return intervals([row.label for row in rows], panels)


def _plain(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _head(cells: Sequence[str]) -> list[str]:
    return [_line(cells), "|" + "---|" * len(cells)]


def _line(cells: Iterable[str]) -> str:
    return "| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |"
