"""What may explain a table's figures: pseudo-labels and how true they are, weights, dev scores, time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean

from xmtl_ray.config.schema import PSEUDO, Config, TaskName
from xmtl_ray.data import pseudo_labels, world
from xmtl_ray.data.pseudo_selection import select
from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.multitask.dev import METRICS
from xmtl_ray.pipeline.stages import Stage, Stages
from xmtl_ray.pipeline.xmtl import Chain
from xmtl_ray.report import run_folder
from xmtl_ray.report.pseudo_page import judged
from xmtl_ray.report.reproduction import Listing

Chains = Mapping[tuple[str, int], Chain]
"""(row, seed) → its stages, all of them done."""


def listings(stages: Stages, labels: Mapping[str, str], chains: Chains, config: Config) -> Iterator[Listing]:
    """Tables of what lies in the stages' folders; those without anything to tell are left out.

    Args:
        stages: where they lie.
        labels: row → what it is called.
        chains: of the rows.
        config: the base of all rows, for the selection of pseudo-labels and the folder of the data.
    """
    for found in (
        _pseudo_labels(stages, chains, config),
        _weights(stages, labels, chains),
        _dev(stages, labels, chains),
        _time(stages, labels, chains),
    ):
        if found.rows:
            yield found


def _pseudo_labels(stages: Stages, chains: Chains, config: Config) -> Listing:
    """Of each store: how many pairs are kept, what the tasks get of them, and how much of it is true."""
    stores = {
        stages.definition(chain.pseudo_labels).key: (seed, stages.folder(chain.pseudo_labels) / "store")
        for (_, seed), chain in chains.items()
        if chain.pseudo_labels is not None
    }
    root = config.data.root
    truth = world.pair_truth(root) if (root / world.SUMMARY).exists() else None
    spec = config.multitask.pseudo
    rows = []
    for seed, store in sorted(stores.values()):
        labelled = list(pseudo_labels.stream(store))
        selection = select(labelled, spec.threshold, spec.agreement, spec.schema_filter)
        told: tuple[Prf, ...] = () if truth is None else judged(selection, labelled, truth)
        rows.append(
            (
                str(seed),
                str(len(labelled)),
                str(len(selection.kept)),
                *(str(selection.examples[PSEUDO[task]]) for task in ("td", "ae", "vc", "rc")),
                *(f"{score.precision:.1f} / {score.recall:.1f}" for score in told),
            )
        )
    head: tuple[str, ...] = ("seed", "pairs", "kept", "td", "ae", "vc", "rc")
    head += () if truth is None else ("text types, P / R", "image types, P / R")
    note = "Examples that each task gets from its pseudo-labels."
    note += "" if truth is None else " Precision and recall: kept types against what the world was drawn from."
    return Listing("Pseudo-labels", head, tuple(rows), note)


def _weights(stages: Stages, labels: Mapping[str, str], chains: Chains) -> Listing:
    """The lowest and the highest weight that each loss had, over all seeds."""
    rows = []
    for row, label in labels.items():
        series: dict[str, list[float]] = {}
        for stage in (chain.train for (name, _), chain in chains.items() if name == row and chain.train is not None):
            for metric, values in run_folder.read(stages.folder(stage)).journal.metrics.items():
                if metric.startswith("train/weight/"):
                    series.setdefault(metric.removeprefix("train/weight/"), []).extend(values.values())
        if series:
            told = ", ".join(f"{term} {min(own):.2f}–{max(own):.2f}" for term, own in series.items())
            rows.append((label, told))
    return Listing("Weights of the losses", ("row", "lowest–highest of each"), tuple(rows), "Beta is in them.")


def _dev(stages: Stages, labels: Mapping[str, str], chains: Chains) -> Listing:
    """Dev F1 of each task at the checkpoint that was kept, mean over seeds: gold events given, no documents."""
    tasks: Sequence[TaskName] = tuple(METRICS)
    rows = []
    for row, label in labels.items():
        own: dict[TaskName, list[float]] = {task: [] for task in tasks}
        for stage in _trained(row, chains):
            run = run_folder.read(stages.folder(stage))
            chosen = run.journal.metrics.get(run.config.train.select, {})
            best = max(chosen, key=lambda step: chosen[step]) if chosen else None
            for task in run.config.multitask.tasks:
                series = run.journal.metrics.get(METRICS[task], {})
                if best in series:
                    own[task].append(series[best])
        if any(own.values()):
            rows.append((label, *(f"{fmean(values):.1f}" if values else "" for values in own.values())))
    return Listing("Dev F1 of each task", ("row", *tasks), tuple(rows), "At the checkpoint kept; mean over seeds.")


def _time(stages: Stages, labels: Mapping[str, str], chains: Chains) -> Listing:
    """Seconds of training and labelling; a shared stage counts for each row."""
    rows = []
    for row, label in labels.items():
        own = [chain for (name, _), chain in chains.items() if name == row]
        if own:
            parts = (
                [_seconds(stages, chain.teachers.values()) for chain in own],
                [_seconds(stages, [chain.pseudo_labels]) for chain in own],
                [_seconds(stages, [chain.train]) for chain in own],
            )
            rows.append((label, *(f"{fmean(values):.0f}" for values in parts)))
    head = ("row", "teachers", "pseudo-labels", "training")
    return Listing("Seconds", head, tuple(rows), "Mean over seeds; rows that share a stage list it each.")


def _trained(row: str, chains: Chains) -> Iterator[Stage]:
    """The trainings that a row's predictions come from."""
    for (name, _), chain in chains.items():
        if name == row:
            yield from (chain.teachers.values() if chain.train is None else [chain.train])


def _seconds(stages: Stages, of: Iterable[Stage | None]) -> float:
    found = [stages.record(stage) for stage in of if stage is not None]
    return sum(record.seconds for record in found if record is not None)
