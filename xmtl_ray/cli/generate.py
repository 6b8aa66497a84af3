"""``xmtl generate`` and ``xmtl merge``: answers of a generative model, and an adapter made one with its base."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from xmtl_ray.cli.console import console, many, progress_bar, user_errors
from xmtl_ray.cli.places import Brought, place

if TYPE_CHECKING:
    from xmtl_ray.config.finetune import FinetuneConfig
    from xmtl_ray.serving.answer import Counts

app = typer.Typer()

SECTIONS = ("generation.", "prompt.")
"""Settings that may be changed where answers are written; others are the model's own."""


class Bits(StrEnum):
    """Of a weight."""

    FOUR = "4"
    EIGHT = "8"
    SIXTEEN = "16"


class SchemaName(StrEnum):
    """Where event types and roles are taken from."""

    M2E2 = "m2e2"
    EXAMPLES = "examples"


class Dtype(StrEnum):
    """Of a merged checkpoint's weights."""

    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


Tracking = Annotated[
    str | None, typer.Option(help="MLflow's tracking URI, for a model there; default: MLFLOW_TRACKING_URI")
]


@app.command(epilog="Example: **xmtl generate runs/videollama2/model test.json --out answers.jsonl --greedy --gpu**")
def generate(
    model: Annotated[
        str,
        typer.Argument(
            help="Folder of a base checkpoint, an adapter or a fine-tuned checkpoint, or a URI of MLflow: "
            "models:/NAME@ALIAS, models:/NAME/3, runs:/ID/model"
        ),
    ],
    conversations: Annotated[
        Path,
        typer.Argument(
            help="Conversations in VideoLLaMA2's layout; their answers are not shown to the model. A file, or its URI: "
            "then its folder is fetched, for media lie there",
            parser=place,
            metavar="CONVERSATIONS",
        ),
    ],
    out: Annotated[Path, typer.Option(help="File to write; the same command again goes on where it stopped")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings on top of the model's: generation.constrained=spans, generation.batch=16, "
            "prompt.instruction=ours, prompt.shots=3, …",
            show_default=False,
        ),
    ] = None,
    media: Annotated[
        Path | None,
        typer.Option(help="Folder of images and videos, or its URI; none: the file's", parser=place, metavar="PLACE"),
    ] = None,
    base: Annotated[Path | None, typer.Option(help="Where an adapter's base lies now; default: where it lay")] = None,
    bits: Annotated[Bits | None, typer.Option(help="Of a weight; default: as an adapter was trained, else 16")] = None,
    examples: Annotated[
        Path | None,
        typer.Option(
            help="Training conversations, or their URI: for prompt.shots, and for the schema that they have",
            parser=place,
            metavar="PLACE",
        ),
    ] = None,
    schema: Annotated[
        SchemaName | None,
        typer.Option(help="Event types and roles; default: those the model was trained on, else the examples'"),
    ] = None,
    samples: Annotated[
        Path | None, typer.Option(help="Gold to write for the scorer; default: OUT.gold.jsonl, if there is any")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Page to write: scores and errors; needs gold answers")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="As generation.greedy=true: no sampling")] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of sampling, and of the choice of examples")] = 0,
    actors: Annotated[
        int | None,
        typer.Option(min=0, help="Ray actors; 0: this process; default: from 100 records on 2, or one for each GPU"),
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="A GPU for each actor, or for this process")] = False,
    skip_bad: Annotated[
        bool, typer.Option("--skip-bad", help="Leave out records whose medium cannot be read, and say which")
    ] = False,
    tracking: Tracking = None,
) -> None:
    """Answer conversations with a generative model: zero-shot, with examples in the prompt, or fine-tuned.

    Only the first prompt of each is put to the model. OUT has a JSON line for each, `id`, `output`, `cut`, in the
    file's order; it is the same for any number of actors. `generation.constrained=schema` lets the model write
    nothing but event JSON of the schema; `spans` makes it quote the text besides.
    """
    with user_errors():
        from xmtl_ray.serving.answer import answer

        brought = Brought()
        folder = _folder(model, tracking)
        config = _config(folder, [*(overrides or []), *(["generation.greedy=true"] if greedy else [])])
        with progress_bar("answering") as progress:
            counts = answer(
                folder,
                brought.file(conversations, alone=media is not None),
                out,
                config,
                media=None if media is None else brought.folder(media),
                base=base,
                bits=None if bits is None else cast(Literal[4, 8, 16], int(bits)),
                examples=None if examples is None else brought.file(examples, alone=True),
                schema=None if schema is None else schema.value,
                gold=samples,
                actors=actors,
                gpu=gpu,
                seed=seed,
                skip_bad=skip_bad,
                html=html,
                copies=brought.copies,
                progress=progress,
            )
        _tell(out, html, counts)


