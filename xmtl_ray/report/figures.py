"""Curves as inline SVG whose colours are the page's CSS variables, so that they follow light and dark.

The surprising fact: Matplotlib knows no CSS variables. It draws in stand-in colours, which are replaced by name in
the SVG's text.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from xmtl_ray.config.schema import TaskName, Term
from xmtl_ray.report.run_folder import Series

_VARIABLES = ("ink", "muted", "grid", "td", "ae", "vc", "rc")
STAND_IN = {name: f"#a7b3c{index}" for index, name in enumerate(_VARIABLES)}
MARKERS: dict[TaskName, str] = {"td": "o", "ae": "s", "vc": "^", "rc": "D"}
_RAW_POINTS = 400
"""More than the pixels of a panel show nothing."""


_STAIRS = 60
"""More changes of a weight than that cannot be told apart."""


def window(steps: int) -> int:
    """Steps that the smoothed line averages over: an odd number, about a fifteenth of all."""
    return 2 * (steps // 30) + 1


def smooth(values: Sequence[float], width: int) -> list[float]:
    """Centred moving average over ``width`` (odd) values; at the ends over those that there are.

    >>> smooth([0.0, 3.0, 6.0, 3.0], 3)
    [1.5, 3.0, 4.0, 4.5]
    """
    half = width // 2
    sums = np.concatenate([[0.0], np.cumsum(values)])
    ends = [(max(0, index - half), min(len(values), index + half + 1)) for index in range(len(values))]
    return [float(sums[end] - sums[start]) / (end - start) for start, end in ends]


def losses(name: str, description: str, terms: Mapping[Term | None, Series], last: int) -> Markup:
    """Training losses in one panel: each step faintly, the moving average over it, nothing where a task had no turn.

    Args:
        name: of the figure.
        description: for who does not see it.
        terms: a task's loss and its pseudo-label twin's, which is dashed; of None the sum.
        last: step at which the horizontal axis ends, the same in all panels of a run.
    """
    figure, axes = panel(3.1, 2.0)
    low, high = math.inf, -math.inf
    for term, series in terms.items():
        colour, dashes = look(term)
        raw, width = list(series.values()), window(len(series))
        for stretch in stretches(series, last):
            steps, values = list(stretch), list(stretch.values())
            mean = smooth(values, width)
            points = max(2, _RAW_POINTS * len(stretch) // len(series))
            axes.plot(*_thinned(steps, values, points), color=colour, linewidth=0.8, alpha=0.2 if dashes else 0.3)
            axes.plot(
                *_thinned(steps, mean, points), color=colour, linewidth=1.8, marker=_lone(mean), markersize=3, **dashes
            )
            high = max(high, *mean)
        low, high = min(low, *raw), max(high, float(np.quantile(raw, 0.99)))
    margin = 0.06 * (high - low) or 0.5
    axes.set_ylim(low - margin, high + margin)
    axes.set_xlim(0, 1.02 * last)
    return svg(figure, name, f"{description} over {last} steps")


def stretches(series: Series, last: int) -> list[Series]:
    """``series`` cut where steps are missing and the hole would be seen: more than a fortieth of ``last``.

    >>> stretches({1: 5.0, 2: 4.0, 9: 3.0}, last=10)
    [{1: 5.0, 2: 4.0}, {9: 3.0}]
    """
    found: list[Series] = []
    before = None
    for step, value in series.items():
        if before is None or step - before > max(1, last / 40):
            found.append({})
        found[-1][step] = value
        before = step
    return found


def weights(terms: Mapping[Term | None, Series], last: int) -> Markup:
    """The losses' weights as stairs: each holds from the step at which it was tracked until the next one.

    One that changes so often that stairs are a blot is drawn as losses are: its stairs faintly, their moving average
    over them; the axis is made for averages, and peaks far above them are cut off.
    """
    figure, axes = panel(4.7, 2.9, font=8)
    top = 0.0
    for term, series in terms.items():
        colour, dashes = look(term)
        stairs = {**series, last: list(series.values())[-1]}
        width = weights_window(series, last)
        faint = {"linewidth": 0.6, "alpha": 0.25} if width > 1 else {"linewidth": 1.6, **dashes}
        axes.plot(*_thinned(list(stairs), list(stairs.values())), color=colour, drawstyle="steps-post", **faint)
        highest = max(series.values())
        if width > 1:
            steps = range(min(series), last + 1)
            mean = smooth(_held(stairs, steps), width)
            axes.plot(*_thinned(steps, mean), color=colour, linewidth=1.6, **dashes)
            highest = min(highest, 1.5 * max(mean))
        top = max(top, highest)
    axes.set_xlim(0, 1.02 * last)
    axes.set_ylim(0, 1.06 * top or 1)
    return svg(figure, "weights", f"Weight of each loss over {last} steps")


def weights_window(series: Series, last: int) -> int:
    """Steps that a weight's line averages over: 1, its stairs as they are, unless it changes too often for the eye."""
    return window(last - min(series) + 1) if len(series) > _STAIRS else 1


def _held(series: Series, steps: Sequence[int]) -> list[float]:
    """The value of each of ``steps``, which begin with the first of ``series``: that of the last change before it."""
    found: list[float] = []
    for step in steps:
        found.append(series[step] if step in series else found[-1])
    return found


