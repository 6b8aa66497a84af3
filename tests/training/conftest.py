"""What tests of Ray workers share."""

import os
import socket
import subprocess
from pathlib import Path

import processes
import psutil
import pytest
from ray_runs import command, losses


def started(**arguments):
    """``ray.init``. Ray gives a cluster 30 s: on a busy machine it is begun again; what was left of it is ended."""
    import ray

    for left in (2, 1, 0):
        there = set(psutil.Process().children(recursive=True))
        try:
            return ray.init(**arguments)
        except Exception as error:  # Ray has no other name for it
            if not left or "timed out during startup" not in str(error):
                raise
            processes.kill(set(psutil.Process().children(recursive=True)) - there)
    raise AssertionError("the last try returns or raises")


@pytest.fixture(scope="module")
def cluster():
    """One Ray cluster for a module; runs started by the command line join it through RAY_ADDRESS."""
    from xmtl_ray.cluster.connection import ENVIRONMENT

    os.environ.update(ENVIRONMENT)  # before Ray is imported, which looks at some of it only then
    import ray

    # Workers import modules of this folder, too, and what those share with other tests.
    here = Path(__file__).parent
    paths = [str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]
    environment = ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    # With several clusters on a machine Ray's own clean-up does not find the right one by itself.
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    environment["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{port}"
    dashboard = {"include_dashboard": True, "dashboard_host": "127.0.0.1", "dashboard_port": port}
    context = started(num_cpus=4, runtime_env={"env_vars": environment}, **dashboard)
    yield context.address_info
    ray.shutdown()


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory, cluster):
    """Losses of a run of two workers that nothing happened to."""
    folder = tmp_path_factory.mktemp("whole")
    environment = os.environ | {"RAY_ADDRESS": cluster["gcs_address"]}
    subprocess.run(command(world, folder, "cluster.workers=2"), check=True, env=environment)
    return losses(folder)


@pytest.fixture
def nothing_stays(cluster):
    """After the test no actor, placement group or held CPU is left in the cluster that was not there before.

    A trainer that an earlier test ran in this process may live for as long as the process: Ray keeps its handle.
    """
    from leftovers import left_over, settled

    before = left_over()
    yield
    left = settled(before=before)
    assert not any(left.values()), left
