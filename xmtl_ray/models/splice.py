"""Where visual tokens stand among a language model's: rows of ids with tags → one rectangle of places.

A tag (an id below zero) becomes as many places as a medium has visual tokens. No tensor of the model is touched here:
the model embeds the ids, fills the visual places in order and zeroes the empty ones, so that a batch of text, images
and videos costs no loop on the device. R rows, M places of a row, N visual tokens of a medium.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

TAGS: Mapping[str, int] = {"image": -200, "video": -201, "audio": -202}
"""Modality → the id that stands for one medium. Which tag it is does not matter to the model: media come in order."""
IGNORED = -100
"""Label of a place that is not learnt from."""

VISUAL, EMPTY = -1, -2
"""Marks in ``Layout.ids`` for a place that a visual token takes and for padding."""


class Row(NamedTuple):
    """One sequence: ids with tags among them, and what is to be said at each place (IGNORED at tags)."""

    ids: Sequence[int]
    labels: Sequence[int]


@dataclass(frozen=True)
class Layout:
    """Where everything of a batch stands."""

    ids: Tensor
    """[R, M] int64: token ids, VISUAL or EMPTY."""
    labels: Tensor
    """[R, M] int64: the id that stands at each place, IGNORED where it is not learnt from."""
    positions: Tensor
    """[R, M] int64: from 0 at the beginning of each sequence; padding goes on counting."""
    mask: Tensor
    """[R, M] bool: False for padding."""

    def to(self, device: torch.device) -> Layout:
        """The same on ``device``."""
        moved = {name: getattr(self, name).to(device) for name in ("ids", "labels", "positions", "mask")}
        return replace(self, **moved)


def lay_out(rows: Sequence[Row], tokens: int, left: bool = False) -> Layout:
    """A row for each of ``rows``, padded to the longest.

    Args:
        rows: sequences.
        tokens: N, places of one tag.
        left: pad on the left, as generation needs it: every row's last place is then the newest.
    """
    return _rectangle([[_expanded(row, tokens)] for row in rows], left)


def pack(rows: Sequence[Row], tokens: int, capacity: int) -> tuple[Layout, list[int]]:
    """Several sequences in a row, none of which sees another, in as few rows as first fit, longest first, finds.

    ``positions`` begin at 0 with each sequence; that alone is what attention is kept apart by. The first label of each
    is IGNORED, so that no sequence's last place is to predict the next sequence.

    Args:
        rows: sequences; one longer than ``capacity`` has a row for itself.
        tokens: N, places of one tag.
        capacity: most places of a row.

    Returns the layout and the numbers of ``rows`` in the order in which they now stand: that of their media as well.
    """
    expanded = [_expanded(row, tokens) for row in rows]
    bins: list[list[int]] = []
    for number in sorted(range(len(rows)), key=lambda number: -len(expanded[number])):
        needed = len(expanded[number])
        fitting = next((held for held in bins if sum(len(expanded[n]) for n in held) + needed <= capacity), None)
        if fitting is None:
            bins.append([number])
        else:
            fitting.append(number)
    for item in expanded:
        item[:1] = [(name, IGNORED) for name, _ in item[:1]]
    layout = _rectangle([[expanded[number] for number in held] for held in bins], left=False)
    return layout, [number for held in bins for number in held]


def merged_length(ids: Sequence[int], tokens: int) -> int:
    """Places of a row: its ids, each tag as ``tokens``."""
    return sum(tokens if name < 0 else 1 for name in ids)


_Expanded = list[tuple[int, int]]


def _expanded(row: Row, tokens: int) -> _Expanded:
    places: _Expanded = []
    for name, label in zip(row.ids, row.labels, strict=True):
        places += [(VISUAL, IGNORED)] * tokens if name < 0 else [(name, label)]
    return places


def _rectangle(rows: Sequence[Sequence[_Expanded]], left: bool) -> Layout:
    lengths = [sum(map(len, held)) for held in rows]
    shape = (len(rows), max(lengths))
    ids, labels = torch.full(shape, EMPTY), torch.full(shape, IGNORED)
    positions, mask = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)
    for number, (held, length) in enumerate(zip(rows, lengths, strict=True)):
        start = shape[1] - length if left else 0
        used = slice(start, start + length)
        ids[number, used] = torch.tensor([name for item in held for name, _ in item])
        labels[number, used] = torch.tensor([label for item in held for _, label in item])
        mask[number, used] = True
        counts = [torch.arange(len(item)) for item in held]
        positions[number, used] = torch.cat(counts)
        if not left:  # goes on, so that a row of one sequence is plainly causal and needs no mask at all
            positions[number, length:] = torch.arange(len(held[-1]), len(held[-1]) + shape[1] - length)
    return Layout(ids, labels, positions, mask)
