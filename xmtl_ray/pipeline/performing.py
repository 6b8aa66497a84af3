"""One stage, performed in the process that it was given to: lock, log file, work, record.

The surprising fact: the lock is the operating system's and held by the very process that works, so it is free as soon
as that process is dead, however it died, and never before.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from xmtl_ray.pipeline.hashing import Hashes
from xmtl_ray.pipeline.stages import LOG, RECORD, Record, Work, damage, read_record, written

BEGUN = "begun.json"
"""What the folder's contents were begun from."""


@dataclass(frozen=True)
class Job:
    """A stage whose inputs are there, in the form that goes to another process."""

    root: Path
    folder: Path
    definition: Record
    """With what it reads of the stages before it."""
    run: Callable[[Work], None]
    outputs: tuple[str, ...]
    before: Mapping[str, Path]
    parent: str | None


@dataclass(frozen=True)
class Outcome:
    """How a stage ended."""

    state: Literal["done", "failed", "elsewhere"]
    """elsewhere: another process has done it meanwhile."""
    seconds: float
    why: str = ""
    """Of a failure."""


def perform(job: Job) -> Outcome:
    """Do the stage and record it. What it does wrong is an outcome, with the traceback in its log; no exception."""
    started = time.monotonic()
    with _locked(job.root, job.folder):
        if _is_done(job):
            return Outcome("elsewhere", time.monotonic() - started)
        _make_ready(job)
        with _logged(job.folder / LOG):
            try:
                job.run(Work(job.folder, job.before, _facts(job.definition), job.parent))
                outputs = written(job.folder, job.outputs, Hashes(job.root / ".hashes"))
            except Exception as error:  # noqa: BLE001 (a stage's failure, whatever it is, leaves the others going)
                traceback.print_exc()
                return Outcome("failed", time.monotonic() - started, _cause(error))
        seconds = time.monotonic() - started
        finished = datetime.now(UTC).isoformat(timespec="seconds")
        update = {"outputs": outputs, "seconds": round(seconds, 2), "finished": finished}
        _write(job.folder / RECORD, job.definition.model_copy(update=update).model_dump_json(indent=1))
        return Outcome("done", seconds)


def holder(root: Path, folder: Path) -> str | None:
    """Who works in ``folder`` now, in words; None if nobody does."""
    path = _lock_path(root, folder)
    if not path.exists():
        return None
    with path.open("r+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip() or "another process"
    return None


def _is_done(job: Job) -> bool:
    record = read_record(job.folder)
    current = record is not None and record.read == job.definition.read
    return current and record is not None and damage(job.folder, record, Hashes(job.root / ".hashes")) is None


def _make_ready(job: Job) -> None:
    """Keep what an unfinished start left if it was begun from the same; else begin with an empty folder."""
    begun = json.dumps(job.definition.read, sort_keys=True)
    path = job.folder / BEGUN
    same = path.exists() and path.read_text(encoding="utf-8") == begun
    if job.folder.exists() and ((job.folder / RECORD).exists() or not same):
        shutil.rmtree(job.folder)
    job.folder.mkdir(parents=True, exist_ok=True)
    _write(path, begun)


def _facts(definition: Record) -> dict[str, str]:
    found = {"stage.kind": definition.kind, "stage.key": definition.key}
    found |= {f"stage.before.{name}": key for name, key in definition.before.items()}
    found |= {f"stage.read.{name}": value for name, value in definition.read.items()}
    return found | {f"stage.input.{name}": value for name, value in definition.files.items()}


def _cause(error: Exception) -> str:
    """In a sentence; a bug's with its type and place."""
    if type(error).__module__.startswith("xmtl_ray") or type(error) in {ValueError, FileNotFoundError}:
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)[1:]  # the first is this file's
    own = [frame for frame in frames if "xmtl_ray" in frame.filename] or list(frames)
    return f"{type(error).__name__}: {error} ({Path(own[-1].filename).name}, line {own[-1].lineno})"


@contextlib.contextmanager
def _locked(root: Path, folder: Path) -> Iterator[None]:
    path = _lock_path(root, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.truncate(0)
        file.write(
            f"process {os.getpid()} on {socket.gethostname()}, since {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC\n"
        )
        file.flush()
        yield


def _lock_path(root: Path, folder: Path) -> Path:
    # Beside the folders, for they may be deleted.
    return root / ".locks" / folder.name


@contextlib.contextmanager
def _logged(path: Path) -> Iterator[None]:
    """All that this process prints goes to ``path``, libraries' own writing too."""
    sys.stdout.flush()
    sys.stderr.flush()
    handlers, level = logging.root.handlers[:], logging.root.level
    saved = [os.dup(1), os.dup(2)]
    with path.open("a", encoding="utf-8", buffering=1) as lines:
        os.dup2(lines.fileno(), 1)
        os.dup2(lines.fileno(), 2)
        with contextlib.redirect_stdout(lines), contextlib.redirect_stderr(lines):
            logging.basicConfig(format="%(message)s", level=logging.WARNING, stream=lines, force=True)
            logging.getLogger("xmtl_ray").setLevel(logging.INFO)
            try:
                yield
            finally:
                logging.root.handlers[:] = handlers
                logging.root.setLevel(level)
                for descriptor, old in zip((1, 2), saved, strict=True):
                    os.dup2(old, descriptor)
                    os.close(old)


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
