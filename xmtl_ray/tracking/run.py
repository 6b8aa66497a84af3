"""A training run in MLflow, sent from its journal by a thread that never holds training up.

The one surprising fact: the journal, not MLflow, is the truth. The thread sends what has been written since, in
batches; while the server is down it waits and tries again, and what is left at the end goes with ``xmtl sync``.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import platform
import subprocess
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

from xmtl_ray.tracking.journal import JOURNAL, Journal, read_from
from xmtl_ray.tracking.server import first_line, with_password, without_password

log = logging.getLogger(__name__)

STATE = "mlflow.json"
LOCK = ".tracking.lock"
"""Held by the process whose run it is, as long as that lives."""
_BATCH_LINES = 250
"""Journal lines per request; a line holds a handful of metrics and MLflow takes 1,000 at a time."""


@dataclass
class _State:
    """How far the journal has been sent, and to where."""

    uri: str
    experiment: str
    name: str
    run_id: str | None = None
    sent_bytes: int = 0


class Unsent(ConnectionError):
    """The tracking server did not take the journal: what is left, and how to send it later."""


class Sender:
    """Sends one run folder's journal to MLflow, from where it was left."""

    def __init__(self, folder: Path, uri: str, experiment: str, name: str) -> None:
        self.folder = folder
        uri = without_password(uri)
        self.state = _State(uri, experiment, name)
        with suppress(FileNotFoundError):
            earlier = _State(**json.loads((folder / STATE).read_text(encoding="utf-8")))
            if (earlier.uri, earlier.experiment) == (uri, experiment):
                self.state = earlier
        # From now on `sync` knows where the journal is meant to go, even if the server is never there.
        self._save()

    def send(self) -> int:
        """Send everything written so far; returns how many lines. Raises Unsent."""
        # Waiting is this thread's business: a request that fails should say so soon.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines at each run's end
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
        from requests.exceptions import RequestException
        from sqlalchemy.exc import SQLAlchemyError

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        count = 0
        try:
            self._make_database()
            client = MlflowClient(with_password(self.state.uri))
            while True:
                lines, offset = read_from(self.folder / JOURNAL, self.state.sent_bytes, _BATCH_LINES)
                if not lines:
                    return count
                self._send_lines(client, self._run_id(client), lines)
                self.state.sent_bytes = offset
                self._save()
                count += len(lines)
        except (MlflowException, RequestException, SQLAlchemyError, OSError) as error:
            left = (self.folder / JOURNAL).stat().st_size - self.state.sent_bytes
            told = f"{self.state.uri} did not take {left} bytes of {self.folder / JOURNAL}: {first_line(error)}"
            raise Unsent(told) from None  # the error's own text may hold a password

    def _make_database(self) -> None:
        """Make a missing SQLite file whole, beside its place, and then put it there.

        MLflow makes its tables one by one where the file is to be: a process killed meanwhile, or two that begin
        together, would leave a database that no later process can open.
        """
        if not self.state.uri.startswith("sqlite:///"):
            return
        path = Path(self.state.uri.removeprefix("sqlite:///"))
        if path.exists():
            return
        from mlflow.tracking import MlflowClient

        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f".{path.name}.lock")
        with lock.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)  # of processes that begin together one makes it, the others wait
            if path.exists():
                return
            partial = path.with_name(f".{path.name}.{os.getpid()}")
            partial.unlink(missing_ok=True)
            MlflowClient(f"sqlite:///{partial}").search_experiments(max_results=1)
            with suppress(FileExistsError):  # where locks mean nothing, another process was first
                os.link(partial, path)
            partial.unlink()
        lock.unlink(missing_ok=True)

    def _run_id(self, client: Any) -> str:
        if self.state.run_id is None:
            experiment = client.get_experiment_by_name(self.state.experiment)
            experiment_id = experiment.experiment_id if experiment else self._create_experiment(client)
            self.state.run_id = client.create_run(experiment_id, run_name=self.state.name).info.run_id
            self._save()
        return str(self.state.run_id)

    def _create_experiment(self, client: Any) -> str:
        # With a database file and no server, MLflow would put artifacts under whatever folder this process is in.
        database = self.state.uri.removeprefix("sqlite:///")
        beside = None if database == self.state.uri else (Path(database).resolve().parent / "mlartifacts").as_uri()
        from mlflow.exceptions import MlflowException

        try:
            return str(client.create_experiment(self.state.experiment, artifact_location=beside))
        except MlflowException as error:
            # Of processes that begin together, one makes it.
            if (made := client.get_experiment_by_name(self.state.experiment)) is None:
                raise error
            return str(made.experiment_id)

    def _send_lines(self, client: Any, run_id: str, lines: Iterable[dict[str, Any]]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics: list[Any] = []
        parameters: list[Any] = []
        tags: list[Any] = []
        status: dict[str, Any] | None = None
        for line in lines:
            if "metrics" in line:
                metrics += [
                    Metric(name, value, line["time_ms"], line["step"]) for name, value in line["metrics"].items()
                ]
            elif "parameters" in line:
                parameters += [Param(name, value[:6000]) for name, value in line["parameters"].items()]
            elif "tags" in line:
                tags += [RunTag(name, value) for name, value in line["tags"].items()]
            elif "artifact" in line:
                self._send_artifact(client, run_id, line["artifact"])
            else:
                status = line
        # MLflow takes a parameter once: what a resumed run has changed becomes a tag.
        first: dict[str, str] = client.get_run(run_id).data.params if parameters else {}
        for item in parameters:
            if first.setdefault(item.key, item.value) != item.value:
                tags.append(RunTag(f"resumed.{item.key}", item.value))
        parameters = [Param(key, first[key]) for key in dict.fromkeys(item.key for item in parameters)]
        for kind, items, size in (("params", parameters, 100), ("tags", tags, 100), ("metrics", metrics, 1000)):
            for start in range(0, len(items), size):
                client.log_batch(run_id, **{kind: items[start : start + size]})
        if status is not None and status["status"] == "RUNNING":
            client.update_run(run_id, "RUNNING")
        elif status is not None:
            client.set_terminated(run_id, status["status"], status["time_ms"])

    def _send_artifact(self, client: Any, run_id: str, name: str) -> None:
        path, parent = self.folder / name, Path(name).parent
        if _leads_out(path, self.folder):
            log.warning("%s leads out of the run's folder and is no artifact of run %s", path, run_id)
        elif path.is_dir():
            try:
                client.log_artifacts(run_id, str(path), name)
            except OSError as error:
                if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                    _remove_artifact(client, run_id, name)
                raise
        elif path.is_file():
            client.log_artifact(run_id, str(path), None if parent == Path() else str(parent))
        else:
            log.warning("%s is gone and cannot be an artifact of run %s", path, run_id)

    def _save(self) -> None:
        partial = self.folder / f".{STATE}"
        partial.write_text(json.dumps(asdict(self.state), indent=1), encoding="utf-8")
        partial.replace(self.folder / STATE)


class Run:
    """A run that is being tracked: write to ``journal``; the rest happens beside it.

    Args:
        folder: the run's folder, where the journal lies.
        uri: MLflow's tracking URI; None keeps everything in the folder.
        interval_s: seconds between sendings.
    """

    def __init__(self, folder: Path, uri: str | None, experiment: str, name: str, interval_s: float = 3.0) -> None:
        self._alive = _hold(folder)
        self.journal = Journal(folder)
        self.journal.status("RUNNING")
        self.sender = None if uri is None else Sender(folder, uri, experiment, name)
        self._interval_s = interval_s
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._keep_sending, name="mlflow-sender", daemon=True)
        if self.sender is not None:
            self._thread.start()

    def close(self, grace_s: float = 120.0) -> None:
        """Close the journal and wait for the rest to be sent: a failing server is given one more try."""
        self.journal.close()
        self._closing.set()
        if self.sender is not None:
            self._thread.join(grace_s)
            if self._thread.is_alive():
                told = "%s has not taken all of %s within %.0f s; later: xmtl sync %s"
                log.warning(told, self.sender.state.uri, self.journal.path, grace_s, self.sender.folder)
        if self._alive is not None:
            (self.journal.path.parent / LOCK).unlink(missing_ok=True)
            os.close(self._alive)
            self._alive = None

    def _keep_sending(self) -> None:
        assert self.sender is not None
        wait, told = self._interval_s, False
        while True:
            closing = self._closing.wait(wait)
            try:
                self.sender.send()
                wait, told = self._interval_s, False
            except Unsent as error:
                if not told or closing:
                    hint = f"; later: xmtl sync {self.sender.folder}" if closing else "; training goes on"
                    log.warning("%s%s", error, hint)
                wait, told = min(2 * wait, 60.0), True
            if closing:
                return


