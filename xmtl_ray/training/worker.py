"""What one Ray Train worker runs, of either model family: unpack the config, build, train, score.

The surprising facts: Ray changes a worker's folder, so every path in the config is absolute; and with no workers at
all (``cluster.workers=0``) Ray calls this same function in the driver's process, where it keeps no checkpoints.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import ray.train
import ray.train.torch
import torch
import torch.distributed as dist
from transformers.utils.logging import disable_progress_bar

from xmtl_ray.cluster.reach import is_local, reach
from xmtl_ray.config.finetune import FinetuneConfig
from xmtl_ray.config.load import dump, flatten, kind_of
from xmtl_ray.config.schema import Config
from xmtl_ray.data.remote import here
from xmtl_ray.tracking.run import Run, environment_tags, installed_packages
from xmtl_ray.tracking.server import tracking_uri
from xmtl_ray.training import finetune, xmtl
from xmtl_ray.training.checkpoints import FOLDER, CheckpointStore
from xmtl_ray.training.context import Committing, Local, WorkerContext
from xmtl_ray.training.loop import NonFiniteLoss, train
from xmtl_ray.training.retries import CheckpointError
from xmtl_ray.training.stopping import Interrupted, listen_for_preemption, watching
from xmtl_ray.training.storage import CONFIG, run_folder

log = logging.getLogger(__name__)

T = TypeVar("T")

AnyConfig = Config | FinetuneConfig


class Unusable(ValueError):
    """Data or a model that a rank could not make sense of."""


class RayContext(Committing):
    """A worker of Ray Train, which is told numbers only: its own index of checkpoints would be believed unseen."""

    def __init__(self, store: CheckpointStore, publish: Callable[[], None] = lambda: None) -> None:
        self.publish = publish
        context = ray.train.get_context()
        super().__init__(store, context.get_world_rank(), context.get_world_size(), ray.train.torch.get_device())

    def report(self, metrics: Mapping[str, float], checkpoint: Path) -> None:
        """The files of all ranks become one checkpoint, with rank 0's metrics, before Ray hears of it."""
        super().report(metrics, checkpoint)
        ray.train.report(dict(metrics))
        try:
            self.publish()
        except CheckpointError as error:  # on this rank alone, which must not leave the others
            log.warning("%s; with the next checkpoint it is tried again", error)


def train_worker(settings: dict[str, Any]) -> dict[str, Any]:
    """Train, then score; returns rank 0's summary.

    Or ``{"failed": why}`` where trying again cannot help, ``{"stopped": where}`` where its user asked it to stop.

    Args:
        settings: a config as plain values.
    """
    config = kind_of(settings).model_validate(settings)
    rank = ray.train.get_context().get_world_rank() if config.cluster.workers else 0
    with run_folder(config.storage_path, config.name, rank) as (folder, publish), _watched(config, rank):
        return train_in(_context(config, folder, publish), config, folder)


class Torch(ray.train.torch.TorchConfig):
    """Ray's torch backend, whose workers take SIGTERM for a wish."""

    @property
    def backend_cls(self) -> type[Any]:
        """Sets up a worker group."""
        return _Listening


class _Listening(ray.train.torch.TorchConfig().backend_cls):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: Any) -> None:
        """In each worker's main thread, which alone may say what a signal does."""
        super().on_start(worker_group, backend_config)
        worker_group.execute(listen_for_preemption)


def _watched(config: AnyConfig, rank: int) -> AbstractContextManager[None]:
    if not config.cluster.workers or rank != 0:
        return nullcontext()
    filesystem, root = reach(config.storage_path)
    return watching(filesystem, f"{root}/{config.name}")


