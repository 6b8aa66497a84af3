"""The training loop: steps against a small context, so that it runs in Ray workers and in a plain test alike.

Knows nothing of Ray or MLflow. Its order of data is a pure function of (seed, epoch, step), so a checkpoint's two
numbers say where to go on, and each rank's generators are put back: a resumed run follows the unbroken one exactly.
"""

from __future__ import annotations

import json
import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader

from xmtl_ray.config.schema import Config, TaskName
from xmtl_ray.data.mixture import epoch_batches, quotas, rank_share, steps_per_epoch
from xmtl_ray.models import weights
from xmtl_ray.models.weights import LoadedModel
from xmtl_ray.multitask.batch import Batch, Collate
from xmtl_ray.multitask.dev import evaluate
from xmtl_ray.multitask.examples import ArgumentExample, Example, Examples, TriggerExample
from xmtl_ray.multitask.objective import Objective, total_loss
from xmtl_ray.training import engine as engines
from xmtl_ray.training.context import WorkerContext

log = logging.getLogger(__name__)

Track = Callable[[int, Mapping[str, float]], None]
"""Takes (step, metrics); called on rank 0 only."""

UNSCORED = -1.0
"""Reported as the selection metric of a checkpoint made between two dev evaluations: below every real one."""


class NonFiniteLoss(ArithmeticError):
    """A loss is NaN or infinite: the step and the task, and what to try."""

    def __init__(self, task: str, step: int, value: float) -> None:
        super().__init__(
            f"loss of {task} is {value} at step {step}; look at that step's examples, lower train.learning_rate or "
            "train.clip_norm, or set train.precision=fp32"
        )


@dataclass
class Position:
    """Where a run stands: what a checkpoint needs besides weights, optimizer state and generators."""

    epoch: int = 0
    """Epochs finished."""
    step_in_epoch: int = 0
    """Steps done of the current one."""
    step: int = 0
    """Steps done in all."""
    best: float = UNSCORED
    since_best: int = 0
    """Dev evaluations since the best one."""
    dev: dict[str, float] = field(default_factory=dict)
    """Latest dev metrics."""
    stopped: bool = False
    """Early stopping ended the run."""


def train(
    context: WorkerContext, config: Config, loaded: LoadedModel, collate: Collate, examples: Examples, track: Track
) -> Position:
    """Train ``loaded`` on ``examples`` and leave checkpoints with ``context``.

    Raises NonFiniteLoss, on every rank at once.
    """
    spec = config.train
    sizes = {name: len(examples.train[name]) for name in config.multitask.tasks}
    wanted = {name: size * getattr(config.multitask.rate, name) for name, size in sizes.items()}
    shares: dict[TaskName, int] = quotas(wanted, spec.global_batch, context.world_size * spec.accumulation)  # type: ignore
    steps = steps_per_epoch(sizes, shares)
    if steps == 0:
        short = {name: f"{sizes[name]} of {shares[name]}" for name in sizes if sizes[name] < shares[name]}
        raise ValueError(f"train.global_batch: {spec.global_batch} asks for more examples than there are: {short}")
    loss_weights: dict[TaskName, float] = dict.fromkeys(config.multitask.tasks, 1.0)
    torch.manual_seed(spec.seed * 100_003 + context.rank)  # dropout differs between ranks
    engine = engines.create(config.engine, spec, Objective(loaded.model, spec.label_smoothing), context.device)
    position = _restore(context, engine)
    _tell_plan(context, sizes, shares, steps, position)
    progress = _Progress(context, spec.epochs * steps, spec.global_batch, position.step)

    while position.epoch < spec.epochs and not position.stopped:
        loaded.model.train()
        for batches in _batches(context, config, examples.train, sizes, shares, collate, position):
            factor = engines.schedule(spec, position.step, spec.epochs * steps)
            seen = engine.step(batches, lambda losses: total_loss(losses, shares, loss_weights), factor)
            position.step += 1
            position.step_in_epoch += 1
            means = _means(seen, shares, context)
            _check_finite(means, position.step)
            if context.rank == 0:
                total = sum(loss_weights[name] * value for name, value in means.items())
                track(position.step, {f"train/loss/{name}": value for name, value in means.items()})
                track(position.step, {"train/loss": total, "train/learning_rate_factor": factor})
                progress(position, means)
            due = spec.checkpoint_every_steps and position.step % spec.checkpoint_every_steps == 0
            if due and position.step_in_epoch < steps:
                _checkpoint(context, engine, loaded, position, {**position.dev, spec.select: UNSCORED})
        position.epoch, position.step_in_epoch = position.epoch + 1, 0
        if position.epoch % spec.eval_every_epochs == 0 or position.epoch == spec.epochs:
            position.dev = evaluate(
                loaded.model,
                collate,
                examples.dev,
                config.inference.batch,
                context.rank,
                context.world_size,
                lambda counts: _sum(counts, context),
                config.inference.verb_threshold,
                config.inference.trigger_bias,
            )
            _note_best(position, position.dev[spec.select], spec.patience)
            if context.rank == 0:
                track(position.step, position.dev)
                progress.dev(position)
            _checkpoint(context, engine, loaded, position, position.dev)
    return position


