"""Who drives a run: one process at a time, by a file in the run's folder that says which.

On a folder the file is made and taken over under a lock of the operating system, so of two that begin together one is
refused. Behind a URI nothing of the kind exists: who writes last wins, each looks again a moment later, and two that
begin within that moment of each other may both be refused or, on a store that is slow to show what it was given, both
go on. (Their checkpoints still do not mix: see ``checkpoints``.)

A holder that is gone does not stand in the way: on its own machine its process is looked for, by number and start time;
from another machine it counts as gone when it has not touched the file for ``EXPIRES_S``.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from pyarrow import fs

from xmtl_ray.training.retries import CheckpointError
from xmtl_ray.training.store_files import Files

log = logging.getLogger(__name__)

LOCK = "driver.json"
BEAT_S = 10.0
EXPIRES_S = 60.0
"""Six beats missed: a driver on another machine is gone."""
_SETTLES_S = 1.0


class RunLocked(ValueError):
    """A run that another process drives: which, where, since when."""


@dataclass(frozen=True)
class Holder:
    """The process that drives a run."""

    host: str
    """For people."""
    machine: str
    """Boot and process namespace: what a pid means something in."""
    pid: int
    started: str
    """The process's start time, as its machine counts it: a pid is given again."""
    since: str
    """UTC."""
    token: str

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host} since {self.since}"


@contextmanager
def held(
    filesystem: fs.FileSystem, folder: str, beat_s: float = BEAT_S, expires_s: float = EXPIRES_S
) -> Iterator[bool]:
    """Within it this process drives the run in ``folder``; gives whether an earlier driver died without a word.

    Args:
        filesystem: with the run's folder.
        folder: of the run; it is made.
        beat_s: seconds between the signs of life that other machines look for.
        expires_s: without one for so long, a driver on another machine is gone.

    A driver that was taken for dead and is not is stopped by SIGTERM to itself. Raises RunLocked.
    """
    files, path = Files(filesystem), f"{folder}/{LOCK}"
    files.make_folder(folder)
    me = Holder(socket.gethostname(), _machine(), os.getpid(), _started(os.getpid()), _now(), secrets.token_hex(8))
    with _guarded(folder) if files.local else nullcontext():
        before = _read(files, path)
        if before is not None:
            if _lives(files, path, before, expires_s):
                raise RunLocked(_refusal(folder, before))
            log.warning("%s: its driver, %s, is gone; this one goes on in its place", folder, before)
        _write(files, path, me)
    if not files.local:
        time.sleep(_SETTLES_S)
        if (winner := _read(files, path)) is not None and winner.token != me.token:
            raise RunLocked(_refusal(folder, winner))
    ended = threading.Event()
    beating = threading.Thread(target=_beat, args=(files, path, me, beat_s, ended), name="run-lock", daemon=True)
    beating.start()
    try:
        yield before is not None
    finally:
        ended.set()
        beating.join()
        with _guarded(folder) if files.local else nullcontext():
            if (now := _read(files, path)) is not None and now.token == me.token:
                with suppress(OSError):
                    filesystem.delete_file(path)


def holder(filesystem: fs.FileSystem, folder: str) -> tuple[Holder, bool] | None:
    """Who drives, or has driven and died, the run in ``folder``, and whether it lives; None where nobody does."""
    files, path = Files(filesystem), f"{folder}/{LOCK}"
    found = _read(files, path)
    return None if found is None else (found, _lives(files, path, found, EXPIRES_S))


def _refusal(folder: str, other: Holder) -> str:
    return (
        f"{folder}: this run is driven by {other} already; wait until it ends, stop it (its checkpoint is gone on "
        "from), or choose another name=…"
    )


def _lives(files: Files, path: str, other: Holder, expires_s: float) -> bool:
    if other.machine == _machine():
        return _started(other.pid) == other.started != ""
    # Both times are the store's own: machines' clocks differ.
    probe = f"{path}.{secrets.token_hex(4)}"
    files.write(probe, b"")
    now, beat = files.info(probe).mtime, files.info(path).mtime
    with suppress(OSError):
        files.filesystem.delete_file(probe)
    return now is None or beat is None or (now - beat).total_seconds() < expires_s


def _beat(files: Files, path: str, me: Holder, beat_s: float, ended: threading.Event) -> None:
    while not ended.wait(beat_s):
        try:
            now = _read(files, path)
            if now is not None and now.token != me.token:
                log.error("%s: taken over by %s, which held this process for dead; stopping", path, now)
                os.kill(os.getpid(), signal.SIGTERM)
                return
            if files.local:
                os.utime(path)  # to write it again could undo a take-over in between
            else:
                _write(files, path, me)
        except (CheckpointError, OSError) as error:
            log.warning("%s: no sign of life could be left: %s", path, error)


@contextmanager
def _guarded(folder: str) -> Iterator[None]:
    with Path(folder, f".{LOCK}.guard").open("w") as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)
        yield


def _read(files: Files, path: str) -> Holder | None:
    content = files.read(path)
    if content is None:
        return None
    try:
        return Holder(**json.loads(content))
    except (ValueError, TypeError) as error:
        log.warning("%s: %s; taken for that of a driver that is gone", path, error)
        return Holder("?", _machine(), 0, "", "?", "")


def _write(files: Files, path: str, me: Holder) -> None:
    files.replace(path, json.dumps(asdict(me)).encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(sep=" ", timespec="seconds")


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()


def _started(pid: int) -> str:
    """In ticks since the machine started; empty where there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except OSError:
        return ""
