"""How many trials a cluster has room for, counted so that none of them waits for what another holds.

A trial's workers start all together or not at all, each on one node. So what counts is not the cluster's sum of CPUs
but the places for a worker, node by node: three nodes of three CPUs have three places for workers of two, not four.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from xmtl_ray.config.run import Cluster
from xmtl_ray.tuning.space import SpaceError

log = logging.getLogger(__name__)

HEAD = "node:__internal_head__"
"""A trial's driver only waits; it takes a sliver of this, no CPU, and so lies on the head node, where it is safe."""
SLIVER = 0.001


@dataclass(frozen=True)
class Need:
    """What a trial takes."""

    workers: int
    """Processes that train: the Train workers, or the trial's own."""
    cpus: float
    """Of each."""
    gpus: float
    """Of each."""

    def told(self) -> str:
        """In words."""
        gpus = f" and {self.gpus:g} GPU" if self.gpus else ""
        return f"{self.workers} worker{'s' * (self.workers > 1)} with {self.cpus:g} CPU{gpus} each"


def need(spec: Cluster, direct: bool) -> Need:
    """What a trial of a recipe takes; ``direct``: it is one process, whatever number of workers the recipe has."""
    return Need(1 if direct else max(1, spec.workers), spec.cpus_per_worker, float(spec.gpu))


def places(nodes: Iterable[Mapping[str, float]], one: Need) -> int:
    """Places for a worker on these nodes, each given by its resources."""
    count = 0
    for node in nodes:
        fits = int(node.get("CPU", 0) / one.cpus + 1e-9)
        count += min(fits, int(node.get("GPU", 0) / one.gpus + 1e-9)) if one.gpus else fits
    return count


def concurrency(
    nodes: Iterable[Mapping[str, float]], one: Need, most: int | None = None, may_grow: bool = False
) -> int:
    """Trials that can train side by side.

    Args:
        nodes: the resources of each, now.
        one: what a trial takes.
        most: trials side by side, as stated by the user; None: what there is room for.
        may_grow: the cluster may get more nodes once trials wait for them. Ray has no public word for how many, so
            ``most`` is taken for it. What does not fit waits and holds nothing: a trial's workers start all together
            or not at all.

    Raises SpaceError where not even one trial fits, and none are said to.
    """
    nodes = list(nodes)
    found = places(nodes, one)
    if may_grow and most is not None and most > found // one.workers:
        log.warning(
            "concurrency: %d as stated; the cluster has room for %d now, the others wait until it grows",
            most, found // one.workers,
        )  # fmt: skip
        return most
    if found < one.workers:
        have = "; ".join(f"{node.get('CPU', 0):g} CPUs, {node.get('GPU', 0):g} GPUs" for node in nodes) or "no node"
        raise SpaceError(
            f"cluster.workers: a trial does not fit the cluster: found places for {found} of its {one.told()}, on "
            f"nodes of {have}; lower cluster.workers or cluster.cpus_per_worker, or join a larger cluster "
            f"(cluster.address, RAY_ADDRESS){'; of one that grows, state concurrency' * may_grow}"
        )
    return min(found // one.workers, most or found)


def of_cluster() -> list[dict[str, float]]:
    """Resources of each node of the connected cluster that is alive."""
    import ray

    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]
