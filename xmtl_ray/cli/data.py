"""``xmtl data``: look at, check and convert what is trained on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from xmtl_ray.cli.console import console, progress_bar, user_errors
from xmtl_ray.data.format_names import Format

if TYPE_CHECKING:
    from xmtl_ray.data.audit_report import Report
    from xmtl_ray.events.ontology import VerbMap
    from xmtl_ray.events.verb_maps import VerbDifference
    from xmtl_ray.report.sheet import Record

app = typer.Typer(help="Read, check, convert and look at data.", no_args_is_help=True)


@app.command("map", epilog="Example: **xmtl data map --against other.tsv --counts train.json**")
def verb_map(
    file: Annotated[Path | None, typer.Option("--map", help="A map in the same layout; none: the package's")] = None,
    against: Annotated[Path | None, typer.Option(help="Another map: only the differences are printed")] = None,
    counts: Annotated[
        Path | None, typer.Option(help="imSitu annotations (.json) or a table of verbs, to count images by")
    ] = None,
    as_tsv: Annotated[
        bool, typer.Option("--tsv", help="Print the map as a file that data.imsitu.verb_map takes")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object")] = False,
) -> None:
    """Print the map from imSitu's verbs and roles to event types and roles, or how it differs from another one."""
    with user_errors():
        if as_tsv and (as_json or against):
            raise ValueError("--tsv: found with --json or --against, expected alone")
        from dataclasses import asdict

        from xmtl_ray.events import ontology, verb_maps

        ours = ontology.verb_map(file)
        images = None if counts is None else verb_maps.read_counts(counts)
        theirs = None if against is None else ontology.verb_map(against)
        found = [] if theirs is None else verb_maps.differences(ours, theirs, images)
        if as_tsv:
            typer.echo(verb_maps.as_tsv(ours), nl=False)
        elif as_json:
            body = {
                "version": ours.version,
                "types": {name: asdict(own) for name, own in verb_maps.coverage(ours, images).items()},
                "verbs": {
                    verb: {"type": event_type, "roles": verb_maps.roles_of(ours, verb)}
                    for verb, event_type in ours.type_of.items()
                },
            }
            typer.echo(
                json.dumps(body | ({} if theirs is None else {"differences": [asdict(d) for d in found]}), indent=1)
            )
        elif theirs is None:
            _print_map(ours, images)
        else:
            _print_differences(found)
            _print_coverage({"ours": ours, "theirs": theirs}, images)
            for (event_type, role), verbs in verb_maps.outside_schema(theirs).items():
                console.print(f"theirs has {role} of {event_type}, which the schema has not: {', '.join(verbs)}")


