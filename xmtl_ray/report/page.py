"""A run's page: one HTML file that needs nothing else, neither network nor scripts.

It shows what the run's folder says and computes nothing twice: scores come from ``scores.json``; only scores by event
type, which no file holds, are counted here, with the evaluation's own function.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from xmtl_ray.config.load import leaves
from xmtl_ray.config.schema import IMAGE_TASKS, TEXT_TASKS, Config
from xmtl_ray.evaluation.m2e2 import METRICS, score
from xmtl_ray.events.predictions import Predictions
from xmtl_ray.events.records import Document
from xmtl_ray.report import run_folder
from xmtl_ray.report.by_type import scores_by_type
from xmtl_ray.report.curves import TERMS, curves
from xmtl_ray.report.gallery import cards
from xmtl_ray.report.run_folder import Counts, Journal, RunFolder
from xmtl_ray.report.strategy import origin, strategy
from xmtl_ray.report.templates import render

NAME = "report.html"


@dataclass(frozen=True)
class ScoreRow:
    """One metric: its counts under each protocol (None where a file lacks it)."""

    metric: str
    counts: tuple[Counts | None, ...]
    inflation: float | None
    """F1 under table minus F1 under strict."""


def write_report(folder: Path, documents: Sequence[Document] | None) -> Path:
    """Write ``folder/report.html`` from what a run left in ``folder``; returns its path.

    Args:
        folder: a run's folder. Only config.yaml must be there; what else is missing makes its sections absent.
        documents: the test documents with their gold; None or empty: no scores by type and no gallery.

    Raises ValueError that names the file where one is broken.
    """
    run = run_folder.read(folder)
    both = (documents, run.predictions) if documents and run.predictions is not None else None
    page = render(
        "page.html",
        name=run.config.name,
        status=run.journal.status,
        facts=facts(run),
        origin=origin(run.config, run.journal),
        tasks=TERMS,
        protocols=_protocols(run),
        score_rows=score_rows(run),
        curves=curves(run.config, run.journal),
        select=run.config.train.select,
        types=None if both is None else scores_by_type(*both),
        other_documents=both is not None and _scored_others(run, *both),
        cards=[] if both is None else cards(*both),
        documents=len(documents or ()),
        settings=list(leaves(run.config)),
        fingerprints=_tags(run.journal, "sha256."),
        stage=_tags(run.journal, "stage."),
        versions=_tags(run.journal, "version.") | _other_tags(run.journal),
    )
    path = folder / NAME
    path.write_text(page, encoding="utf-8")
    return path


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


def _scored_others(run: RunFolder, documents: Sequence[Document], predictions: Predictions) -> bool:
    """Whether ``scores.json`` was counted on other documents than these."""
    written = (run.scores or {}).get("strict", {})
    counted = score(documents, predictions, "strict")
    return any(
        (written[name].correct, written[name].predicted, written[name].gold) != (c.correct, c.predicted, c.gold)
        for name, c in counted.items()
        if name in written
    )


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
