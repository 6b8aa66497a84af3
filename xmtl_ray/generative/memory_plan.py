"""Whether a run fits a GPU, from its config alone: its moments, and what would save how much."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from xmtl_ray.config import load as config_files
from xmtl_ray.config.finetune import FinetuneConfig
from xmtl_ray.generative.model_sizes import sizes_of
from xmtl_ray.models import memory
from xmtl_ray.models.activations import BF16, FP32, Decoder, Step, Vision
from xmtl_ray.models.memory import GIB, OVERHEAD, Engine, Evaluation, Moment


class Cost(IntEnum):
    """What a change costs, the least first."""

    TIME = 0
    LEARNING = 1
    """What is learnt is another."""
    LENGTH = 2
    """Longer conversations are cut."""


@dataclass(frozen=True)
class Change:
    """Settings that save memory."""

    settings: tuple[str, ...]
    """As overrides: path.to.field=value."""
    cost: Cost
    saves: int
    """Bytes of the peak."""
    saves_training: int
    """Bytes of the training step's peak, which may not be the run's."""
    total: int
    """Bytes that are then needed."""


@dataclass(frozen=True)
class Plan:
    """Whether a run fits."""

    gpu: int
    """Bytes of the GPU."""
    moments: tuple[Moment, ...]
    changes: tuple[Change, ...] = ()
    """What would save memory, most first."""
    enough: tuple[str, ...] | None = None
    """Settings that together make it fit, those that cost least first; empty where it fits, None where none do."""

    @property
    def peak(self) -> Moment:
        """The moment with most in it; its total is what ``torch.cuda.max_memory_allocated`` would say."""
        return memory.peak(self.moments)

    @property
    def training(self) -> Moment:
        """The training step's moment with most in it."""
        return memory.peak(_training(self.moments))

    @property
    def evaluating(self) -> Moment:
        """The dev evaluation."""
        return self.moments[-1]

    @property
    def total(self) -> int:
        """Bytes that are needed."""
        return self.peak.total + OVERHEAD

    @property
    def margin(self) -> int:
        """Bytes left; less than none where it does not fit."""
        return self.gpu - self.total

    @property
    def fits(self) -> bool:
        """With the longest sequences that the config allows."""
        return self.margin >= 0

    @property
    def possible(self) -> bool:
        """Whether weights, gradients and the optimizer's state alone fit, however short the sequences."""
        return memory.least(self.moments) + OVERHEAD <= self.gpu

    def as_dict(self) -> dict[str, Any]:
        """For JSON; sizes in GiB."""
        changes = [
            {
                "settings": list(one.settings),
                "costs": one.cost.name.lower(),
                "saves_gib": _gib(one.saves),
                "saves_training_gib": _gib(one.saves_training),
                "needed_gib": _gib(one.total),
            }
            for one in self.changes
        ]
        return {
            "gpu_gib": _gib(self.gpu),
            "needed_gib": _gib(self.total),
            "margin_gib": _gib(self.margin),
            "overhead_gib": _gib(OVERHEAD),
            "fits": self.fits,
            "peak": self.peak.name,
            "moments": {one.name: {name: _gib(value) for name, value in one.parts.items()} for one in self.moments},
            "changes": changes,
            "enough": None if self.enough is None else list(self.enough),
        }


def fits(config: FinetuneConfig, gpu_bytes: int) -> Plan:
    """The plan of a run on GPUs of ``gpu_bytes``. Raises SizesError or CheckpointError where sizes are not known."""
    sizes = sizes_of(config)
    now = Plan(gpu_bytes, moments_of(config, *sizes))
    changes = _changes(config, now, *sizes)
    return Plan(gpu_bytes, now.moments, changes, _enough(config, now, *sizes))


def planned(config: FinetuneConfig, longest: int) -> int:
    """Bytes of tensors at the peak where no sequence has more than ``longest`` places, to hold a run's own against."""
    model = config.model.model_copy(update={"max_tokens": min(longest, config.model.max_tokens)})
    return memory.peak(moments_of(config.model_copy(update={"model": model}), *sizes_of(config))).total


