"""``xmtl`` and the verbs from a world to a report; ``evaluate`` and ``data`` have files of their own."""

from __future__ import annotations

import logging
import os
import sys
import time
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from xmtl_ray.cli import (
    corpus,
    data,
    distill,
    evaluate,
    finetune,
    generate,
    pipeline,
    plan,
    predict,
    registry,
    report,
    submit,
    sweep,
)
from xmtl_ray.cli.console import console, print_scores, user_errors

app = typer.Typer(
    name="xmtl",
    help="Train, extract and score multimedia event extraction models on Ray.\n\nStart with: xmtl demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    rich_markup_mode="markdown",
)
app.add_typer(evaluate.app, name="evaluate")
app.add_typer(data.app, name="data")
app.add_typer(pipeline.app)
app.add_typer(sweep.app)
app.add_typer(distill.app)
app.add_typer(predict.app)
app.add_typer(finetune.app)
app.add_typer(generate.app)
app.add_typer(plan.app)
app.add_typer(corpus.app)
app.add_typer(registry.app)
app.add_typer(report.app)
app.add_typer(submit.app)

Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings on top of the recipe: path.to.field=value", show_default=False)
]
Fresh = finetune.Fresh
RecipeName = Annotated[str, typer.Argument(help="A recipe of the package (xmtl recipes) or a YAML file")]


class Size(StrEnum):
    """How much of a world."""

    SMALL = "small"
    MEDIUM = "medium"
    LARGE = "large"


@app.command(epilog="Example: **xmtl recipes**")
def recipes() -> None:
    """List the recipes of the package."""
    from importlib.resources import files

    from xmtl_ray.config.load import recipes as names

    table = Table(box=None, show_header=False)
    for name in names():
        text = (files("xmtl_ray") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
        table.add_row(f"[bold]{name}[/]", text.splitlines()[0].removeprefix("# "))
    console.print(table)


@app.command(epilog="Example: **xmtl config xmtl train.epochs=3 --explain**")
def config(
    recipe: RecipeName,
    overrides: Overrides = None,
    explain: Annotated[bool, typer.Option("--explain", help="Say what each field means, with its dotted path")] = False,
) -> None:
    """Print the resolved settings of a recipe."""
    from xmtl_ray.config.load import dump, leaves, load_any

    with user_errors():
        resolved = load_any(recipe, overrides or [])
        if not explain:
            typer.echo(dump(resolved), nl=False)
            return
        for path, value, meaning in leaves(resolved):
            typer.echo(f"{path}={'null' if value is None else value}")
            if meaning:
                typer.echo(f"    {meaning}")


@app.command(epilog="Example: **xmtl world /tmp/world --seed 0 --size small**")
def world(
    out: Annotated[Path, typer.Argument(help="Folder to write; must not exist or be empty")],
    seed: Annotated[int, typer.Option(help="The same seed writes the same bytes")] = 0,
    size: Annotated[Size, typer.Option(help="small trains in seconds, medium in a minute or two, large in many")] = (
        Size.MEDIUM
    ),
    pairs: Annotated[int | None, typer.Option(min=1, help="Caption pairs; none: as many as the size has")] = None,
) -> None:
    """Write the miniature news world: a seeded corpus in the layouts of ACE, imSitu + SWiG, VOA and M2E2."""
    from xmtl_ray.data.world import write_world

    with user_errors():
        if out.exists() and any(out.iterdir()):
            raise ValueError(f"{out}: found files in it, expected a new or empty folder")
        counts = write_world(out, seed, size.value, _processes(size), pairs)
        typer.echo(f"{out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))


@app.command(epilog="Example: **xmtl train m2e2_text data.train=DIR data.test=DIR model.text_encoder=FOLDER**")
def train(recipe: RecipeName, overrides: Overrides = None, fresh: Fresh = False) -> None:
    """Train on Ray; then extract from and score `data.test`, and write a report.

    The same `name` again continues a run that was stopped. Everything lies in `storage_path/name`.
    """
    from xmtl_ray.config.load import load

    with user_errors():
        _train(load(recipe, overrides or []), fresh)


@app.command(epilog="Example: **xmtl demo --out demo**")
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the world and the runs")] = Path("demo"),
    workers: Annotated[int, typer.Option(help="Ray Train workers")] = 2,
    size: Annotated[Size, typer.Option(help="Size of the world")] = Size.MEDIUM,
    recipe: Annotated[str, typer.Option(help="Recipe to train")] = "xmtl_demo",
) -> None:
    """From nothing to scores: make a world, train X-MTL's four tasks on Ray, extract, score, report. Offline."""
    started = time.monotonic()
    from xmtl_ray.config.load import load
    from xmtl_ray.data.world import VERSION, version_of, write_world

    with user_errors():
        corpus = out / f"world-{size.value}"
        if (found := version_of(corpus)) not in {None, VERSION}:
            raise ValueError(f"{corpus}: found {found}, expected {VERSION}; delete that folder or give another --out")
        if found is None:
            typer.echo(f"1/3 drawing a {size.value} news world in {corpus}")
            write_world(corpus, 0, size.value, _processes(size))
        name = time.strftime("demo-%Y%m%d-%H%M%S")
        typer.echo(f"2/3 training four tasks with {workers} Ray workers (starting them takes half a minute)")
        settings = [f"name={name}", f"data.root={corpus}", f"storage_path={out / 'runs'}", f"cluster.workers={workers}"]
        _train(load(recipe, settings))
        typer.echo(f"3/3 done in {_clock(time.monotonic() - started)}")


@app.command(epilog="Example: **xmtl sync runs/xmtl**")
def sync(folder: Annotated[Path, typer.Argument(help="A run's folder")]) -> None:
    """Send MLflow what a run could not, because the tracking server was away."""
    with user_errors():
        from xmtl_ray.tracking.run import sync as send

        typer.echo(f"{folder}: {send(folder)} lines sent")


def main() -> None:
    """Entry point of ``xmtl``."""
    logging.basicConfig(format="%(message)s", stream=sys.stderr, level=logging.WARNING)
    logging.getLogger("xmtl_ray").setLevel(logging.INFO)
    submit.check_places(app, sys.argv[1:])
    submit.check_job(app, sys.argv[1:])
    app()


def _train(settings: object, fresh: bool = False) -> None:
    from xmtl_ray.cluster.reach import is_local, shown
    from xmtl_ray.config.schema import Config
    from xmtl_ray.tracking.server import tracking_uri
    from xmtl_ray.training.launch import launch

    assert isinstance(settings, Config)
    summary = launch(settings, fresh)
    if summary["scores"]:
        print_scores(summary["scores"])
    else:
        typer.echo("  ".join(f"{name} {value:.1f}" for name, value in summary["dev"].items()))
    folder = shown(settings.storage_path, settings.name)
    typer.echo(f"report: {folder}/report.html\nmodel:  {folder}/model")
    uri = tracking_uri(settings.tracking.uri, settings.storage_path if is_local(settings.storage_path) else None)
    if settings.tracking.enabled and uri is not None:
        typer.echo(f"MLflow: {f'mlflow server --backend-store-uri {uri}' if uri.startswith('sqlite') else uri}")


def _processes(size: Size) -> int:
    """Starting processes takes longer than drawing a small world."""
    return 1 if size is Size.SMALL else os.cpu_count() or 1


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"
