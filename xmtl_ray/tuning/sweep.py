"""A sweep while it runs: what trials share is made, they are run, and what they found is left in files.

The driver keeps nothing that the files do not have: killed at any moment, it is begun again by the same command.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xmtl_ray.cluster.connection import cluster
from xmtl_ray.cluster.reach import check_shared
from xmtl_ray.config.load import dump, with_values
from xmtl_ray.config.schema import Config
from xmtl_ray.pipeline import running
from xmtl_ray.pipeline.tracked import run_of
from xmtl_ray.training.data_check import check_data
from xmtl_ray.training.launch import on_all_nodes
from xmtl_ray.tuning import configs, ledger, room, space
from xmtl_ray.tuning.ledger import About, Trial
from xmtl_ray.tuning.plan import Plan, SweepError
from xmtl_ray.tuning.proposals import importance, propose

log = logging.getLogger(__name__)

SPACE, BEST, LOCK = "space.yaml", "best.yaml", ".lock"


class Interrupted(Exception):
    """The user stopped the sweep; it can go on."""


@dataclass(frozen=True)
class Watcher:
    """Who is told what happens, while it happens."""

    trial: Callable[[str, Trial, str], None] = lambda what, trial, why: None
    """What (begun, reported, again, finished, stopped, failed) has become of which trial, and why."""
    fanning: Callable[[int, int], None] = lambda left, side_by_side: None
    """Trials begin: how many are left, how many side by side."""
    stages: running.Watcher = field(default_factory=running.Watcher)


def sweep(plan: Plan, watcher: Watcher = Watcher(), resume: bool = False) -> list[Trial]:
    """Run the trials that are left, and leave ``sweep.json``, ``best.yaml`` and the page; returns all trials.

    Raises SweepError where the folder holds another sweep, or this one and ``resume`` is not asked for, and where what
    trials share could not be made; Interrupted on Ctrl-C.
    """
    with _locked(plan.folder):
        trials, wall_s = _earlier(plan, resume)
        (plan.folder / SPACE).write_text(space.dump(plan.space), encoding="utf-8")
        check_data(plan.config, plan.folder)
        return _Going(plan, watcher, trials, wall_s).run()


class _Going:
    """A sweep while it runs."""

    def __init__(self, plan: Plan, watcher: Watcher, trials: list[Trial], wall_s: float) -> None:
        from xmtl_ray.tuning.tracked import Tracked

        self.plan, self.watcher, self.trials = plan, watcher, trials
        self.begun_at, self.before_s = time.monotonic(), wall_s
        self.working: dict[str, float] = {}
        self.importance: Mapping[str, float] | None = None
        spec = plan.space
        scheduler = "asha" if spec.asha else "none"
        workers = plan.need.workers
        self.about = About(
            spec.name, spec.recipe, spec.metric, spec.mode, spec.search, scheduler, spec.seed, workers, plan.epochs
        )
        self.tracked = Tracked(plan.folder, plan.config, spec)
        self.save()

    def run(self) -> list[Trial]:
        """Make what is shared, run the trials, sum up."""
        status = "FAILED"
        try:
            if any(not trial.ended for trial in self.trials) or len(self.trials) < self.plan.trials:
                self._run_trials()
            status = "FINISHED" if ledger.best_of(self.trials, self.plan.space.mode) else "FAILED"
        except KeyboardInterrupt:
            status = "KILLED"
            raise Interrupted from None
        finally:
            self._sum_up(status)
        return self.trials

    def _run_trials(self) -> None:
        plan, spec = self.plan, self.plan.config.cluster
        os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
        os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
        # A trial that fails before its first evaluation has no metric, which would end all others.
        os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
        os.environ.setdefault("TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S", "0")
        os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
        needed = plan.need
        with cluster(
            needed.workers * needed.cpus, int(needed.workers * needed.gpus), spec.address, dashboard=True, quiet=True
        ):
            check_shared("storage_path", plan.folder, on_all_nodes(plan.config))
            side_by_side = room.concurrency(room.of_cluster(), needed, plan.space.concurrency, bool(plan.joined))
            extra: dict[str, Any] = {"tracking.parent": self.tracked.id()}
            if plan.shared is not None:
                extra["multitask.pseudo.store"] = str(self._make_shared() / "store")
            self._fan_out(side_by_side, extra)

    def _make_shared(self) -> Path:
        """The stages that all trials need; returns the last one's folder."""
        plan = self.plan
        assert plan.shared is not None
        ended = running.run(
            plan.stages,
            [plan.shared],
            self.tracked.id,
            plan.config.cluster.address,
            max(0, plan.config.cluster.max_failures),
            self.watcher.stages,
        )
        if bad := [item for item in ended if not item.good]:
            raise SweepError(f"{bad[0].planned.stage.name} failed, which all trials need: {bad[0].why}")
        return plan.stages.folder(plan.shared)

    def _fan_out(self, side_by_side: int, extra: Mapping[str, Any]) -> None:
        from xmtl_ray.tuning import searching

        logging.getLogger("ray.tune").setLevel(logging.ERROR)
        plan = self.plan
        ended = [trial for trial in self.trials if trial.ended]
        left = plan.trials - len(ended)
        self._queue = [trial for trial in self.trials if not trial.ended]
        population = plan.space.search == "pbt"
        self.watcher.fanning(left, side_by_side)
        tuner = searching.tuner(
            plan.space,
            [self._following() for _ in range(left)] if population else self._following,
            left,
            side_by_side,
            plan.need,
            plan.direct,
            searching.scheduler(plan.space, plan.epochs, ended),
            {
                "space": space.plain(plan.space),
                "settings": plan.config.model_dump(mode="json"),
                "extra": dict(extra),
            },
            plan.folder / "tune" / time.strftime("%Y%m%d-%H%M%S"),
            self._happened,
            plan.config.cluster.max_failures,
        )
        tuner.fit()

    def _following(self) -> dict[str, Any]:
        """The next trial: one that was begun before, or a new one."""
        plan = self.plan
        if self._queue:
            trial = self._queue.pop(0)
        else:
            number, width = len(self.trials), max(3, len(str(plan.trials)))
            drawn = propose(
                "random" if plan.space.search == "pbt" else plan.space.search,
                plan.space.drawn,
                plan.space.seed,
                number,
                self.trials,
                plan.space.mode,
            )
            identity = f"{number:0{width}}"
            folder = plan.folder / ledger.TRIALS / f"{plan.space.name}-{identity}"
            trial = Trial(identity, drawn, configs.settings(plan.space, drawn, plan.config), folder)
            self.trials.append(trial)
            self.save()
        return {"id": trial.id, "name": trial.folder.name, "folder": str(trial.folder.parent), "drawn": trial.drawn}

    def _happened(self, what: str, given: dict[str, Any]) -> None:
        """An event of Tune's, in its words → the ledger, MLflow and the watcher."""
        trial = next(one for one in self.trials if one.id == given["id"])
        trial.reports = ledger.read_reports(trial.folder)
        if given["drawn"] != trial.drawn:  # a population's member has changed
            trial.drawn = given["drawn"]
            trial.parameters = configs.settings(self.plan.space, trial.drawn, self.plan.config)
        now, why = time.monotonic(), given.get("why", "")
        if what == "begun":
            trial.state = "running"
        trial.seconds += now - self.working.get(trial.id, now)
        self.working[trial.id] = now
        if what in {"ended", "died"}:
            del self.working[trial.id]
            outcome = ledger.read_outcome(trial.folder)
            if outcome is None:
                outcome = ("failed", why) if what == "died" else ("stopped", "")
                ledger.write_outcome(trial.folder, *outcome)
            trial.state, trial.why = outcome
            what, why = trial.state, trial.why
            self.tracked.ended(trial)
            best = ledger.best_of(self.trials, self.plan.space.mode)
            over = sum(one.ended for one in self.trials)
            self.tracked.progress(over, None if best is None else best.metric)
        self.save()
        self.watcher.trial(what, trial, why)

    def save(self) -> None:
        """Rewrite ``sweep.json``."""
        wall_s = self.before_s + time.monotonic() - self.begun_at
        runs = {trial.id: run_of(trial.folder) for trial in self.trials}
        ledger.write_sweep(self.plan.folder, self.about, self.trials, wall_s, runs, self.importance)

    def _sum_up(self, status: str) -> None:
        plan = self.plan
        for trial in self.trials:
            if trial.state == "running":
                trial.state = "waiting"
        artifacts: tuple[str, ...] = (SPACE, ledger.SWEEP)
        tags: dict[str, str] = {}
        best = ledger.best_of(self.trials, plan.space.mode)
        if status == "FINISHED":
            self.importance = importance(plan.space.drawn, self.trials, plan.space.mode)
        self.save()
        if best is not None:
            write_best(plan, best)
            artifacts += (BEST,)
            tags = {"sweep.best": best.id, "sweep.best.metric": f"{best.metric:g}"}
            if (found := run_of(best.folder)) is not None:
                tags["sweep.best.run"] = found
        try:
            if status == "FINISHED":
                from xmtl_ray.report.sweep_page import write_sweep_page

                artifacts += (write_sweep_page(plan.folder).name,)
        finally:
            self.tracked.close(status, tags, artifacts)


