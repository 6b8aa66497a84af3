"""``xmtl evaluate``: predictions against gold."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from xmtl_ray.cli.console import console, user_errors

if TYPE_CHECKING:
    from xmtl_ray.evaluation.generative import Report
    from xmtl_ray.evaluation.published import Row
    from xmtl_ray.evaluation.summary import Summary
    from xmtl_ray.events.predictions import Predictions
    from xmtl_ray.events.records import DataError

app = typer.Typer(help="Score predictions against gold.", no_args_is_help=True)


@app.command("m2e2", epilog="Example: **xmtl evaluate m2e2 --gold DIR --pred predictions.json --html scores.html**")
def evaluate_m2e2(
    gold: Annotated[Path, typer.Option(help="Folder with M2E2's five files")],
    pred: Annotated[Path, typer.Option(help="Prediction file (m2e2-pred-1)")],
    protocol: Annotated[
        list[str] | None, typer.Option(help="E.g. table or strict; may be given again; none: all, side by side")
    ] = None,
    against: Annotated[
        Path | None, typer.Option(help="Another system's prediction file: a paired test of the difference")
    ] = None,
    intervals: Annotated[
        bool | None,
        typer.Option(
            help="Bootstrap intervals over documents; by default in tables and not in JSON", show_default=False
        ),
    ] = None,
    lenient: Annotated[
        bool, typer.Option("--lenient", help="Count what is malformed or unknown as wrong and list it; else refuse it")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object: protocol, metric, counts")] = False,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables as Markdown")] = None,
    html: Annotated[Path | None, typer.Option(help="Write a page with the errors shown in place")] = None,
    images: Annotated[Path | None, typer.Option(help="Image files for the page; none: DIR/image")] = None,
) -> None:
    """Score a prediction file by the M2E2 benchmark's protocols, side by side.

    Inflation is what a protocol's F1 has over that of strict.
    """
    with user_errors():
        from xmtl_ray.data import m2e2
        from xmtl_ray.evaluation.protocols import SIDE_BY_SIDE
        from xmtl_ray.evaluation.summary import summarise
        from xmtl_ray.events.predictions import check, read

        documents = m2e2.read(gold, images)
        problems: list[DataError] = []

        def predictions_of(path: Path) -> Predictions:
            found = read(path, problems.append if lenient else None)
            unknown = check(path, found, documents)
            if unknown and not lenient:
                more = f"\n({len(unknown) - 1} more; --lenient counts them as wrong)" if unknown[1:] else ""
                raise ValueError(f"{unknown[0]}{more}")
            problems.extend(unknown)
            return found

        predictions = predictions_of(pred)
        own_problems = tuple(problems)
        other = None if against is None else predictions_of(against)
        shown = intervals if intervals is not None else not as_json
        summary = summarise(documents, predictions, protocol or SIDE_BY_SIDE, shown, other)
        name, rival = pred.stem, None if against is None else against.stem
        if markdown is not None or html is not None:
            from xmtl_ray.report import score_page

            if markdown is not None:
                markdown.write_text(score_page.markdown(name, summary, rival), encoding="utf-8")
            if html is not None:
                score_page.write_page(html, name, documents, predictions, summary, own_problems, rival)
        for problem in problems[:20]:
            typer.secho(f"counted as wrong: {problem}", err=True, fg=typer.colors.YELLOW)
        if problems[20:]:
            typer.secho(f"and {len(problems) - 20} more", err=True, fg=typer.colors.YELLOW)
        if as_json:
            body = {name: {row.metric: row.as_dict() for row in rows} for name, rows in summary.items()}
            typer.echo(json.dumps(body, indent=1))
        else:
            _print_summary(summary, rival, detailed=protocol)


@app.command("baseline", epilog="Example: **xmtl evaluate baseline gold-same-type --gold DIR --out baseline.json**")
def evaluate_baseline(
    name: Annotated[str, typer.Argument(help="empty, gold-same-type, gold-all-pairs or gold-majority")],
    gold: Annotated[Path, typer.Option(help="Folder with M2E2's five files")],
    out: Annotated[Path, typer.Option(help="Prediction file to write")],
) -> None:
    """Write the predictions of a baseline without a model, to be scored like any system's."""
    with user_errors():
        from xmtl_ray.data import m2e2
        from xmtl_ray.evaluation.baselines import BASELINES
        from xmtl_ray.events import predictions as prediction_files

        if name not in BASELINES:
            raise ValueError(f"baseline: found {name!r}, expected one of {', '.join(BASELINES)}")
        prediction_files.write(out, BASELINES[name](m2e2.read(gold)), baseline=name)
        typer.echo(str(out))


