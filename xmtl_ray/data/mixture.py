"""Which examples the next step learns from: all tasks in proportion to their data (paper A, Experimental setup), or one
task at a time in turn.

Pure functions of (sizes, batch, seed, epoch): the same on every rank, and a resumed run needs only two numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

POOL = 32
"""Steps whose examples are sorted by length among themselves: enough for little padding, few enough to stay random."""


def quotas(sizes: Mapping[str, float], batch: int, minimum: int = 1) -> dict[str, int]:
    """How many examples of each task one batch of ``batch`` takes.

    In proportion to ``sizes`` by largest remainders, at least ``minimum`` each, exactly ``batch`` in all. Ties go to
    the task named first.

    >>> quotas({"td": 15789, "vc": 126102}, 64)
    {'td': 7, 'vc': 57}
    """
    if batch < minimum * len(sizes):
        raise ValueError(f"a batch of {batch} cannot hold {minimum} of each of {len(sizes)} tasks")
    shares = dict.fromkeys(sizes, minimum)
    exact = {name: batch * size / sum(sizes.values()) for name, size in sizes.items()}
    for _ in range(batch - minimum * len(sizes)):
        # Whoever is furthest below its exact share gets the next place.
        shares[max(sizes, key=lambda name: exact[name] - shares[name])] += 1
    return shares


def steps_per_epoch(sizes: Mapping[str, int], shares: Mapping[str, int]) -> int:
    """Steps until the first of ``sizes`` runs out: none of its examples is seen twice in an epoch."""
    return min(size // shares[name] for name, size in sizes.items())


def epoch_batches(
    sizes: Mapping[str, int],
    shares: Mapping[str, int],
    steps: int,
    seed: int,
    epoch: int,
    first_step: int = 0,
    lengths: Mapping[str, np.ndarray] | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Example indices of each step of ``epoch`` from ``first_step`` on, per task: each step has all tasks.

    Each epoch shuffles every task anew; what one epoch leaves over comes in another, and a task with fewer examples
    than ``steps`` ask for is gone through again. ``lengths`` of a task's examples bring like lengths together, so that
    little is padded: within every ``POOL`` steps examples are dealt out by length, and the order of those steps is
    drawn again. All tasks are long and short in the same steps.
    """
    if not steps:
        return
    plan = {
        name: _rows(sizes[name], share, steps, (seed, epoch, number), (lengths or {}).get(name))
        for number, (name, share) in enumerate(shares.items())
    }
    for step in _drawn(steps, (seed, epoch, len(sizes)), bool(lengths))[first_step:]:
        yield {name: rows[step] for name, rows in plan.items()}


def cyclic_steps(sizes: Mapping[str, int], rates: Mapping[str, float], batch: int) -> dict[str, int]:
    """Steps of each task in an epoch of turns, each step ``batch`` examples of one task.

    The task of the highest rate is gone through once, the others in proportion: as many examples of each as an epoch
    of :func:`epoch_batches` has. At least one step each.

    >>> cyclic_steps({"td": 640, "vc": 320}, {"td": 0.5, "vc": 1.0}, 64)
    {'td': 5, 'vc': 5}
    """
    top = max(rates[name] for name in sizes)
    return {name: max(1, int(size * rates[name] / top) // batch) for name, size in sizes.items()}


def cyclic_batches(
    sizes: Mapping[str, int],
    steps: Mapping[str, int],
    batch: int,
    turn: int | None,
    seed: int,
    epoch: int,
    first_step: int = 0,
    lengths: Mapping[str, np.ndarray] | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """As :func:`epoch_batches`, but each step has one task; tasks take turns of ``turn`` steps (None: all they have).

    A task that has fewer than ``batch`` examples gives all of them to its one step.
    """
    plan = {}
    for number, (name, count) in enumerate(steps.items()):
        rows = _rows(sizes[name], min(batch, sizes[name]), count, (seed, epoch, number), (lengths or {}).get(name))
        plan[name] = rows[_drawn(count, (seed, epoch, len(sizes), number), bool(lengths))]
    for name, step in _turns(steps, turn)[first_step:]:
        yield {name: plan[name][step]}


def _turns(steps: Mapping[str, int], turn: int | None) -> list[tuple[str, int]]:
    """(task, number of its step) in the order of turns; a task that has no step left is passed over."""
    longest = max(steps.values())
    turn = turn or longest
    return [
        (name, step)
        for start in range(0, longest, turn)
        for name, count in steps.items()
        for step in range(start, min(start + turn, count))
    ]


def _rows(size: int, share: int, steps: int, seed: tuple[int, ...], lengths: np.ndarray | None) -> np.ndarray:
    """Indices [steps, share] of a task's examples, shuffled; of like lengths within each row where those are given."""
    chance = np.random.default_rng(seed)
    order = chance.permutation(size)
    while len(order) < steps * share:
        order = np.concatenate([order, chance.permutation(size)])
    order = order[: steps * share]
    if lengths is not None:
        pools = [order[start : start + POOL * share] for start in range(0, len(order), POOL * share)]
        order = np.concatenate([pool[np.argsort(lengths[pool], kind="stable")] for pool in pools])
    return order.reshape(steps, share)


def _drawn(steps: int, seed: tuple[int, ...], sorted_pools: bool) -> np.ndarray:
    """The order of the steps: within every pool anew, or as they are where nothing was sorted."""
    if not sorted_pools:
        return np.arange(steps)
    chance = np.random.default_rng(seed)
    return np.concatenate([start + chance.permutation(min(POOL, steps - start)) for start in range(0, steps, POOL)])


def rank_share(
    batch: Mapping[str, np.ndarray], rank: int, world_size: int, accumulation: int
) -> list[dict[str, np.ndarray]]:
    """This rank's part of a global batch, as ``accumulation`` micro-batches.

    Every micro-batch holds every task as long as each has at least ``world_size × accumulation`` examples.
    """
    parts = world_size * accumulation
    return [
        {name: indices[rank * accumulation + micro :: parts] for name, indices in batch.items()}
        for micro in range(accumulation)
    ]
