"""A model's card: what it is, what it learnt from, how good and how sure it is, in Markdown.

The order is that of model cards elsewhere (Mitchell et al., 2019): details, intended use, evaluation, limits, origin.
It says nothing that the page beside it does not show.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from xmtl_ray.evaluation.published import OVERALL
from xmtl_ray.evaluation.summary import metric_label
from xmtl_ray.report.calibration import Reliability
from xmtl_ray.report.judged import Judged
from xmtl_ray.report.lineage import Source
from xmtl_ray.report.measured import Cell, Measured
from xmtl_ray.report.run_folder import RunFolder

if TYPE_CHECKING:
    from xmtl_ray.evaluation.generative import Report
    from xmtl_ray.report.answer_scores import Scores as AnswerScores
    from xmtl_ray.report.answer_scores import Side
    from xmtl_ray.report.page import ScoreRow

NAME = "MODEL_CARD.md"
_WEAKEST = 3


def of_run(
    run: RunFolder,
    facts: Sequence[tuple[str, str]],
    scores: Sequence[ScoreRow],
    judged: Judged | None,
    labels: Sequence[Reliability],
    sources: Sequence[Source],
    documents: int,
) -> str:
    """The card of an X-MTL run or pipeline; see ``page.write_report`` for the arguments."""
    tasks = ", ".join(run.config.multitask.tasks)
    lines = [
        *_head(run.config.name, run.journal.status),
        f"A model of the tasks {tasks} for news documents: sentences",
    ]
    lines[-1] += " and images in, event triggers, arguments, visual events with boxes and pairs of the same event out."
    lines += [
        "Made by xmtl_ray; its page, with examples, is `report.html` beside this file.", "",
        "## Details", "", *_items(facts), "",
        "## Use", "",
        "Meant for extracting the event types of the M2E2 ontology from English news with photographs. Not meant for",
        "decisions about people, for other genres or languages, or for event types outside that ontology.", "",
        "## Scores", "",
    ]  # fmt: skip
    lines += _scores(run, scores, judged, documents)
    if judged is not None:
        under = "F1 under strict"
        lines += _measured("Event types", ("text events", "visual events"), judged.types, under)
        lines += _measured("Roles", ("text arguments", "visual arguments"), judged.roles, under)
    sure = [
        ("teachers, on pseudo-labelled pairs", labels),
        ("this model, on test documents", judged.reliability if judged else ()),
    ]
    rows = [
        [
            who,
            one.task,
            one.what,
            f"{one.found.count:,}",
            f"{one.found.confidence:.3f}",
            f"{one.found.accuracy:.3f}",
            f"{one.found.error:.3f}",
        ]
        for who, found in sure
        for one in found
    ]
    if rows:
        heads = ["whose", "task", "answers", "count", "mean confidence", "share right", "ECE"]
        lines += ["## Calibration", "", *table(heads, rows), ""]
    lines += ["## Limits", "", *(f"- {text}" for text in _limits(run, judged)), ""]
    return "\n".join([*lines, *_origin(sources)])


def of_finetuning(
    title: str,
    status: str | None,
    facts: Sequence[tuple[str, str]],
    found: Report | None,
    scores: AnswerScores | None,
    sources: Sequence[Source],
) -> str:
    """The card of a fine-tuned language model; ``found`` and ``scores`` are of its answers to test conversations."""
    lines = [
        *_head(title, status),
        "A language model that reads a text, an image or a video and writes the events in it as JSON.",
        "Made by xmtl_ray; its page, with examples, is `report.html` beside this file.", "",
        "## Details", "", *_items(facts), "",
        "## Use", "",
        "Meant for extracting events from material like that which it was fine-tuned on. It may write events that the",
        "material does not tell; not meant for decisions about people.", "",
        "## Scores", "",
    ]  # fmt: skip
    if found is None or scores is None:
        lines += ["No test conversations have been answered.", ""]
    else:
        rows = []
        for line in scores.lines:
            rates = found["rates"].get(line.name)
            formed = (
                ("–", "–", "–")
                if rates is None
                else (f"{rates['samples']:,}", f"{rates['ok']:.1f}", f"{rates['malformed']:.1f}")
            )
            name = "mean of languages" if line.name == OVERALL else line.name
            rows.append([name, *(told for side in line.sides for told in _side(side)), *formed])
        heads = ["group", "Tr", "trigger F1", "Arg", "argument F1", "samples", "valid JSON, %", "malformed, %"]
        lines += [*table(heads, rows), ""]
        lines += [
            "Tr and Arg: accuracies of Eq. 9 and 10, means over samples; F1: pooled; percent, with 95 % bootstrap"
        ]
        lines += ["intervals over samples.", ""]
        lines += _measured("Event types", ("triggers", "arguments"), scores.types, "F1")
        lines += _measured("Roles", ("arguments",), scores.roles, "F1")
        if found["categories"]:
            kinds = ", ".join(f"{kind.replace('_', ' ')} {count:,}" for kind, count in found["categories"].items())
            lines += [f"Samples that show an error: {kinds}.", ""]
    lines += [
        "## Limits",
        "",
        "- Accuracies count what is missing, not what is too much: see F1.",
        "",
    ]
    return "\n".join([*lines, *_origin(sources)])


def _side(side: Side) -> Iterator[str]:
    """Accuracy and F1, each with its interval."""
    for value, ends in (
        (side.accuracy, side.accuracy_interval),
        (None if side.counts is None else side.counts.f1, side.interval),
    ):
        yield "–" if value is None else f"{value:.1f}" + (f" ({ends[0]:.1f}–{ends[1]:.1f})" if ends else "")


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Markdown lines.

    >>> table(["a", "b"], [["1", "x|y"]])
    ['| a | b |', '|---|---|', '| 1 | x\\\\|y |']
    """

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(_plain(cell).replace("|", "\\|") for cell in cells) + " |"

    return [line(heads), "|" + "---|" * len(heads), *(line(row) for row in rows)]


