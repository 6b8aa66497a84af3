"""What the verbs share: the terminal, and how a user's error is told."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import typer
from rich.console import Console
from rich.table import Table

console = Console(highlight=False)


def print_scores(scores: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """A table per protocol: P, R, F1 and the counts."""
    from xmtl_ray.evaluation.summary import metric_label

    for protocol, metrics in scores.items():
        table = Table(title=f"M2E2, protocol {protocol}", title_justify="left")
        table.add_column("")
        for column in ("P", "R", "F1", "correct", "predicted", "gold"):
            table.add_column(column, justify="right", style="bold" if column == "F1" else "")
        for metric, values in metrics.items():
            known = values["predicted"] or values["gold"]
            table.add_row(
                metric_label(metric),
                *(f"{values[column]:.1f}" if known else "–" for column in ("P", "R", "F1")),
                *(f"{values[column]:g}" for column in ("correct", "predicted", "gold")),
            )
        console.print(table)


@contextlib.contextmanager
def user_errors() -> Iterator[None]:
    """What the user can mend is told in a sentence, with exit status 2; a bug keeps its traceback."""
    try:
        yield
    except (ValueError, FileNotFoundError, ConnectionError, ArithmeticError) as error:
        if not type(error).__module__.startswith("xmtl_ray") and type(error) not in {ValueError, FileNotFoundError}:
            raise
        typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
        raise typer.Exit(2) from None