def moments_of(config: FinetuneConfig, decoder: Decoder, vision: Vision) -> tuple[Moment, ...]:
    """The moments of a run of a model of such sizes."""
    train, adapter, generation = config.train, config.adapter, config.generation
    workers = max(1, config.cluster.workers)
    sequences = train.global_batch // (workers * train.accumulation)
    adapts = adapter.method != "full"
    step = Step(
        method=adapter.method,
        product=FP32 if train.precision == "fp32" else BF16,
        sequences=sequences,
        tokens=config.model.max_tokens,
        media=sequences,
        checkpointing=config.model.gradient_checkpointing,
        attention=config.model.attention,
        bits=adapter.bits,
        r=adapter.r * adapts,
        targets=adapter.targets if adapts else (),
        dropout=adapts and adapter.dropout > 0,
        masked=sequences > 1 and (train.pack or config.model.family == "hf_vlm"),
        train_connector=config.model.train_connector,
        train_tower=config.model.train_tower,
        train_embeddings=adapts and adapter.train_embeddings,
    )
    engine = Engine(config.engine.name, config.engine.zero_stage, workers, train.accumulation)
    answered = train.dev_samples > 0 or config.data.test is not None
    evaluation = Evaluation(generation.batch, generation.max_new_tokens if answered else 0)
    return memory.moments(decoder, vision, step, engine, evaluation, adapter.double_quantization)


def _candidates(config: FinetuneConfig) -> Iterator[tuple[Cost, tuple[str, ...]]]:
    """Settings that may save memory; some may be those of ``config``, or not go with it."""
    model, adapter, train = config.model, config.adapter, config.train
    together = train.global_batch // (max(1, config.cluster.workers) * train.accumulation)
    yield Cost.TIME, ("model.gradient_checkpointing=true",)
    yield Cost.TIME, ("model.attention=sdpa",)
    yield Cost.TIME, (f"train.accumulation={train.accumulation * together}",)
    for batch in {1, max(1, config.generation.batch // 2)}:
        yield Cost.TIME, (f"generation.batch={batch}",)
    yield Cost.TIME, ("engine.name=ddp", "engine.zero_stage=0")
    for stage in (1, 2, 3):
        yield Cost.TIME, ("engine.name=deepspeed", f"engine.zero_stage={stage}")
    yield Cost.TIME, ("adapter.double_quantization=true",)
    yield Cost.LEARNING, ("adapter.method=lora", "adapter.bits=16")
    yield Cost.LEARNING, ("adapter.method=qlora", "adapter.bits=4")
    yield Cost.LEARNING, ("adapter.train_embeddings=false",)
    yield Cost.LEARNING, ("model.train_connector=false",)
    for r in {max(1, adapter.r // 2), max(1, adapter.r // 4)}:
        yield Cost.LEARNING, (f"adapter.r={r}", f"adapter.alpha={adapter.alpha * r / adapter.r:g}")
    for tokens in {max(16, model.max_tokens // 2), min(2048, model.max_tokens)}:
        yield Cost.LENGTH, (f"model.max_tokens={tokens}",)


def _changes(config: FinetuneConfig, now: Plan, decoder: Decoder, vision: Vision) -> tuple[Change, ...]:
    found = []
    for cost, settings in _candidates(config):
        try:
            then = moments_of(config_files.changed(config, settings), decoder, vision)
        except config_files.ConfigError:
            continue  # settings that do not go with the others are no advice
        saves = now.peak.total - memory.peak(then).total
        step = now.training.total - memory.peak(_training(then)).total
        if saves >= 0 and max(saves, step) >= GIB // 100:
            found.append(Change(settings, cost, saves, step, now.total - saves))
    return tuple(sorted(found, key=lambda change: (-change.saves, -change.saves_training)))


def _training(moments: tuple[Moment, ...]) -> tuple[Moment, ...]:
    return moments[:-1]  # the evaluation is the last


def _enough(config: FinetuneConfig, now: Plan, decoder: Decoder, vision: Vision) -> tuple[str, ...] | None:
    """One change after the other until it fits: of those that cost least the one that saves most."""
    chosen: dict[str, str] = {}
    while not now.fits:
        left = [
            change
            for change in _changes(config, now, decoder, vision)
            if change.saves > 0 and not any(setting.partition("=")[0] in chosen for setting in change.settings)
        ]
        if not left:
            return None
        best = min(left, key=lambda change: (change.cost, -change.saves))
        config = config_files.changed(config, best.settings)
        chosen |= {setting.partition("=")[0]: setting for setting in best.settings}
        now = Plan(now.gpu, moments_of(config, decoder, vision))
    return tuple(chosen.values())


def _gib(value: int) -> float:
    return round(value / GIB, 3)
