"""A run's page: one HTML file that needs nothing else, neither network nor scripts.

It shows what the run's folder says and computes nothing twice: scores come from ``scores.json``; only what no file
holds (intervals, scores by event type and role, confusion, calibration) is counted here, with the evaluation's own
functions. The same page serves a pipeline, whose training lies in a stage's folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from xmtl_ray.config.load import leaves
from xmtl_ray.config.schema import IMAGE_TASKS, TEXT_TASKS, Config
from xmtl_ray.data.pseudo_labels import MANIFEST, read_manifest, stream
from xmtl_ray.evaluation.m2e2 import METRICS
from xmtl_ray.events.records import Document
from xmtl_ray.report import model_card, run_folder
from xmtl_ray.report.calibration import Reliability, of_store
from xmtl_ray.report.curves import TERMS, curves
from xmtl_ray.report.judged import judge
from xmtl_ray.report.lineage import lineage
from xmtl_ray.report.pseudo_truth import known_truth
from xmtl_ray.report.run_folder import Counts, Journal, RunFolder
from xmtl_ray.report.strategy import origin, strategy
from xmtl_ray.report.templates import render
from xmtl_ray.report.throughput import memory, throughput

NAME = "report.html"


@dataclass(frozen=True)
class ScoreRow:
    """One metric: its counts under each protocol (None where a file lacks it)."""

    metric: str
    counts: tuple[Counts | None, ...]
    inflation: float | None
    """F1 under table minus F1 under strict."""


def write_report(folder: Path, documents: Sequence[Document] | None) -> Path:
    """Write ``folder/report.html`` and the model's card beside it from what a run left in ``folder``; returns the page.

    Args:
        folder: of a run or of a pipeline. Only config.yaml must be there; what else is missing makes its sections
            absent.
        documents: the test documents with their gold; None or empty: nothing is judged that no file has counted.

    Raises ValueError that names the file where one is broken.
    """
    run = run_folder.read(folder)
    judged = judge(documents, run.predictions, run.sure, run.scores) if documents and run.predictions else None
    speed = throughput(run.journal, run.config.train.global_batch)
    labels, labels_note = _pseudo_labels(run)
    sources = lineage(run.journal, run.tracked)
    told = facts(run)
    page = render(
        "page.html",
        name=run.config.name,
        status=run.journal.status,
        facts=told,
        origin=origin(run.config, run.journal),
        tasks=TERMS,
        protocols=_protocols(run),
        score_rows=score_rows(run),
        curves=curves(run.config, run.journal),
        select=run.config.train.select,
        judged=judged,
        documents=len(documents or ()),
        labels=labels,
        labels_note=labels_note,
        throughput=speed,
        memory=memory(run.journal),
        stages=list(run.stages.items()),
        sources=sources,
        settings=list(leaves(run.config)),
        fingerprints=_tags(run.journal, "sha256."),
        stage=_tags(run.journal, "stage."),
        versions=_tags(run.journal, "version.") | _other_tags(run.journal),
    )
    path = folder / NAME
    path.write_text(page, encoding="utf-8")
    card = model_card.of_run(run, told, score_rows(run), judged, labels, sources, len(documents or ()))
    (folder / model_card.NAME).write_text(card, encoding="utf-8")
    return path


def _pseudo_labels(run: RunFolder) -> tuple[list[Reliability], str]:
    """Reliability of the teachers whose labels a run has learnt from, and why there is none where there might be."""
    if run.config.multitask.strategy != "xmtl":
        return [], ""
    made = run.stages.get("pseudo-labels")
    named = run.config.multitask.pseudo.store
    store = made.folder / "store" if made is not None and made.folder is not None else named
    if store is None:
        return [], ""
    if not (store / MANIFEST).is_file():
        return [], f"The store of pseudo-labels is not at {store} any more."
    manifest = read_manifest(store)
    truth = known_truth(manifest, store)
    if truth is None:
        return [], "Nobody knows the truth about these pairs, so the teachers' confidences cannot be judged on them."
    return of_store(stream(store), truth), ""


def facts(run: RunFolder) -> list[tuple[str, str]]:
    """What was run, where and for how long, as (name, value)."""
    config, journal = run.config, run.journal
    spec = config.train
    steps = run.summary.steps if run.summary is not None else journal.last_step
    epochs = f"{run.summary.epochs} of {spec.epochs}" if run.summary is not None else f"{spec.epochs} planned"
    found = [
        ("Tasks", ", ".join(TERMS[task] for task in config.multitask.tasks)),
        *strategy(config),
        ("Encoders", _encoders(config)),
        ("Workers", _workers(config)),
        ("Engine", "DDP" if config.engine.name == "ddp" else f"DeepSpeed, ZeRO stage {config.engine.zero_stage}"),
        ("Epochs", epochs),
        ("Steps", f"{steps:,}, each of {spec.global_batch} examples"),
    ]
    if journal.spells_ms:
        started, again = journal.spells_ms[0][0], len(journal.spells_ms) - 1
        resumed = f", resumed {again} time{'s' if again > 1 else ''}" if again else ""
        found.append(("Started", datetime.fromtimestamp(started / 1000, UTC).strftime("%d %b %Y, %H:%M UTC")))
        found.append(("So far" if journal.status == "RUNNING" else "Took", duration(journal.running_s) + resumed))
    if run.coreference is not None:
        found.append(("Coreference", run.coreference))
    return found


def duration(seconds: float) -> str:
    """``3725`` → ``1 h 2 min``; the largest two units."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def score_rows(run: RunFolder) -> list[ScoreRow]:
    """The six metrics, as far as ``scores.json`` has them; other metrics of that file after them."""
    scores = run.scores or {}
    names = [*METRICS, *(name for metrics in scores.values() for name in metrics)]
    rows = []
    for name in dict.fromkeys(names):
        counts = tuple(scores[protocol].get(name) for protocol in _protocols(run))
        if any(counts):
            table, strict = (scores.get(protocol, {}).get(name) for protocol in ("table", "strict"))
            known = table is not None and strict is not None and table.known and strict.known
            rows.append(ScoreRow(name, counts, table.F1 - strict.F1 if known and table and strict else None))
    return rows


def _protocols(run: RunFolder) -> list[str]:
    scores = run.scores or {}
    return [name for name in ("table", "strict") if name in scores] + [
        name for name in scores if name not in {"table", "strict"}
    ]


def _encoders(config: Config) -> str:
    model, tasks = config.model, set(config.multitask.tasks)
    used = [(model.text_encoder, "text", TEXT_TASKS), (model.image_encoder, "image", IMAGE_TASKS)]
    return ", ".join(
        f"{'built from scratch' if name == 'built' else name} ({side})" for name, side, own in used if tasks & set(own)
    )


def _workers(config: Config) -> str:
    count, device = config.cluster.workers, "GPU" if config.cluster.gpu else "CPU"
    return f"{count} of Ray, each on a {device}" if count else f"one process on {device}"


def _tags(journal: Journal, prefix: str) -> dict[str, str]:
    return {name.removeprefix(prefix): value for name, value in journal.tags.items() if name.startswith(prefix)}


def _other_tags(journal: Journal) -> dict[str, str]:
    return {
        name: value for name, value in journal.tags.items() if not name.startswith(("sha256.", "version.", "stage."))
    }
