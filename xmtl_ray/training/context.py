"""What the training loop knows of the machinery around it: a rank, a device, and where checkpoints go.

``Local`` runs in this process; Ray's implementation is in ``worker``. Both keep checkpoints in a ``CheckpointStore``:
rank 0 decides for all, and what fails on one rank is raised on every one, so that none waits for another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from pyarrow import fs
from torch import Tensor

from xmtl_ray.training.checkpoints import CheckpointStore
from xmtl_ray.training.retries import CheckpointError

T = TypeVar("T")


class WorkerContext(Protocol):
    """One worker's view of a run."""

    rank: int
    world_size: int
    device: torch.device

    def report(self, metrics: Mapping[str, float], checkpoint: Path) -> None:
        """Commit the files below ``checkpoint``, with ``metrics``, which hold ``step``; every rank calls it."""

    def restore(self) -> AbstractContextManager[Path] | None:
        """The newest checkpoint of this run, or None at its start. Every rank calls it."""

    def best(self, metric: str) -> AbstractContextManager[Path]:
        """The checkpoint whose reported ``metric`` was highest. Every rank calls it."""


def sum_over_ranks(values: Tensor, context: WorkerContext) -> Tensor:
    """The sum of ``values`` over all workers, on each of them."""
    if context.world_size > 1:
        values = values.to(context.device)
        dist.all_reduce(values)
    return values


class Committing:
    """What contexts share: checkpoints in ``store``, committed by all ranks together.

    Every method raises CheckpointError on all ranks at once.
    """

    def __init__(self, store: CheckpointStore, rank: int, world_size: int, device: torch.device) -> None:
        self.store, self.rank, self.world_size, self.device = store, rank, world_size, device

    def report(self, metrics: Mapping[str, float], checkpoint: Path) -> None:
        """See :class:`WorkerContext`; what was written of a checkpoint that fails is removed."""
        step = int(metrics["step"])
        place = self._decided(lambda: self.store.start(step))
        try:
            parts = self._everywhere(lambda: self.store.write(place, checkpoint))
            self._decided(lambda: self.store.commit(place, step, metrics, self.world_size, parts))
        except CheckpointError:
            if self.rank == 0:
                self.store.discard(place)
            raise

    def restore(self) -> AbstractContextManager[Path] | None:
        """See :class:`WorkerContext`; a checkpoint that is damaged is passed over. Counts as a start of the run."""

        def newest() -> str | None:
            self.store.begin()
            return self.store.newest()

        name = self._decided(newest)
        return None if name is None else self._opened(name)

    def best(self, metric: str) -> AbstractContextManager[Path]:
        """See :class:`WorkerContext`."""
        return self._opened(self._decided(lambda: self.store.best(metric)))

    @contextmanager
    def _opened(self, name: str) -> Iterator[Path]:
        with ExitStack() as stack:
            yield self._everywhere(lambda: stack.enter_context(self.store.opened(name)))[self.rank]

    def _decided(self, work: Callable[[], T]) -> T:
        """What ``work`` gives on rank 0, on every rank."""
        return self._everywhere(lambda: work() if self.rank == 0 else None)[0]  # type: ignore[return-value]

    def _everywhere(self, work: Callable[[], T]) -> list[T]:
        """What ``work`` gives on each rank, on every rank."""
        mine: tuple[T | None, CheckpointError | None]
        try:
            mine = work(), None
        except CheckpointError as error:
            mine = None, error
        found: list[Any] = [mine]
        if self.world_size > 1:
            found = [None] * self.world_size
            dist.all_gather_object(found, mine)
        for _, error in found:
            if error is not None:
                raise error
        return [value for value, _ in found]


class Local(Committing):
    """One process, checkpoints in ``folder``: the best ``keep`` by ``score`` and the last."""

    def __init__(self, folder: Path, score: str, keep: int, device: torch.device | None = None) -> None:
        store = CheckpointStore(fs.LocalFileSystem(), str(folder.absolute()), score, keep)
        super().__init__(store, 0, 1, device or torch.device("cpu"))