def _head(title: str, status: str | None) -> list[str]:
    told = []
    if status is not None and status != "FINISHED":
        told = [f"**The run is {status.lower()}: what follows is as far as it came.**", ""]
    return [f"# {_plain(title)}", "", *told]


def _items(pairs: Iterable[tuple[str, str]]) -> list[str]:
    return [f"- {_plain(name)}: {_plain(value)}" for name, value in pairs]


def _scores(run: RunFolder, rows: Sequence[ScoreRow], judged: Judged | None, documents: int) -> list[str]:
    if not rows:
        return ["No test documents have been scored.", ""]
    lines = [
        f"M2E2 format, {documents} test documents, F1 in percent with 95 % bootstrap intervals over documents.",
        "",
    ]
    protocols = list(run.scores or {})
    body = []
    for row in rows:
        cells = [metric_label(row.metric)]
        for protocol, counts in ((name, (run.scores or {})[name].get(row.metric)) for name in protocols):
            ends = (judged.intervals if judged else {}).get(protocol, {}).get(row.metric)
            if counts is None or not counts.known:
                cells.append("–")
            else:
                cells.append(f"{counts.F1:.1f}" + (f" ({ends[0]:.1f}–{ends[1]:.1f})" if ends else ""))
        body.append(cells)
    return [*lines, *table(["", *protocols], body), ""]


def _measured(title: str, heads: Sequence[str], rows: Sequence[Measured], what: str) -> list[str]:
    def told(cell: Cell) -> str:
        counts = cell.counts
        ends = "" if cell.interval is None else f", {cell.interval[0]:.1f}–{cell.interval[1]:.1f}"
        return f"{counts.f1:.1f} ({counts.correct}/{counts.predicted}/{counts.gold}{ends})" if cell.known else "–"

    if not rows:
        return []
    body = [[row.name, *map(told, row.cells)] for row in rows]
    return [f"### {title}", "", *table(["", *heads], body), "", f"{what} (correct/predicted/gold, 95 %).", ""]


def _limits(run: RunFolder, judged: Judged | None) -> list[str]:
    found = ["Selected on dev scores; the test documents were not looked at while training."]
    if judged is not None:
        for what, rows in (("event types", judged.types), ("roles", judged.roles)):
            weakest = sorted((row for row in rows if row.whole.gold), key=lambda row: row.whole.f1)[:_WEAKEST]
            if weakest:
                told = ", ".join(f"{row.name} ({row.whole.f1:.1f})" for row in weakest)
                found.append(f"Weakest {what} by F1 over both sides: {told}.")
        if judged.other_documents:
            found.append("Scores by type were counted on other documents than the scores above.")
    if run.config.multitask.strategy == "xmtl":
        found.append("Learnt partly from pseudo-labels: errors of its teachers that pass the threshold are in it.")
    return found


def _origin(sources: Sequence[Source]) -> list[str]:
    body = [
        [
            source.what,
            source.value + (f" ({source.note})" if source.note else ""),
            f"`{source.hash}`" if source.hash else "",
        ]
        for source in sources
    ]
    return ["## Where it comes from", "", *table(["what", "which", "hash"], body), ""] if body else []


def _plain(text: str) -> str:
    """On one line, and no markup of HTML."""
    return " ".join(text.split()).replace("<", "&lt;")
