"""Jobs on a cluster through Ray's Job API: is it guarded, hand over, follow, how did it end.

What a job is given, its command and its variables, can be read by everyone who may read the Job API, and stands in
Ray's logs. So a secret is only ever named, and its value is expected in the environment that Ray was started with.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xmtl_ray.cluster import job, tokens
from xmtl_ray.tracking.server import without_password

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

URL, ADDRESS = "RAY_API_SERVER_ADDRESS", "RAY_ADDRESS"
STOPPED = 143
"""Exit status for a job that was stopped: that of a process ended by SIGTERM."""
STOP_WAIT_S = 150
"""From SIGTERM to SIGKILL when a job is stopped: more than a run has for its last checkpoint; Ray's own is 3 s."""
TIMEOUT_S = 20.0
START_S = 300.0
"""For a cluster that is up and takes no jobs yet."""
LOST_S = 600.0
"""Without an answer of the cluster, until following ends."""
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|PASSPHRASE|CREDENTIAL|PRIVATE|(API|ACCESS|AUTH|ENCRYPTION)_?KEY|_KEY$", re.I)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

log = logging.getLogger(__name__)


class SubmissionError(ValueError):
    """A job that was not submitted: what is in its way, and what to do."""


@dataclass(frozen=True)
class Order:
    """A job that can be submitted."""

    command: tuple[str, ...]
    """Program and arguments, run in the working directory's copy."""
    working_dir: Path
    id: str
    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment of all of the job's processes; everyone who may read jobs can read it."""
    secrets: tuple[str, ...] = ()
    """Names of variables that Ray's own environment must have on every machine."""
    cpus: float | None = None
    """For the command itself, as are the next three; what it starts takes its own."""
    gpus: float | None = None
    memory: int | None = None
    """Bytes."""
    resources: Mapping[str, float] = field(default_factory=dict)

    def runtime_env(self) -> dict[str, Any]:
        """As Ray takes it."""
        own = {"RAY_JOB_STOP_WAIT_TIME_S": str(STOP_WAIT_S)}
        named = {job.SECRETS: ",".join(self.secrets)} if self.secrets else {}
        return {"working_dir": str(self.working_dir), "env_vars": {**own, **self.variables, **named}}


@dataclass(frozen=True)
class End:
    """How a job ended."""

    status: str
    """SUCCEEDED, FAILED or STOPPED."""
    exit_status: int
    """The command's own; 128 and the signal's number if one ended it; STOPPED; 1 where the command never ran."""
    message: str
    """Ray's, where the command never ran; else empty."""


def variables(asked: Sequence[str], environment: Mapping[str, str]) -> dict[str, str]:
    """``NAME`` (its value in ``environment``) or ``NAME=value`` → variables for a job.

    Raises SubmissionError for one that is not set, and for what looks like a secret by its name or its value.
    """
    found = {}
    for item in asked:
        name, given, value = item.partition("=")
        if not _NAME.fullmatch(name):
            raise SubmissionError(f"--env {name}: expected NAME or NAME=value")
        if not given:
            if name not in environment:
                raise SubmissionError(f"--env {name}: not set here, expected a variable or --env {name}=value")
            value = environment[name]
        if _SECRET.search(name) or without_password(value) != value:
            why = "its value is an address with a password" if not _SECRET.search(name) else "by its name a secret"
            raise SubmissionError(
                f"--env {name}: {why}, and variables of a job stand in the cluster's API and logs; set it where Ray is "
                f"started and give --secret {name}"
            )
        found[name] = value
    return found


def secret_names(asked: Sequence[str]) -> tuple[str, ...]:
    """Names of secrets, without repetition. Raises SubmissionError where a value is given with one."""
    for item in asked:
        if not _NAME.fullmatch(item):
            name = item.partition("=")[0]
            raise SubmissionError(f"--secret {name}: expected a name alone; its value must be where Ray is started")
    return tuple(dict.fromkeys(asked))


def address_of(given: str | None) -> str:
    """The dashboard's address: ``given``, else RAY_API_SERVER_ADDRESS, else RAY_ADDRESS. Raises SubmissionError."""
    for name, found in (("--address", given), (URL, os.environ.get(URL)), (ADDRESS, os.environ.get(ADDRESS))):
        if found and re.match(r"https?://[^/]", found):
            return found.rstrip("/")
        if found:
            raise SubmissionError(
                f"{name}: found {found!r}, expected the dashboard's address, like http://HEAD:8265 (jobs go there; "
                "drivers join at another port)"
            )
    raise SubmissionError(f"no cluster is named: give --address http://HEAD:8265, or set {URL}")


def guarded(address: str, verify: str | bool = True) -> bool:
    """Whether the Job API at ``address`` asks for a token. Raises SubmissionError where there is none."""
    import requests

    try:
        answer = requests.get(f"{address}/api/version", timeout=TIMEOUT_S, verify=verify, allow_redirects=False)
    except requests.exceptions.SSLError as error:
        raise SubmissionError(
            f"{address}: its certificate is not trusted ({error}); give the CA's file by --ca"
        ) from None
    except (requests.exceptions.RequestException, OSError) as error:
        raise SubmissionError(
            f"{address}: no cluster answers there ({type(error).__name__}); is its dashboard up, and reached from here "
            "(kubectl port-forward, ssh -L)?"
        ) from None
    if answer.status_code in {401, 403}:
        return True
    if answer.status_code == 200 and "ray_version" in answer.text:
        return False
    raise SubmissionError(f"{address}: answers {answer.status_code}, expected the dashboard of a Ray cluster")


def connect(address: str, insecure: bool = False, verify: str | bool = True) -> JobSubmissionClient:
    """A client of the cluster at ``address``, with this user's token if it asks for one.

    Raises SubmissionError for a cluster that asks for none, unless ``insecure``: it runs what anyone sends it.
    """
    headers = {}
    if guarded(address, verify):
        if (token := tokens.read()) is None:
            raise SubmissionError(
                f"{address} asks for a token, and there is none here; set {tokens.TOKEN} or {tokens.TOKEN_PATH}, or "
                f"put it into {tokens.own_file()}"
            )
        headers["Authorization"] = f"Bearer {token}"
    else:
        told = f"{address} asks for no token: whoever reaches it runs code there"
        if not insecure:
            raise SubmissionError(
                f"{told}; turn token authentication on (docs/cluster.md), or submit all the same by --insecure"
            )
        log.warning("%s", told)
    os.environ[URL] = address  # goes before the argument in Ray's client
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    for name in ("dashboard_sdk", "job.sdk"):  # have a level of their own
        logging.getLogger(f"ray.dashboard.modules.{name}").setLevel(logging.WARNING)
    logging.getLogger("ray._private.runtime_env").setLevel(logging.ERROR)
    try:
        return JobSubmissionClient(address, headers=headers, verify=verify)
    except AuthenticationError:
        raise SubmissionError(
            f"{address} does not take the token of {tokens.source()}: it is another cluster's"
        ) from None


def submit(client: JobSubmissionClient, order: Order) -> None:
    """Send the working directory and start the job. Raises SubmissionError in the cluster's words.

    A cluster that has just been started is waited for, until it can take jobs.
    """
    begun = time.monotonic()
    while True:
        try:
            client.submit_job(
                entrypoint=shlex.join(order.command),
                submission_id=order.id,
                runtime_env=order.runtime_env(),
                entrypoint_num_cpus=order.cpus,
                entrypoint_num_gpus=order.gpus,
                entrypoint_memory=order.memory,
                entrypoint_resources=dict(order.resources) or None,
            )
            return
        except RuntimeError as error:
            if "No available agent" not in str(error) or time.monotonic() - begun > START_S:
                raise SubmissionError(f"{client.get_address()} refused the job: {str(error).strip()}") from None
        time.sleep(2)


def follow(client: JobSubmissionClient, identity: str, write: Callable[[str], None], say: Callable[[str], None]) -> End:
    """Pass on what the job prints until it has ended. A broken connection is made again, and nothing is told twice.

    Args:
        client: of the cluster.
        identity: of the job.
        write: is given pieces of the job's output.
        say: is told what is waited for.

    Raises SubmissionError where the cluster does not know the job any more, or does not answer for ``LOST_S``.
    """
    import aiohttp
    import requests

    told, pause, waited, heard = 0, 0.5, "", time.monotonic()

    async def tail() -> None:
        nonlocal told
        seen = 0
        async for piece in client.tail_job_logs(identity):
            fresh = piece[max(0, told - seen) :]
            seen += len(piece)
            if fresh:
                told = seen
                write(fresh)

    while True:
        try:
            found = client.get_job_info(identity)
            heard = time.monotonic()
            if str(found.status) == "PENDING":
                if found.message and found.message != waited:
                    waited = found.message
                    say(f"{identity} waits: {waited}")
                time.sleep(pause)
                continue
            asyncio.run(tail())
            found = client.get_job_info(identity)
            if found.status.is_terminal():
                return _end(found)
        except (aiohttp.ClientError, requests.exceptions.RequestException, ConnectionError, RuntimeError) as error:
            if "status code 404" in str(error):
                raise SubmissionError(
                    f"{identity}: the cluster does not know it any more; was it started anew?"
                ) from None
            if time.monotonic() - heard > LOST_S:
                raise SubmissionError(f"{identity}: no connection for {LOST_S / 60:g} minutes; it may go on") from None
            say(f"{identity}: no connection ({type(error).__name__}), trying again; the job does not depend on it")
            pause = min(30.0, 2 * pause)
        time.sleep(pause)


def _end(found: Any) -> End:
    status, code = str(found.status), found.driver_exit_code
    if status == "SUCCEEDED":
        return End(status, 0, "")
    if status == "STOPPED":
        return End(status, STOPPED, "")
    if code is None:
        return End(status, 1, (found.message or "").strip())
    return End(status, 128 - code if code < 0 else code, "")


def how_to(address: str, identity: str) -> str:
    """How a job is followed and stopped from a shell, whatever that has in its environment."""
    with_token = "" if tokens.source() is None else f"{tokens.MODE}=token "
    command = f"{URL}={address} {with_token}ray job"
    return f"follow it: {command} logs --follow {identity}\nstop it:   {command} stop {identity}"
