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
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from xmtl_ray.config.finetune import FinetuneTrain
from xmtl_ray.config.run import Engine as EngineConfig
from xmtl_ray.config.schema import Term, Train
from xmtl_ray.models import plain_pickles
from xmtl_ray.multitask.objective import total_loss
from xmtl_ray.training import engine as engines
from xmtl_ray.training.context import WorkerContext, sum_over_ranks
from xmtl_ray.training.learner import Learner, Step, Track
from xmtl_ray.training.stopping import ASKED, PREEMPTED, Interrupted

log = logging.getLogger(__name__)

MODEL = "model"
"""Folder in a checkpoint that can be used by itself."""

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
    context: WorkerContext, engine_config: EngineConfig, spec: Train | FinetuneTrain, learner: Learner, track: Track
) -> Position:
    """Train ``learner`` by ``spec`` and leave checkpoints with ``context``.

    Raises NonFiniteLoss, and Interrupted where it was asked to stop, on every rank at once.
    """
    torch.manual_seed(spec.seed * 100_003 + context.rank)  # dropout differs between ranks
    engine = engines.create(
        engine_config,
        spec,
        learner.objective,
        learner.parameter_groups(),
        context.device,
        learner.every_weight,
        learner.kept,
    )
    run = _Run(context, engine, learner)
    position = run.restore()
    steps, weighting = learner.steps, learner.weighting
    if context.rank == 0 and position.step == 0:
        steps.tell()
    progress = _Progress(context, spec.epochs * steps.steps, spec.global_batch, position.step)

    def evaluate() -> None:
        position.dev = learner.evaluate(context)
        _note_best(position, position.dev[spec.select], spec.patience)
        if context.rank == 0:
            track(position.step, position.dev)
            progress.dev(position)

    while position.epoch < spec.epochs and not position.stopped:
        learner.objective.train()
        for step in steps.epoch(position.epoch, position.step_in_epoch):
            factor = engines.schedule(spec, position.step, spec.epochs * steps.steps)
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
            if (preempted := _asked_to_stop(context)) is not None:
                run.checkpoint(position, {**position.dev, spec.select: UNSCORED})
                raise Interrupted(position.step, preempted)
            if position.step_in_epoch < steps.steps:
                if _due(position.step, spec.eval_every_steps):
                    evaluate()
                    run.checkpoint(position, position.dev)
                    learner.objective.train()
                    if position.stopped:
                        break
                elif _due(position.step, spec.checkpoint_every_steps):
                    run.checkpoint(position, {**position.dev, spec.select: UNSCORED})
        if position.stopped:
            break
        weighting.end_epoch()
        position.epoch, position.step_in_epoch = position.epoch + 1, 0
        if position.epoch % spec.eval_every_epochs == 0 or position.epoch == spec.epochs:
            evaluate()
            run.checkpoint(position, position.dev)
    return position


def _asked_to_stop(context: WorkerContext) -> bool | None:
    """Whether any rank was, the same on all: False by its user, True by its machine, None if not."""
    asked, preempted = sum_over_ranks(torch.tensor([float(bool(ASKED)), float(bool(PREEMPTED))]), context).tolist()
    return not asked if asked or preempted else None


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


@dataclass(frozen=True)
class _Run:
    """What a step, a checkpoint and a restart of one run need."""

    context: WorkerContext
    engine: engines.Engine
    learner: Learner

    def step(self, step: Step, factor: float) -> tuple[dict[Term, float], dict[Term, float]]:
        """One optimizer step: the mean loss of each term over the global batch, and the weight that it had."""
        shares, weighting, average = dict(step.shares), self.learner.weighting, self.learner.average
        if average is not None:
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
        if average is not None:
            average.update_parameters(self.learner.objective.model)
        return means, {name: used[name] for name in means}

    def checkpoint(self, position: Position, metrics: Mapping[str, float]) -> None:
        """Write this rank's files and report them; the model folder in it can be used by itself."""
        context, average, position.weighting = self.context, self.learner.average, self.learner.weighting.state()
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            state = self.engine.weights()
            if state is not None:
                if average is not None:
                    save_file({key: value.contiguous() for key, value in state.items()}, folder / STUDENT)
                    state = average.module.state_dict()
                self.learner.save(folder / MODEL, state)
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
        average = self.learner.average
        with checkpoint as folder:
            self.engine.load(
                folder, lambda: self.learner.read(folder / MODEL) if average is None else load_file(folder / STUDENT)
            )
            generators = folder / f"generators_{context.rank}.pt"
            if generators.exists():
                states = plain_pickles.read(generators)
                torch.set_rng_state(states["cpu"])
                if "cuda" in states and context.device.type == "cuda":
                    torch.cuda.set_rng_state(states["cuda"], context.device)
            else:
                log.warning("the checkpoint was made by fewer workers: dropout of rank %d starts anew", context.rank)
            position = Position(**json.loads((folder / "position.json").read_text(encoding="utf-8")))
            if average is not None:
                average.module.load_state_dict(self.learner.read(folder / MODEL))
                average.n_averaged.fill_(position.step)
        self.learner.weighting.load(position.weighting)
        if context.rank == 0:
            log.info("resumed after epoch %d, step %d", position.epoch, position.step)
        return position


def _means(seen: Sequence[engines.Losses], shares: Mapping[Term, int], context: WorkerContext) -> dict[Term, float]:
    """Mean of each loss over the global batch: the same number on every rank."""
    sums = torch.stack([sum(losses[name].detach().double().sum() for losses in seen) for name in shares])  # type: ignore
    return {
        name: value / shares[name] for name, value in zip(shares, sum_over_ranks(sums, context).tolist(), strict=True)
    }


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