@app.command("convert", epilog="Example: **xmtl data convert export.json sft.json --to videollama2**")
def convert(
    source: Annotated[Path, typer.Argument(help="File, or the folder of VOA's or M2E2's files")],
    out: Annotated[Path, typer.Argument(help="File to write; a new name")],
    to: Annotated[Format, typer.Option(help="Format to write: videollama2, label_studio, m2e2-pred-1 or parquet")],
    from_: Annotated[Format | None, typer.Option("--from", help="Format of SOURCE; none: by its content")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the image files, where it is not beside")] = None,
    boxes: Annotated[Path | None, typer.Option(help="SWiG's boxes of an imSitu file; none: swig/ beside it")] = None,
    media: Annotated[Path | None, typer.Option(help="Folder that is Label Studio's local storage")] = None,
    skip: Annotated[bool, typer.Option("--skip-bad", help="Report bad records and leave them out")] = False,
) -> None:
    """Convert data to another format: for training, for people to correct, for other programs."""
    with user_errors():
        from xmtl_ray.data import convert as conversion
        from xmtl_ray.data.formats import open_source

        bad: list[str] = []

        def report(error: ValueError) -> None:
            bad.append(str(error))
            typer.secho(f"left out: {error}", err=True, fg=typer.colors.YELLOW)

        opened = open_source(source, from_, report if skip else None, images=images, boxes=boxes)
        count = conversion.convert(opened, out, to, media)
        typer.echo(f"{out}: {count} records" + (f", {len(bad)} left out" if skip else ""))


@app.command("check", epilog="Example: **xmtl data check train.json --against m2e2 --html check.html**")
def check(
    sources: Annotated[list[Path], typer.Argument(help="What is to be trained on: files, or folders of VOA or M2E2")],
    format_: Annotated[
        Format | None, typer.Option("--format", help="Format of the sources; none: each by its content")
    ] = None,
    against: Annotated[
        list[Path] | None, typer.Option(help="What must not be in it, e.g. test documents; may be given again")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the image files, where it is not beside")] = None,
    boxes: Annotated[Path | None, typer.Option(help="SWiG's boxes of an imSitu file; none: swig/ beside it")] = None,
    objects: Annotated[Path | None, typer.Option(help="Detections of M2E2's images")] = None,
    media: Annotated[Path | None, typer.Option(help="Folder that conversations' media lie in; none: beside")] = None,
    max_tokens: Annotated[int, typer.Option(min=8, help="Longest input of the model, in word pieces")] = 300,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder with tokenizer.json, to count word pieces; none: 1.25 a word")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Do not decode images; near-duplicates are not found")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page with all of it")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object")] = False,
) -> None:
    """Check data before anything is trained on it; the exit status is 1 if something must be mended.

    Schema, spans, boxes against the images' real sizes, unreadable media, duplicates, and leaks: what SOURCES have in
    common with --against by id, by content, or nearly.
    """
    with user_errors():
        from xmtl_ray.data.audit import audit
        from xmtl_ray.data.formats import audit_source

        found = audit(
            [audit_source(path, format_, images, boxes, objects, media) for path in sources],
            [audit_source(path, None, None, None, objects, media) for path in against or ()],
            max_tokens,
            not quick,
            None if tokenizer is None else _pieces(tokenizer),
        )
        if html is not None:
            from xmtl_ray.report.audit_page import write_audit

            write_audit(html, found)
        if as_json:
            typer.echo(json.dumps(found.as_dict(), indent=1, ensure_ascii=False))
        else:
            _print_audit(found)
        if found.errors:
            raise typer.Exit(1)


@app.command("objects", epilog="Example: **xmtl data objects IMAGES --detector yolo:w.safetensors --out objects**")
def detect_objects(
    images: Annotated[Path, typer.Argument(help="Folder of image files")],
    detector: Annotated[str, typer.Option(help="yolo:WEIGHTS, yolo:FILE.pt#sha256=HEX (AGPL-3.0) or hf:FOLDER")],
    out: Annotated[Path, typer.Option(help="Store to fill; may be one already")],
    actors: Annotated[int, typer.Option(min=1, help="Detectors side by side, a CPU each")] = 1,
    gpu: Annotated[bool, typer.Option("--gpu", help="And a GPU each")] = False,
    voa: Annotated[Path | None, typer.Option(help="Also write all of the store as this file, in VOA's layout")] = None,
) -> None:
    """Detect objects in images, on Ray. What the store has already is not detected again."""
    with user_errors():
        from xmtl_ray.data import objects
        from xmtl_ray.distill.detect import detect

        with progress_bar("detecting") as progress:
            counts = detect(images, detector, out, actors, gpu, progress=progress)
        if voa is not None:
            objects.write_voa(voa, objects.read(out))
        typer.echo(
            f"{out}: {counts.images} images: {counts.detected} have detections, {counts.quarantined} are in "
            f"{out / objects.QUARANTINE}; {counts.new} contents looked at now, {counts.duplicates} duplicates"
        )


@app.command("train-detector", epilog="Example: **xmtl data train-detector --out weights.safetensors**")
def train_detector(
    out: Annotated[Path, typer.Option(help="Weights to write: safetensors, for `--detector yolo:FILE`")],
    images: Annotated[int, typer.Option(min=1, help="Pictures to draw")] = 2500,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over them")] = 5,
    image_px: Annotated[int, typer.Option(min=32, help="Longer side that they are scaled to; a multiple of 32")] = 128,
    seed: Annotated[int, typer.Option(help="The same seed writes the same weights")] = 0,
) -> None:
    """Train a small YOLOv8 (AGPL-3.0) on pictures drawn as the world's are, from scratch, on the CPU: minutes."""
    with user_errors():
        from xmtl_ray.data.detector_training import train

        train(out, images, epochs, image_px, seed)
        typer.echo(f"{out}: trained on {images} pictures")


