"""``xmtl register``, ``promote``, ``rollback`` and ``models``: models by name and version in MLflow's registry."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from xmtl_ray.cli.console import console, user_errors

if TYPE_CHECKING:
    from xmtl_ray.registry.gate import Verdict
    from xmtl_ray.registry.promotion import Outcome

app = typer.Typer()

REFUSED, LOST = 3, 4
"""Exit statuses beside 0, and 2 for what the user can mend."""

Tracking = Annotated[str | None, typer.Option(help="MLflow's tracking URI; default: MLFLOW_TRACKING_URI")]
Name = Annotated[str, typer.Argument(help="Of the registered model")]
Request = Annotated[
    str | None, typer.Option("--request", help="Names this request: sent again, it has no further effect")
]
By = Annotated[str | None, typer.Option(help="Who asks, for the record; default: user and machine")]
Note = Annotated[str, typer.Option(help="Why, for the record")]
Base = Annotated[Path | None, typer.Option(help="Where an adapter's base lies now; default: where it lay")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object")]

_STATUS = (
    "Exit status: 0 done, 2 an error in what was given (or changed files), 3 refused by the gate, 4 lost the race."
)


@app.command(epilog="Example: **xmtl register runs/xmtl --name xmtl**")
def register(
    run: Annotated[str, typer.Argument(help="A run's folder, MLflow's run id, or runs:/ID")],
    name: Annotated[str, typer.Option(help="Of the registered model; made if it is not there")],
    base: Base = None,
    tracking: Annotated[
        str | None, typer.Option(help="MLflow's tracking URI; default: MLFLOW_TRACKING_URI, else the run's own")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make a run's model a version in MLflow's registry, for `xmtl predict`, mlflow.pyfunc and mlflow models serve.

    What is sent: weights in safetensors, a script of two lines, an input example, pinned requirements; of an adapter
    not its base, only the base's hash. The version's tags say data, teachers, scores, commit. The same again registers
    nothing new.
    """
    with user_errors():
        from xmtl_ray.registry.registration import register as run_register

        done = run_register(run, name, tracking_uri=tracking, base=base)
        if as_json:
            typer.echo(json.dumps(asdict(done)))
            return
        word = "" if done.new else " (was registered before)"
        _say(f"models:/{done.name}/{done.version}: {done.family}, {done.size / 2**20:.1f} MiB{word}")
        _say(f"next: xmtl promote {done.name} --version {done.version} --gate cluster/gate.yaml --data DATA")


@app.command(epilog=f"Example: **xmtl promote xmtl --gate cluster/gate.yaml --data m2e2**\n\n{_STATUS}")
def promote(
    name: Name,
    gate: Annotated[Path, typer.Option(help="Rules (YAML); cluster/gate.yaml shows all")],
    data: Annotated[Path, typer.Option(help="Gold: a folder in M2E2's layout, or conversations with their answers")],
    version: Annotated[str | None, typer.Option(help="Challenger; default: the newest version")] = None,
    objects: Annotated[Path | None, typer.Option(help="Detections of the images: a store or a JSON file")] = None,
    media: Annotated[Path | None, typer.Option(help="Folder of the conversations' media; default: the file's")] = None,
    base: Base = None,
    gpu: Annotated[bool, typer.Option("--gpu", help="Measure on a GPU")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Measure and judge; decide nothing, write nothing")
    ] = False,
    request: Request = None,
    by: By = None,
    note: Note = "",
    tracking: Tracking = None,
    as_json: AsJson = False,
) -> None:
    """Measure a version and the champion on the same data, now; make it champion if every rule of the gate holds.

    Of promotions that were measured against the same champion exactly one wins; the others end with status 4 and are
    measured anew by the same command. The evidence becomes an MLflow run, the decision an entry that stays.
    """
    with user_errors():
        from xmtl_ray.registry.promotion import Evaluation
        from xmtl_ray.registry.promotion import promote as run_promote

        outcome = run_promote(
            name,
            gate,
            Evaluation(data, objects, media, base, gpu),
            version=version,
            tracking_uri=tracking,
            request=request,
            by=by,
            note=note,
            dry_run=dry_run,
            tell=lambda text: typer.secho(text, err=True, dim=True),
        )
        _end(outcome, as_json)


@app.command(epilog=f"Example: **xmtl rollback xmtl --note 'wrong on Spanish'**\n\n{_STATUS}")
def rollback(
    name: Name,
    request: Request = None,
    by: By = None,
    note: Note = "",
    tracking: Tracking = None,
    as_json: AsJson = False,
) -> None:
    """Make the champion before the present one champion again."""
    with user_errors():
        from xmtl_ray.registry.promotion import rollback as run_rollback

        _end(run_rollback(name, tracking_uri=tracking, request=request, by=by, note=note), as_json)


