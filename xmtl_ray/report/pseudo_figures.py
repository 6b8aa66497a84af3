"""The figures of a page about pseudo-labels: curves over a threshold, and how sure the teachers are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from markupsafe import Markup
from matplotlib.ticker import FixedLocator

from xmtl_ray.report.figures import STAND_IN, panel, svg

PAPER = 0.8
"""The paper's threshold, a dotted line in every figure."""

Colour = Literal["ink", "muted", "td", "ae", "vc", "rc"]
Look = tuple[Colour, str, bool]
"""Colour, marker, and whether the line is dashed."""


def over_threshold(
    name: str,
    description: str,
    thresholds: Sequence[float],
    lines: Mapping[str, tuple[Sequence[float], Look]],
    unit: str,
    top: float | None = None,
) -> Markup:
    """Lines of one value per threshold, from 0 up to ``top`` or the largest."""
    figure, axes = panel(5.4, 2.9, font=8, x="threshold: probability must be greater")
    for values, (colour, marker, dashed) in lines.values():
        style = {"linestyle": (0, (4, 2))} if dashed else {}
        axes.plot(
            *(thresholds, values),
            color=STAND_IN[colour],
            linewidth=1.8,
            marker=marker,
            markersize=4,
            **style,  # type: ignore[arg-type]
        )
    _mark_paper(axes)
    axes.xaxis.set_major_locator(FixedLocator([0.5, 0.6, 0.7, 0.8, 0.9, 1.0]))
    axes.set_xlim(min(thresholds) - 0.01, 1.0)
    most = max((value for values, _ in lines.values() for value in values), default=1)
    axes.set_ylim(0, (top or most or 1) * 1.06)
    if top is not None:
        axes.yaxis.set_major_locator(FixedLocator([0, top / 4, top / 2, 3 * top / 4, top]))
    axes.set_ylabel(unit, color=STAND_IN["muted"], fontsize=8)
    return svg(figure, name, description)


def confidences(name: str, description: str, values: Sequence[float], colour: Colour) -> Markup:
    """How many answers have which probability: twenty classes from 0 to 1."""
    figure, axes = panel(3.1, 1.8, x="probability")
    counts, edges = np.histogram(values, bins=20, range=(0, 1))
    axes.bar(edges[:-1], counts, width=0.046, align="edge", color=STAND_IN[colour], linewidth=0)
    _mark_paper(axes)
    axes.xaxis.set_major_locator(FixedLocator([0, 0.2, 0.4, 0.6, 0.8, 1.0]))
    axes.set_xlim(0, 1)
    return svg(figure, name, description)


def _mark_paper(axes: object) -> None:
    axes.axvline(PAPER, color=STAND_IN["ink"], linewidth=0.9, linestyle=(0, (1, 2)))  # type: ignore[attr-defined]
