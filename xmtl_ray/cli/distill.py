"""``xmtl pseudo-label``: teachers label image-text pairs, and a page shows which labels a threshold keeps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xmtl_ray.cli.console import console, progress_bar, user_errors

if TYPE_CHECKING:
    from xmtl_ray.distill.pseudo_label import Counts

app = typer.Typer()


@app.command("pseudo-label", epilog="Example: **xmtl pseudo-label xmtl data.pairs.source=voa --out labels**")
def pseudo_label(
    recipe: Annotated[
        str | None, typer.Argument(help="A recipe of the package (xmtl recipes) or a YAML file", show_default=False)
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings on top of the recipe: distill.teachers.td=FOLDER (ae, vc, rc too), distill.actors=4, …",
            show_default=False,
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Store to fill; the same again goes on where it stopped")] = None,
    report: Annotated[
        Path | None, typer.Option(help="No labelling: write a page about this store, by filters alone")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Page that --report writes; none: report.html in the store")] = None,
    remove: Annotated[
        str | None,
        typer.Option(help="No labelling: take pairs out of --out whose id or image matches this pattern, like 'VOA_*'"),
    ] = None,
    world: Annotated[
        Path | None, typer.Option(help="With --report: the world of the pairs, for its truth; none: beside the source")
    ] = None,
) -> None:
    """Label image-text pairs with trained teachers, on Ray; every answer is kept with its probability.

    `xmtl pseudo-label --report STORE` shows what each threshold keeps; `--remove PATTERN --out STORE` takes a
    source out.
    """
    with user_errors():
        if report is not None:
            if recipe is not None or out is not None:
                raise ValueError("--report: found with RECIPE or --out, expected STORE alone: labelling is another run")
            from xmtl_ray.report.pseudo_page import write_pseudo_page

            typer.echo(str(write_pseudo_page(html or report / "report.html", report, world)))
            return
        if remove is not None:
            if recipe is not None or out is None:
                raise ValueError("--remove: expected --out STORE, and no RECIPE: labelling is another run")
            from xmtl_ray.data.pseudo_removal import remove as take_out

            done = take_out(out, remove)
            typer.echo(
                f"{out}: {done.pairs} pairs taken out, {done.left} left; the store is {done.after[:12]}… now\n"
                f"models whose tag sha256.pseudo.store begins with {done.before[:12]} have learnt from them"
            )
            return
        if recipe is None or out is None:
            raise ValueError("expected RECIPE and --out STORE to label, or --report STORE to look at labels")
        from xmtl_ray.config.load import load

        settings = load(recipe, overrides or [])
        from xmtl_ray.distill.pseudo_label import label

        with progress_bar("labelling") as progress:
            counts = label(settings, out, progress)
        _tell(out, counts)


def _tell(store: Path, counts: Counts) -> None:
    console.print(
        f"{store}: {counts.pairs} pairs: {counts.labelled} labelled, {counts.asked} of them with roles (their sides "
        f"agree); {counts.quarantined} are in {store / 'quarantine.jsonl'}\n"
        f"{counts.new} labelled now in {counts.seconds:.0f} s; actors waited {100 * counts.waiting:.0f} % of it\n"
        f"look at it: xmtl pseudo-label --report {store}\n"
        f"learn from it: xmtl train RECIPE multitask.strategy=xmtl multitask.pseudo.store={store}",
        soft_wrap=True,
        markup=False,
    )
