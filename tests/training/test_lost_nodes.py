"""F3: a node is lost by SIGKILL to its raylet; there is no other, then one comes; and none comes in time.

That a spare node takes over is shown in tests/cluster/test_several_nodes.py.
"""

import sys
import time
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1] / "cluster"))

import leftovers
import ray_nodes
from ray_runs import command, committed, losses, recovery_s, redone, starts, statuses

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)]

EVERY = 5
SETTINGS = [
    "cluster.workers=2", "cluster.cpus_per_worker=1.5", "tracking.enabled=false", "data.test=null",
    f"train.checkpoint_every_steps={EVERY}",
]  # fmt: skip
"""Of two CPUs that a node has, a second worker gets none."""


@pytest.fixture(scope="module")
def nodes():
    """A head, where only drivers are, and two nodes of two CPUs: no room is left."""
    with ray_nodes.cluster(2, 2, apart=False) as some:
        yield some


def left_over(nodes) -> dict[str, list]:
    """Of the runs that are over: what the cluster has of actors, placement groups and workers; waits for it to go."""
    end = time.monotonic() + 60
    while True:
        living = [one["class_name"] for one in nodes.state("actors") if one["state"] != "DEAD"]
        found = {
            "actors_left": [name for name in living if not any(service in name for service in leftovers.SERVICES)],
            "placement_groups_left": [
                one["placement_group_id"] for one in nodes.state("placement_groups") if one["state"] != "REMOVED"
            ],
            "workers_left": [one.pid for one in nodes.processes() if "RayTrainWorker" in " ".join(one.cmdline())],
        }
        if not any(found.values()) or time.monotonic() > end:
            return found
        time.sleep(0.5)


def begun(nodes, world, folder, *more):
    """A run that has done some steps."""
    driver = nodes.start(*command(world, folder, *SETTINGS, *more), OMP_NUM_THREADS="1")
    ray_nodes.wait_for(lambda: max(losses(folder), default=0) > EVERY, driver)
    return driver


@pytest.fixture(scope="module")
def expected(nodes, world, tmp_path_factory):
    """Losses of a run that nothing happened to."""
    folder = tmp_path_factory.mktemp("unbroken")
    nodes.xmtl(*command(world, folder, *SETTINGS)[3:], OMP_NUM_THREADS="1")
    return losses(folder)


def test_no_spare_node_and_then_another(nodes, world, tmp_path, expected, record_property):
    """The run waits while there is no room, goes on once a node joins, from its last checkpoint, with the losses of a
    run that nothing happened to; orphaned workers of the lost node add nothing."""
    driver = begun(nodes, world, tmp_path, "cluster.capacity_timeout_s=300")
    nodes.nodes[-1].kill_raylet()
    struck = time.time()
    ray_nodes.wait_for(lambda: len(nodes.alive()) == 1, driver)
    time.sleep(15)
    assert driver.poll() is None and len([lines for lines in starts(tmp_path) if lines]) == 1, "it waits"
    # With a limit of 300 s nobody is told of what is told within 20 s below.
    record_property("control.hangs_unnoticed", int(driver.poll() is None))
    at = committed(tmp_path)
    nodes.add(2)
    printed, _ = driver.communicate(timeout=900)
    assert driver.returncode == 0, printed
    begins = [lines[0]["step"] for lines in starts(tmp_path) if lines]
    record_property("committed_steps_lost", max(0, at - begins[1] + 1))
    record_property("steps_redone", max(redone(tmp_path)))
    record_property("recovery_s", recovery_s(tmp_path, [struck]))
    record_property("losses_differing", sum(losses(tmp_path).get(step) != some for step, some in expected.items()))
    left = left_over(nodes)
    for name, some in left.items():
        record_property(name, len(some))
    assert begins[1] == at + 1 and losses(tmp_path) == expected
    assert statuses(tmp_path)[-1] == "FINISHED" and not any(left.values()), left


def test_no_other_node_in_time(nodes, world, tmp_path, record_property):
    """After ``cluster.capacity_timeout_s`` it is an error that says what was asked for and what there is; the run has
    ended, its checkpoints are there, and the same command goes on when a node has come."""
    driver = begun(nodes, world, tmp_path, "cluster.capacity_timeout_s=20")
    nodes.nodes[-1].kill_raylet()
    struck = time.monotonic()
    printed, _ = driver.communicate(timeout=900)
    record_property("detection_s", round(time.monotonic() - struck, 1))
    told = " ".join(printed.split())
    assert driver.returncode == 2, printed
    assert "cluster.workers: 2 with 1.5 CPU each could not be started within 20 s (cluster.capacity_timeout_s)" in told
    assert statuses(tmp_path)[-1] in {"FAILED", "KILLED"} and committed(tmp_path) >= EVERY
    left = left_over(nodes)
    for name, some in left.items():
        record_property(name, len(some))
    assert not any(left.values()), left
    nodes.add(2)
    at = committed(tmp_path)
    nodes.xmtl(*command(world, tmp_path, *SETTINGS)[3:], OMP_NUM_THREADS="1")
    assert [lines[0]["step"] for lines in starts(tmp_path) if lines][1] == at + 1
    assert statuses(tmp_path)[-1] == "FINISHED"