def train_in(context: WorkerContext, config: AnyConfig, folder: Path) -> dict[str, Any]:
    """As ``train_worker``, in a context and a folder of this machine that are there already."""
    _configure(context, config)
    tracked = _track(config, folder) if context.rank == 0 else None
    try:
        summary = _run(context, config, folder, tracked)
    except (Unusable, NonFiniteLoss, CheckpointError) as error:
        # Every rank is here. Raised further, Ray would start the workers again for the same end.
        _close(tracked, "FAILED")
        return {"failed": str(error)}
    except Interrupted as error:
        _close(tracked, "KILLED")
        if error.preempted:  # Ray starts the workers again, where there is room
            raise
        return {"stopped": str(error)}
    except BaseException as error:
        _close(tracked, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    if tracked is not None:
        tracked.close()
    return summary


def _close(tracked: Run | None, status: str) -> None:
    if tracked is not None:
        tracked.journal.status(status)
        tracked.close(grace_s=15)


def _run(context: WorkerContext, config: AnyConfig, folder: Path, tracked: Run | None) -> dict[str, Any]:
    family: Any = finetune if isinstance(config, FinetuneConfig) else xmtl
    built = _agree(context, lambda: family.build(context, here(config)))

    def track(step: int, metrics: Mapping[str, float]) -> None:
        if tracked is not None:
            tracked.journal.metrics(step, metrics)

    position = train(context, config.engine, config.train, family.learner(context, config, built), track)
    summary: dict[str, Any] = {"epochs": position.epoch, "steps": position.step, "dev": position.dev}
    summary |= family.finish(context, config, built, position, folder, track)
    track(position.step, _footprint(context.device))
    if tracked is not None:
        (folder / "summary.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
        tracked.journal.status("FINISHED")
        family.write_page(folder, built)
        for name in family.ARTIFACTS:
            if (folder / name).exists():
                tracked.journal.artifact(name)
    return summary


def _footprint(device: torch.device) -> dict[str, float]:
    """The most memory that this process has held, GiB."""
    found = {"memory/host_peak_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}  # from KiB
    if device.type == "cuda":
        found["memory/peak_gib"] = torch.cuda.max_memory_allocated(device) / 2**30
    return found


def _agree(context: WorkerContext, build: Callable[[], T]) -> T:
    """What ``build`` makes, if it does on every rank; else Unusable on every rank, so that none waits for another."""
    problem, built = None, None
    try:
        built = build()
    except ValueError as error:
        problem = str(error)
    problems: list[Any] = [problem]
    if context.world_size > 1:
        problems = [None] * context.world_size
        dist.all_gather_object(problems, problem)
    for found in problems:
        if found is not None:
            raise Unusable(found)
    return built  # type: ignore[return-value]


def _context(config: AnyConfig, folder: Path, publish: Callable[[], None]) -> WorkerContext:
    score, keep = config.train.select, config.train.keep_checkpoints
    if config.cluster.workers:
        filesystem, root = reach(config.storage_path)
        return RayContext(CheckpointStore(filesystem, f"{root}/{config.name}/{FOLDER}", score, keep), publish)
    device = torch.device("cuda") if config.cluster.gpu else torch.device("cpu")
    return Local(folder / FOLDER, score, keep, device)


def _configure(context: WorkerContext, config: AnyConfig) -> None:
    """Logging to the worker's output (Ray shows it on the driver), and as many threads as CPUs were reserved."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Ray Train has set the root logger to INFO, and tells every report through one that no name of its own reaches.
    logging.basicConfig(format="%(message)s", stream=sys.stdout, level=logging.WARNING, force=True)
    logging.getLogger("xmtl_ray").setLevel(logging.INFO if context.rank == 0 else logging.WARNING)
    torch.set_num_threads(max(1, int(config.cluster.cpus_per_worker)))
    disable_progress_bar()  # of loading weights


def _track(config: AnyConfig, folder: Path) -> Run:
    spec = config.tracking
    uri = tracking_uri(spec.uri, config.storage_path if is_local(config.storage_path) else None)
    if uri is None and spec.enabled:
        log.warning(
            "tracking.uri: none, no MLFLOW_TRACKING_URI, and storage_path is no local folder: numbers stay in the run "
            "folder"
        )
    run = Run(folder, uri if spec.enabled else None, spec.experiment, config.name)
    (folder / CONFIG).write_text(dump(config), encoding="utf-8")
    run.journal.parameters({name: value for name, value in flatten(config).items() if value is not None})
    origin = finetune.origin(config) if isinstance(config, FinetuneConfig) else xmtl.origin(config)
    if spec.parent is not None:
        origin["mlflow.parentRunId"] = spec.parent
    run.journal.tags(environment_tags(origin))
    (folder / "environment.txt").write_text(installed_packages(), encoding="utf-8")
    for name in (CONFIG, "environment.txt"):
        run.journal.artifact(name)
    return run
