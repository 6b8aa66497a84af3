"""What is known of a sweep's trials, in files: ``sweep.json`` of the whole, and what each trial's folder says.

The files are the truth, and hold plain JSON. A trial writes each dev evaluation and its end into its own folder, where
they are safe whatever becomes of the driver; the driver reads them there and rewrites ``sweep.json`` by renaming. So a
sweep that was killed goes on from the files alone, and nothing is unpickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from xmtl_ray.tuning.domains import Scalar

SWEEP, REPORTS, OUTCOME = "sweep.json", "reports.jsonl", "outcome.json"
TRIALS = "trials"
"""Folder of the trials' folders."""

State = Literal["finished", "stopped", "failed", "running", "waiting"]
ENDED = ("finished", "stopped", "failed")


class LedgerError(ValueError):
    """A sweep's file that says what this version does not write."""


@dataclass(frozen=True)
class Report:
    """A dev evaluation of a trial."""

    epoch: int
    """Epochs finished."""
    step: int
    metric: float
    """The sweep's."""
    selected: float
    """The metric that the run chooses its checkpoint by; higher is better."""


@dataclass
class Trial:
    """One trial, while the sweep runs and after."""

    id: str
    drawn: dict[str, Scalar]
    """Coordinates of the search: of a ratio the ratio."""
    parameters: dict[str, Scalar]
    """Dotted path → value, of all that it sets."""
    folder: Path
    state: State = "waiting"
    seconds: float = 0.0
    """At work, over all starts."""
    why: str = ""
    """Of a failure."""
    reports: list[Report] = field(default_factory=list)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.state in ENDED

    @property
    def metric(self) -> float | None:
        """At the checkpoint that the trial keeps: the best by what the run chooses by."""
        return max(self.reports, key=lambda one: one.selected).metric if self.reports else None

    @property
    def epochs(self) -> int:
        """Epochs that were trained, by what it has reported."""
        return max((one.epoch for one in self.reports), default=0)


@dataclass(frozen=True)
class About:
    """What a sweep is, beside its trials."""

    name: str
    recipe: str
    metric: str
    mode: Literal["max", "min"]
    search: str
    scheduler: str
    seed: int
    workers_per_trial: int
    epochs: int
    """Of a trial that is not stopped."""


def append_report(folder: Path, report: Report) -> None:
    """Add a line to the trial's ``reports.jsonl``; called by the trial."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / REPORTS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(report)) + "\n")


def read_reports(folder: Path) -> list[Report]:
    """A trial's evaluations in order; of one that was made twice, after a restart, the later."""
    found: dict[tuple[int, int], Report] = {}
    path = folder / REPORTS
    if path.exists():
        for line in path.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n"):  # else torn by a kill
                one = Report(**json.loads(line))
                found[one.epoch, one.step] = one
    return [found[key] for key in sorted(found)]


def write_outcome(folder: Path, state: State, why: str = "") -> None:
    """Say in the trial's folder how it ended."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / OUTCOME, {"state": state, "why": why})


def read_outcome(folder: Path) -> tuple[State, str] | None:
    """(state, why) that the trial's end left; None if it has not ended."""
    try:
        found = json.loads((folder / OUTCOME).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return found["state"], found["why"]


def best_of(trials: list[Trial], mode: Literal["max", "min"]) -> Trial | None:
    """The trial with the best metric among those that were trained to their end."""
    able = [trial for trial in trials if trial.state == "finished" and trial.metric is not None]
    sign = 1 if mode == "max" else -1
    return max(able, key=lambda trial: sign * (trial.metric or 0.0), default=None)


def budget(about: About, trials: list[Trial]) -> dict[str, float]:
    """Epochs trained, epochs of the same trials untouched, and worker-hours that stopping them saved.

    A stopped trial's remaining epochs are reckoned as long as those that it had.
    """
    workers = max(1, about.workers_per_trial)
    saved = sum(
        (about.epochs - trial.epochs) * trial.seconds / trial.epochs * workers / 3600
        for trial in trials
        if trial.state == "stopped" and trial.epochs
    )
    begun = [trial for trial in trials if trial.ended]
    return {
        "epochs_run": sum(trial.epochs for trial in trials),
        "epochs_full": about.epochs * len(begun),
        "saved_worker_hours": round(saved, 4),
    }


def write_sweep(
    folder: Path,
    about: About,
    trials: list[Trial],
    wall_s: float,
    runs: Mapping[str, str | None],
    importance: Mapping[str, float] | None,
) -> None:
    """Rewrite ``sweep.json``.

    Args:
        folder: of the sweep.
        about: what it is.
        trials: all, with those not begun.
        wall_s: seconds since its beginning, pauses left out.
        runs: trial → its MLflow run.
        importance: path → share; None while it is not known.
    """
    workers = max(1, about.workers_per_trial)
    best = best_of(trials, about.mode)
    described = [
        {
            "id": trial.id,
            "state": trial.state,
            "parameters": trial.parameters,
            "drawn": trial.drawn,
            "metric": trial.metric,
            "history": [[one.epoch, one.metric] for one in trial.reports],
            "seconds": round(trial.seconds, 2),
            "worker_hours": round(trial.seconds * workers / 3600, 5),
            "folder": str(trial.folder),
            "mlflow_run": runs.get(trial.id),
            "why": trial.why,
        }
        for trial in trials
    ]
    body = {
        "name": about.name,
        "recipe": about.recipe,
        "metric": about.metric,
        "mode": about.mode,
        "search": about.search,
        "scheduler": about.scheduler,
        "seed": about.seed,
        "wall_s": round(wall_s, 2),
        "workers_per_trial": about.workers_per_trial,
        "best": None if best is None else best.id,
        "trials": described,
        "importance": None if importance is None else dict(importance),
        "budget": budget(about, trials),
    }
    _write(folder / SWEEP, body)


def read_sweep(folder: Path) -> tuple[list[Trial], float]:
    """The trials as the files tell them, and the wall time so far.

    A trial whose folder says how it ended has ended, though the driver was killed before it could note it; one that
    was at work waits, to go on from its last checkpoint.

    Raises LedgerError for a trial whose folder is not in this one.
    """
    body = json.loads((folder / SWEEP).read_text(encoding="utf-8"))
    trials = []
    for item in body["trials"]:
        trial = Trial(
            item["id"],
            item["drawn"],
            item["parameters"],
            _own(folder, str(item["folder"])),
            item["state"],
            item["seconds"],
            item["why"],
        )
        trial.reports = read_reports(trial.folder)
        outcome = read_outcome(trial.folder)
        if outcome is not None:
            trial.state, trial.why = outcome
        elif not trial.ended:
            trial.state = "waiting"
        trials.append(trial)
    return trials, float(body["wall_s"])


def _own(folder: Path, told: str) -> Path:
    """Where a trial lies in ``folder``, which may have been moved, or have come from somebody else."""
    name = Path(told).name
    place = folder / TRIALS / name
    if name in {"", ".."} or place.resolve().parent != (folder / TRIALS).resolve():
        raise LedgerError(f"{folder / SWEEP}: found the trial's folder {told!r}, expected one in {folder / TRIALS}")
    return place


def _write(path: Path, body: Mapping[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(body, indent=1, ensure_ascii=False, allow_nan=False), encoding="utf-8")
    partial.replace(path)