@app.command(epilog="Example: **xmtl data ceiling demo/world-medium/m2e2 objects --confidence 0.8**")
def ceiling(
    documents: Annotated[Path, typer.Argument(help="Folder in the M2E2 layout")],
    objects: Annotated[Path, typer.Argument(help="Detections of its images: a store or a JSON file")],
    confidence: Annotated[list[float] | None, typer.Option(help="Least confidence; may be given again")] = None,
) -> None:
    """Print how many gold boxes of visual arguments a detection matches: the most that role classification recalls."""
    with user_errors():
        from xmtl_ray.data import m2e2
        from xmtl_ray.evaluation.ceilings import visual_argument_recall

        read = m2e2.read(documents, objects=objects)
        for least in confidence or (0.05, 0.25, 0.5, 0.8):
            reached, gold = visual_argument_recall(read, least)
            share = f"{100 * reached / gold:.1f} %" if gold else "–"
            typer.echo(f"confidence >= {least:g}: {reached} of {gold} gold boxes have a detection ({share})")


@app.command("show", epilog="Example: **xmtl data show demo/world-medium/m2e2 --out sheet.html --recipe xmtl_demo**")
def show(
    source: Annotated[Path, typer.Argument(help="File, or the folder of VOA's or M2E2's files")],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings on top of the recipe: path.to.field=value", show_default=False)
    ] = None,
    out: Annotated[Path, typer.Option(help="HTML file to write")] = Path("sheet.html"),
    limit: Annotated[int, typer.Option(min=1, help="Records shown, the first ones")] = 20,
    ids: Annotated[list[str] | None, typer.Option("--id", help="Show this record; may be given again")] = None,
    recipe: Annotated[str, typer.Option(help="Recipe whose prompts and sizes count")] = "xmtl",
    format_: Annotated[Format | None, typer.Option("--format", help="Format of SOURCE; none: by its content")] = None,
    images: Annotated[
        Path | None, typer.Option(help="Folder of the image files, where it is not beside SOURCE")
    ] = None,
    boxes: Annotated[Path | None, typer.Option(help="SWiG's boxes of an imSitu file; none: swig/ beside it")] = None,
    objects: Annotated[Path | None, typer.Option(help="Detections of M2E2's images, in VOA's object layout")] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder with tokenizer.json, to show word pieces")] = None,
) -> None:
    """Write a page that shows records as the model sees them: sentences, prompts, pictures with their marks."""
    with user_errors():
        from itertools import islice

        from xmtl_ray.config.load import load
        from xmtl_ray.events.ontology import verb_map
        from xmtl_ray.report.sheet import record_id, write_sheet

        config = load(recipe, overrides or [])
        own_map = None if config.data.imsitu is None else config.data.imsitu.verb_map
        found = _records(source, format_, images, boxes, objects)
        if ids:
            records = [record for record in found if record_id(record) in ids]
            if missing := set(ids) - {record_id(record) for record in records}:
                raise ValueError(f"--id: found {sorted(missing)[0]!r}, which is no record of {source}")
        else:
            records = list(islice(found, limit))
        count = write_sheet(out, records, config, str(source), verb_map(own_map), tokenizer, images)
        typer.echo(f"{out}: {count} records")


def _records(
    path: Path, format_: Format | None, images: Path | None, boxes: Path | None, objects: Path | None
) -> Iterator[Record]:
    """The records of a source that can be shown; with the detections and images that lie beside its files."""
    from xmtl_ray.data.formats import open_source
    from xmtl_ray.events.predictions import Predictions

    detections, pictures = path / "image_entity.json", path / "images"
    opened = open_source(
        path,
        format_,
        images=images or (pictures if pictures.is_dir() else None),
        boxes=boxes,
        objects=objects or (detections if detections.is_file() else None),
    )
    for record in opened.records:
        if isinstance(record, Predictions):
            raise ValueError(f"{path}: found predictions, expected data; xmtl evaluate m2e2 has a page for them")
        yield record


