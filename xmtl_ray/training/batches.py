"""The steps of an epoch, on this worker: which examples, cut into micro-batches, made into tensors ahead of the step.

All ranks make the same plan and take their own part of it; a plan begins anywhere, so resuming costs nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import torch
from torch.utils.data import DataLoader

from xmtl_ray.config.schema import PSEUDO, Config, TaskName, Term
from xmtl_ray.data.mixture import cyclic_batches, cyclic_steps, epoch_batches, quotas, rank_share, steps_per_epoch
from xmtl_ray.multitask.batch import Collate
from xmtl_ray.multitask.examples import ArgumentExample, Example, TriggerExample
from xmtl_ray.training.learner import Step

log = logging.getLogger(__name__)


class Batches:
    """A run's data as steps.

    Args:
        config: a run's settings.
        examples: training examples of each task and twin.
        collate: makes tensors of them.
        rank: of this worker.
        world_size: workers.
        device: where tensors go.

    Raises ValueError where a batch asks for more examples than there are.
    """

    def __init__(
        self,
        config: Config,
        examples: Mapping[Term, Sequence[Example]],
        collate: Collate,
        rank: int,
        world_size: int,
        device: torch.device,
    ) -> None:
        self.config, self.examples, self.collate = config, examples, collate
        self.rank, self.world_size, self.device = rank, world_size, device
        spec, batch, parts = config.multitask, config.train.global_batch, world_size * config.train.accumulation
        self.sizes: dict[Term, int] = {name: len(items) for name, items in examples.items()}
        rates = {name: _rate(config, name) for name in self.sizes}
        self.lengths = {
            name: np.array([len(item.words) for item in items])  # type: ignore[union-attr]
            for name, items in examples.items()
            if isinstance(items[0], TriggerExample | ArgumentExample)
        }
        if not spec.summed:
            self.turns: dict[Term, int] = cyclic_steps(self.sizes, rates, batch)  # type: ignore[assignment]
            self.shares: dict[Term, int] = {name: min(batch, size) for name, size in self.sizes.items()}
            self.steps = sum(self.turns.values())
            short = {name: size for name, size in self.sizes.items() if size < parts}
        else:
            wanted: dict[Term, float] = {name: size * rates[name] for name, size in self.sizes.items()}
            self.shares = quotas(wanted, batch, parts)  # type: ignore[assignment]
            self.proportional = quotas(wanted, batch)
            self.steps = steps_per_epoch({name: self.sizes[name] for name in spec.tasks}, self.shares)
            short = {} if self.steps else {n: self.sizes[n] for n in spec.tasks if self.sizes[n] < self.shares[n]}
        if short:
            asked = {name: f"{size} of {max(parts, self.shares[name])}" for name, size in short.items()}
            raise ValueError(f"train.global_batch: {batch} asks for more examples than there are: {asked}")

    def epoch(self, epoch: int, first_step: int) -> Iterator[Step]:
        """The steps of ``epoch`` from ``first_step`` on."""
        config, accumulation = self.config, self.config.train.accumulation
        seed = config.train.seed
        if config.multitask.summed:
            planned = epoch_batches(self.sizes, self.shares, self.steps, seed, epoch, first_step, self.lengths)
        else:
            cycle, batch = config.multitask.cycle, config.train.global_batch
            turn = None if cycle == "epoch" else int(cycle.removeprefix("steps:"))
            planned = cyclic_batches(self.sizes, self.turns, batch, turn, seed, epoch, first_step, self.lengths)
        steps = list(planned)
        micro_batches = [
            {name: [self.examples[name][index] for index in indices] for name, indices in micro.items()}  # type: ignore[index]
            for step in steps
            for micro in rank_share(step, self.rank, self.world_size, accumulation)
        ]
        # The loader draws a seed from the global generator unless it has its own, and would break resumption.
        loader = iter(
            DataLoader(
                micro_batches,  # type: ignore[arg-type]
                batch_size=None,
                collate_fn=self.collate,
                num_workers=config.data.loader_workers,
                generator=torch.Generator().manual_seed(0),
                pin_memory=False,
            )
        )
        for step in steps:
            batches = [next(loader).to(self.device) for _ in range(accumulation)]
            yield Step(batches, {name: len(indices) for name, indices in step.items()})  # type: ignore[misc]

    def tell(self) -> None:
        """Log what a step and an epoch consist of."""
        if self.config.multitask.summed:
            log.info("each step: %s; %d steps an epoch", _listed(self.shares), self.steps)
            if self.shares != self.proportional:
                log.warning(
                    "train.global_batch: so that every micro-batch of %d workers has every task, %d examples are no "
                    "longer in proportion to the data, which were %s; take a larger batch or fewer workers",
                    *(self.world_size, self.config.train.global_batch, _listed(self.proportional)),
                )
            seen = {name: self.steps * share for name, share in self.shares.items()}
        else:
            log.info("each step has one task; steps an epoch: %s", _listed(self.turns))
            seen = {name: steps * self.shares[name] for name, steps in self.turns.items()}
        for name, size in self.sizes.items():
            if seen[name] < 0.9 * size:
                log.info("%s: an epoch sees %d of %d examples, others the next time", name, seen[name], size)
            elif seen[name] > 1.1 * size:
                log.info("%s: an epoch sees its %d examples %.1f times", name, size, seen[name] / size)


def _rate(config: Config, term: Term) -> float:
    """How often a term's examples come, relative to how many there are."""
    spec = config.multitask
    tasks: dict[Term, TaskName] = {twin: task for task, twin in PSEUDO.items()}
    if term in tasks:
        return float(getattr(spec.rate, tasks[term])) * spec.pseudo.rate
    return float(getattr(spec.rate, term))


def _listed(counts: Mapping[Term, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
