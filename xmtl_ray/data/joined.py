"""Two streams of keyed records as one: what belongs together, without either file in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

L = TypeVar("L")
R = TypeVar("R")


def join(left: Iterator[tuple[str, L]], right: Iterator[tuple[str, R]]) -> Iterator[tuple[str, L | None, R | None]]:
    """(key, left, right) of each key, as soon as both sides have come; at the end those of one side, with None.

    Keys are unique within a side. Records that came before their partner wait, so memory grows with the disorder
    between the streams and with what has no partner, not with their length: two in the same order wait for nothing.
    The side that is less far ahead of the last pair is read next.
    """
    sides: tuple[Iterator[tuple[str, L | R]], ...] = (left, right)
    waiting: tuple[dict[str, tuple[int, L | R]], ...] = ({}, {})
    read, paired, open_sides = [0, 0], [0, 0], {0, 1}
    while open_sides:
        side = min(open_sides, key=lambda s: read[s] - paired[s])
        try:
            key, value = next(sides[side])
        except StopIteration:
            open_sides.remove(side)
            continue
        read[side] += 1
        if key not in waiting[1 - side]:
            waiting[side][key] = read[side], value
            continue
        place, partner = waiting[1 - side].pop(key)
        paired[side], paired[1 - side] = max(paired[side], read[side]), max(paired[1 - side], place)
        yield (key, value, partner) if side == 0 else (key, partner, value)  # type: ignore[misc]
    for key, (_, value) in waiting[0].items():
        yield key, value, None  # type: ignore[misc]
    for key, (_, value) in waiting[1].items():
        yield key, None, value  # type: ignore[misc]
