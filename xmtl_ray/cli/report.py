"""``xmtl report``: one page and one card of a run, a pipeline, a sweep or a model."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Annotated

import typer

from xmtl_ray.cli.console import user_errors

app = typer.Typer()
log = logging.getLogger(__name__)


@app.command(epilog="Example: **xmtl report runs/xmtl**")
def report(
    what: Annotated[str, typer.Argument(help="Folder of a run, pipeline or sweep; or models:/NAME@ALIAS, or NAME")],
    out: Annotated[
        Path | None, typer.Option(help="HTML file to write as well, with the card beside it", show_default=False)
    ] = None,
    tracking: Annotated[
        str | None, typer.Option(help="MLflow that has the model; none: MLFLOW_TRACKING_URI", show_default=False)
    ] = None,
    send: Annotated[bool, typer.Option("--send/--no-send", help="Log page and card to MLflow, where it is tracked")] = (
        True
    ),
) -> None:
    """Write the page of a run, a pipeline, a sweep or a model anew, and its card in Markdown.

    One HTML file that needs neither network nor scripts, in the folder that it is about; where that is tracked, MLflow
    gets both as artifacts. A model's page is that of the run it came from.
    """
    with user_errors():
        folder = Path(what)
        if not folder.is_dir():
            folder = _model(what, tracking)
        page, card = write(folder)
        if send:
            _send(folder, [page, card])
        if out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(page, out)
            card = Path(shutil.copyfile(card, out.with_name(card.name)))
            page = out
        typer.echo(f"{page}\n{card}")


def write(folder: Path) -> tuple[Path, Path]:
    """Page and card of what lies in ``folder``. Raises ValueError where that is nothing that has a page."""
    from xmtl_ray.report import model_card, sweep_page

    if (folder / sweep_page.SUMMARY).exists():
        return sweep_page.write_sweep_page(folder), folder / sweep_page.CARD
    if not (folder / "config.yaml").exists():
        names = ", ".join(sorted(path.name for path in folder.iterdir())[:6]) or "nothing"
        raise ValueError(
            f"{folder}: found {names}, expected config.yaml of a run or a pipeline, or {sweep_page.SUMMARY} of a sweep"
        )
    from xmtl_ray.config.finetune import FinetuneConfig
    from xmtl_ray.config.load import load_any
    from xmtl_ray.data import m2e2, videollama2

    config = load_any(str(folder / "config.yaml"))
    if isinstance(config, FinetuneConfig):
        from xmtl_ray.report.finetune_page import write_run_pages

        test = _there(config.data.test)
        gold = () if test is None else [videollama2.sample(one, test) for one in videollama2.read(test)]
        return write_run_pages(folder, config, gold), folder / model_card.NAME
    from xmtl_ray.report.page import write_report

    test = _there(config.data.test)
    documents = None if test is None else m2e2.read(test, objects=config.data.test_objects)
    return write_report(folder, documents), folder / model_card.NAME


def _there(test: Path | None) -> Path | None:
    """The test data, unless they are on another machine."""
    if test is not None and not test.exists():
        log.warning("data.test: %s is not here, so the page shows scores, but no documents and nothing by type", test)
        return None
    return test


def _send(folder: Path, files: list[Path]) -> None:
    """Log ``files`` through the run's journal. A run that goes on does so itself at its end."""
    from xmtl_ray.tracking.run import STATE, Unsent, log_artifacts

    if not (folder / STATE).exists():
        return
    try:
        if not log_artifacts(folder, [path.name for path in files]):
            log.warning("%s: the run goes on, and logs its page itself when it ends", folder)
    except Unsent as error:
        log.warning("%s; later: xmtl sync %s", error, folder)


def _model(what: str, tracking: str | None) -> Path:
    """A folder with what MLflow has of the run that a model came from. Raises ValueError."""
    from xmtl_ray.tracking.artifacts import is_uri
    from xmtl_ray.tracking.history import fetch_run

    if not is_uri(what) and ("/" in what or what.startswith(".")):
        raise ValueError(f"{what}: found no such folder, expected one of a run, a pipeline or a sweep, or a model")
    return fetch_run(what if is_uri(what) else f"models:/{what}@champion", tracking, Path())
