"""What the verbs share: the terminal, and how a user's error is told."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

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


class _Rate(ProgressColumn):
    """Items in a second, or in a minute where that is less than one."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed or task.completed / (task.elapsed or 1)
        if not speed:
            return Text("")
        return Text(f"{speed:.1f}/s" if speed >= 1 else f"{60 * speed:.1f}/min")


@contextlib.contextmanager
def progress_bar(verb: str) -> Iterator[Callable[[int, int], None]]:
    """On the error stream: gives what is to be told items done, first 0, and all items; a bar is shown from then on."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Rate(), TimeRemainingColumn()
    bar = Progress(*columns, console=Console(stderr=True))
    task = bar.add_task(verb, total=None)
    with contextlib.ExitStack() as shown:

        def progress(done: int, of: int) -> None:
            if done == 0:
                shown.enter_context(bar)
            bar.update(task, completed=done, total=of)

        yield progress


def many(count: int, noun: str) -> str:
    """``1 document``, ``2,000 documents``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


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