def look(term: Term | None) -> tuple[str, dict[str, Any]]:
    """Colour and dashes of a loss: a twin has its task's colour, what is no task's is grey, the sum (None) as ink."""
    task = None if term is None else term.removesuffix("_pseudo")
    colour = "ink" if task is None else task if task in STAND_IN else "muted"
    return STAND_IN[colour], {"linestyle": (0, (3, 1.5))} if task != term else {}


def dev(tasks: Mapping[TaskName, Series], mean: Series, best: int | None) -> Markup:
    """Dev F1 of each task by step, their mean dashed, and the step of the best checkpoint."""
    figure, axes = panel(4.7, 2.9, font=8)
    if best is not None:
        axes.axvline(best, color=STAND_IN["ink"], linewidth=0.9, linestyle=(0, (1, 2)))
        axes.annotate(
            "best checkpoint",
            (best, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 4),
            textcoords="offset points",
            ha="center",
            color=STAND_IN["ink"],
            fontsize=8,
        )
    if len(tasks) > 1 and mean:
        axes.plot(list(mean), list(mean.values()), color=STAND_IN["muted"], linewidth=1.4, linestyle=(0, (4, 2)))
    for task, series in tasks.items():
        axes.plot(
            list(series),
            list(series.values()),
            color=STAND_IN[task],
            linewidth=1.8,
            marker=MARKERS[task],
            markersize=4.5,
        )
    axes.set_xlim(0, 1.04 * max(step for series in tasks.values() for step in series))
    axes.set_ylim(-3, 103)
    axes.set_yticks([0, 25, 50, 75, 100])
    axes.set_ylabel("F1, percent", color=STAND_IN["muted"], fontsize=8)
    return svg(figure, "dev", "Dev F1 of each task by step")


def lines(name: str, description: str, series: Mapping[str, Series], percent: bool = False) -> Markup:
    """Lines with a marker at each point, by the CSS variable of their colour; ``percent`` fixes the axis to 0-100."""
    figure, axes = panel(3.1, 2.0)
    for colour, values in series.items():
        axes.plot(list(values), list(values.values()), color=STAND_IN[colour], linewidth=1.6, marker="o", markersize=3)
    axes.set_xlim(0, 1.04 * max(step for values in series.values() for step in values))
    if percent:
        axes.set_ylim(-3, 103)
        axes.set_yticks([0, 50, 100])
    else:
        axes.set_ylim(bottom=0)
    return svg(figure, name, description)


def learning_rate(series: Series) -> Markup:
    """The factor on all learning rates by step."""
    figure, axes = panel(3.1, 2.0)
    steps, values = _thinned(list(series), list(series.values()))
    axes.fill_between(steps, values, color=STAND_IN["muted"], alpha=0.15, linewidth=0)
    axes.plot(steps, values, color=STAND_IN["muted"], linewidth=1.6, marker=_lone(values))
    axes.set_xlim(0, 1.02 * steps[-1])
    axes.set_ylim(0, 1.06)
    axes.set_yticks([0, 0.5, 1])
    return svg(figure, "learning-rate", "Factor on the learning rates by step")


def panel(width_in: float, height_in: float, font: float = 9, x: str = "step") -> tuple[Figure, Axes]:
    """A figure's one pair of axes, in inches, without frame; ``x`` names what the horizontal one counts."""
    figure = Figure(figsize=(width_in, height_in), layout="constrained")
    axes = figure.add_subplot()
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    axes.grid(axis="y", color=STAND_IN["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(STAND_IN["grid"])
    axes.tick_params(length=0, labelcolor=STAND_IN["muted"], labelsize=font)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.set_xlabel(x, color=STAND_IN["muted"], fontsize=font)
    return figure, axes


def _lone(values: Sequence[float]) -> str:
    """A marker for a single point, of which a line shows nothing."""
    return "o" if len(values) == 1 else ""


def _thinned(steps: Sequence[int], values: Sequence[float], points: int = _RAW_POINTS) -> tuple[list[int], list[float]]:
    """Lowest and highest point of each of equally long stretches: the same look with about ``points`` points."""
    if len(steps) <= points:
        return list(steps), list(values)
    keep: set[int] = {0, len(steps) - 1}
    for stretch in np.array_split(np.arange(len(steps)), points // 2):
        inside = [values[index] for index in stretch]
        keep |= {int(stretch[int(np.argmin(inside))]), int(stretch[int(np.argmax(inside))])}
    return [steps[index] for index in sorted(keep)], [values[index] for index in sorted(keep)]


def svg(figure: Figure, name: str, description: str) -> Markup:
    """The figure as an ``<svg>`` element of the page: no prologue, no metadata, no style of its own."""
    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name, "svg.id": None}):
        figure.savefig(text, format="svg", metadata={"Date": None})
    body = text.getvalue()
    body = body[body.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL)
    opening = re.search(r'viewBox="([^"]*)"', body)
    assert opening is not None
    label = Markup.escape(description)
    head = f'<svg class="plot" viewBox="{opening.group(1)}" role="img" aria-label="{label}">'
    body = head + body[body.index(">") + 1 :]
    body = re.sub(r"(font(?:-family)?: [^;\"]*?)'DejaVu Sans'[^;\"]*", r"\1system-ui, sans-serif", body)
    body = re.sub(r'\bid="(?:figure|axes|patch|line2d|matplotlib|text|xtick|ytick)[^"]*"', "", body)
    for variable, stand_in in STAND_IN.items():
        body = body.replace(stand_in, f"var(--{variable})")
    return Markup(body)  # noqa: S704 (drawn here: numbers and our own words)
