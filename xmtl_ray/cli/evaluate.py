"""``xmtl evaluate``: predictions against gold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from xmtl_ray.cli.console import print_scores, user_errors

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
