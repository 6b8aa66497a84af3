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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from xmtl_ray.config.schema import Config, Term
from xmtl_ray.models import weights
from xmtl_ray.models.weights import LoadedModel
from xmtl_ray.multitask import weighting as weightings
from xmtl_ray.multitask.batch import Collate
from xmtl_ray.multitask.dev import evaluate
from xmtl_ray.multitask.examples import Examples
from xmtl_ray.multitask.objective import Objective, total_loss
from xmtl_ray.multitask.weighting import Weighting
from xmtl_ray.training import engine as engines
from xmtl_ray.training.batches import Batches, Step
from xmtl_ray.training.context import WorkerContext

log = logging.getLogger(__name__)

Track = Callable[[int, Mapping[str, float]], None]
"""Takes (step, metrics); called on rank 0 only."""

STUDENT = "student.safetensors"
"""ARK's model itself, in a checkpoint whose model folder holds its teacher."""

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
    weights: dict[Term, float] = field(default_factory=dict)
    """Of the losses, as they were tracked last: again only when they change."""
    weighting: dict[str, Any] = field(default_factory=dict)
    """What the next weights follow from."""


def train(
    context: WorkerContext, config: Config, loaded: LoadedModel, collate: Collate, examples: Examples, track: Track
) -> Position:
    """Train ``loaded`` on ``examples`` and leave checkpoints with ``context``.

    Raises NonFiniteLoss, on every rank at once.
    """
    spec = config.train
    batches = Batches(config, examples.train, collate, context.rank, context.world_size, context.device)
    torch.manual_seed(spec.seed * 100_003 + context.rank)  # dropout differs between ranks
    average = _average(config, loaded, context)
    teacher = None if average is None else average.module
    objective = Objective(loaded.model, spec.label_smoothing, teacher)
    engine = engines.create(config.engine, spec, objective, context.device, config.multitask.summed)
    weighting = _weighting(config, batches)
    run = _Run(context, config, engine, loaded, weighting, average)
    position = run.restore()
    if context.rank == 0 and position.step == 0:
        batches.tell()
    progress = _Progress(context, spec.epochs * batches.steps, spec.global_batch, position.step)

    while position.epoch < spec.epochs and not position.stopped:
        loaded.model.train()
        for step in batches.epoch(position.epoch, position.step_in_epoch):
            factor = engines.schedule(spec, position.step, spec.epochs * batches.steps)
            means, used = run.step(step, factor)
            position.step += 1
            position.step_in_epoch += 1
            _check_finite(means, position.step)
            weighting.observe(means)
            if context.rank == 0:
                total = sum(used[name] * value for name, value in means.items())
                track(position.step, {f"train/loss/{name}": value for name, value in means.items()})
                track(position.step, {"train/loss": total, "train/learning_rate_factor": factor})
                if used != position.weights:
                    track(position.step, {f"train/weight/{name}": value for name, value in used.items()})
                    position.weights = used
                progress(position, means)
            due = spec.checkpoint_every_steps and position.step % spec.checkpoint_every_steps == 0
            if due and position.step_in_epoch < batches.steps:
                run.checkpoint(position, {**position.dev, spec.select: UNSCORED})
        weighting.end_epoch()
        position.epoch, position.step_in_epoch = position.epoch + 1, 0
        if position.epoch % spec.eval_every_epochs == 0 or position.epoch == spec.epochs:
            position.dev = evaluate(
                loaded.model if teacher is None else teacher,
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
            run.checkpoint(position, position.dev)
    return position


def _weighting(config: Config, batches: Batches) -> Weighting:
    spec = config.multitask
    terms: list[Term] = list(batches.sizes)
    if spec.strategy == "ark":
        terms.append("consistency")
    return weightings.create(
        spec.weighting, terms, weightings.base_weights(spec.weighting, terms, spec.pseudo.beta, spec.ark.weight)
    )


def _average(config: Config, loaded: LoadedModel, context: WorkerContext) -> AveragedModel | None:
    """ARK's teacher, the exponential moving average of the model; None for other strategies."""
    if config.multitask.strategy != "ark":
        return None
    loaded.model.to(context.device)
    average = AveragedModel(loaded.model, multi_avg_fn=get_ema_multi_avg_fn(config.multitask.ark.momentum))
    return average.requires_grad_(False).eval()


@dataclass(frozen=True)
class _Run:
    """What a step, a checkpoint and a restart of one run need."""

    context: WorkerContext
    config: Config
    engine: engines.Engine
    loaded: LoadedModel
    weighting: Weighting
    average: AveragedModel | None

    def step(self, step: Step, factor: float) -> tuple[dict[Term, float], dict[Term, float]]:
        """One optimizer step: the mean loss of each term over the global batch, and the weight that it had."""
        shares, weighting = dict(step.shares), self.weighting
        if self.average is not None:
            shares["consistency"] = sum(step.shares.values())
        if weighting.needs == "gramian":
            weighting.gramian(engines.gramian(self.engine, step.batches, shares))

        def total(losses: engines.Losses) -> Tensor:
            if weighting.needs == "losses":
                weighting.before(_means([losses], shares, self.context))
            return total_loss(losses, shares, weighting.weights())

        seen = self.engine.step(step.batches, total, factor)
        used, means = weighting.weights(), _means(seen, shares, self.context)
        if weighting.needs == "losses":
            weighting.after(_means(engines.losses(self.engine, step.batches), shares, self.context))
        if self.average is not None:
            self.average.update_parameters(self.loaded.model)
        return means, {name: used[name] for name in means}

    def checkpoint(self, position: Position, metrics: Mapping[str, float]) -> None:
        """Write this rank's files and report them; the model folder in it can be used by itself."""
        context, position.weighting = self.context, self.weighting.state()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            state = self.engine.weights()
            if context.rank == 0:
                if self.average is not None:
                    save_file({key: value.contiguous() for key, value in state.items()}, folder / STUDENT)
                    state = self.average.module.state_dict()
                weights.save(folder / "model", self.loaded, state)
                (folder / "position.json").write_text(json.dumps(asdict(position)), encoding="utf-8")
            self.engine.save(folder)
            generators = {"cpu": torch.get_rng_state()}
            if context.device.type == "cuda":
                generators["cuda"] = torch.cuda.get_rng_state(context.device)
            torch.save(generators, folder / f"generators_{context.rank}.pt")
            context.report({**metrics, "epoch": position.epoch, "step": position.step}, folder)

    def restore(self) -> Position:
        """Go back to the newest checkpoint; a new position where there is none."""
        context, checkpoint = self.context, self.context.restore()
        if checkpoint is None:
            return Position()
        with checkpoint as folder:
            kept = folder / "model" / weights.WEIGHTS
            self.engine.load(folder, lambda: load_file(kept if self.average is None else folder / STUDENT))
            generators = folder / f"generators_{context.rank}.pt"
            if generators.exists():
                states = torch.load(generators, weights_only=True)
                torch.set_rng_state(states["cpu"])
                if "cuda" in states and context.device.type == "cuda":
                    torch.cuda.set_rng_state(states["cuda"], context.device)
            else:
                log.warning("the checkpoint was made by fewer workers: dropout of rank %d starts anew", context.rank)
            position = Position(**json.loads((folder / "position.json").read_text(encoding="utf-8")))
            if self.average is not None:
                self.average.module.load_state_dict(load_file(kept))
                self.average.n_averaged.fill_(position.step)
        self.weighting.load(position.weighting)
        if context.rank == 0:
            log.info("resumed after epoch %d, step %d", position.epoch, position.step)
        return position


def _means(seen: Sequence[engines.Losses], shares: Mapping[Term, int], context: WorkerContext) -> dict[Term, float]:
    """Mean of each loss over the global batch: the same number on every rank."""
    sums = torch.stack([sum(losses[name].detach().double().sum() for losses in seen) for name in shares])  # type: ignore
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
