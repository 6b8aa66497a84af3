"""``xmtl predict``: events from any documents, by a model in a folder or in MLflow."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xmtl_ray.cli.console import console, many, progress_bar, user_errors
from xmtl_ray.cli.places import Brought, place

if TYPE_CHECKING:
    from xmtl_ray.serving.predict import Counts

app = typer.Typer()


class Format(StrEnum):
    """Of the output."""

    EVENTS = "events"
    M2E2 = "m2e2"


@app.command(epilog="Example: **xmtl predict runs/demo/model DOCUMENTS --out events.jsonl --html events.html**")
def predict(
    model: Annotated[
        str,
        typer.Argument(help="A model folder, or a URI of MLflow: models:/NAME@ALIAS, models:/NAME/3, runs:/ID/model"),
    ],
    documents: Annotated[
        Path,
        typer.Argument(
            help="Folder of .json documents, of folders with .txt files and images, or in M2E2's layout; or its URI",
            parser=place,
            metavar="DOCUMENTS",
        ),
    ],
    out: Annotated[Path, typer.Option(help="File to write; the same again goes on where it stopped")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            help="Settings on top of the model's: inference.verb_threshold=0.4, inference.object_confidence=0.25, …",
            show_default=False,
        ),
    ] = None,
    format: Annotated[
        Format, typer.Option(help="events: xmtl-events-1, JSON lines; m2e2: what `xmtl evaluate m2e2` scores")
    ] = Format.EVENTS,
    html: Annotated[Path | None, typer.Option(help="Page to write, with events drawn into text and images")] = None,
    more: Annotated[
        list[str] | None, typer.Option("--model", help="A further model, for tasks that it has; may be repeated")
    ] = None,
    ner: Annotated[
        str | None, typer.Option(help="Finds entities where none are given: hf:FOLDER, a token classification model")
    ] = None,
    detector: Annotated[
        str | None, typer.Option(help="Finds objects where none are given: hf:FOLDER or yolo:FILE.safetensors")
    ] = None,
    objects: Annotated[Path | None, typer.Option(help="Detections of the images: a store or a JSON file")] = None,
    similarity: Annotated[
        str | None,
        typer.Option(
            help="CLIP folder or name that decides on pairs; 'none': the same type does; default: the model's"
        ),
    ] = None,
    language: Annotated[str, typer.Option(help="Of documents that name none; decides where sentences end")] = "en",
    actors: Annotated[
        int | None, typer.Option(min=0, help="Ray actors; 0: this process; default: 2 from 100 documents on")
    ] = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="A GPU for each actor, or for this process")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave broken documents out, and say which")] = False,
    tracking: Annotated[
        str | None, typer.Option(help="MLflow's tracking URI, for a model there; default: MLFLOW_TRACKING_URI")
    ] = None,
) -> None:
    """Predict the events of documents: triggers, arguments, visual events and which of them are the same."""
    with user_errors():
        from xmtl_ray.config.load import load
        from xmtl_ray.models.weights import CONFIG, WEIGHTS, config_of
        from xmtl_ray.serving.predict import predict as run
        from xmtl_ray.tracking import artifacts

        brought = Brought()
        changes = list(overrides or [])
        if foreign := [change for change in changes if not change.startswith("inference.")]:
            raise ValueError(f"{foreign[0]!r}: expected inference.FIELD=value: the other settings are the model's own")
        if similarity is not None:
            changes.append(f"inference.coreference.encoder={'null' if similarity == 'none' else similarity}")
        folders = [
            artifacts.fetch(each, tracking, (WEIGHTS, CONFIG)) if artifacts.is_uri(each) else Path(each)
            for each in (model, *(more or []))
        ]
        config_of(folders[0])  # tells what a folder lacks, and not only that it has no config.yaml
        with progress_bar("predicting") as progress:
            counts = run(
                folders,
                brought.folder(documents),
                out,
                load(str(folders[0] / CONFIG), changes).inference,
                format=format.value,
                detector=detector,
                ner_model=ner,
                objects=objects,
                language=language,
                actors=actors,
                gpu=gpu,
                skip_bad=skip_bad,
                html=html,
                copies=brought.copies,
                progress=progress,
            )
        _tell(out, html, counts)


_TASKS = {
    "td": "no text events",
    "ae": "no arguments in text",
    "vc": "no visual events",
    "rc": "no arguments in images",
}


def _tell(out: Path, html: Path | None, counts: Counts) -> None:
    def say(text: str) -> None:
        console.print(text, soft_wrap=True, markup=False)

    say(
        f"{out}: {counts.predicted:,} of {many(counts.documents, 'document')}, {many(counts.sentences, 'sentence')}, "
        f"{many(counts.images, 'image')}: {many(counts.text_events, 'text event')}, "
        f"{many(counts.visual_events, 'visual event')}, {many(counts.multimedia_events, 'pair')} "
        f"({counts.coreference})"
    )
    if counts.resumed:
        say(f"from an earlier run that was stopped: {many(counts.resumed, 'document')}")
    if counts.refused:
        say(f"left out: {many(counts.refused, 'broken document')}, see {counts.quarantine}")
    for task in counts.missing:
        say(f"no model here has the task {task}: {_TASKS[task]}; --model adds one that has")
    if counts.without_entities and "ae" not in counts.missing:
        without = many(counts.without_entities, "document")
        say(f"without entities, so without arguments in the text: {without}; --ner finds them")
    if counts.without_objects and "rc" not in counts.missing:
        say(f"without objects, so without arguments: {many(counts.without_objects, 'image')}; --detector finds them")
    if counts.cut_words:
        say(f"beyond the model's longest input, so without triggers: {many(counts.cut_words, 'word')}")
    if html is not None:
        say(f"look at it: {html}")
