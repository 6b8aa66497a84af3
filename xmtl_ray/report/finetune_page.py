"""The page of a fine-tuning run: how it learnt, and what it answers to the test conversations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from xmtl_ray.config.finetune import FinetuneConfig
from xmtl_ray.config.load import leaves
from xmtl_ray.data import videollama2
from xmtl_ray.data.media_paths import inside
from xmtl_ray.evaluation import generative
from xmtl_ray.events.answers import read_answers, read_cut
from xmtl_ray.events.records import GenerativeSample
from xmtl_ray.report import answer_scores, figures, generative_page, model_card
from xmtl_ray.report.lineage import lineage
from xmtl_ray.report.run_folder import Journal, Series, journal_of, tracked
from xmtl_ray.report.templates import render
from xmtl_ray.report.throughput import memory, throughput
from xmtl_ray.tracking.journal import JOURNAL

PAGE, ANSWERS = "report.html", "answers.jsonl"

_COLOURS = ("td", "ae", "vc", "rc", "muted", "ink")


@dataclass(frozen=True)
class Line:
    """One line of a figure."""

    name: str
    colour: str
    """CSS variable."""
    last: float


@dataclass(frozen=True)
class Panel:
    """A figure and what stands above and below it."""

    title: str
    last: str
    figure: Markup
    lines: tuple[Line, ...] = ()


def write_run_pages(folder: Path, config: FinetuneConfig, gold: Sequence[GenerativeSample]) -> Path:
    """Write ``report.html`` and the model's card beside it; returns the page.

    Args:
        folder: the run's.
        config: its settings.
        gold: test samples; empty where it has none. With them, and its answers, the page shows how those were.

    Raises DataError for files that are not a run's.
    """
    journal = journal_of(folder / JOURNAL) if (folder / JOURNAL).exists() else Journal()
    answered = folder / ANSWERS
    found, scores, shown = None, None, dict[str, object]()
    if gold and answered.exists():
        answers, cut = read_answers(answered, gold), read_cut(answered)
        found = generative.report(gold, answers, reason=config.prompt.reason, cut=cut)
        scored = generative.score(gold, answers, config.prompt.reason)
        scores = answer_scores.scores(scored)
        models = tuple(generative_page.MODELS)
        shown = generative_page.sections(scored, found, models, images=_images(config), scores=scores)
    facts = _facts(config, journal) + list(shown.pop("facts", []))  # type: ignore[call-overload]
    sources = lineage(journal, tracked(folder))
    page = render(
        "finetune.html",
        title=config.name,
        status=journal.status,
        facts=facts,
        panels=_panels(journal),
        answered=found is not None,
        throughput=throughput(journal, config.train.global_batch),
        memory=memory(journal),
        sources=sources,
        settings=[(name, "null" if value is None else value) for name, value, _ in leaves(config)],
        **shown,
    )
    (folder / PAGE).write_text(page, encoding="utf-8")
    card = model_card.of_finetuning(config.name, journal.status, facts, found, scores, sources)
    (folder / model_card.NAME).write_text(card, encoding="utf-8")
    return folder / PAGE


def _images(config: FinetuneConfig) -> dict[str, Path]:
    """The image of each test conversation that has one, where it is at hand."""
    test, found = config.data.test, dict[str, Path]()
    if test is None or not test.exists():
        return found
    for one in videollama2.stream(test):
        if one.media is not None and one.media.kind == "image":
            path = inside(config.data.media, one.media.path, test, one.id, "image")
            if path.is_file():
                found[one.id] = path
    return found


def _facts(config: FinetuneConfig, journal: Journal) -> list[tuple[str, str]]:
    spec, train = config.adapter, config.train
    how = (
        "all weights"
        if spec.method == "full"
        else f"{spec.method}, {spec.bits} bits, r {spec.r}, alpha {spec.alpha:g} (outputs × {spec.scale:g})"
        + (", embeddings and output head" if spec.train_embeddings else "")
    )
    facts = [
        ("Base", f"{config.model.path} ({config.model.family})"),
        ("Learns", how + (", and the connector" if config.model.train_connector else "")),
        ("Optimizer", f"AdamW, {train.learning_rate:g}, {train.schedule}, {train.global_batch} conversations a step"),
        ("Engine", f"{config.engine.name}, ZeRO {config.engine.zero_stage}, {max(1, config.cluster.workers)} workers"),
    ]
    if journal.last_step:
        facts.append(("Steps", f"{journal.last_step:,} in {journal.running_s / 60:.1f} minutes"))
    last = {name: list(series.values())[-1] for name, series in journal.metrics.items()}
    if "memory/peak_gib" in last and "memory/planned_gib" in last:
        facts.append(("Memory", f"{last['memory/peak_gib']:.2f} GiB, planned {last['memory/planned_gib']:.2f}"))
    for title, names in (("Dev", "dev"), ("Test", "test")):
        if f"{names}/tr_accuracy" in last:
            sides = f"Tr {last[f'{names}/tr_accuracy']:.1f}, Arg {last[f'{names}/arg_accuracy']:.1f}"
            facts.append((f"{title} accuracy", sides))
    return facts


def _panels(journal: Journal) -> list[Panel]:
    metrics, found = journal.metrics, list[Panel]()
    if loss := metrics.get("train/loss/lm"):
        smoothed = figures.smooth(list(loss.values()), figures.window(len(loss)))[-1]
        drawn = figures.losses("loss-lm", "Training loss by step", {None: loss}, journal.last_step)
        found.append(Panel("loss", f"{smoothed:.3f}", drawn))
    if dev := metrics.get("dev/loss_lm"):
        found.append(_lines("dev loss", {"dev": dev}, f"{_last(dev):.3f}"))
    sides = {"Tr": metrics.get("dev/tr_accuracy"), "Arg": metrics.get("dev/arg_accuracy")}
    states = {name: metrics.get(f"dev/json_{name}") for name in ("ok", "repaired", "malformed")}
    by_language = {
        name.removeprefix("dev/tr_accuracy_"): series
        for name, series in metrics.items()
        if name.startswith("dev/tr_accuracy_")
    }
    for title, group in (("dev accuracy", sides), ("Tr by language", by_language), ("answers", states)):
        drawn_lines = {name: series for name, series in group.items() if series}
        if drawn_lines:
            found.append(_lines(title, drawn_lines, "percent", percent=True))
    if factor := metrics.get("train/learning_rate_factor"):
        found.append(Panel("learning rate", "as a factor on its peak", figures.learning_rate(factor)))
    return found


def _lines(title: str, series: Mapping[str, Series], last: str, percent: bool = False) -> Panel:
    colours = dict(zip(series, _COLOURS, strict=False))
    name = title.replace(" ", "-").lower()
    drawn = figures.lines(name, f"{title} by step", {colours[key]: value for key, value in series.items()}, percent)
    lines = tuple(Line(key, colours[key], _last(value)) for key, value in series.items())
    return Panel(title, last, drawn, lines)


def _last(series: Series) -> float:
    return list(series.values())[-1]
