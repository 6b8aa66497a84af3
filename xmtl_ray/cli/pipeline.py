"""``xmtl run`` and ``xmtl reproduce``: stages that run when they must, and the paper's tables made of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table as Grid

from xmtl_ray.cli.console import console, print_scores, user_errors

if TYPE_CHECKING:
    from xmtl_ray.pipeline.running import Ended, Watcher
    from xmtl_ray.pipeline.stages import Planned
    from xmtl_ray.report.reproduction import Reproduction

app = typer.Typer()


class Table(StrEnum):
    """What of the paper can be done again."""

    TABLE1 = "table1"
    TABLE2 = "table2"
    FIG3 = "fig3"


DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would run and why, and end")]


@app.command(epilog="Example: **xmtl run xmtl_full data.root=FOLDER --dry-run**")
def run(
    recipe: Annotated[str, typer.Argument(help="A recipe of the package (xmtl recipes) or a YAML file")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings on top: path.to.field=value", show_default=False)
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Teachers, pseudo-labels, X-MTL, extraction, scores: each stage runs only if something it depends on changed.

    Stages lie in `storage_path/stages`, where other pipelines of that storage find them, too. The same command again
    goes on where it was stopped.
    """
    with user_errors():
        from xmtl_ray.config.load import load
        from xmtl_ray.data.remote import here
        from xmtl_ray.pipeline.launch import run_pipeline, stages_of
        from xmtl_ray.pipeline.xmtl import chain

        config = here(load(recipe, overrides or []))
        if dry_run:
            print_plan(stages_of(config).plan(chain(config).last))
            return
        with told() as watcher:
            result = run_pipeline(config, watcher)
        if result.scores:
            print_scores(result.scores)
        console.print(f"folder: {result.folder}", soft_wrap=True)
        if not result.good:
            raise typer.Exit(1)


@app.command(epilog="Example: **xmtl reproduce table2 --seeds 1**")
def reproduce(
    what: Annotated[Table, typer.Argument(help="Which of the paper's tables")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings on top, for all rows: path.to.field=value", show_default=False),
    ] = None,
    data: Annotated[
        str, typer.Option(help="world: a medium miniature world is drawn; or a folder that is laid out like one")
    ] = "world",
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each row, with seeds from 0")] = 3,
    out: Annotated[Path, typer.Option(help="Folder for the world, the stages and the result")] = Path("reproduction"),
    recipe: Annotated[
        str | None,
        typer.Option(help="X-MTL's, which the rows vary; xmtl_world for the world, else xmtl_full", show_default=False),
    ] = None,
    row: Annotated[list[str] | None, typer.Option(help="Only this row; may be given again")] = None,
    dry_run: DryRun = False,
) -> None:
    """Do a table of the X-MTL paper again, and check what it claims.

    Every cell is ours, with an interval, beside the paper's. Rows and seeds run side by side and share stages; the same
    command again goes on where it was stopped.
    """
    with user_errors():
        from xmtl_ray.pipeline import reproduce as reproduction
        from xmtl_ray.report.reproduction import write

        if data == reproduction.WORLD and not dry_run:
            with console.status("drawing a medium news world"):
                reproduction.draw(out)
        todo = reproduction.plan(what.value, data, out, seeds, recipe, overrides or [], row or [])
        if dry_run:
            print_plan(todo.planned())
            return
        with told() as watcher:
            found, ended = reproduction.reproduce(todo, watcher)
        pages = write(out, found)
        print_reproduction(found)
        for page in pages:
            console.print(str(page), soft_wrap=True)
        if not all(item.good for item in ended):
            raise typer.Exit(1)