def _print_summary(summary: Summary, rival: str | None, detailed: list[str] | None) -> None:
    """Details of the asked protocols, or of table and strict and then all side by side."""
    from xmtl_ray.evaluation.m2e2 import REPORTED
    from xmtl_ray.evaluation.summary import BASIS

    for protocol in detailed or REPORTED:
        table = _plain_table(f"M2E2, protocol {protocol}")
        columns = ["P", "R", "F1", "95 %", "correct/\npred./gold"]
        columns += ["infla-\ntion"] if protocol != BASIS else []
        columns += [f"against\n{rival}", "p"] if rival else []
        for column in columns:
            table.add_column(column, justify="right", no_wrap=True, style="bold" if column == "F1" else "")
        for row in summary[protocol]:
            counts = row.counts
            known = counts.predicted or counts.gold
            percent = [f"{x:.1f}" if known else "–" for x in (counts.precision, counts.recall, counts.f1)]
            ends = "" if row.interval is None or not known else f"{row.interval[0]:.1f}–{row.interval[1]:.1f}"
            cells = [row.label, *percent, ends, f"{counts.correct}/{counts.predicted}/{counts.gold}"]
            cells += [f"{row.inflation:+.1f}"] if protocol != BASIS else []
            cells += [f"{row.difference.f1:+.1f}", f"{row.difference.p:.3f}"] if row.difference else []
            table.add_row(*cells)
        console.print(table)
    if detailed:
        return
    table = _plain_table("F1 under each protocol, and what it has over strict's")
    for protocol in summary:
        # Broken where a name has parts, so that seven protocols fit a narrow terminal.
        table.add_column(protocol.replace("_", "_\n").replace("-", "-\n"), justify="right", no_wrap=True)
    for rows in zip(*summary.values(), strict=True):
        own = [f"{row.counts.f1:.1f}" + (f"\n{row.inflation:+.1f}" if round(row.inflation, 1) else "") for row in rows]
        table.add_row(rows[0].label, *own)
    console.print(table)


