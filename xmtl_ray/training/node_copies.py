"""What all workers of a machine read of a store, copied to its disk by one of them, and gone when none reads it.

Locks are the operating system's, so those of a worker that was killed are free; what it left is removed by the next
one that copies anything. The surprising fact: going from the one kind of lock to the other lets it go for a moment, in
which another process may remove the copy; so that it is there is looked at again.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import random
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from xmtl_ray.training.retries import CheckpointError


@contextmanager
def copied(what: str, fill: Callable[[Path], None]) -> Iterator[Path]:
    """A folder with what ``fill`` puts into an empty one; it is called in one process of this machine at a time.

    Args:
        what: names the content; of equal ones there is one copy.
        fill: may raise, and then the next process tries.
    """
    place = _own_folder() / hashlib.sha256(what.encode()).hexdigest()[:32]
    with _lock_of(place).open("a") as lock:
        while True:
            fcntl.flock(lock, fcntl.LOCK_SH)
            if (place / "whole").is_dir():
                break
            # Never waited for: who fills goes on to read, and may then wait for those who would wait here.
            if not _alone(lock):
                fcntl.flock(lock, fcntl.LOCK_UN)
                time.sleep(random.uniform(0.01, 0.1))  # noqa: S311 - no secret
            elif not (place / "whole").is_dir():
                _sweep(place)
                _fill(place, fill)
        try:
            yield place / "whole"
        finally:
            if _alone(lock):
                shutil.rmtree(place, ignore_errors=True)


def _own_folder() -> Path:
    """In the machine's temporary folder, of this user alone. Raises CheckpointError where another made it."""
    folder = Path(tempfile.gettempdir()) / f"xmtl-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    facts = folder.lstat()
    if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.getuid() or facts.st_mode & 0o022:
        raise CheckpointError(f"{folder}: found one that others may write to, expected a folder of this user alone")
    return folder


def _lock_of(place: Path) -> Path:
    return place.with_name(f"{place.name}.lock")


def _alone(lock: IO[str]) -> bool:
    """Take the lock for this process alone, if no other has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _fill(place: Path, fill: Callable[[Path], None]) -> None:
    shutil.rmtree(place, ignore_errors=True)
    (place / "partial").mkdir(parents=True)
    try:
        fill(place / "partial")
        (place / "partial").rename(place / "whole")
    except BaseException:
        shutil.rmtree(place, ignore_errors=True)
        raise


def _sweep(place: Path) -> None:
    """Remove copies that nobody reads: of workers that were killed."""
    for other in place.parent.iterdir():
        if other == place or not other.is_dir():
            continue
        with _lock_of(other).open("a") as lock:
            if _alone(lock):
                shutil.rmtree(other, ignore_errors=True)
