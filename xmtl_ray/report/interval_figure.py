"""Several systems' scores with their intervals, a panel for each metric, beside published ones."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.figure import Figure

from xmtl_ray.report.figures import STAND_IN, svg

Panel = tuple[str, Sequence[tuple[float, float, float]], Sequence[float | None]]
"""Title; mean, low and high of each system; its published score, if there is one."""


def intervals(systems: Sequence[str], panels: Sequence[Panel], columns: int = 3) -> Markup:
    """Dots with lines for own scores, hollow diamonds for published ones; systems from top to bottom, percent."""
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(10.5, lines * (0.8 + 0.27 * len(systems))), layout="constrained")
    figure.patch.set_alpha(0)
    places = range(len(systems))
    for number, (title, own, published) in enumerate(panels):
        axes = figure.add_subplot(lines, columns, number + 1)
        axes.patch.set_alpha(0)
        axes.grid(axis="x", color=STAND_IN["grid"], linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
        axes.spines["bottom"].set_color(STAND_IN["grid"])
        axes.tick_params(length=0, labelcolor=STAND_IN["muted"], labelsize=8)
        axes.hlines(places, [low for _, low, _ in own], [high for _, _, high in own], STAND_IN["td"], linewidth=1.6)
        axes.plot([mean for mean, _, _ in own], places, "o", color=STAND_IN["td"], markersize=5)
        known = [(value, place) for place, value in zip(places, published, strict=True) if value is not None]
        axes.plot(
            [value for value, _ in known],
            [place for _, place in known],
            "D",
            markerfacecolor="none",
            markeredgecolor=STAND_IN["muted"],
            markersize=4.5,
        )
        axes.set_title(title, fontsize=9, color=STAND_IN["ink"], loc="left")
        axes.set_ylim(len(systems) - 0.5, -0.5)
        axes.set_yticks(places, systems if number % columns == 0 else [""] * len(systems))
        axes.set_xlim(0, 100)
    return svg(figure, "intervals", f"F1 of {len(systems)} rows with intervals, for each of {len(panels)} metrics")
