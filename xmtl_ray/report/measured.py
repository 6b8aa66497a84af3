"""F1 of an event type or a role as pages show it: a cell for each side, with how sure it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.evaluation.significance import f1_interval

FEWEST = 5
"""Documents that must have a type or role for an interval: fewer are too often drawn all, or none."""


@dataclass(frozen=True)
class Cell:
    """One side: text or image, triggers or arguments."""

    counts: Prf
    interval: tuple[float, float] | None
    """Of F1, percent, 95 %; None with too few documents, and where all is right or nothing: whatever is drawn then, it
    comes out the same."""

    @property
    def known(self) -> bool:
        """Whether there was anything to count."""
        return bool(self.counts.predicted or self.counts.gold)


@dataclass(frozen=True)
class Measured:
    """A line: what it is about, and its cells."""

    name: str
    cells: tuple[Cell, ...]

    @property
    def whole(self) -> Prf:
        """Over all sides."""
        return sum((cell.counts for cell in self.cells), Prf())


def measured(name: str, *sides: Sequence[Prf]) -> Measured:
    """Of each side's counts by document; those without any are not drawn from."""
    return Measured(name, tuple(_cell([each for each in side if each.predicted or each.gold]) for side in sides))


def _cell(counts: Sequence[Prf]) -> Cell:
    whole = sum(counts, Prf())
    varied = whole.correct and whole.f1 < 100
    return Cell(whole, f1_interval(counts) if varied and len(counts) >= FEWEST else None)
