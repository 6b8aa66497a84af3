"""What a sweep is about to do, with all that can be checked before anything starts.

Nothing that costs begins before every end of every domain has built a valid config, the data is there, and a trial fits
(the machine; a cluster that is joined is asked once it is). What trials of X-MTL have in common, teachers and
pseudo-labels, is a stage of the pipeline: made once, and found again by other sweeps.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path

from xmtl_ray.config.schema import Config
from xmtl_ray.data.remote import here
from xmtl_ray.pipeline.launch import STAGES, tracked
from xmtl_ray.pipeline.stages import Planned, Stage, Stages
from xmtl_ray.pipeline.xmtl import chain
from xmtl_ray.training.launch import check_files, check_memory
from xmtl_ray.training.storage import is_local
from xmtl_ray.tuning import configs, room
from xmtl_ray.tuning.configs import AnyConfig
from xmtl_ray.tuning.proposals import count
from xmtl_ray.tuning.space import Space, SpaceError


class SweepError(ValueError):
    """A sweep that cannot begin or go on: what is in its way, and what to do."""


@dataclass(frozen=True)
class Plan:
    """A sweep that can be run."""

    space: Space
    config: AnyConfig
    """The recipe with what is fixed, and the tracking server named."""
    folder: Path
    trials: int
    direct: bool
    """Whether a trial's own process trains; else it drives Train workers."""
    need: room.Need
    shared: Stage | None
    """What trials have in common, made before them; None: nothing has to be made."""
    stages: Stages

    @property
    def epochs(self) -> int:
        """Of a trial, at most."""
        return self.config.train.epochs

    @property
    def joined(self) -> str | None:
        """Address of the cluster that is joined; None: this machine is one."""
        return self.config.cluster.address or os.environ.get("RAY_ADDRESS") or None

    def shared_stages(self) -> list[Planned]:
        """What must be made before the trials, and what is there."""
        return [] if self.shared is None else self.stages.plan([self.shared])


def prepare(sweep: Space) -> Plan:
    """Check all that can be checked before Ray starts. Raises SpaceError, ConfigError, LaunchError, SweepError."""
    config = configs.base(sweep)
    if not is_local(config.storage_path):
        raise SweepError(
            f"storage_path: found {config.storage_path!r}, expected a folder, which all machines of the cluster see: "
            "trials tell how they are doing there"
        )
    config = tracked(here(config))
    built = configs.check(sweep, config)
    check_files(config)
    for one in built:
        if not isinstance(one, Config):
            check_memory(one)
    if sweep.asha is not None and sweep.asha.grace >= config.train.epochs:
        raise SpaceError(
            f"scheduler.asha.grace: found {sweep.asha.grace}, expected less than train.epochs={config.train.epochs}: "
            "else no trial can be stopped"
        )
    shared = _shared(config)
    if isinstance(config, Config) and shared is not None:
        _check_floor(built, config.distill.floor)
    direct = sweep.search == "pbt" or config.cluster.workers == 0
    plan = Plan(
        sweep,
        config,
        Path(config.storage_path) / sweep.name,
        count(sweep.search, sweep.samples, sweep.drawn),
        direct,
        room.need(config.cluster, direct),
        shared,
        Stages(Path(config.storage_path) / STAGES),
    )
    room_here(plan)
    return plan


def room_here(plan: Plan) -> str:
    """How many trials train side by side, in words; of a cluster that is not joined yet it is not known.

    Raises SpaceError where none fits this machine.
    """
    if plan.joined:
        most = plan.space.concurrency
        return f"as many as {plan.joined} has room for" if most is None else f"{most}, for which {plan.joined} may grow"
    need, gpus = plan.need, 0
    if need.gpus:
        import torch

        gpus = torch.cuda.device_count()
    cpus = max(os.cpu_count() or 1, math.ceil(need.workers * need.cpus))
    found = room.concurrency([{"CPU": cpus, "GPU": gpus}], need, plan.space.concurrency)
    return f"{found}, on this machine's {cpus} CPUs" + (" and GPUs" if need.gpus else "")


def rungs(space: Space, epochs: int) -> list[int]:
    """Epochs after which ASHA may stop a trial."""
    if space.asha is None:
        return []
    most = max(epochs - 1, space.asha.grace)
    count = int(math.log(most / space.asha.grace) / math.log(space.asha.reduction) + 1e-9) + 1
    return [math.ceil(space.asha.grace * space.asha.reduction**number) for number in range(count)]


def _shared(config: AnyConfig) -> Stage | None:
    """The pseudo-labels that all trials learn from, if they must be made."""
    if not isinstance(config, Config) or config.multitask.strategy != "xmtl":
        return None
    return None if config.multitask.pseudo.store is not None else chain(config).pseudo_labels


def _check_floor(built: list[AnyConfig], floor: float) -> None:
    """Below the floor a store has no roles: a threshold there selects nothing more."""
    for one in built:
        assert isinstance(one, Config)
        for task in ("td", "vc"):
            asked = getattr(one.multitask.pseudo.threshold, task)
            if asked < floor:
                raise SpaceError(
                    f"space.multitask.pseudo.threshold.{task}: found {asked:g}, expected at least distill.floor="
                    f"{floor:g}, below which the store that all trials share has no roles; raise it, or fix "
                    "distill.floor lower"
                )
