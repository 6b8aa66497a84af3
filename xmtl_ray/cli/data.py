"""``xmtl data``: look at, check and convert what is trained on."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from xmtl_ray.cli.console import console, user_errors

if TYPE_CHECKING:
    from xmtl_ray.events.ontology import VerbMap
    from xmtl_ray.events.verb_maps import VerbDifference

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
