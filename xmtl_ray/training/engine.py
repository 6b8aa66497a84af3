"""Forward, backward and update over all workers: DDP or DeepSpeed behind one seam.

Both give the same losses on the same data (to float tolerance). Learning rates are set from the step alone, so the
schedule has no state of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from xmtl_ray.config.run import Engine as EngineConfig
from xmtl_ray.config.run import Optimisation
from xmtl_ray.config.schema import Term
from xmtl_ray.models import plain_pickles
from xmtl_ray.models.memory import BUCKET
from xmtl_ray.training import zero_state

Losses = Mapping[Term, Tensor]
Batch = Any
"""What an objective takes: a model family's own."""


class Engine(Protocol):
    """One training step at a time."""

    objective: nn.Module
    device: torch.device
    bf16: bool

    def step(self, batches: Sequence[Batch], total: Callable[[Losses], Tensor], factor: float) -> list[Losses]:
        """One optimizer step over this rank's micro-batches; learning rates are their peaks times ``factor``.

        Returns the per-example losses of each micro-batch, detached.
        """

    def weights(self) -> dict[str, Tensor] | None:
        """The kept weights of the model on rank 0, None elsewhere. Every rank calls it."""

    def save(self, folder: Path) -> None:
        """Write this rank's part of the optimizer's state (and whatever weights() does not hold)."""

    def load(self, folder: Path, weights: Callable[[], Mapping[str, Tensor]]) -> None:
        """Go back to what :meth:`save` wrote; ``weights`` reads the model's."""


def create(
    config: EngineConfig,
    train: Optimisation,
    objective: nn.Module,
    groups: Sequence[dict[str, Any]],
    device: torch.device,
    every_weight: bool = True,
    kept: Callable[[str], bool] = lambda name: True,
) -> Engine:
    """The engine that ``config`` names, around ``objective``.

    Args:
        config: which engine.
        train: micro-batches, clipping and precision.
        objective: a batch → losses of each term; its ``model`` is what is trained.
        groups: AdamW's; ``peak`` is each one's rate.
        device: of this worker.
        every_weight: each micro-batch needs all weights that learn; where tasks take turns it does not.
        kept: whether a checkpoint holds the model's weight of a name; others are frozen and found elsewhere.
    """
    if config.name == "deepspeed":
        return DeepSpeed(objective, train, groups, config.zero_stage, device, kept)
    return Ddp(objective, train, groups, device, every_weight, kept)


@torch.no_grad()
def losses(engine: Engine, batches: Sequence[Batch]) -> list[Losses]:
    """The per-example losses of each micro-batch with the weights as they are, without a step."""
    found = []
    for batch in batches:
        with torch.autocast(engine.device.type, torch.bfloat16, enabled=engine.bf16):
            found.append(engine.objective(batch))
    return found


def gramian(engine: Engine, batches: Sequence[Batch], shares: Mapping[Term, int]) -> Tensor:
    """Inner products [K, K] of the gradients of the K losses of ``shares``, over the whole global batch; no step.

    One forward pass and K backward passes that touch no ``.grad``; holds K gradients at once. Every rank has the same.
    """
    parameters = [parameter for parameter in engine.objective.parameters() if parameter.requires_grad]
    rows = torch.zeros(len(shares), sum(parameter.numel() for parameter in parameters), device=engine.device)
    for batch in batches:
        with torch.autocast(engine.device.type, torch.bfloat16, enabled=engine.bf16):
            found = engine.objective(batch)
        for number, (name, share) in enumerate(shares.items()):
            if name in found:
                mean = found[name].sum() / share
                parts = torch.autograd.grad(mean, parameters, retain_graph=True, materialize_grads=True)
                rows[number] += torch.cat([part.flatten() for part in parts])
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(rows)
    return rows @ rows.T


def schedule(train: Optimisation, step: int, total_steps: int) -> float:
    """Factor on the peak learning rates at ``step`` (from 0) of ``total_steps``: linear warm-up, then the decay."""
    warmup = round(train.warmup_fraction * total_steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, total_steps - warmup)
    match train.schedule:
        case "linear":
            return 1 - done
        case "cosine":
            return 0.5 * (1 + math.cos(math.pi * done))
        case "constant":
            return 1.0


def use_bf16(precision: str, device: torch.device) -> bool:
    """Whether forward passes run in bf16: asked for, or ``auto`` on a GPU that computes it natively."""
    if precision == "auto":
        return device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bf16"


def optimizer(groups: Sequence[dict[str, Any]]) -> torch.optim.AdamW:
    """AdamW on groups that each have ``lr``, ``peak`` and ``weight_decay``."""
    return torch.optim.AdamW(list(groups), fused=True)