@app.command(epilog="Example: **xmtl merge runs/videollama2/model --out merged**")
def merge(
    adapter: Annotated[str, typer.Argument(help="Folder of an adapter, or a URI of MLflow")],
    out: Annotated[Path, typer.Option(help="Folder to write; must not exist or be empty")],
    base: Annotated[Path | None, typer.Option(help="Where the adapter's base lies now; default: where it lay")] = None,
    dtype: Annotated[Dtype, typer.Option(help="Of the weights that are written")] = Dtype.BFLOAT16,
    tracking: Tracking = None,
) -> None:
    """Write an adapter and its base as one checkpoint that needs neither.

    The base is read unquantised, so nothing is rounded twice; answers may differ a little from those on 4 bits.
    """
    with user_errors():
        import torch

        from xmtl_ray.generative import folders
        from xmtl_ray.models.qlora import base_of

        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ValueError(f"{out}: found a file or files in it, expected a new or empty folder")
        folder = _folder(adapter, tracking)
        base_of(folder)  # tells one that is no adapter
        partial = out.with_name(f".{out.name}.part")
        shutil.rmtree(partial, ignore_errors=True)  # of a run that was stopped
        folders.merge(folder, partial, base, getattr(torch, dtype.value))
        partial.replace(out)
        console.print(f"{out}: a checkpoint of its own", soft_wrap=True, markup=False)
        console.print(f"next: xmtl generate {out} CONVERSATIONS --out answers.jsonl", soft_wrap=True, markup=False)


def _folder(model: str, tracking: str | None) -> Path:
    """A model's folder, fetched if it is a URI. Raises ValueError."""
    from xmtl_ray.generative.folders import CONFIG, SCHEMA
    from xmtl_ray.tracking import artifacts

    return artifacts.fetch(model, tracking, (CONFIG, SCHEMA)) if artifacts.is_uri(model) else Path(model)


def _config(folder: Path, overrides: Sequence[str]) -> FinetuneConfig:
    """The model's settings with ``overrides`` on top. Raises ValueError for those that do not belong here."""
    from xmtl_ray.config.load import changed
    from xmtl_ray.generative.folders import saved_config

    if foreign := [each for each in overrides if not each.startswith(SECTIONS)]:
        raise ValueError(
            f"{foreign[0]!r}: expected generation.FIELD=value or prompt.FIELD=value: "
            "the other settings are the model's own, by which it was trained"
        )
    config = changed(saved_config(folder), overrides)
    if config.prompt.instruction == "data" and (idle := _of(overrides, "schema_text", "shots", "reason")):
        raise ValueError(f"{idle}: has no effect on the conversations' own prompts; add prompt.instruction=ours")
    if config.generation.greedy and (idle := _of(overrides, "temperature", "top_p")):
        raise ValueError(f"{idle}: has no effect on greedy answers; add generation.greedy=false")
    told, held = config.prompt, config.generation.constrained
    if told.instruction == "ours" and told.reason and held != "none":
        raise ValueError(f"prompt.reason: an answer held to JSON by generation.constrained={held} cannot reason first")
    return config


def _of(overrides: Iterable[str], *names: str) -> str:
    """The first override of a field of that name, or nothing."""
    return next((each for each in overrides if each.partition("=")[0].rpartition(".")[2] in names), "")


def _tell(out: Path, html: Path | None, counts: Counts) -> None:
    def say(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    say(f"{out}: {counts.answered:,} of {many(counts.conversations, 'conversation')}, {many(counts.tokens, 'token')}")
    if counts.resumed:
        say(f"from an earlier run that was stopped: {many(counts.resumed, 'conversation')}")
    if counts.refused:
        say(f"left out: {many(counts.refused, 'broken record')}, see {counts.quarantine}")
    if counts.shortened:
        say(f"too long for the model, so without the end of their text: {many(counts.shortened, 'prompt')}")
    states = ", ".join(f"{count:,} {state}" for state, count in counts.states.items())
    say(f"answers: {states}; {counts.cut:,} cut by a limit on tokens")
    if html is not None:
        say(f"look at it: {html}")
    if counts.gold is None:
        say("no record's own answer is event JSON, so there is nothing to score these by")
        return
    more = " --reasoned" if counts.reasoned else ""
    if counts.samples < counts.answered:
        say(f"without gold: {many(counts.answered - counts.samples, 'answer')}")
        more += " --only-gold"
    say(f"next: xmtl evaluate generative --gold {counts.gold} --pred {out}{more}")
