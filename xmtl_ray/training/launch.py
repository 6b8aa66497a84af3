"""Start a training run on Ray: check what can be checked, then hand over to the workers."""

from __future__ import annotations

import logging
import math
import os
import re
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from xmtl_ray.cluster.connection import cluster, set_environment
from xmtl_ray.cluster.reach import check_shared, is_local, reach
from xmtl_ray.config.finetune import FinetuneConfig
from xmtl_ray.config.load import leaves, loads
from xmtl_ray.config.schema import Config
from xmtl_ray.data.remote import here
from xmtl_ray.tracking.server import tracking_uri
from xmtl_ray.training.data_check import check_data
from xmtl_ray.training.run_lock import held
from xmtl_ray.training.states import end, reap
from xmtl_ray.training.stopping import Stopped, interruptible
from xmtl_ray.training.storage import forget, forget_index, saved_config

if TYPE_CHECKING:
    from ray.train import UserCallback

log = logging.getLogger(__name__)

AnyConfig = TypeVar("AnyConfig", Config, FinetuneConfig)


class LaunchError(ValueError):
    """A run that cannot start: what is in its way, and what to do."""


class TrainingError(ValueError):
    """A run that ended without a model, in the words of the worker that gave up."""


class CapacityError(TrainingError):
    """A cluster that had no room for the workers in all the time that they may wait."""


def launch(config: Config | FinetuneConfig, fresh: bool = False) -> dict[str, Any]:
    """Train and score by ``config``; the same name again continues where it stopped.

    Args:
        config: of the run.
        fresh: forget what an earlier start of this name has left: begin at step 0, as a new MLflow run.

    Returns the summary of rank 0. Raises FetchError, LaunchError or UntrustedData before Ray starts, ClusterError where
    GPUs are missing, StorageError where a node does not reach ``storage_path``, RunLocked where another process drives
    this run, TrainingError when the workers gave up; Stopped (which ends the process) where it was told to stop.
    """
    config = here(_reporting(config))
    spec = config.cluster
    filesystem, root = reach(config.storage_path)
    with held(filesystem, f"{root}/{config.name}"):
        if fresh:
            forget(config.storage_path, config.name)
        check(config)
        check_data(config, Path(config.storage_path) / config.name if is_local(config.storage_path) else None)
        reap(config.storage_path)
        status = "FAILED"
        try:
            if not spec.workers:
                set_environment()
                return fit(config)
            with cluster(
                spec.workers * spec.cpus_per_worker,
                gpus=spec.workers * spec.gpu,
                address=spec.address,
                dashboard=True,
            ):
                check_shared("storage_path", config.storage_path, on_all_nodes(config))
                return fit(config)
        except Stopped:
            status = "KILLED"
            raise
        finally:
            end(config.storage_path, config.name, status)


def fit(config: Config | FinetuneConfig, callbacks: Sequence[UserCallback] = ()) -> dict[str, Any]:
    """Train where Ray is connected, or a sweep's trial runs; returns the summary of rank 0.

    Args:
        config: of the run, whose data has been checked.
        callbacks: told each report, in the process that controls the workers.

    Raises TrainingError when the workers gave up, CapacityError where there was never room for them, Stopped.
    """
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    from xmtl_ray.training.worker import Torch, train_worker

    logging.getLogger("ray.train").setLevel(logging.WARNING)
    spec = config.cluster
    resources = {"CPU": spec.cpus_per_worker} | ({"GPU": 1} if spec.gpu else {})
    start_s = min(60.0, spec.capacity_timeout_s / 2)
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=config.model_dump(mode="json"),
        torch_config=Torch(backend="nccl" if spec.gpu else "gloo", timeout_s=math.ceil(spec.collective_timeout_s)),
        scaling_config=ScalingConfig(
            num_workers=spec.workers, use_gpu=spec.gpu, resources_per_worker=resources if spec.workers else None
        ),
        run_config=RunConfig(
            name=config.name,
            storage_path=config.storage_path,
            failure_config=FailureConfig(
                max_failures=spec.max_failures,
                controller_failure_limit=math.ceil(spec.capacity_timeout_s / start_s) - 1,
            ),
            logging_config=LoggingConfig(log_level="WARNING"),
            callbacks=list(callbacks),
        ),
    )
    if spec.workers:
        forget_index(config.storage_path, config.name)
        _tell_missing(resources, spec.workers, spec.capacity_timeout_s)
    filesystem, root = reach(config.storage_path)
    limits = {
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": start_s,
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": spec.worker_timeout_s,
        "RAY_TRAIN_COLLECTIVE_TIMEOUT_S": spec.collective_timeout_s,
    }
    try:
        with _environment(limits):
            result, signalled = interruptible(
                trainer.fit, filesystem, f"{root}/{config.name}", spec.stop_grace_s, apart=spec.workers > 0
            )
    except TrainingFailedError as error:
        if type(getattr(error, "controller_failure", None)).__name__.startswith("WorkerGroupStartup"):
            raise CapacityError(_no_room(resources, spec.workers, spec.capacity_timeout_s)) from error
        raise TrainingError(_cause(error, spec.worker_timeout_s, spec.collective_timeout_s)) from error
    summary = dict(result.return_value)
    if "failed" in summary:
        raise TrainingError(summary["failed"])
    if "stopped" in summary:
        log.warning("%s; the same command goes on from there", summary["stopped"])
        raise Stopped(signalled or signal.SIGTERM)
    return summary