class Ddp:
    """torch's DistributedDataParallel, or the bare module in a single process."""

    def __init__(
        self,
        objective: nn.Module,
        train: Optimisation,
        groups: Sequence[dict[str, Any]],
        device: torch.device,
        every_weight: bool,
        kept: Callable[[str], bool],
    ) -> None:
        self.objective, self.kept = objective.to(device), kept
        self.device, self.clip_norm = device, train.clip_norm
        self.bf16 = use_bf16(train.precision, device)
        self.module: nn.Module = self.objective
        if dist.is_initialized() and dist.get_world_size() > 1:
            self.module = DistributedDataParallel(
                objective, gradient_as_bucket_view=True, find_unused_parameters=not every_weight
            )
        self.optimizer = optimizer(groups)

    def step(self, batches: Sequence[Batch], total: Callable[[Losses], Tensor], factor: float) -> list[Losses]:
        """See :class:`Engine`. Gradients are exchanged with the last micro-batch only."""
        world = dist.get_world_size() if self.module is not self.objective else 1
        _set_rates(self.optimizer, factor)
        seen: list[Losses] = []
        for number, batch in enumerate(batches):
            exchange = self.module is self.objective or number == len(batches) - 1
            with nullcontext() if exchange else self.module.no_sync():
                with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16):
                    losses = self.module(batch)
                # DDP averages gradients over the workers; the loss of a global batch is their sum.
                (world * total(losses)).backward()
            seen.append({name: values.detach() for name, values in losses.items()})
        for parameter in self.objective.parameters():
            if parameter.grad is None and parameter.requires_grad:
                # As DeepSpeed has it: a weight that this step did not need is moved by its momentum alone.
                parameter.grad = torch.zeros_like(parameter)
        nn.utils.clip_grad_norm_(self.objective.parameters(), self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return seen

    def weights(self) -> dict[str, Tensor] | None:
        """See :class:`Engine`."""
        if _rank() != 0:
            return None
        return {name: value for name, value in self.objective.model.state_dict().items() if self.kept(name)}

    def save(self, folder: Path) -> None:
        """Rank 0 writes for all: every rank's state is the same."""
        if _rank() == 0:
            torch.save(self.optimizer.state_dict(), folder / "optimizer.pt")

    def load(self, folder: Path, weights: Callable[[], Mapping[str, Tensor]]) -> None:
        """See :class:`Engine`."""
        wrong = self.objective.model.load_state_dict(weights(), strict=False)
        assert not wrong.unexpected_keys and not any(map(self.kept, wrong.missing_keys)), wrong
        state = plain_pickles.read(folder / "optimizer.pt", self.device)
        # A sweep's trial may go on from another's checkpoint: with its own settings, which are no state.
        own = [{name: group[name] for name in ("peak", "weight_decay")} for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state)
        for group, settings in zip(self.optimizer.param_groups, own, strict=True):
            group.update(settings)


class DeepSpeed:
    """DeepSpeed with ZeRO 0-3; the process group is the one that Ray has made."""

    def __init__(
        self,
        objective: nn.Module,
        train: Optimisation,
        groups: Sequence[dict[str, Any]],
        zero_stage: int,
        device: torch.device,
        kept: Callable[[str], bool],
    ) -> None:
        import deepspeed

        self.objective, self.kept = objective.to(device), kept
        self.bf16, self.device = use_bf16(train.precision, device), device
        config: dict[str, Any] = {
            "train_batch_size": train.accumulation * dist.get_world_size(),
            "train_micro_batch_size_per_gpu": 1,  # only a count to DeepSpeed: batches come from our mixture
            "gradient_accumulation_steps": train.accumulation,
            "gradient_clipping": train.clip_norm,
            "zero_optimization": {
                "stage": zero_stage,
                "reduce_bucket_size": BUCKET,
                "allgather_bucket_size": BUCKET,
            },
            "zero_allow_untested_optimizer": True,
            "torch_autocast": {"enabled": self.bf16, "dtype": "bfloat16"},
            "steps_per_print": 10**9,
        }
        if device.type == "cpu":
            # An all-reduce through shared memory that it would compile for minutes, and that one machine alone has.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        adamw = optimizer(groups)
        self.engine, self.optimizer, *_ = deepspeed.initialize(model=objective, optimizer=adamw, config=config)

    def step(self, batches: Sequence[Batch], total: Callable[[Losses], Tensor], factor: float) -> list[Losses]:
        """See :class:`Engine`."""
        _set_rates(self.optimizer, factor)
        seen: list[Losses] = []
        for batch in batches:
            losses = self.engine(batch)
            # DeepSpeed averages over workers and micro-batches; the loss of a global batch is the sum over both.
            self.engine.backward(len(batches) * dist.get_world_size() * total(losses))
            self.engine.step()
            seen.append({name: values.detach() for name, values in losses.items()})
        return seen

    def weights(self) -> dict[str, Tensor] | None:
        """See :class:`Engine`. Under ZeRO-3 each weight is gathered for a moment, one by one."""
        named = {**dict(self.objective.model.named_parameters()), **dict(self.objective.model.named_buffers())}
        kept = self.objective.model.state_dict().keys()
        state: dict[str, Tensor] = {}
        for name in (name for name in named if name in kept and self.kept(name)):
            with _whole(named[name]) as mine:
                if mine:
                    state[name] = named[name].detach().to("cpu", copy=True)
        return state if _rank() == 0 else None

    def save(self, folder: Path) -> None:
        """Rank 0 writes for all; see ``zero_state``."""
        zero_state.save(self.engine, self.objective.model, folder)

    def load(self, folder: Path, weights: Callable[[], Mapping[str, Tensor]]) -> None:
        """See :class:`Engine`."""
        put(self.objective.model, weights())
        zero_state.load(self.engine, self.objective.model, folder)


@torch.no_grad()
def put(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give ``module`` the weights of ``state``, whole or sharded by ZeRO-3 (then one by one); every rank calls it."""
    named = {**dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers())}  # tied ones, too
    for name, value in state.items():
        with _whole(named[name], written=True) as mine:
            if mine:
                named[name].copy_(value)


@contextmanager
def _whole(weight: Tensor, written: bool = False) -> Iterator[bool]:
    """``weight`` with all its values, also where ZeRO-3 has sharded it; whether this rank is to read or write them."""
    if not hasattr(weight, "ds_id"):
        yield written or _rank() == 0
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters([weight], modifier_rank=0 if written else None):
        yield _rank() == 0


def _set_rates(optimizer: Any, factor: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0
