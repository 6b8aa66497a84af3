"""Operations on a store that may fail for a moment, and what they end in when they do not recover."""

from __future__ import annotations

import errno
import logging
import os
import random
import shutil
import time
from collections.abc import Callable
from typing import TypeVar

from xmtl_ray.data.local_files import readable_size

log = logging.getLogger(__name__)

T = TypeVar("T")

TRIES = 5
"""Of one operation; with pauses of 0.5 s, doubled each time, they take about 8 s."""
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_LASTING = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST}
_LASTING |= {errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.EINVAL}


class CheckpointError(RuntimeError):
    """A store did not take or give a checkpoint: where, and why."""


class StoreFull(CheckpointError):
    """A store has no room: where, and how much is needed."""


def patiently(work: Callable[[], T], where: str, needed: int | None = None, pause_s: float = 0.5) -> T:
    """What ``work`` returns, tried up to ``TRIES`` times as long as its failure may pass.

    Args:
        work: raises OSError where it fails; doing it again must be harmless.
        where: path, for the error.
        needed: bytes that it writes, with what belongs to it, for the error.
        pause_s: before the second try; doubled before each further one, each drawn between half and one and a half
            times that, so that workers who failed together do not come back together.

    Raises StoreFull at once where there is no room, CheckpointError where trying again cannot help or did not.
    """
    for tries in range(1, TRIES + 1):
        try:
            return work()
        except OSError as error:
            if error.errno in _FULL:
                raise StoreFull(_full(where, needed, error)) from None
            if error.errno in _LASTING or isinstance(error, FileNotFoundError | PermissionError):
                raise CheckpointError(f"{where}: {error}") from None
            if tries == TRIES:
                raise CheckpointError(f"{where}: failed {TRIES} times, last with: {error}") from None
            log.warning("%s: %s; try %d of %d follows", where, error, tries + 1, TRIES)
        time.sleep(pause_s * 2 ** (tries - 1) * random.uniform(0.5, 1.5))  # noqa: S311
    raise AssertionError("the last try returns or raises")


def _full(where: str, needed: int | None, error: OSError) -> str:
    wanted = "" if needed is None else f" for {readable_size(needed)}"
    there = os.path.dirname(where)
    free = f" ({readable_size(shutil.disk_usage(there).free)} free)" if os.path.isdir(there) else ""
    return (
        f"{where}: no room{wanted}{free}: {os.strerror(error.errno or 0)}; what was written of it is removed, the "
        "checkpoints before it are whole: make room, lower train.keep_checkpoints, or choose another storage_path, "
        "and give the same command again"
    )