@contextmanager
def _environment(values: Mapping[str, float]) -> Iterator[None]:
    """Within it the process has them, unless the user has set others; Train hands them on."""
    ours = {name: f"{value:g}" for name, value in values.items() if name not in os.environ}
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def _tell_missing(resources: Mapping[str, float], workers: int, limit_s: float) -> None:
    """Waiting for nodes that an autoscaler may bring is no error yet."""
    import ray

    have = ray.cluster_resources()
    short = {name: amount for name, amount in resources.items() if have.get(name, 0) < workers * amount}
    if short:
        listed = ", ".join(f"{have.get(name, 0):g} of {workers * amount:g} {name}" for name, amount in short.items())
        log.warning("the cluster has %s that the run needs; it waits up to %.0f s for more", listed, limit_s)


def _no_room(resources: Mapping[str, float], workers: int, limit_s: float) -> str:
    import ray

    total, free = ray.cluster_resources(), ray.available_resources()
    wanted = ", ".join(f"{amount:g} {name}" for name, amount in resources.items())
    there = ", ".join(f"{total.get(name, 0):g} {name} ({free.get(name, 0):g} free)" for name in resources)
    return (
        f"cluster.workers: {workers} with {wanted} each could not be started within {limit_s:.0f} s "
        f"(cluster.capacity_timeout_s); the cluster has {there}; ask for fewer, add nodes, or wait longer, and give "
        "the same command again: it goes on from the last checkpoint"
    )


def _reporting(config: AnyConfig) -> AnyConfig:
    """With the tracking server named that this process knows: workers elsewhere do not have its environment."""
    spec = config.tracking
    asked = tracking_uri(spec.uri, None)
    if not spec.enabled or asked == spec.uri:
        return config
    return config.model_copy(update={"tracking": spec.model_copy(update={"uri": asked})})


def check(config: Config | FinetuneConfig) -> None:
    """Refuse what cannot work: missing files, unwritable storage, another config under the same name."""
    check_files(config)
    if isinstance(config, Config):
        _check_store(config)
    else:
        check_memory(config)
    _check_same_run(config)


def check_files(config: Config | FinetuneConfig) -> None:
    """Raises LaunchError for data that is not there."""
    for path, value in inputs(config, "data").items():
        if not value.exists():
            raise LaunchError(f"{path}: {value} does not exist; data.root is {config.data.root}")


def inputs(config: Config | FinetuneConfig, *sections: str) -> dict[str, Path]:
    """Files and folders named in ``data`` and ``model``, by their setting; each worker must find them.

    Args:
        config: of the run, with absolute paths.
        sections: those looked at; none: both.
    """
    made = {"data.root", "data.features"}  # or will be
    found = {}
    for section in sections or ("data", "model"):
        for path, value, _ in leaves(getattr(config, section), f"{section}."):
            if isinstance(value, str) and os.path.isabs(value) and path not in made:
                found[path] = Path(value)
    return found


def on_all_nodes(config: Config | FinetuneConfig) -> dict[str, Path]:
    """Those of ``inputs`` that each node must have; what lies behind a URI it fetches."""
    fetched = config.data.root if config.data.uri is not None else None
    return {name: path for name, path in inputs(config).items() if fetched is None or not path.is_relative_to(fetched)}


