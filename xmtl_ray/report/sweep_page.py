"""A sweep's page: its trials, which parameters mattered, how the trials learnt, what it cost and what was saved.

All of it is in ``sweep.json``, which the sweep rewrites as it goes on; a page may be drawn of one that is not over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from markupsafe import Markup
from pydantic import BaseModel, ConfigDict, TypeAdapter

from xmtl_ray.events.records import DataError
from xmtl_ray.events.strict_json import read_json
from xmtl_ray.report import sweep_figures as figures
from xmtl_ray.report.model_card import table
from xmtl_ray.report.sweep_figures import Value, told
from xmtl_ray.report.templates import render

SUMMARY, PAGE, CARD = "sweep.json", "report.html", "SWEEP_CARD.md"
_UNITS = ("h", "min", "s")


class Trial(BaseModel):
    """One trial."""

    model_config = ConfigDict(frozen=True)

    id: str
    state: Literal["finished", "stopped", "failed", "running", "waiting"]
    parameters: dict[str, Any] = {}
    metric: float | None = None
    history: list[tuple[float, float]] = []
    seconds: float | None = None
    worker_hours: float | None = None
    folder: str | None = None
    mlflow_run: str | None = None
    why: str | None = None


class Budget(BaseModel):
    """Epochs that were run, that would have been run without a scheduler, and what that saved."""

    epochs_run: float
    epochs_full: float
    saved_worker_hours: float


class Sweep(BaseModel):
    """``sweep.json``."""

    name: str
    recipe: str
    metric: str
    mode: Literal["max", "min"]
    search: str
    scheduler: str
    seed: int | None = None
    wall_s: float | None = None
    workers_per_trial: int | None = None
    best: str | None = None
    trials: list[Trial]
    importance: dict[str, float] | None = None
    budget: Budget | None = None


@dataclass(frozen=True)
class Row:
    """A line of the table of trials."""

    trial: Trial
    values: tuple[str, ...]
    """Parameters that differ between trials, for people."""
    best: bool


_LAYOUT = TypeAdapter(Sweep)


def write_sweep_page(folder: Path) -> Path:
    """Write ``report.html`` of the sweep in ``folder``, and its card in Markdown beside it; returns the page.

    Raises DataError for a ``sweep.json`` that is missing or broken.
    """
    sweep = read(folder / SUMMARY)
    names = sorted({name for trial in sweep.trials for name in trial.parameters})
    free = [name for name in names if len({told(_plain(t.parameters.get(name))) for t in sweep.trials}) > 1] or names
    labels = dict(zip(free, short(free), strict=True))
    rows = ordered(sweep, free)
    page = render(
        "sweep.html",
        sweep=sweep,
        facts=_facts(sweep),
        names=[(name, labels[name]) for name in free],
        rows=rows,
        metric=sweep.metric,
        importance=_importance(sweep, labels),
        **_figures(sweep, free, labels),
        failed=[row.trial for row in rows if row.trial.state == "failed"],
    )
    (folder / PAGE).write_text(page, encoding="utf-8")
    (folder / CARD).write_text(_card(sweep, rows, free), encoding="utf-8")
    return folder / PAGE


def read(path: Path) -> Sweep:
    """Read ``sweep.json``. Raises DataError."""
    sweep = read_json(path, _LAYOUT)
    if sweep.best is not None and sweep.best not in {trial.id for trial in sweep.trials}:
        raise DataError(path, None, "best", sweep.best, "the id of a trial")
    return sweep


def ordered(sweep: Sweep, names: list[str]) -> list[Row]:
    """Trials from best to worst; those without a metric last."""

    def rank(trial: Trial) -> tuple[bool, float]:
        known = trial.metric is not None and math.isfinite(trial.metric)
        value = trial.metric if known and trial.metric is not None else 0.0
        return not known, -value if sweep.mode == "max" else value

    return [
        Row(trial, tuple(told(_plain(trial.parameters.get(name))) for name in names), trial.id == sweep.best)
        for trial in sorted(sweep.trials, key=rank)
    ]


def short(paths: list[str]) -> list[str]:
    """Dotted paths by their last two parts, or as many as tell them apart.

    >>> short(["train.learning_rate.text", "multitask.pseudo.threshold.td", "adapter.r"])
    ['learning_rate.text', 'threshold.td', 'adapter.r']
    >>> short(["a.b.td", "c.b.td"])
    ['a.b.td', 'c.b.td']
    """

    def last(path: str, parts: int) -> str:
        return ".".join(path.split(".")[-parts:])

    found = []
    for path in paths:
        parts = 2
        while [last(other, parts) for other in paths].count(last(path, parts)) > 1 and last(path, parts) != path:
            parts += 1
        found.append(last(path, parts))
    return found


def clock(seconds: float) -> str:
    """``3725`` → ``1 h 2 min``."""
    whole = round(seconds)
    parts = (whole // 3600, whole % 3600 // 60, whole % 60)
    first = next((place for place, part in enumerate(parts) if part), 2)
    return " ".join(f"{parts[place]} {_UNITS[place]}" for place in range(first, min(first + 2, 3)))


def _facts(sweep: Sweep) -> list[tuple[str, str]]:
    states = [trial.state for trial in sweep.trials]
    counts = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    best = next((trial for trial in sweep.trials if trial.id == sweep.best), None)
    found = [("Recipe", sweep.recipe), ("Trials", f"{len(states)}: {counts}")]
    if best is not None and best.metric is not None:
        found.append(("Best", f"{best.metric:.4g} {sweep.metric}, trial {best.id}"))
    found.append(("Search", sweep.search + (f", seed {sweep.seed}" if sweep.seed is not None else "")))
    found.append(("Scheduler", sweep.scheduler))
    if sweep.wall_s is not None:
        found.append(("Took", clock(sweep.wall_s)))
    hours = [trial.worker_hours for trial in sweep.trials if trial.worker_hours is not None]
    if hours:
        each = f", {_workers(sweep.workers_per_trial)} a trial" if sweep.workers_per_trial else ""
        found.append(("Worker-hours", f"{sum(hours):.3g}{each}"))
    if (budget := sweep.budget) is not None and sweep.scheduler == "none":
        found.append(("Epochs", f"{budget.epochs_run:g}"))
    elif budget is not None:
        share = 100 * (1 - budget.epochs_run / budget.epochs_full) if budget.epochs_full else 0.0
        found.append(
            ("Epochs", f"{budget.epochs_run:g} of {budget.epochs_full:g}, had none been stopped ({share:.0f} % saved)")
        )
        found.append(("Saved by stopping early", f"{budget.saved_worker_hours:.3g} worker-hours"))
    return found


def _workers(count: int) -> str:
    return f"{count} worker{'s' * (count > 1)}"


def _importance(sweep: Sweep, labels: dict[str, str]) -> list[tuple[str, str, float]]:
    """(path, short name, percent), the largest first."""
    found = sorted((sweep.importance or {}).items(), key=lambda item: -item[1])
    return [(name, labels.get(name, name), 100 * share) for name, share in found]


def _figures(sweep: Sweep, free: list[str], labels: dict[str, str]) -> dict[str, object]:
    judged = [trial for trial in sweep.trials if trial.metric is not None and math.isfinite(trial.metric)]
    scatter: list[tuple[str, str, Markup]] = []
    parallel = None
    if judged and free:
        metrics = [float(trial.metric or 0.0) for trial in judged]
        best = next((place for place, trial in enumerate(judged) if trial.id == sweep.best), None)
        rows = [{labels[name]: _plain(trial.parameters.get(name)) for name in free} for trial in judged]
        metric = sweep.metric.removeprefix("dev/")
        if len(judged) > 1 and len(free) > 1:  # of one parameter the next figure shows the same
            parallel = figures.parallel(list(labels.values()), rows, metrics, metric, best, sweep.mode == "max")
        for number, (name, label) in enumerate(labels.items()):
            values = [row[label] for row in rows]
            scatter.append((name, label, figures.against(f"against-{number}", values, metrics, best, label, metric)))
    curves = [
        ({int(x) if x == int(x) else x: y for x, y in trial.history}, trial.state, trial.id == sweep.best)
        for trial in sweep.trials
        if trial.history
    ]
    learning = figures.learning(curves, sweep.metric, "epoch") if curves else None  # type: ignore[arg-type]
    return {"parallel": parallel, "scatter": scatter, "learning": learning}


def _card(sweep: Sweep, rows: list[Row], free: list[str]) -> str:
    lines = [f"# Sweep {sweep.name}", "", *(f"- {name}: {value}" for name, value in _facts(sweep)), "", "## Trials", ""]
    body = [
        [
            row.trial.id + (" (best)" if row.best else ""),
            row.trial.state,
            "–" if row.trial.metric is None else f"{row.trial.metric:.4g}",
            *row.values,
            "" if row.trial.worker_hours is None else f"{row.trial.worker_hours:.3g}",
        ]
        for row in rows
    ]
    lines += table(["trial", "state", sweep.metric, *free, "worker-hours"], body)
    if sweep.importance:
        lines += ["", "## Importance of the parameters", ""]
        lines += table(["parameter", "share, %"], [[name, f"{share:.1f}"] for name, _, share in _importance(sweep, {})])
    return "\n".join(lines) + "\n"


def _plain(value: Any) -> Value:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)