def _batches(
    context: WorkerContext,
    config: Config,
    examples: Mapping[TaskName, Sequence[Example]],
    sizes: Mapping[str, int],
    shares: Mapping[str, int],
    collate: Collate,
    position: Position,
) -> Iterator[list[Batch]]:
    """This rank's micro-batches of each step from ``position`` to the end of its epoch, on the device."""
    accumulation, seed = config.train.accumulation, config.train.seed
    lengths = {
        name: np.array([len(item.words) for item in items])
        for name, items in examples.items()
        if isinstance(items[0], TriggerExample | ArgumentExample)
    }
    plan = [
        {name: [examples[name][index] for index in indices] for name, indices in micro.items()}
        for batch in epoch_batches(sizes, shares, seed, position.epoch, position.step_in_epoch, lengths)
        for micro in rank_share(batch, context.rank, context.world_size, accumulation)
    ]
    # The loader draws a seed from the global generator unless it has its own, and would break resumption.
    loader = DataLoader(
        plan,  # type: ignore[arg-type]
        batch_size=None,
        collate_fn=collate,
        num_workers=config.data.loader_workers,
        generator=torch.Generator().manual_seed(0),
        pin_memory=False,
    )
    micro_batches: list[Batch] = []
    for batch in loader:
        micro_batches.append(batch.to(context.device))
        if len(micro_batches) == accumulation:
            yield micro_batches
            micro_batches = []


def _means(seen: Sequence[engines.Losses], shares: Mapping[TaskName, int], context: WorkerContext) -> dict[str, float]:
    """Mean loss of each task over the global batch: the same number on every rank."""
    sums = torch.stack([sum(losses[name].double().sum() for losses in seen) for name in shares])  # type: ignore
    return {name: value / shares[name] for name, value in zip(shares, _sum(sums, context).tolist(), strict=True)}


def _sum(values: Tensor, context: WorkerContext) -> Tensor:
    if context.world_size > 1:
        values = values.to(context.device)
        dist.all_reduce(values)
    return values


def _check_finite(means: Mapping[str, float], step: int) -> None:
    for task, value in means.items():
        if not math.isfinite(value):
            raise NonFiniteLoss(task, step, value)


def _note_best(position: Position, score: float, patience: int) -> None:
    if score > position.best:
        position.best, position.since_best = score, 0
    else:
        position.since_best += 1
        position.stopped = 0 < patience <= position.since_best


def _checkpoint(
    context: WorkerContext,
    engine: engines.Engine,
    loaded: LoadedModel,
    position: Position,
    metrics: Mapping[str, float],
) -> None:
    """Write this rank's files and report them; the model folder in it can be used by itself."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        state = engine.weights()
        if context.rank == 0:
            weights.save(folder / "model", loaded, state)
            (folder / "position.json").write_text(json.dumps(asdict(position)), encoding="utf-8")
        engine.save(folder)
        generators = {"cpu": torch.get_rng_state()}
        if context.device.type == "cuda":
            generators["cuda"] = torch.cuda.get_rng_state(context.device)
        torch.save(generators, folder / f"generators_{context.rank}.pt")
        context.report({**metrics, "epoch": position.epoch, "step": position.step}, folder)


def _restore(context: WorkerContext, engine: engines.Engine) -> Position:
    checkpoint = context.restore()
    if checkpoint is None:
        return Position()
    with checkpoint as folder:
        engine.load(folder, lambda: load_file(folder / "model" / weights.WEIGHTS))
        generators = folder / f"generators_{context.rank}.pt"
        if generators.exists():
            states = torch.load(generators, weights_only=True)
            torch.set_rng_state(states["cpu"])
            if "cuda" in states and context.device.type == "cuda":
                torch.cuda.set_rng_state(states["cuda"], context.device)
        else:
            log.warning("the checkpoint was made by fewer workers: dropout of rank %d starts anew", context.rank)
        position = Position(**json.loads((folder / "position.json").read_text(encoding="utf-8")))
    if context.rank == 0:
        log.info("resumed after epoch %d, step %d", position.epoch, position.step)
    return position


def _tell_plan(
    context: WorkerContext, sizes: Mapping[str, int], shares: Mapping[str, int], steps: int, position: Position
) -> None:
    if context.rank == 0 and position.step == 0:
        parts = ", ".join(f"{name} {shares[name]}" for name in shares)
        log.info("each step: %s; %d steps an epoch", parts, steps)
        for name, size in sizes.items():
            if steps * shares[name] < 0.9 * size:
                log.info("%s: an epoch sees %d of %d examples, others the next time", name, steps * shares[name], size)


class _Progress:
    """A line on the log every few seconds: where the run is, losses, speed, time left."""

    INTERVAL_S = 5.0

    def __init__(self, context: WorkerContext, total_steps: int, global_batch: int, first_step: int) -> None:
        self.total, self.batch, self.first = total_steps, global_batch, first_step
        self.started = self.told = time.monotonic()

    def __call__(self, position: Position, means: Mapping[str, float]) -> None:
        now = time.monotonic()
        if now - self.told < self.INTERVAL_S:
            return
        self.told = now
        rate = (position.step - self.first) / (now - self.started)
        left = round((self.total - position.step) / rate)
        losses = "  ".join(f"{name} {value:.3f}" for name, value in means.items())
        log.info(
            "epoch %d  step %d/%d  loss: %s  %.0f examples/s  %d:%02d left",
            *(position.epoch + 1, position.step, self.total, losses, rate * self.batch, left // 60, left % 60),
        )

    def dev(self, position: Position) -> None:
        """What the dev evaluation gave."""
        scores = "  ".join(f"{name.removeprefix('dev/')} {value:.1f}" for name, value in position.dev.items())
        log.info("epoch %d done  dev: %s%s", position.epoch, scores, "  (best)" if position.since_best == 0 else "")