def _check_store(config: Config) -> None:
    store = config.multitask.pseudo.store
    if config.multitask.strategy == "xmtl" and (store is None or not store.is_dir()):
        found = "none" if store is None else f"{store}, which is no folder"
        raise LaunchError(
            f"multitask.pseudo.store: found {found}; strategy xmtl learns from a folder of pseudo-labels: make one by "
            "`xmtl pseudo-label`, let `xmtl run` do it, or set multitask.strategy=joint"
        )


def check_memory(config: FinetuneConfig) -> None:
    """Refuse what cannot fit whatever the length of the sequences; what may not fit with the longest is told."""
    spec = config.cluster
    if not spec.gpu:
        return
    import torch

    from xmtl_ray.generative.memory_plan import fits
    from xmtl_ray.models.memory import GIB, largest, size

    if spec.gpu_memory is not None:
        gpu = size(spec.gpu_memory)
    elif spec.address is None and torch.cuda.is_available():
        gpu = min(torch.cuda.get_device_properties(one).total_memory for one in range(torch.cuda.device_count()))
    else:
        return
    plan = fits(config, gpu)
    if plan.fits:
        return
    parts = " and ".join(f"{name} ({value / GIB:.1f} GiB)" for name, value in largest(plan.peak))
    advice = "no setting makes it fit" if plan.enough is None else f"set {' '.join(plan.enough)}"
    told = (
        f"at most {plan.total / GIB:.1f} GiB per GPU, of {gpu / GIB:.1f}, are needed for {plan.peak.name}; largest are "
        f"{parts}; to make it fit {advice}; see xmtl plan"
    )
    if not plan.possible:
        raise LaunchError(f"cluster.gpu_memory: the run does not fit however short its sequences are: {told}")
    log.warning("cluster.gpu_memory: sequences of %d places do not fit: %s", config.model.max_tokens, told)


def _check_same_run(config: Config | FinetuneConfig) -> None:
    """A run that is resumed must be the run that was begun, resources and reporting aside."""
    saved = saved_config(config.storage_path, config.name)
    if saved is None:
        return
    before, after = _wherever(loads(saved, type(config))), _wherever(config)
    free = ("cluster.", "tracking.", "inference.", "distill.", "data.test", "data.pairs", "data.check")
    free += ("data.loader_workers", "data.image_cache_mib", "data.media_cache_mib", "data.features", "generation.batch")
    bound = ("inference.verb_threshold", "inference.trigger_bias")  # dev scores of before and after are compared
    changed = [
        path for path in after if before.get(path) != after[path] and (path in bound or not path.startswith(free))
    ]
    if changed:
        lines = "\n".join(f"  {path}: was {before.get(path)!r}, is {after[path]!r}" for path in changed)
        raise LaunchError(
            f"name: a run {config.name!r} exists in {config.storage_path} with other settings:\n{lines}\n"
            "choose another name=…, or give --fresh, which forgets what that run has learnt"
        )


def _wherever(config: Config | FinetuneConfig) -> dict[str, Any]:
    """Dotted path → value; what lies in a copy of data behind a URI is the same wherever a machine keeps its copies."""
    copy, copies = config.data.root, str(config.data.root.parent)
    found = {path: value for path, value, _ in leaves(config)}
    if config.data.uri is None:
        return found
    inside = {path: Path(value).is_relative_to(copy) for path, value in found.items() if isinstance(value, str)}
    return {path: value.removeprefix(copies) if inside.get(path) else value for path, value in found.items()}


def _cause(error: Exception, worker_timeout_s: float, collective_timeout_s: float) -> str:
    """What went wrong in the first worker that failed, without the frames around it; a hang before what it led to."""
    failures: Mapping[int, Exception] = getattr(error, "worker_failures", {}) or {}
    again = "the same command goes on from the last checkpoint"
    for rank, failure in sorted(failures.items()):
        if type(failure).__name__ == "WorkerHealthCheckTimeoutError":
            return (
                f"worker {rank}: no answer for {worker_timeout_s:g} s (cluster.worker_timeout_s): it was stopped, or "
                f"its machine is; {again}"
            )
    last = {rank: str(failure).strip().splitlines()[-1] for rank, failure in sorted(failures.items())}
    for rank, line in last.items():
        if re.search(r"timed? ?out", line, re.IGNORECASE):
            return (
                f"worker {rank}: waited in vain for another one, at most {collective_timeout_s:g} s "
                f"(cluster.collective_timeout_s): {line}; {again}"
            )
    return next((f"worker {rank}: {line}" for rank, line in last.items()), str(error))
