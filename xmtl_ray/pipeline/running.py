"""Stages on Ray: those whose inputs are there run side by side, as far as the cluster has room for them.

The surprising fact: a stage that starts actors or Train workers of its own holds nothing itself, so what it will take
is counted here, and no more is begun than fits. Else two of them could each wait for what the other has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

from xmtl_ray.cluster.connection import cluster
from xmtl_ray.cluster.reach import check_shared
from xmtl_ray.pipeline.performing import Job, Outcome, holder, perform
from xmtl_ray.pipeline.stages import Demand, Planned, Stage, Stages

How = Literal["done", "before", "elsewhere", "failed", "left"]
"""before: it was done already. elsewhere: another process did it meanwhile. left: a stage before it failed."""


@dataclass(frozen=True)
class Ended:
    """How a stage came out."""

    planned: Planned
    how: How
    seconds: float = 0.0
    why: str = ""

    @property
    def good(self) -> bool:
        """Whether its outputs are there."""
        return self.how not in {"failed", "left"}


@dataclass(frozen=True)
class Watcher:
    """Who is told what happens, while it happens."""

    begun: Callable[[Planned, str], None] = lambda planned, why: None
    """A stage starts, and why."""
    waiting: Callable[[Planned, str], None] = lambda planned, who: None
    """Another process works on a stage; who."""
    ended: Callable[[Ended], None] = lambda ended: None
    tick: Callable[[list[Planned], int, int], None] = lambda running, ended, of: None
    """About twice a second: stages at work, and how many of all have ended."""


def run(
    stages: Stages,
    wanted: Iterable[Stage],
    parent: Callable[[], str | None] = lambda: None,
    address: str | None = None,
    retries: int = 3,
    watcher: Watcher = Watcher(),
) -> list[Ended]:
    """Do ``wanted`` and what they depend on, as far as it is not done; returns every stage's end, those before first.

    Args:
        stages: where outputs lie.
        wanted: the stages.
        parent: asked once, when the first stage begins, for the tracked run that the stages are parts of.
        address: of a Ray cluster; None: RAY_ADDRESS, or one on this machine, and none if nothing has to run.
        retries: how often a stage whose process died is begun again; it goes on from what it left.
        watcher: is told.

    A stage that fails leaves what does not depend on it running.
    """
    with ExitStack() as stack:
        going = _Going(stages, stages.plan(wanted), watcher, retries)

        def connect() -> None:
            todo = [planned.stage for planned in going.plan if planned.state != "done"]
            cpus, gpus = (max(getattr(stage.demand, name) for stage in todo) for name in ("cpus", "gpus"))
            stack.enter_context(cluster(cpus, int(gpus), address))
            check_shared("storage_path", stages.root)
            going.parent = parent()

        while not going.over:
            for planned in going.plan:
                going.consider(planned, connect)
            going.wait()
        return [going.ended[planned.key] for planned in going.plan]


class _Going:
    """A plan while it runs."""

    def __init__(self, stages: Stages, plan: list[Planned], watcher: Watcher, retries: int) -> None:
        self.stages, self.plan, self.watcher, self.retries = stages, plan, watcher, retries
        self.ended: dict[str, Ended] = {}
        self.jobs: dict[Any, Planned] = {}
        self.parent: str | None = None
        self._have: Mapping[str, float] = {}
        self._waiting: set[str] = set()

    @property
    def over(self) -> bool:
        """Whether every stage has ended."""
        return len(self.ended) == len(self.plan)

    def consider(self, planned: Planned, connect: Callable[[], None]) -> None:
        """End ``planned`` or begin it, if that can be; ``connect`` is called before the first one begins."""
        if planned.key in self.ended or planned in self.jobs.values():
            return
        before = [self.ended.get(self.stages.definition(other).key) for other in planned.stage.before.values()]
        if failed := [other for other in before if other is not None and not other.good]:
            self._end(planned, "left", why=f"{failed[0].planned.stage.name} failed")
            return
        if None in before or not self._fits(planned.stage):
            return
        if (why := self.stages.reason(planned.stage)) is None:
            self._end(planned, "before")
        elif (who := holder(self.stages.root, planned.folder)) is not None:
            if planned.key not in self._waiting:
                self._waiting.add(planned.key)
                self.watcher.waiting(planned, who)
        else:
            if not self._have:
                connect()
                self._have = _resources()
            self.watcher.begun(planned, why)
            self.jobs[self._submit(planned)] = planned

    def wait(self) -> None:
        """Take in what has ended, for half a second at most."""
        if self.jobs:
            for reference, outcome in _finished(list(self.jobs)):
                self._end(self.jobs.pop(reference), outcome.state, outcome.seconds, outcome.why)
        elif not self.over:
            time.sleep(0.5)
        self.watcher.tick(list(self.jobs.values()), len(self.ended), len(self.plan))

    def _fits(self, stage: Stage) -> bool:
        """Whether there is room for it beside what runs. Alone it may always begin: if it can is for Ray to say."""
        taken = [planned.stage.demand for planned in self.jobs.values()]
        cpus = sum(demand.cpus for demand in taken) + stage.demand.cpus
        gpus = sum(demand.gpus for demand in taken) + stage.demand.gpus
        return not taken or (cpus <= self._have.get("CPU", 0) and gpus <= self._have.get("GPU", 0))

    def _end(self, planned: Planned, how: How, seconds: float = 0.0, why: str = "") -> None:
        self.ended[planned.key] = Ended(planned, how, seconds, why)
        self.watcher.ended(self.ended[planned.key])

    def _submit(self, planned: Planned) -> Any:
        import ray

        stages, stage = self.stages, planned.stage
        job = Job(
            stages.root,
            planned.folder,
            stages.definition(stage).model_copy(update={"read": stages.read(stage)}),
            stage.run,
            stage.outputs,
            {name: stages.folder(other) for name, other in stage.before.items()},
            self.parent,
        )
        own = stage.demand if stage.demand.inside else Demand(0, 0)
        task = ray.remote(perform).options(
            num_cpus=own.cpus, num_gpus=own.gpus, max_retries=self.retries, name=stage.name
        )
        return task.remote(job)


def _resources() -> dict[str, float]:
    import ray

    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return found


def _finished(references: list[Any]) -> list[tuple[Any, Outcome]]:
    """Those that have ended within half a second."""
    import ray
    from ray.exceptions import RayError

    found = []
    for reference in ray.wait(references, timeout=0.5)[0]:
        try:
            found.append((reference, ray.get(reference)))
        except RayError as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            found.append((reference, Outcome("failed", 0.0, f"its process died and could not be replaced: {first}")))
    return found