def write_best(plan: Plan, best: Trial) -> Path:
    """The best trial's whole recipe: with the recipe's own test data, storage and name, to be trained as the trial was.

    Pseudo-labels are those that the trial learnt from, by their folder.
    """
    config = with_values(plan.config, {**best.parameters, "name": f"{plan.space.name}-best"})
    verb, more = "finetune", ""
    if isinstance(config, Config):
        verb = "train"
        if plan.shared is not None:
            store = str(plan.stages.folder(plan.shared) / "store")
            config = with_values(config, {"multitask.pseudo.store": store})
            more = "; with teachers and pseudo-labels of its own: xmtl run THIS multitask.pseudo.store=null"
    head = f"# Best of sweep {plan.space.name}, trial {best.id}: {plan.space.metric} {best.metric:g}. "
    path = plan.folder / BEST
    path.write_text(f"{head}To train it: xmtl {verb} THIS{more}\n{dump(config)}", encoding="utf-8")
    return path


def summary(plan: Plan) -> list[str]:
    """What the sweep took and found, a line each, from its ``sweep.json``."""
    body = json.loads((plan.folder / ledger.SWEEP).read_text(encoding="utf-8"))
    spent, hours = body["budget"], sum(one["worker_hours"] for one in body["trials"])
    lines = [
        f"cost:   {hours:.3g} worker-hours in {body['wall_s'] / 60:.1f} min; {spent['epochs_run']} of "
        f"{spent['epochs_full']} epochs"
        + (f", {spent['saved_worker_hours']:.3g} worker-hours saved by stopping" if plan.space.asha else "")
    ]
    if body["importance"]:
        shares = sorted(body["importance"].items(), key=lambda item: -item[1])
        lines.append("matters: " + ", ".join(f"{path} {share:.0%}" for path, share in shares))
    return lines


def _earlier(plan: Plan, resume: bool) -> tuple[list[Trial], float]:
    """What an earlier start left: its trials and their time; empty for a new sweep. Raises SweepError."""
    folder = plan.folder
    known = (folder / ledger.SWEEP).exists()
    if not known and (folder / "config.yaml").exists():
        raise SweepError(f"name: {folder} is a run's folder, expected none or a sweep's; choose another name=…")
    if not known:
        return [], 0.0
    if not resume:
        raise SweepError(f"{folder}: found a sweep there; go on with --resume, or choose another name=…")
    before = space.load(str(folder / SPACE))
    # More trials, or more at a time, are the same sweep.
    same = {"samples": plan.space.samples, "concurrency": plan.space.concurrency}
    if before.model_copy(update=same) != plan.space:
        old, new = before.model_dump(), plan.space.model_dump()
        fields = ", ".join(name for name in old if old[name] != new[name] and name not in same)
        raise SweepError(f"{folder}: found another sweep there, which differs in {fields}; choose another name=…")
    return ledger.read_sweep(folder)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """No other process works on the sweep meanwhile. Raises SweepError."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise SweepError(f"{folder}: process {file.read().strip()} works on this sweep") from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield
