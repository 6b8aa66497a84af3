"""``xmtl submit``: any other verb as a job on a Ray cluster; and what each verb checks when it is one."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xmtl_ray.cli.console import user_errors

if TYPE_CHECKING:
    from xmtl_ray.cli.command_line import Command
    from xmtl_ray.cluster.submission import Order
    from xmtl_ray.cluster.upload import Upload

app = typer.Typer()

INTERRUPTED = 130
_UNITS = {"": 1, "k": 2**10, "m": 2**20, "g": 2**30, "t": 2**40}


@app.command(
    context_settings={"allow_interspersed_args": False},
    epilog="Example: **xmtl submit --env MLFLOW_TRACKING_URI train xmtl data.root=/data/news storage_path=s3://ours/runs**",
)
def submit(
    verb: Annotated[list[str], typer.Argument(help="A verb of xmtl and its arguments; options of submit go before it")],
    address: Annotated[
        str | None,
        typer.Option(help="The cluster's dashboard, http://HEAD:8265; default: RAY_API_SERVER_ADDRESS, RAY_ADDRESS"),
    ] = None,
    working_dir: Annotated[
        Path, typer.Option(help="Folder that is sent, without what its .gitignore and .rayignore name")
    ] = Path("."),
    env: Annotated[
        list[str] | None,
        typer.Option(help="NAME as it is here, or NAME=value: a variable for the job. Everyone on the cluster sees it"),
    ] = None,
    secret: Annotated[
        list[str] | None,
        typer.Option(help="NAME of a variable that the job needs and that Ray was started with; its value stays there"),
    ] = None,
    entrypoint_cpus: Annotated[float | None, typer.Option(min=0, help="CPUs of the verb's own process")] = None,
    entrypoint_gpus: Annotated[float | None, typer.Option(min=0, help="GPUs of it")] = None,
    entrypoint_memory: Annotated[str | None, typer.Option(help="Memory of it, like 4GiB")] = None,
    entrypoint_resource: Annotated[
        list[str] | None, typer.Option(help="NAME=AMOUNT of a resource of the cluster's own; may be repeated")
    ] = None,
    id: Annotated[str | None, typer.Option(help="Of the job; default: made of verb and time")] = None,
    python: Annotated[str, typer.Option(help="The head's Python that Ray is installed for")] = "python",
    no_wait: Annotated[bool, typer.Option("--no-wait", help="End when it is submitted")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check and print all that would be sent, and end")] = False,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Submit to a cluster that asks nobody for a token")
    ] = False,
    ca: Annotated[Path | None, typer.Option(help="Certificates to trust for https; default: the system's")] = None,
) -> None:
    """Run a verb as a job on a Ray cluster: send the code, follow what it prints, end with its exit status.

    All is checked before anything is sent: the verb's arguments and settings, that data and results have places that
    outlive the job, that the upload is below Ray's 100 MiB, that the cluster asks for a token. Paths are the cluster's:
    name folders that all its machines see, or a URI as `storage_path`.

    Ctrl-C leaves the job running and says how to follow or stop it. A stopped job ends with 143.
    """
    with user_errors():
        from xmtl_ray.cluster import submission, upload

        url = None if dry_run else submission.address_of(address)
        order, sent = _order(
            verb, working_dir, env or [], secret or [], entrypoint_cpus, entrypoint_gpus, entrypoint_memory,
            entrypoint_resource or [], id, python,
        )  # fmt: skip
        upload.check(sent, upload.limit())
        if url is None:
            _describe(order, sent)
            return
        client = submission.connect(url, insecure, True if ca is None else str(ca))
        how_to = submission.how_to(url, order.id)
        _say(f"{order.id}: sending {sent.package_bytes / upload.MIB:.1f} MiB to {url}")
        there = False
        try:
            submission.submit(client, order)
            there = True
            if no_wait:
                _say(f"{order.id}: submitted\n{how_to}")
                return
            last = _Tail()
            end = submission.follow(client, order.id, last.write, _say)
        except KeyboardInterrupt:
            _say(f"\n{order.id} {'goes on' if there else 'may have been submitted'}\n{how_to}")
            raise typer.Exit(INTERRUPTED) from None
        _say(f"{order.id}: {end.status.lower()}" + (f": {end.message}" if end.message else ""))
        if end.exit_status and (hint := _hint(last.text, end.exit_status, python)):
            _say(hint)
        if end.exit_status:
            raise typer.Exit(end.exit_status)


def check_places(application: typer.Typer, arguments: Sequence[str]) -> None:
    """Ends the process with status 2 where a verb is given a URI for what it takes as a path alone."""
    from xmtl_ray.cli.command_line import CommandError, refuse_addresses

    try:
        refuse_addresses(application, arguments)
    except CommandError as error:
        typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
        sys.exit(2)


def check_job(application: typer.Typer, arguments: Sequence[str]) -> None:
    """What a verb checks where it is itself a job, however it was submitted; ends the process with status 2.

    Raises nothing: what is wrong with the arguments is for the verb to say.
    """
    from xmtl_ray.cluster import job

    if not job.secrets() and job.copy_of_working_dir() is None:
        return
    from xmtl_ray.cli.command_line import CommandError, inspect, refuse_lost

    try:
        job.check_secrets()
        if job.copy_of_working_dir() is None:
            return
        try:
            command = inspect(application, arguments)
        except (ValueError, FileNotFoundError):
            return
        refuse_lost(command)
    except (job.SecretMissing, CommandError) as error:
        typer.secho(f"error: {error}", err=True, fg=typer.colors.RED)
        sys.exit(2)


def _order(
    verb: Sequence[str],
    working_dir: Path,
    env: Sequence[str],
    secret: Sequence[str],
    cpus: float | None,
    gpus: float | None,
    memory: str | None,
    resources: Sequence[str],
    identity: str | None,
    python: str,
) -> tuple[Order, Upload]:
    """All that can be said here of the job and of what is sent with it. Raises ValueError."""
    from xmtl_ray.cli.command_line import CommandError, inspect, refuse_lost
    from xmtl_ray.cli.main import app as application
    from xmtl_ray.cluster import submission, upload

    if verb[0] == "submit":
        raise CommandError("submit: a job that submits itself; expected another verb")
    variables = submission.variables(env, os.environ)
    names = submission.secret_names(secret)
    if not working_dir.is_dir():
        raise ValueError(f"--working-dir: {working_dir} is no folder")
    with contextlib.chdir(working_dir):
        command = inspect(application, verb)
        refuse_lost(command)
        sent = upload.listing(Path())
        _check_inputs(command, sent)
    if "MLFLOW_TRACKING_URI" in os.environ and not {"MLFLOW_TRACKING_URI"} & {*variables, *names}:
        _say("MLFLOW_TRACKING_URI is set here and not in the job; to pass it on: --env MLFLOW_TRACKING_URI")
    order = submission.Order(
        (python, "-m", "xmtl_ray", *command.arguments),
        sent.folder,
        identity or f"xmtl-{verb[0]}-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}",
        variables,
        names,
        cpus,
        gpus,
        None if memory is None else _bytes(memory),
        dict(map(_amount, resources)),
    )
    return order, sent


def _check_inputs(command: Command, sent: Upload) -> None:
    """Raises UploadError for a relative path that the job would not find."""
    from xmtl_ray.cli.command_line import NOT_YET
    from xmtl_ray.cluster.upload import IGNORE_FILE, UploadError

    for name, path in command.inputs.items():
        if sent.holds(path):
            continue
        exists = os.path.exists(path)
        if not exists and name in NOT_YET:
            continue
        why = f"stays here ({IGNORE_FILE}, .gitignore)" if exists else "does not exist here"
        raise UploadError(
            f"{name} {path}: {why}, so the job would not find it; name the folder as the cluster's machines see it, by "
            "its absolute path"
        )


def _bytes(text: str) -> int:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", text.strip(), re.IGNORECASE)
    if found is None:
        raise ValueError(f"--entrypoint-memory: found {text!r}, expected a size like 4GiB")
    return round(float(found[1]) * _UNITS[found[2].lower()])


def _amount(text: str) -> tuple[str, float]:
    name, _, amount = text.partition("=")
    try:
        return name, float(amount)
    except ValueError:
        raise ValueError(f"--entrypoint-resource: found {text!r}, expected NAME=AMOUNT") from None


def _describe(order: Order, sent: Upload) -> None:
    import shlex

    from xmtl_ray.cluster.upload import MIB

    typer.echo(f"job:       {order.id}\ncommand:   {shlex.join(order.command)}")
    typer.echo(f"sent:      {len(sent.files):,} files of {sent.folder}, {sent.package_bytes / MIB:.1f} MiB")
    for name, size in sorted(sent.files.items(), key=lambda item: -item[1])[:3]:
        typer.echo(f"           {size / MIB:6.2f} MiB  {name}")
    typer.echo(f"variables: {', '.join(f'{name}={value}' for name, value in order.variables.items()) or 'none'}")
    typer.echo(f"secrets:   {', '.join(order.secrets) or 'none'}")


class _Tail:
    """Prints a job's output and keeps its end."""

    def __init__(self) -> None:
        self.text = ""

    def write(self, piece: str) -> None:
        """Print ``piece``."""
        self.text = (self.text + piece)[-4000:]
        sys.stdout.write(piece)
        sys.stdout.flush()


def _hint(log: str, status: int, python: str) -> str | None:
    """What to do about a Python that is the wrong one."""
    if status == 127 or re.search(r"No module named '?(ray|xmtl_ray|typer|pydantic|torch)\b", log):
        return (
            f"{python} on the head's PATH is not one that Ray and the requirements are installed for; give its path by "
            "--python (and see that the package xmtl_ray lies in --working-dir)"
        )
    return None


def _say(text: str) -> None:
    typer.echo(text, err=True)
