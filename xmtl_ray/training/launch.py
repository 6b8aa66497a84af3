"""Start a training run on Ray: check what can be checked, then hand over to the workers."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from xmtl_ray.cluster.connection import cluster, set_environment
from xmtl_ray.cluster.reach import check_shared, is_local
from xmtl_ray.config.finetune import FinetuneConfig
from xmtl_ray.config.load import leaves, loads
from xmtl_ray.config.schema import Config
from xmtl_ray.tracking.server import tracking_uri
from xmtl_ray.training.data_check import check_data
from xmtl_ray.training.storage import forget_index, saved_config

if TYPE_CHECKING:
    from ray.train import UserCallback

log = logging.getLogger(__name__)

AnyConfig = TypeVar("AnyConfig", Config, FinetuneConfig)


class LaunchError(ValueError):
    """A run that cannot start: what is in its way, and what to do."""


class TrainingError(ValueError):
    """A run that ended without a model, in the words of the worker that gave up."""


def launch(config: Config | FinetuneConfig) -> dict[str, Any]:
    """Train and score by ``config``; the same name again continues where it stopped.

    Returns the summary of rank 0. Raises LaunchError or UntrustedData before Ray starts, ClusterError where GPUs are
    missing, StorageError where a node does not reach ``storage_path``, TrainingError when the workers gave up.
    """
    config = _reporting(config)
    check(config)
    check_data(config, Path(config.storage_path) / config.name if is_local(config.storage_path) else None)
    spec = config.cluster
    if not spec.workers:
        set_environment()
        return fit(config)
    with cluster(
        spec.workers * spec.cpus_per_worker,
        gpus=spec.workers * spec.gpu,
        address=spec.address,
        dashboard=True,
    ):
        check_shared("storage_path", config.storage_path, inputs(config))
        return fit(config)


def fit(config: Config | FinetuneConfig, callbacks: Sequence[UserCallback] = ()) -> dict[str, Any]:
    """Train where Ray is connected, or a sweep's trial runs; returns the summary of rank 0. Raises TrainingError.

    Args:
        config: of the run, whose data has been checked.
        callbacks: told each report, in the process that controls the workers.
    """
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    from xmtl_ray.training.worker import train_worker

    logging.getLogger("ray.train").setLevel(logging.WARNING)
    workers = config.cluster.workers
    resources = {"CPU": config.cluster.cpus_per_worker} | ({"GPU": 1} if config.cluster.gpu else {})
    trainer = TorchTrainer(
        train_worker,
        train_loop_config=config.model_dump(mode="json"),
        torch_config=TorchConfig(backend="nccl" if config.cluster.gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers, use_gpu=config.cluster.gpu, resources_per_worker=resources if workers else None
        ),
        run_config=RunConfig(
            name=config.name,
            storage_path=config.storage_path,
            failure_config=FailureConfig(max_failures=config.cluster.max_failures, controller_failure_limit=3),
            logging_config=LoggingConfig(log_level="WARNING"),
            callbacks=list(callbacks),
        ),
    )
    if workers:
        forget_index(config.storage_path, config.name)
    try:
        summary = dict(trainer.fit().return_value)
    except TrainingFailedError as error:
        raise TrainingError(_cause(error)) from error
    if "failed" in summary:
        raise TrainingError(summary["failed"])
    return summary


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
    before = {path: value for path, value, _ in leaves(loads(saved, type(config)))}
    after = {path: value for path, value, _ in leaves(config)}
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
            "choose another name=… or delete that folder"
        )


def _cause(error: Exception) -> str:
    """What went wrong in the first worker that failed, without the frames around it."""
    failures = getattr(error, "worker_failures", {}) or {}
    for rank, failure in sorted(failures.items()):
        return f"worker {rank}: {str(failure).strip().splitlines()[-1]}"
    return str(error)