def _plain_table(title: str) -> Table:
    """Without lines between columns; the first, of labels, is never broken."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("", no_wrap=True)
    return table


@app.command("generative", epilog="Example: **xmtl evaluate generative --gold samples.jsonl --pred answers.jsonl**")
def evaluate_generative(
    gold: Annotated[Path, typer.Option(help="Samples with their events (JSON lines)")],
    pred: Annotated[Path, typer.Option(help="Answers, {id, output} each (JSON lines)")],
    examples: Annotated[int, typer.Option(min=0, help="Examples shown of each kind of error")] = 3,
    reasoned: Annotated[
        bool, typer.Option("--reasoned", help="Answers were to reason before the JSON; that counts apart from repairs")
    ] = False,
    only_gold: Annotated[
        bool, typer.Option("--only-gold", help="Leave answers out that have no gold, instead of refusing them")
    ] = False,
    beside: Annotated[
        str | None, typer.Option(help="Paper B's figures of videollama2 or videollama21, beside these")
    ] = None,
    same_data: Annotated[
        bool, typer.Option("--same-data", help="The samples are the paper's own: 80 in each of four languages")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with all of it, examples in full")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object")] = False,
) -> None:
    """Score a language model's answers: trigger and argument accuracy by language, and what went wrong.

    A sample without an answer counts as a malformed one.
    """
    with user_errors():
        from xmtl_ray.evaluation import published
        from xmtl_ray.evaluation.generative import score, summary
        from xmtl_ray.events.answers import read_answers, read_cut, read_samples

        samples = read_samples(gold)
        scored = score(samples, read_answers(pred, samples, only_gold), reasoned)
        found = summary(scored, examples, reason=reasoned, cut=read_cut(pred))
        note = published.data_note(found, same_data)
        rows = None if beside is None else published.beside(found, beside)
        if html is not None:
            from xmtl_ray.report import generative_page

            models = tuple(published.published()) if beside is None else (beside,)
            generative_page.write_page(html, pred.stem, scored, found, models, same_data=same_data, shown=examples)
        if as_json:
            compared = {} if rows is None else {"beside": {"model": beside, "note": note, "rows": [*map(asdict, rows)]}}
            typer.echo(json.dumps({**found, **compared}, indent=1, ensure_ascii=False))
            return
        print_answers(found)
        if rows is not None:
            _print_beside(rows, str(beside), note)


def print_answers(found: Report) -> None:
    """Accuracies and pooled scores, states, and kinds of error with examples, as tables."""
    sides = ("trigger", "argument")
    table = Table(title="Accuracy, % (Eq. 9-10), and pooled over all items", title_justify="left")
    table.add_column("")
    for column in ("Tr", "Arg", "Tr P", "R", "F1", "Arg P", "R", "F1"):
        table.add_column(column, justify="right", style="bold" if column in {"Tr", "Arg"} else "")
    for name in found["pooled"]["trigger"]:
        group = {side: found[side][name] for side in sides}
        pooled = [found["pooled"][side][name] for side in sides]
        table.add_row(
            "all samples" if name == "all" else name,
            *(_percent(group[side]["accuracy_mean_of_samples"]) for side in sides),
            *(f"{scores[column]:.1f}" for scores in pooled for column in ("P", "R", "F1")),
        )
    table.add_section()
    table.add_row("their mean", *(_percent(found[side]["overall_mean_of_languages"]) for side in sides))
    for name, group in found["modalities"].items():
        table.add_row(name, *(_percent(group[side]["accuracy_mean_of_samples"]) for side in sides))
    console.print(table)
    states = ", ".join(f"{count} {state}" for state, count in found["states"].items())
    missing = f" (of them without an answer: {found['missing']})" if found["missing"] else ""
    cut = found["rates"]["all"].get("cut")
    stopped = "" if cut is None else f"; cut by a limit on tokens: {_percent(cut)} %"
    console.print(f"{found['samples']} samples: {states}{missing}{stopped}")
    if not found["categories"]:
        return
    languages = found["errors"]["by_language"]
    table = Table(title="Samples that show an error", title_justify="left")
    table.add_column("")
    for column in ("all", *languages):
        table.add_column(column, justify="right")
    for kind, count in found["categories"].items():
        table.add_row(kind, str(count), *(str(kinds.get(kind, 0)) for kinds in languages.values()))
        for detail, own in found["errors"]["details"].get(kind, {}).items():
            table.add_row(f"  {detail}", str(own))
    console.print(table)
    for kind, shown in found["errors"]["examples"].items():
        for example in shown:
            told = " → ".join(part for part in (example["found"], example["expected"]) if part) or "no answer"
            # What a model writes must not steer the terminal.
            plain = "".join(letter if letter.isprintable() else " " for letter in f"{example['id']}: {told}")
            console.print(f"[bold]{kind}[/] {escape(plain)}")


def _print_beside(rows: Sequence[Row], model: str, note: str) -> None:
    """Own accuracies beside the published ones; the note on the data always stands with them."""
    from xmtl_ray.evaluation.published import SETTINGS

    table = Table(title=f"Beside {model} as published, accuracy, %", title_justify="left", caption_justify="left")
    table.add_column("")
    for setting in ("own", *SETTINGS):
        for side in ("Tr", "Arg"):
            table.add_column(f"{setting}\n{side}", justify="right", style="bold" if setting == "own" else "")
    for row in rows:
        pairs = [row.own, *(row.published.get(setting) for setting in SETTINGS)]
        cells = [value for pair in pairs for value in ((None, None) if pair is None else (pair.trigger, pair.argument))]
        table.add_row(row.language, *(_percent(cell, 2) for cell in cells), end_section=row is rows[-2])
    console.print(table)
    console.print(note)


def _percent(value: float | None, decimals: int = 1) -> str:
    return "–" if value is None else f"{value:.{decimals}f}"
