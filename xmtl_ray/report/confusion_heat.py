"""Event types taken for each other as a table to be shaded, the frequent types first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from xmtl_ray.evaluation.confusion import Confusion
from xmtl_ray.evaluation.generative import shortened

TYPES = 16
"""Most types on each side; the others are counted together."""


@dataclass(frozen=True)
class Cell:
    """A count, and how dark it is: its share of its row or group, percent."""

    count: int
    share: float
    own: bool = False
    """A type taken for itself."""


@dataclass(frozen=True)
class Heat:
    """Gold types against predicted ones. The last column is what was missed; the last row, a cell shorter, too much."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, tuple[Cell, ...]], ...]


def heat(found: Confusion, most: int = TYPES) -> Heat | None:
    """The table of a confusion; None where there is nothing to count.

    Types stand in the same order on both sides, so that right answers are near the diagonal.
    """
    gold, guessed = Counter(found["missed"]), Counter(found["extra"])
    for true, line in found["types"].items():
        gold[true] += sum(line.values())
        guessed.update(line)
    together = gold + guessed
    if not together:
        return None
    order = sorted(together, key=lambda name: (-together[name], name))
    rows, columns = ([name for name in order if side[name]] for side in (gold, guessed))
    # One place after the types for all others, and one more for what was missed, or extra.
    row_of = {name: min(place, most) for place, name in enumerate(rows)}
    column_of = {name: min(place, most) for place, name in enumerate(columns)}
    height, width = min(len(rows), most + 1), min(len(columns), most + 1)
    counts = [[0] * (width + 1) for _ in range(height + 1)]
    for true, line in found["types"].items():
        for guess, count in line.items():
            counts[row_of[true]][column_of[guess]] += count
    for true, count in found["missed"].items():
        counts[row_of[true]][width] += count
    for guess, count in found["extra"].items():
        counts[height][column_of[guess]] += count
    names, heads = ([*map(_short, side[:most]), *_others(len(side) - most)] for side in (rows, columns))
    own = {(row_of[name], column_of[name]) for name in rows[:most] if name in columns[:most]}
    table = [
        (name, tuple(_shaded(line, [(place, column) in own for column in range(width + 1)])))
        for place, (name, line) in enumerate(zip(names, counts, strict=False))
    ]
    if any(counts[height]):
        table.append(("extra", tuple(_shaded(counts[height][:width], [False] * width))))
    return Heat((*heads, "missed"), tuple(table))


def _shaded(line: Sequence[int], own: Sequence[bool]) -> list[Cell]:
    whole = max(1, sum(line))
    return [Cell(count, 100 * count / whole, same) for count, same in zip(line, own, strict=True)]


def _others(count: int) -> list[str]:
    return [f"{count} other{'' if count == 1 else 's'}"] if count > 0 else []


def _short(name: str) -> str:
    return shortened(name, 40) or "(none)"
