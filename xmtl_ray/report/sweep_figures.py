"""The figures of a sweep's page: what each parameter did to the metric, and how the trials learnt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from xmtl_ray.report.figures import STAND_IN, panel, svg
from xmtl_ray.report.run_folder import Series

Value = float | int | str | bool | None
"""Of a parameter; lists and the like come as text."""
_LOG = 20
"""A numeric axis whose largest value is so many times its smallest is logarithmic."""


class Scale:
    """Where a parameter's values lie on an axis: numbers by size, else names in order of appearance."""

    def __init__(self, values: Sequence[Value]) -> None:
        numbers = [float(value) for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
        self.numeric = len(numbers) == len(values) and all(map(math.isfinite, numbers))
        self.names = [] if self.numeric else list(dict.fromkeys(map(told, values)))
        self.log = self.numeric and min(numbers) > 0 and max(numbers) / min(numbers) >= _LOG
        self.low, self.high = (
            (min(numbers), max(numbers)) if self.numeric else (0.0, float(max(1, len(self.names) - 1)))
        )

    def raw(self, value: Value) -> float:
        """The value on an axis of its own."""
        return float(value) if self.numeric else float(self.names.index(told(value)))  # type: ignore[arg-type]

    def share(self, value: Value) -> float:
        """0 at the lowest value, 1 at the highest; 0.5 where all are the same."""
        low, high, own = self.low, self.high, self.raw(value)
        if self.log:
            low, high, own = math.log(low), math.log(high), math.log(own)
        return 0.5 if high == low else (own - low) / (high - low)


def told(value: Value) -> str:
    """A value for people: ``0.00012`` → 1.2e-04."""
    if isinstance(value, float):
        return f"{value:.1e}" if value and not 1e-3 <= abs(value) < 1e5 else f"{value:.4g}"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def parallel(
    names: Sequence[str],
    rows: Sequence[Mapping[str, Value]],
    metrics: Sequence[float],
    metric: str,
    best: int | None,
    higher: bool,
) -> Markup:
    """A line for each trial over an axis for each parameter and one for the metric; the better, the more distinct.

    Args:
        names: short names of the parameters.
        rows: parameters of each trial, by these names.
        metrics: of each trial.
        metric: its name.
        best: place of the best trial, which is drawn in colour.
        higher: whether a higher metric is better.
    """
    figure = Figure(figsize=(max(5.2, 1.45 * (len(names) + 1)), 3.3), layout="constrained")
    axes = _bare(figure)
    scales = [Scale([row[name] for row in rows]) for name in names] + [Scale(list(metrics))]
    scales[-1].log = False
    order = sorted(range(len(rows)), key=lambda place: metrics[place] if higher else -metrics[place])
    for rank, place in enumerate(order):
        values: list[Value] = [*(rows[place][name] for name in names), metrics[place]]
        heights = [scale.share(value) for scale, value in zip(scales, values, strict=True)]
        if place == best:
            continue
        alpha = 0.15 + 0.55 * (rank + 1) / len(order)
        axes.plot(range(len(scales)), heights, color=STAND_IN["muted"], linewidth=1.2, alpha=alpha)
    if best is not None:
        values = [*(rows[best][name] for name in names), metrics[best]]
        heights = [scale.share(value) for scale, value in zip(scales, values, strict=True)]
        axes.plot(range(len(scales)), heights, color=STAND_IN["td"], linewidth=2.4, marker="o", markersize=4.5)
    for place, (name, scale) in enumerate(zip([*names, metric], scales, strict=True)):
        axes.axvline(place, color=STAND_IN["grid"], linewidth=1.2, zorder=0)
        ends = [(0.0, told(scale.low)), (1.0, told(scale.high))] if scale.numeric else [
            (scale.share(each), each) for each in scale.names
        ]  # fmt: skip
        if scale.numeric and scale.low == scale.high:
            ends = [(0.5, told(scale.low))]
        for height, text in ends:
            axes.annotate(text[:16], (place, height), xytext=(4, -11 if height == 0 else 4), textcoords="offset points",
                          color=STAND_IN["muted"], fontsize=7.5)  # fmt: skip
        axes.annotate(name, (place, 1.0), xytext=(0, 17), textcoords="offset points", ha="center",
                      color=STAND_IN["ink"], fontsize=8.5)  # fmt: skip
    axes.set_xlim(-0.15, len(scales) - 0.65)
    axes.set_ylim(-0.1, 1.1)
    return svg(figure, "parallel", f"Parameters and {metric} of {len(rows)} trials, a line each")


def against(
    name: str, values: Sequence[Value], metrics: Sequence[float], best: int | None, label: str, metric: str
) -> Markup:
    """The metric of each trial over one parameter."""
    figure, axes = panel(3.1, 2.1, x=label)
    scale = Scale(values)
    at = [scale.raw(value) for value in values]
    axes.plot(at, metrics, "o", color=STAND_IN["muted"], markersize=5, alpha=0.65, linewidth=0)
    if best is not None:
        axes.plot([at[best]], [metrics[best]], "o", color=STAND_IN["td"], markersize=7)
    if scale.log:
        axes.set_xscale("log")
    elif not scale.numeric:
        axes.set_xticks(range(len(scale.names)), [text[:14] for text in scale.names])
        axes.set_xlim(-0.5, len(scale.names) - 0.5)
    else:
        from matplotlib.ticker import MaxNLocator

        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    axes.tick_params(which="both", length=0, labelcolor=STAND_IN["muted"], labelsize=8)
    axes.margins(y=0.12)
    return svg(figure, name, f"{metric} of each trial against {label}")


def learning(histories: Sequence[tuple[Series, str, bool]], metric: str, unit: str) -> Markup:
    """The metric by epoch: each trial a line, the best in colour; where one was stopped there is a cross.

    Args:
        histories: epoch → metric, the trial's state, whether it is the best.
        metric: its name.
        unit: what the horizontal axis counts.
    """
    figure, axes = panel(5.4, 2.9, font=8, x=unit)
    for series, state, own in sorted(histories, key=lambda item: item[2]):
        colour = STAND_IN["td" if own else "muted"]
        width, alpha = (2.2, 1.0) if own else (1.2, 0.55)
        lone = "o" if len(series) == 1 else ""
        axes.plot(
            list(series), list(series.values()), color=colour, linewidth=width, alpha=alpha, marker=lone, markersize=3.5
        )
        step = max(series)
        if state == "stopped":
            axes.plot([step], [series[step]], "x", color=STAND_IN["ae"], markersize=6, markeredgewidth=1.6)
        elif state == "failed":
            axes.plot([step], [series[step]], "s", color=STAND_IN["ae"], markersize=5, fillstyle="none")
    axes.margins(y=0.1)
    axes.set_ylabel(metric, color=STAND_IN["muted"], fontsize=8)
    return svg(figure, "learning", f"{metric} of {len(histories)} trials by {unit}")


def _bare(figure: Figure) -> Axes:
    axes = figure.add_subplot()
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    axes.set_axis_off()
    return axes
