"""Which examples the next step learns from: all tasks in proportion to their data (paper A, Experimental setup).

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
    """Steps until the first task runs out: no example is seen twice in an epoch."""
    return min(sizes[name] // shares[name] for name in shares)


def epoch_batches(
    sizes: Mapping[str, int],
    shares: Mapping[str, int],
    seed: int,
    epoch: int,
    first_step: int = 0,
    lengths: Mapping[str, np.ndarray] | None = None,
) -> Iterator[dict[str, np.ndarray]]:
    """Example indices of each step of ``epoch`` from ``first_step`` on, per task.

    Each epoch shuffles every task anew; what one epoch leaves over comes in another. ``lengths`` of a task's examples
    bring like lengths together, so that little is padded: within every ``POOL`` steps examples are dealt out by
    length, and the order of those steps is drawn again. All tasks are long and short in the same steps.
    """
    steps = steps_per_epoch(sizes, shares)
    if not steps:
        return
    plan: dict[str, np.ndarray] = {}
    for number, (name, share) in enumerate(shares.items()):
        order = np.random.default_rng((seed, epoch, number)).permutation(sizes[name])[: steps * share]
        if lengths is not None and name in lengths:
            pools = [order[start : start + POOL * share] for start in range(0, len(order), POOL * share)]
            order = np.concatenate([pool[np.argsort(lengths[name][pool], kind="stable")] for pool in pools])
        plan[name] = order.reshape(steps, share)
    turns = np.random.default_rng((seed, epoch, len(sizes)))
    drawn = (
        np.concatenate([start + turns.permutation(min(POOL, steps - start)) for start in range(0, steps, POOL)])
        if lengths
        else np.arange(steps)
    )
    for step in drawn[first_step:]:
        yield {name: rows[step] for name, rows in plan.items()}


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
