"""``xmtl corpus``: write the synthetic corpus of generative event extraction."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from xmtl_ray.cli.console import user_errors

app = typer.Typer()


class CorpusSize(StrEnum):
    """How much of the corpus."""

    SMALL = "small"
    PAPER = "paper"


@app.command(epilog="Example: **xmtl corpus /tmp/corpus --size small --pretraining 2000**")
def corpus(
    out: Annotated[Path, typer.Argument(help="Folder to write; must not exist or be empty")],
    size: Annotated[
        CorpusSize, typer.Option(help="small: 400 records, in seconds; paper: the paper's 5,728, in a minute")
    ] = CorpusSize.PAPER,
    seed: Annotated[int, typer.Option(help="The same seed writes the same bytes")] = 0,
    pretraining: Annotated[
        int,
        typer.Option(
            min=0,
            help="Conversations that teach no event (copying, describing pictures), into OUT/pretraining: "
            "for a language model that starts from nothing",
        ),
    ] = 0,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Processes that draw; none: one per core. Changes no byte")
    ] = None,
) -> None:
    """Write a synthetic corpus of event extraction from texts, pictures and videos in four languages.

    English, Spanish, Russian and Chinese in the proportions of the paper's data set, which is not public: train, dev
    and test parts as VideoLLaMA2 reads them, with samples for `xmtl evaluate generative`. Nothing in it is real; its
    README says what it is.
    """
    from xmtl_ray.data.corpus import write_corpus
    from xmtl_ray.data.corpus_pretraining import write_pretraining

    with user_errors():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(f"{out}: found a file or files in it, expected a new or empty folder")
        # Starting processes takes longer than drawing a small corpus.
        side_by_side = processes or (1 if size is CorpusSize.SMALL else os.cpu_count() or 1)
        counts = write_corpus(out, seed, size.value, side_by_side)
        typer.echo(f"{out}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
        if pretraining:
            folder = out / "pretraining"
            counts = write_pretraining(folder, seed, pretraining, side_by_side, out)
            typer.echo(f"{folder}: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
