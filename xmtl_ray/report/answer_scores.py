"""How good a language model's answers are, and how sure that is: by language and modality, by event type, by role."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from xmtl_ray.evaluation.accuracy import Accuracy
from xmtl_ray.evaluation.generative import ALL, Scored
from xmtl_ray.evaluation.generative_labels import Labelled, by_role, by_type
from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.evaluation.published import OVERALL
from xmtl_ray.evaluation.significance import f1_interval, mean_interval
from xmtl_ray.report.measured import Cell, Measured, measured

Interval = tuple[float, float]
_SIDES = ("trigger", "argument")
LABELS = 24
"""Most types, and most roles, that have a line of their own."""


@dataclass(frozen=True)
class Side:
    """Triggers or arguments of a group of samples."""

    accuracy: float | None
    """Eq. 9 or 10, percent; None where no sample has gold items."""
    accuracy_interval: Interval | None
    counts: Prf | None
    """Pooled; None of a mean of languages."""
    interval: Interval | None
    """Of F1, 95 %."""


@dataclass(frozen=True)
class Line:
    """A group's scores."""

    name: str
    sides: tuple[Side, ...]
    """Of triggers, of arguments."""
    first: bool
    """Of the languages, of the modalities."""


@dataclass(frozen=True)
class Scores:
    """Of a model's answers."""

    lines: Sequence[Line]
    """All samples, each language, the mean of the languages if there are several, each modality."""
    types: Sequence[Measured]
    """Triggers and arguments of each event type that the gold has; what is left in a last line."""
    roles: Sequence[Measured]
    """Arguments of each role that the gold has; what is left in a last line."""


def scores(scored: Sequence[Scored]) -> Scores:
    """All of it; empty without samples."""
    return Scores(
        _by_group(scored) if scored else (),
        _measured(by_type(scored), "event type", (lambda one: one.triggers, lambda one: one.arguments)),
        _measured(by_role(scored), "role", (lambda one: one.arguments,)),
    )


def _by_group(scored: Sequence[Scored]) -> list[Line]:
    languages = _grouped(scored, lambda one: one.sample.language)
    modalities = _grouped(scored, lambda one: one.sample.modality)
    lines = [_line(ALL, scored, first=False)]
    lines += [_line(name, group, first=not place) for place, (name, group) in enumerate(languages.items())]
    if len(languages) > 1:
        sides = (_mean([[each.counts[what] for each in group] for group in languages.values()]) for what in _SIDES)
        lines.append(Line(OVERALL, tuple(sides), first=False))
    return lines + [_line(name, group, first=not place) for place, (name, group) in enumerate(modalities.items())]


def _line(name: str, group: Sequence[Scored], first: bool) -> Line:
    return Line(name, tuple(_side([each.counts[what] for each in group]) for what in _SIDES), first)


def _side(counts: Sequence[Prf]) -> Side:
    accuracy = Accuracy(counts)
    sure = mean_interval([accuracy.shares]) if accuracy.shares else None
    return Side(accuracy.mean, sure, accuracy.pooled, f1_interval(counts))


def _mean(groups: Sequence[Sequence[Prf]]) -> Side:
    """Of languages."""
    shares = [accuracy.shares for accuracy in map(Accuracy, groups) if accuracy.shares]
    if not shares:
        return Side(None, None, None, None)
    return Side(sum(sum(own) / len(own) for own in shares) / len(shares), mean_interval(shares), None, None)


def _grouped(scored: Sequence[Scored], key: Callable[[Scored], str | None]) -> dict[str, list[Scored]]:
    found: dict[str, list[Scored]] = {}
    for one in scored:
        if (name := key(one)) is not None:
            found.setdefault(name, []).append(one)
    return found


def _measured(
    labels: Sequence[Labelled], noun: str, sides: tuple[Callable[[Labelled], Sequence[Prf]], ...]
) -> list[Measured]:
    shown = [one for one in labels if one.gold][:LABELS]
    rest = labels[len(shown) :]
    lines = [measured(one.name, *(side(one) for side in sides)) for one in shown]
    if rest:
        pooled = (Cell(sum((each for one in rest for each in side(one)), Prf()), None) for side in sides)
        lines.append(Measured(f"{len(rest)} other {noun}{'s' * (len(rest) > 1)}", tuple(pooled)))
    return lines
