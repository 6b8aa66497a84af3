"""What a run's page shows of its training: which figures there are, and the words beside them.

The surprising fact: weights are tracked only when they change, and with tasks in turn only those of the task at hand.
A weight that never changed is told in words; a figure would be a flat line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from markupsafe import Markup

from xmtl_ray.config.schema import PSEUDO, Config, TaskName, Term
from xmtl_ray.report import figures
from xmtl_ray.report.run_folder import Journal, Series

DEV: dict[TaskName, str] = {
    "td": "dev/trigger_f1",
    "ae": "dev/argument_f1",
    "vc": "dev/verb_f1",
    "rc": "dev/role_f1",
}
TERMS: dict[Term, str] = {
    "td": "trigger detection",
    "ae": "argument extraction",
    "vc": "verb classification",
    "rc": "role classification",
    "consistency": "consistency with the average",
}
"""What is drawn in a panel of its own; a pseudo-label twin is in that of its task."""


@dataclass(frozen=True)
class LossPanel:
    """A figure of losses and what its caption says."""

    title: str
    colour: str
    """CSS variable of the dot before the title."""
    figure: Markup
    last: float | None
    """Last smoothed value."""
    last_pseudo: float | None
    """The same of the pseudo-label twin; None where there is none."""


@dataclass(frozen=True)
class Curves:
    """Figures and the words beneath them."""

    losses: tuple[LossPanel, ...]
    averaged: tuple[int, int]
    """Fewest and most steps that a line averages over."""
    twins: bool
    """Whether any panel has a pseudo-label twin."""
    weights: Markup | None
    """Of the losses; None where they never changed."""
    weights_averaged: int
    """Steps that a line of that figure averages over; 1: each is a weight's own stairs."""
    highest_weight: float
    last_weights: tuple[tuple[str, str, float | None, float | None], ...]
    """Title, colour, weight of the task and of its twin in the last step."""
    dev: Markup | None
    dev_best: tuple[tuple[TaskName, float], ...]
    """Each task's dev F1 at the best checkpoint, or at the last evaluation if none is best."""
    best_step: int | None
    mean: float | None
    """Mean dev F1 there."""
    learning_rate: Markup | None

    @property
    def panels(self) -> int:
        """How many small panels there are."""
        return len(self.losses) + (self.learning_rate is not None)


def curves(config: Config, journal: Journal) -> Curves | None:
    """The figures that the journal's numbers allow; None without any."""
    metrics, tasks = journal.metrics, config.multitask.tasks
    last = max((step for name, series in metrics.items() if name.startswith("train/") for step in series), default=0)
    losses, weights = _terms(journal, "train/loss/"), _terms(journal, "train/weight/")
    dev: dict[TaskName, Series] = {task: metrics[DEV[task]] for task in tasks if metrics.get(DEV[task])}
    mean, chosen = metrics.get("dev/mean_f1", {}), metrics.get(config.train.select, {})
    best = max(chosen, key=lambda step: chosen[step]) if chosen else None  # the first of equals, as the run keeps it
    factor = metrics.get("train/learning_rate_factor")
    if not losses and not dev and not factor:
        return None
    panels = [_losses(term, losses, last) for term in TERMS if term in losses or _twin(term) in losses]
    total = metrics.get("train/loss")
    if total and config.multitask.summed and len(losses) > 1:
        figure = figures.losses("loss-sum", "Weighted sum of the training losses", {None: total}, last)
        panels.append(LossPanel("weighted sum", "ink", figure, _smoothed(total, last), None))
    widths = [figures.window(len(series)) for series in losses.values()]
    return Curves(
        tuple(panels),
        (min(widths, default=1), max(widths, default=1)),
        any(panel.last_pseudo is not None for panel in panels),
        figures.weights(weights, last) if any(len(set(series.values())) > 1 for series in weights.values()) else None,
        max((figures.weights_window(series, last) for series in weights.values()), default=1),
        max((value for series in weights.values() for value in series.values()), default=0.0),
        tuple(
            (TERMS[term], _colour(term), _last(weights.get(term)), _last(weights.get(_twin(term))))
            for term in TERMS
            if term in weights or _twin(term) in weights
        ),
        figures.dev(dev, mean, best) if dev else None,
        tuple((task, series[best] if best in series else list(series.values())[-1]) for task, series in dev.items()),
        best,
        mean.get(best) if best is not None else None,
        figures.learning_rate(factor) if factor else None,
    )


def _terms(journal: Journal, prefix: str) -> dict[Term | None, Series]:
    """The metrics of ``prefix`` by the term that they are of, tasks before their twins."""
    names: tuple[Term, ...] = get_args(Term)
    return {term: journal.metrics[prefix + term] for term in names if journal.metrics.get(prefix + term)}


def _losses(term: Term, losses: Mapping[Term | None, Series], last: int) -> LossPanel:
    drawn = {each: losses[each] for each in (term, _twin(term)) if each in losses}
    figure = figures.losses(f"loss-{term}", f"Training loss: {TERMS[term]}", drawn, last)
    own, twin = (_smoothed(losses[each], last) if each in losses else None for each in (term, _twin(term)))
    return LossPanel(TERMS[term], _colour(term), figure, own, twin)


def _twin(term: Term) -> Term | None:
    return PSEUDO.get(term)  # type: ignore[arg-type]


def _colour(term: Term) -> str:
    return "muted" if term == "consistency" else term


def _smoothed(series: Series, last: int) -> float:
    """Where the drawn line ends."""
    return figures.smooth(list(figures.stretches(series, last)[-1].values()), figures.window(len(series)))[-1]


def _last(series: Series | None) -> float | None:
    return None if series is None else list(series.values())[-1]
