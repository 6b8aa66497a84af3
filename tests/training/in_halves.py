"""Training in Ray workers that is stopped after its first epoch and goes on from its checkpoint."""

import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from pyarrow import fs

from xmtl_ray.training.checkpoints import CheckpointStore
from xmtl_ray.training.worker import RayContext


class Folder(RayContext):
    """A worker of Ray whose one checkpoint lies in a folder that all workers see."""

    def __init__(self, folder: Path) -> None:
        super().__init__(CheckpointStore(fs.LocalFileSystem(), str(folder), "", 1))  # not used
        self.folder = folder

    def report(self, metrics, checkpoint):
        shutil.copytree(checkpoint, self.folder, dirs_exist_ok=True)
        dist.barrier()

    def restore(self):
        return nullcontext(self.folder) if (self.folder / "position.json").exists() else None

    def best(self, metric):
        return nullcontext(self.folder)


def in_halves(folder: Path, config, learn: Callable) -> list[dict[int, dict[str, float]]]:
    """Metrics by step of both halves; ``learn`` takes a context, a config and what to call with metrics.

    What the first half has left stays in a folder beside it, see ``half_of``.
    """
    torch.set_num_threads(1)  # two workers on two cores
    half = config.model_copy(update={"train": config.train.model_copy(update={"epochs": 1})})
    found = []
    for part in (half, config):
        metrics: dict[int, dict[str, float]] = {}
        learn(Folder(folder), part, lambda step, seen, metrics=metrics: metrics.setdefault(step, {}).update(seen))
        found.append(metrics)
        if part is half:
            if dist.get_rank() == 0:
                shutil.copytree(folder, half_of(folder))
            dist.barrier()
    return found


def half_of(folder: Path) -> Path:
    """Where the checkpoint after the first half of the run in ``folder`` is."""
    return folder.with_name(f"{folder.name}, half")