def settle(folder: Path, status: str = "KILLED", expected: bool = False) -> bool:
    """End a run whose process is gone without a word, as ``status``, at its last sign of life; whether it was so.

    A process that is killed cannot say so, and in MLflow its run would be RUNNING for ever. A run that goes on holds a
    lock, which ends with its process. The line is written to the journal; ``sync`` sends it. To be called on a machine
    that shares the lock: the run's own, or one with the same file system. ``expected``: somebody has stopped it, and
    need not be told.
    """
    path = folder / JOURNAL
    if not path.exists() or (alive := _hold(folder)) is None:
        return False
    try:
        last, seen = None, None
        for line in _all_lines(path):
            last, seen = line.get("status", last), line.get("time_ms", seen)
        if last != "RUNNING":
            return False
        journal = Journal(folder)
        journal.status(status, seen)
        journal.close()
        level = logging.DEBUG if expected else logging.WARNING
        log.log(level, "%s: its process ended without a word; the run is %s", folder, status)
        return True
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        os.close(alive)


def log_artifacts(folder: Path, names: Iterable[str]) -> bool:
    """Log files that were made after a run has ended; False where it goes on. Raises Unsent.

    Args:
        folder: the run's.
        names: of files in it.
    """
    if (alive := _hold(folder)) is None:
        return False
    try:
        journal = Journal(folder)
        for name in names:
            journal.artifact(name)
        journal.close()
    finally:
        (folder / LOCK).unlink(missing_ok=True)
        os.close(alive)
    sync(folder)
    return True


