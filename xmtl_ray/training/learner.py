"""What the training loop knows of a model family: a model with its losses, its data as steps, its scores, its files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from xmtl_ray.config.schema import Term
from xmtl_ray.multitask.weighting import Weighting
from xmtl_ray.training.context import WorkerContext

Track = Callable[[int, Mapping[str, float]], None]
"""Takes (step, metrics); called on rank 0 only."""


class Step(NamedTuple):
    """One optimizer step of this worker."""

    batches: list[Any]
    """Its micro-batches, on the device: what the family's objective takes."""
    shares: dict[Term, int]
    """How many examples (of a language model: tokens) each loss has in the whole global batch: N_k."""


class Steps(Protocol):
    """A run's data on this worker. The order is a pure function of (seed, epoch, step)."""

    steps: int
    """Of an epoch."""

    def epoch(self, epoch: int, first_step: int) -> Iterator[Step]:
        """The steps of ``epoch`` from ``first_step`` on."""

    def tell(self) -> None:
        """Log what a step and an epoch consist of."""


class Learner(Protocol):
    """A model family's part in a run."""

    objective: nn.Module
    """What an engine wraps: a batch → losses of each term; its ``model`` is what is trained."""
    average: AveragedModel | None
    """A moving average of the model that is evaluated and kept in its place; None: the model itself is."""
    steps: Steps
    weighting: Weighting
    every_weight: bool
    """Whether each micro-batch needs every weight that learns."""

    def parameter_groups(self) -> list[dict[str, Any]]:
        """AdamW's groups; ``peak`` is each one's rate."""

    def kept(self, name: str) -> bool:
        """Whether a checkpoint holds the model's weight of this name."""

    def evaluate(self, context: WorkerContext) -> dict[str, float]:
        """Dev metrics; the same on every rank, each of which calls it."""

    def save(self, folder: Path, state: Mapping[str, Tensor]) -> None:
        """Write a model that can be used by itself; ``state`` has the weights that are kept."""

    def read(self, folder: Path) -> dict[str, Tensor]:
        """The weights that :meth:`save` wrote."""
