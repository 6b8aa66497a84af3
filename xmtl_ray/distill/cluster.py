"""The Ray cluster that a data job runs on: the one that the environment names, or this machine."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "TOKENIZERS_PARALLELISM": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}
"""Given to every process of a job, unless the user has set it."""


@contextlib.contextmanager
def cluster(cpus: int) -> Iterator[None]:
    """Within it Ray is connected, quiet, and has at least ``cpus`` logical CPUs if it had to be started."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        os.environ.setdefault("RAY_AUTH_MODE", "token")  # Ray's own choice for a new cluster, which it tells at length
    import ray
    from ray.data import DataContext

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # warns that its bars are off
    ours = not ray.is_initialized()
    if ours:
        local = {} if address else {"num_cpus": max(os.cpu_count() or 1, cpus), "include_dashboard": False}
        environment = {name: os.environ[name] for name in ENVIRONMENT}
        ray.init(address=address, runtime_env={"env_vars": environment}, logging_level="WARNING", **local)
    try:
        yield
    finally:
        if ours:
            ray.shutdown()
