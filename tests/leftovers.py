"""What a fault left in a Ray cluster: actors and tasks, placement groups, CPUs that nobody gives back.

Loaded as a plugin (``pytest -p leftovers``, as benchmarks/faults.py does) it looks after each test that has used Ray in
this process, and records what it found.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

import processes
import psutil
import pytest

WAIT_S = 120.0
"""At most; on a busy machine Ray takes its time with what a killed driver has left."""
SERVICES = ("DashboardAgent", "RuntimeEnvAgent", "Autoscaling", "_StatsActor", "ActorLocationTracker", "JobSupervisor")
"""Ray's own and Ray Data's: one for a node or a cluster, without resources, for as long as that lives."""


def _working(everywhere: bool) -> list[str]:
    """Names of Ray's processes that hold an actor or a task, below this process or on the whole machine.

    A worker is called by what it runs. The cluster's own services and idle workers are not counted.
    """
    found = []
    for one in processes.named("ray::", everywhere):
        try:
            name = one.cmdline()[0]
        except (psutil.NoSuchProcess, IndexError):
            continue
        if name.startswith("ray::") and "IDLE" not in name and not any(service in name for service in SERVICES):
            found.append(f"{name} ({one.pid})")
    return found


def left_over() -> dict[str, list[str]]:
    """What is in the cluster that this process is connected to, by kind; all empty where nothing stayed behind."""
    import ray
    from ray.util.placement_group import placement_group_table

    groups = [name for name, group in placement_group_table().items() if group["state"] != "REMOVED"]
    held = ray.cluster_resources().get("CPU", 0) - ray.available_resources().get("CPU", 0)
    return {
        "actors_left": _working(everywhere=False),
        "placement_groups_left": groups,
        "cpus_left": [f"{held:g} CPU"] if held else [],
    }


def settled(wait_s: float = WAIT_S, before: Mapping[str, list[str]] | None = None) -> dict[str, list[str]]:
    """The same, once nothing is left that was not there ``before``, or when the time is over."""
    end = time.monotonic() + wait_s
    known = before or {}
    while True:
        found = {kind: [one for one in some if one not in known.get(kind, ())] for kind, some in left_over().items()}
        if not any(found.values()) or time.monotonic() > end:
            return found
        time.sleep(0.2)


@pytest.fixture(autouse=True)
def _what_a_test_leaves(record_property):
    yield
    ray = sys.modules.get("ray")
    if ray is not None and ray.is_initialized():
        for name, some in settled().items():
            record_property(name, len(some))
            if some:
                print(f"{name}: {', '.join(some)}")