def sync(folder: Path) -> int:
    """Send what a run folder still holds, to where it was meant to go; returns how many lines. Raises Unsent.

    A run whose process was killed is ended, see ``settle``.
    """
    if (folder / STATE).exists():
        settle(folder)
    try:
        state = _State(**json.loads((folder / STATE).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder / STATE}: not there; expected the folder of a tracked run") from None
    return Sender(folder, state.uri, state.experiment, state.name).send()


def _hold(folder: Path) -> int | None:
    """The lock of a run that goes on, as a file descriptor; None where another process has it."""
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        held = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(held)
            return None
        with suppress(FileNotFoundError):
            if os.fstat(held).st_ino == os.stat(folder / LOCK).st_ino:
                return held
        os.close(held)  # whoever had it has just removed it


def _remove_artifact(client: Any, run_id: str, name: str) -> None:
    """Half a folder would keep a full disk full; it is sent again, whole."""
    from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

    with suppress(OSError):
        get_artifact_repository(client.get_run(run_id).info.artifact_uri).delete_artifacts(name)


def _leads_out(path: Path, folder: Path) -> bool:
    """Whether a file or folder, or a link below it, is of elsewhere: a run's folder may come from somebody else."""
    links = (each for each in path.rglob("*") if each.is_symlink())
    return not all(each.resolve().is_relative_to(folder.resolve()) for each in (path, *links))


def _all_lines(path: Path) -> Iterator[dict[str, Any]]:
    offset, lines = 0, [{}]
    while lines:
        lines, offset = read_from(path, offset, _BATCH_LINES)
        yield from lines


def installed_packages() -> str:
    """``name==version`` of everything installed, one a line."""
    return "\n".join(sorted({f"{item.name}=={item.version}" for item in distributions()})) + "\n"


def environment_tags(extra: Mapping[str, str]) -> dict[str, str]:
    """Git commit (and whether the tree was clean), Python and package versions."""
    tags = {"python": platform.python_version(), "platform": platform.platform(), **extra}
    for package in ("xmtl_ray", "torch", "transformers", "ray", "deepspeed", "mlflow"):
        with suppress(PackageNotFoundError):
            tags[f"version.{package}"] = version(package)
    here = Path(__file__).parent
    with suppress(OSError, subprocess.CalledProcessError):
        tags["mlflow.source.git.commit"] = _git(here, "rev-parse", "HEAD")
        tags["git.clean"] = str(not _git(here, "status", "--porcelain")).lower()
    return tags


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)  # noqa: S603, S607
    return done.stdout.strip()
