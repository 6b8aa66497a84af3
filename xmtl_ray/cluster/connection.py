"""The Ray cluster that training and data jobs run on: one that is named, one that is there already, or this machine."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import socket
from collections.abc import Iterator
from typing import Any

from xmtl_ray.cluster import job, tokens

ENVIRONMENT = {
    # Train's controller looks for reports this often; its own 2 s would hold every checkpoint up that long.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    # A group of processes is dissolved at once, or never, where one of them hangs; Ray would wait 30 s before it kills.
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # On a busy machine the dashboard is not there after Ray's own 60 s, and then nothing starts at all.
    "RAY_DASHBOARD_STARTUP_TIMEOUT_S": "300",
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
}
"""Given to every process of a run or a job, unless the user has set it."""

_STATE_API = "RAY_API_SERVER_ADDRESS"

log = logging.getLogger(__name__)


class ClusterError(ValueError):
    """A cluster that lacks what was asked for."""


def set_environment() -> None:
    """Give this process ``ENVIRONMENT``; to be called before ray, mlflow or transformers are imported."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def cluster(
    cpus: float, gpus: int = 0, address: str | None = None, dashboard: bool = False, quiet: bool = False
) -> Iterator[None]:
    """Within it Ray is connected. Where it is so already, nothing is done, at the end neither.

    Args:
        cpus: logical CPUs that a cluster started here has at least; those of another one are its own business.
        gpus: GPUs that are needed.
        address: of the cluster to join; None: RAY_ADDRESS, or one is started on this machine.
        dashboard: start it with the cluster; Tune needs its State API to free what a stopped trial held. Every process
            is told where it is, also that of a cluster that is joined: with several on a machine it would not be found.
        quiet: what workers print is not shown here.

    Raises ClusterError where a cluster started here has too few GPUs.
    """
    set_environment()
    address = address or os.environ.get("RAY_ADDRESS")
    if not address:
        os.environ.setdefault(tokens.MODE, "token")  # Ray's own choice for a new cluster, which it tells at length
        if os.environ[tokens.MODE] == "token":
            tokens.make()
    import ray
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # warns that its bars are off
    ours = not ray.is_initialized()
    try:
        if ours:
            local: dict[str, Any] = {"num_cpus": max(os.cpu_count() or 1, math.ceil(cpus))}
            local["include_dashboard"] = dashboard
            environment = {name: os.environ[name] for name in ENVIRONMENT}
            url = _dashboard_of(address) if address else None
            if dashboard and not address:
                port = _free_port()
                local |= {"dashboard_host": "127.0.0.1", "dashboard_port": port}
                url = f"http://127.0.0.1:{port}"
            environment |= {_STATE_API: url} if url else {}
            given = job.variables()
            ray.init(
                address=address,
                runtime_env={"env_vars": {name: value for name, value in environment.items() if name not in given}},
                logging_level="WARNING",
                log_to_driver=not quiet,
                **({} if address else local),
            )
            if address and tokens.MODE not in os.environ:  # Ray turns it on by itself where there is a token
                log.warning("%s has no authentication: whoever reaches its ports runs code there", address)
            have = ray.cluster_resources().get("GPU", 0)
            if not address and have < gpus:
                raise ClusterError(
                    f"GPUs: found {have:g} on this machine, expected {gpus}; do without (cluster.gpu=false, no --gpu), "
                    "or name a cluster (cluster.address, RAY_ADDRESS)"
                )
        yield
    finally:
        if ours:
            ray.shutdown()


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def _dashboard_of(address: str) -> str | None:
    """Where a cluster's dashboard is: known only to the user, or to who has joined it."""
    if url := os.environ.get(_STATE_API):
        return url
    import ray

    url = ray.init(address=address, logging_level="WARNING", log_to_driver=False).dashboard_url
    ray.shutdown()
    if not url:
        log.warning("%s has no dashboard: what a stopped run held may not be freed", address)
        return None
    return url if "://" in url else f"http://{url}"