@app.command(epilog="Example: **xmtl models xmtl**")
def models(
    name: Annotated[str | None, typer.Argument(help="Of a registered model; default: all, in a line each")] = None,
    restore: Annotated[
        bool, typer.Option("--restore", help="Set the aliases as decided, after somebody has moved them by hand")
    ] = False,
    tracking: Tracking = None,
    as_json: AsJson = False,
) -> None:
    """Show registered models; of one its versions, aliases, scores, lineage, and every decision about it."""
    with user_errors():
        from xmtl_ray.registry import listing

        if restore:
            from xmtl_ray.registry.promotion import restore as run_restore

            if name is None:
                raise ValueError("--restore: found no name, expected the registered model whose aliases are meant")
            run_restore(name, tracking_uri=tracking)
        found: Any = listing.models(tracking) if name is None else listing.one(name, tracking)
        if as_json:
            typer.echo(json.dumps(found, indent=1))
        elif name is None:
            _print_models(found)
        else:
            _print_model(found)


def _end(outcome: Outcome, as_json: bool) -> None:
    """Tell what became of a request, and end with its status."""
    if as_json:
        typer.echo(json.dumps(asdict(outcome)))
    else:
        if outcome.verdicts:
            _print_verdicts(outcome.verdicts)
        again = " (decided before)" if outcome.repeated else ""
        _say(f"models:/{outcome.name}/{outcome.version}: {outcome.word}{again}")
        if not outcome.verdicts or outcome.word == "lost":
            _say(f"why: {outcome.why}")
        _say(f"champion: {outcome.champion or 'none'}, previous: {outcome.previous or 'none'}")
        if outcome.run_id is not None:
            _say(f"evidence: runs:/{outcome.run_id}/decision")
    status = {"refused": REFUSED, "would be refused": REFUSED, "lost": LOST}.get(outcome.word, 0)
    if status:
        raise typer.Exit(status)


def _print_verdicts(verdicts: Sequence[Verdict]) -> None:
    """A line for each rule; its name and what came of it are never broken."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("rule", ""):
        table.add_column(column, no_wrap=True)
    for column in ("found", "expected"):
        table.add_column(column, overflow="fold")
    words = {True: "[green]passed[/]", False: "[bold red]failed[/]", None: "waits"}
    for verdict in verdicts:
        table.add_row(verdict.rule, words[verdict.passed], escape(verdict.found), escape(verdict.expected))
    console.print(table)


def _print_models(found: list[dict[str, Any]]) -> None:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("model", "versions", "champion", "previous", "last decision"):
        table.add_column(column)
    for each in found:
        aliases, last = each["aliases"], each["last_decision"]
        told = "" if last is None else f"{last['kind']} {last['version']}: {last['outcome']}, {last['when']}"
        shown = [aliases.get(alias, "–") for alias in ("champion", "previous")]
        table.add_row(each["name"], str(each["versions"]), *shown, told)
    console.print(table)


def _print_model(found: dict[str, Any]) -> None:
    table = Table(title=found["name"], title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("version", "alias", "run", "registered"):
        table.add_column(column, no_wrap=True)
    table.add_column("lineage", overflow="fold")
    for each in found["versions"]:
        lineage = [each["family"] or "not by xmtl", f"commit {(each['git_commit'] or '–')[:9]}"]
        lineage += [f"base {each['base_sha256'][:9]}"] if each["base_sha256"] else []
        lineage += [f"data {name[:6]}" for name in sorted(set(each["data"].values()))[:3]]
        lineage += [f"teachers {', '.join(each['teachers'])}"] if each["teachers"] else []
        aliases = ", ".join(each["aliases"])
        table.add_row(each["version"], aliases, each["run"] or "–", each["registered"], "; ".join(lineage))
    console.print(table)
    _print_scores({each["version"]: each["scores"] or each["dev"] for each in found["versions"]})
    if found["decisions"]:
        console.print("decisions")
    for each in found["decisions"]:
        against = f" against {each['against']}" if each["against"] else ""
        what = f"{each['kind']} {each['version']}{against}: {each['outcome']}"
        _say(f" {each['number']}  {each['when']}  {each['who']}  {what}")
        for why in each["why"].split("; "):
            _say(f"      {why}")
    for place in found["broken"]:
        typer.secho(f"the log was tampered with: {place}", err=True, fg=typer.colors.RED)


def _print_scores(versions: Mapping[str, Mapping[str, float]]) -> None:
    """A column for each version; the paper's protocol alone, of those that M2E2 is scored by."""
    shown = {
        name: {key.removeprefix("table."): score for key, score in scores.items() if not key.startswith("strict.")}
        for name, scores in versions.items()
    }
    if rows := list(dict.fromkeys(key for scores in shown.values() for key in scores)):
        table = Table(title="scores, %", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("")
        for name in shown:
            table.add_column(f"version {name}", justify="right")
        for key in rows:
            table.add_row(key, *(f"{scores[key]:.2f}" if key in scores else "–" for scores in shown.values()))
        console.print(table)


def _say(text: str) -> None:
    console.print(text, soft_wrap=True, markup=False)
