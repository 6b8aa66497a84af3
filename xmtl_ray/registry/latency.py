"""How long models take for the same documents, on a machine that does other things too.

Measured one after the other, a minute in which the machine is busy counts against one model alone. So the models take
turns: each document goes to all of them before the next one does.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Latency:
    """Seconds for a document: the median, and between which ends the middle half of the documents lies."""

    median_s: float
    low_s: float
    high_s: float
    measured: int
    """Times that it is told from."""

    def __str__(self) -> str:
        return f"{self.median_s:.3g} s ({self.low_s:.3g}–{self.high_s:.3g})"


@dataclass(frozen=True)
class Answered(Generic[T]):
    """What a model has made of each document, and how long it took."""

    answers: Sequence[T]
    seconds: Sequence[float]


def by_turns(
    models: Mapping[str, Callable[[int], T]], documents: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Answered[T]]:
    """Give each document to each model: A B, B A, A B, …, so that no model is always the first to need its files.

    The first document is given to all of them once more before, so that none is measured cold.

    Args:
        models: by name; each takes the number of a document.
        documents: how many there are.
        clock: gives seconds.
    """
    answers: dict[str, list[T]] = {name: [] for name in models}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for ask in models.values() if documents else ():
        ask(0)
    for number in range(documents):
        for name in list(models)[:: 1 if number % 2 == 0 else -1]:
            started = clock()
            answers[name].append(models[name](number))
            seconds[name].append(clock() - started)
    return {name: Answered(answers[name], seconds[name]) for name in models}


def latency(seconds: Sequence[float]) -> Latency | None:
    """Of times for a document each; None of fewer than two, which tell nothing of their spread."""
    if len(seconds) < 2:
        return None
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return Latency(median, low, high, len(seconds))