def _print_map(verb_map: VerbMap, images: Mapping[str, int] | None) -> None:
    from xmtl_ray.events.verb_maps import roles_of

    table = Table(title=f"imSitu verbs of event types, map {verb_map.version}".rstrip(), title_justify="left")
    for column in ("type", "verb", "roles"):
        table.add_column(column)
    last = None
    for verb, event_type in sorted(verb_map.type_of.items(), key=lambda item: (item[1], item[0])):
        if event_type != last:
            table.add_section()
        roles = ", ".join(f"{own} → {role}" for own, role in roles_of(verb_map, verb).items())
        table.add_row(event_type if event_type != last else "", verb, roles)
        last = event_type
    console.print(table)
    _print_coverage({"": verb_map}, images)


def _print_coverage(maps: Mapping[str, VerbMap], images: Mapping[str, int] | None) -> None:
    from xmtl_ray.events.verb_maps import coverage

    table = Table(title="Verbs and images of each type" if images is not None else "Verbs of each type")
    table.title_justify = "left"
    table.add_column("")
    found = [coverage(verb_map, images) for verb_map in maps.values()]
    for name in maps:
        table.add_column(f"{name} verbs".strip(), justify="right")
        if images is not None:
            table.add_column(f"{name} images".strip(), justify="right")
    for event_type in found[0]:
        own = [counted[event_type] for counted in found]
        numbers = [number for each in own for number in (each.verbs, each.images) if number is not None]
        table.add_row(event_type, *map(str, numbers))
    table.add_section()
    totals = [
        total
        for counted in found
        for total in (
            sum(each.verbs for each in counted.values()),
            None if images is None else sum(each.images or 0 for each in counted.values()),
        )
        if total is not None
    ]
    table.add_row("all", *map(str, totals))
    console.print(table)


def _print_differences(found: Sequence[VerbDifference]) -> None:
    table = Table(title=f"{len(found)} verbs differ", title_justify="left")
    for column in ("verb", "ours", "theirs", "roles: ours / theirs", "images"):
        table.add_column(column, justify="right" if column == "images" else "left")
    for verb in found:
        roles = (
            ""
            if verb.ours is None or verb.theirs is None
            else ", ".join(f"{role.role}: {role.ours or '–'} / {role.theirs or '–'}" for role in verb.roles)
        )
        images = "" if verb.images is None else str(verb.images)
        table.add_row(verb.verb, _short(verb.ours), _short(verb.theirs), roles, images)
    console.print(table)
    moved = [verb for verb in found if verb.ours != verb.theirs and verb.images is not None]
    if moved:
        console.print(
            f"images: {sum(v.images or 0 for v in moved if v.theirs is None)} only in ours, "
            f"{sum(v.images or 0 for v in moved if v.ours is None)} only in theirs, "
            f"{sum(v.images or 0 for v in moved if v.ours and v.theirs)} of another type"
        )


def _short(event_type: str | None) -> str:
    return "–" if event_type is None else event_type.rpartition(":")[2]


def _print_audit(report: Report) -> None:
    """What the sources hold, and each kind of finding with its first places."""
    table = Table(box=None, pad_edge=False)
    for column in ("", "records", "texts", "with events", "cut", "images", "files", "videos"):
        table.add_column(column, justify="right" if column else "left")
    for own in report.contents:
        texts = (own.sentences, own.sentences - own.quiet_sentences, own.cut_sentences)
        figures = (own.records, *texts, own.images, own.images_read, own.videos)
        table.add_row("/".join(Path(own.name).parts[-2:]), *(f"{figure:,}" for figure in figures))
    console.print(table)
    for finding in report.findings:
        colour = "red" if finding.level == "error" else "yellow"
        console.print(f"[{colour}]{finding.level}[/]: {escape(finding.kind)}: {finding.count:,}")
        for example in finding.examples[:3]:
            console.print(f"  {escape(example)}", soft_wrap=True)
    if not report.findings:
        console.print("nothing found")


def _pieces(folder: Path) -> Callable[[Sequence[str]], int]:
    """Counts a sentence's word pieces by the tokenizer in ``folder``."""
    from tokenizers import Tokenizer

    file = folder / "tokenizer.json"
    if not file.is_file():
        raise ValueError(f"--tokenizer: found no tokenizer.json in {folder}, expected a tokenizer's folder")
    tokenizer = Tokenizer.from_file(str(file))
    return lambda words: len(tokenizer.encode(list(words), is_pretokenized=True))
