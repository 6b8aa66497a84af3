"""``xmtl evaluate``: predictions against gold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from xmtl_ray.cli.console import console, print_scores, user_errors

if TYPE_CHECKING:
    from xmtl_ray.evaluation.generative import Report

app = typer.Typer(help="Score predictions against gold.", no_args_is_help=True)


@app.command("m2e2", epilog="Example: **xmtl evaluate m2e2 --gold DIR --pred predictions.json --json**")
def evaluate_m2e2(
    gold: Annotated[Path, typer.Option(help="Folder with M2E2's five files")],
    pred: Annotated[Path, typer.Option(help="Prediction file (m2e2-pred-1)")],
    protocol: Annotated[list[str] | None, typer.Option(help="table or strict; may be given again; none: both")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object")] = False,
) -> None:
    """Score a prediction file by the M2E2 benchmark's protocols."""
    with user_errors():
        from xmtl_ray.data import m2e2
        from xmtl_ray.evaluation.m2e2 import REPORTED, tables
        from xmtl_ray.events import predictions as prediction_files

        scores = tables(m2e2.read(gold), prediction_files.read(pred), protocol or REPORTED)
        if as_json:
            typer.echo(json.dumps(scores, indent=1))
        else:
            print_scores(scores)


@app.command("generative", epilog="Example: **xmtl evaluate generative --gold samples.jsonl --pred answers.jsonl**")
def evaluate_generative(
    gold: Annotated[Path, typer.Option(help="Samples with their events (JSON lines)")],
    pred: Annotated[Path, typer.Option(help="Answers, {id, output} each (JSON lines)")],
    examples: Annotated[int, typer.Option(min=0, help="Examples shown of each kind of error")] = 3,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object")] = False,
) -> None:
    """Score a language model's answers: trigger and argument accuracy by language, and what went wrong.

    A sample without an answer counts as a malformed one.
    """
    with user_errors():
        from xmtl_ray.evaluation.generative import report
        from xmtl_ray.events.answers import read_answers, read_samples

        samples = read_samples(gold)
        found = report(samples, read_answers(pred, samples), examples)
        if as_json:
            typer.echo(json.dumps(found, indent=1, ensure_ascii=False))
        else:
            _print_answers(found)


def _print_answers(found: Report) -> None:
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
    console.print(f"{found['samples']} samples: {states}{missing}")
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


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