def print_reproduction(found: Reproduction) -> None:
    """Each cell, ours beside the paper's; then what the paper claims."""
    from xmtl_ray.evaluation.seeds import COLUMNS
    from xmtl_ray.report.reproduction import MISSING, column_label, difference

    for protocol in found.protocols:
        table = Grid(title=f"{found.title}; protocol {protocol}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("F1, %\n95 %\npaper")
        for column in COLUMNS:
            short = (
                column_label(column).replace("multimedia", "multi").replace("argument", "arg.").replace("of six", "")
            )
            table.add_column(short.replace(" ", "\n"), justify="right", no_wrap=True)
        for row in found.rows:
            own = [row.f1[protocol][column] if row.f1 else None for column in COLUMNS]
            cells = ["failed" if each is None else f"{each.mean:.1f}\n{each.low:.0f}–{each.high:.0f}" for each in own]
            paper = [row.published(column) for column in COLUMNS]
            beside = ["" if value is None else f"\n[dim]{value:.1f}[/]" for value in paper]
            table.add_row(row.label, *(cell + other for cell, other in zip(cells, beside, strict=True)))
        console.print(table)
    if found.claims:
        table = Grid(title="What the paper claims", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        for head in ("claim", "paper", *(f"ours, {name}" for name in found.protocols), "verdict"):
            table.add_column(head)
        for claim in found.claims:
            ours = [difference(claim.differences[name][claim.column]) for name in found.protocols if claim.differences]
            ours += [""] * (len(found.protocols) - len(ours))
            printed = "" if claim.paper is None else f"{claim.paper:+.1f}"
            table.add_row(claim.text, printed, *ours, f"[bold]{claim.verdict or MISSING}[/]")
        console.print(table)


def print_plan(plan: Sequence[Planned]) -> None:
    """Every stage: what becomes of it, why, and where it is."""
    table = Grid(box=None, pad_edge=False, show_header=False)
    styles = {"done": "green", "runs": "bold", "waits": "yellow"}
    for planned in plan:
        table.add_row(f"[{styles[planned.state]}]{planned.state}[/]", escape(planned.stage.name), escape(planned.why))
    console.print(table)
    counts = {state: sum(planned.state == state for planned in plan) for state in styles}
    console.print(", ".join(f"{count} {state}" for state, count in counts.items()))


@contextmanager
def told() -> Iterator[Watcher]:
    """Prints a line for each thing that happens to a stage, and on a terminal what is going on now beneath them."""
    from xmtl_ray.pipeline.running import Watcher

    started = time.monotonic()
    status = console.status("") if console.is_terminal else None

    def line(text: str) -> None:
        console.print(f"{_clock(time.monotonic() - started)}  {text}", soft_wrap=True)

    def begun(planned: Planned, why: str) -> None:
        line(f"{escape(planned.stage.name)} begins: {escape(why)}")

    def ended(item: Ended) -> None:
        name, log = escape(item.planned.stage.name), escape(str(item.planned.log))
        match item.how:
            case "done":
                line(f"[green]{name} done[/] in {_clock(item.seconds)}")
            case "before":
                line(f"{name} was done before")
            case "elsewhere":
                line(f"{name} was done by another process meanwhile")
            case "failed":
                line(f"[red]{name} failed[/]: {escape(item.why)}\n       log: {log}")
            case "left":
                line(f"[yellow]{name} left out[/]: {escape(item.why)}")

    def waiting(planned: Planned, who: str) -> None:
        line(f"{escape(planned.stage.name)} waits for {escape(who)}, which works on it")

    def tick(running: Sequence[Planned], count: int, of: int) -> None:
        if status is not None:
            now = [f"{planned.stage.name}: {_last_line(planned.log)}" for planned in running]
            status.update(escape("\n".join([f"{count} of {of} stages", *now])))

    watcher = Watcher(begun, waiting, ended, tick)
    if status is None:
        yield watcher
    else:
        with status:
            yield watcher


def _last_line(path: Path) -> str:
    """What a stage said last."""
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - 500))
            lines = file.read().decode(errors="replace").split("\n")
    except FileNotFoundError:
        return ""
    return next((text[:100] for text in reversed(lines) if text.strip()), "")


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:3d}:{int(seconds) % 60:02d}"
