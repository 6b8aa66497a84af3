"""What the training loop knows of the machinery around it: a rank, a device, and where checkpoints go.

``Local`` runs in this process and keeps checkpoints in a folder; Ray's implementation is in ``worker``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor


class WorkerContext(Protocol):
    """One worker's view of a run."""

    rank: int
    world_size: int
    device: torch.device

    def report(self, metrics: Mapping[str, float], checkpoint: Path) -> None:
        """Commit ``checkpoint``, a folder that may be moved away. Every rank calls it equally often."""

    def restore(self) -> AbstractContextManager[Path] | None:
        """The newest checkpoint of this run, or None at its start."""

    def best(self, metric: str) -> AbstractContextManager[Path]:
        """The checkpoint whose reported ``metric`` was highest."""


def sum_over_ranks(values: Tensor, context: WorkerContext) -> Tensor:
    """The sum of ``values`` over all workers, on each of them."""
    if context.world_size > 1:
        values = values.to(context.device)
        dist.all_reduce(values)
    return values


class Local:
    """One process, checkpoints in ``folder``: the best ``keep`` by ``score`` and the last."""

    rank = 0
    world_size = 1

    def __init__(self, folder: Path, score: str, keep: int, device: torch.device | None = None) -> None:
        self.folder, self.score, self.keep = folder, score, keep
        self.device = device or torch.device("cpu")

    def report(self, metrics: Mapping[str, float], checkpoint: Path) -> None:
        """Commit by renaming a finished copy, then drop what is neither last nor among the best."""
        taken = self._checkpoints()
        number = int(taken[-1].name.rpartition("_")[2]) + 1 if taken else 0
        self.folder.mkdir(parents=True, exist_ok=True)
        partial = self.folder / f".partial_{number:06d}"
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(checkpoint, partial)
        (partial / "metrics.json").write_text(json.dumps(dict(metrics)), encoding="utf-8")
        partial.rename(self.folder / f"checkpoint_{number:06d}")
        *earlier, last = self._checkpoints()
        ranked = sorted([*earlier, last], key=lambda path: _metric(path, self.score), reverse=True)
        for path in ranked[self.keep :]:
            if path != last:
                shutil.rmtree(path)

    def restore(self) -> AbstractContextManager[Path] | None:
        """The newest committed checkpoint."""
        taken = self._checkpoints()
        return nullcontext(taken[-1]) if taken else None

    def best(self, metric: str) -> AbstractContextManager[Path]:
        """The committed checkpoint with the highest metric."""
        return nullcontext(max(self._checkpoints(), key=lambda path: _metric(path, metric)))

    def _checkpoints(self) -> list[Path]:
        return sorted(self.folder.glob("checkpoint_*"))


def _metric(checkpoint: Path, name: str) -> float:
    return float(json.loads((checkpoint / "metrics.json").read_text(encoding="utf-8"))[name])
