"""How fast a run went and what it held in memory, from the times of its steps in the journal.

The surprising fact: nothing measures speed while training. Each step's line has its time, so pauses for dev scores and
checkpoints are seen as well, and what a run costs is told with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from markupsafe import Markup

from xmtl_ray.report.figures import STAND_IN, panel, svg
from xmtl_ray.report.run_folder import Journal

_POINTS = 60
"""Most points of the figure; each is a mean over equally many steps."""


@dataclass(frozen=True)
class Throughput:
    """Speed of training; seconds are wall time."""

    examples_per_s: float
    """At the median step."""
    overall: float
    """Examples a second over the whole of training, pauses included."""
    step_s: float
    """Median."""
    paused_share: float
    """Of the time, what lies between steps in excess of the median step: dev scores, checkpoints, resumed work."""
    figure: Markup


def throughput(journal: Journal, batch: int) -> Throughput | None:
    """Of the steps of each start; None with fewer than three of one.

    Args:
        journal: of the run.
        batch: examples of a step.
    """
    found: list[tuple[int, float, float]] = []  # step, steps since the one before, seconds since it
    for before, after in zip(journal.steps_ms, journal.steps_ms[1:], strict=False):
        if before[0] == after[0] and after[1] > before[1] and after[2] > before[2]:
            found.append((after[1], after[1] - before[1], (after[2] - before[2]) / 1000))
    if len(found) < 3:
        return None
    step_s = median(seconds / steps for _, steps, seconds in found)
    steps, seconds = sum(item[1] for item in found), sum(item[2] for item in found)
    paused = sum(max(0.0, item[2] - item[1] * step_s) for item in found)
    return Throughput(batch / step_s, batch * steps / seconds, step_s, paused / seconds, _figure(found, batch))


def memory(journal: Journal) -> list[tuple[str, str]]:
    """Peaks that were tracked, as (name, value)."""
    names = {
        "memory/peak_gib": "GPU memory, peak of rank 0",
        "memory/planned_gib": "GPU memory, planned",
        "memory/host_peak_gib": "host memory, peak of rank 0",
    }
    return [
        (label, f"{max(journal.metrics[name].values()):.2f} GiB")
        for name, label in names.items()
        if journal.metrics.get(name)
    ]


def _figure(found: list[tuple[int, float, float]], batch: int) -> Markup:
    figure, axes = panel(4.7, 2.0, font=8)
    size = -(-len(found) // _POINTS)
    groups = [found[start : start + size] for start in range(0, len(found), size)]
    at = [group[-1][0] for group in groups]
    speed = [batch * sum(item[1] for item in group) / sum(item[2] for item in group) for group in groups]
    axes.fill_between(at, speed, color=STAND_IN["td"], alpha=0.12, linewidth=0)
    axes.plot(at, speed, color=STAND_IN["td"], linewidth=1.6)
    axes.set_xlim(0, 1.02 * max(at))
    axes.set_ylim(0, 1.08 * max(speed))
    axes.set_ylabel("examples a second", color=STAND_IN["muted"], fontsize=8)
    return svg(figure, "throughput", f"Examples a second over {max(at)} steps, pauses included")
