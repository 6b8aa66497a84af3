"""Opening a data file that somebody else made: a local regular file inside its folder, of bounded size, or an error.

No link that leads out, no pipe, no device, no URL: a name is a path and nothing else.
"""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

from xmtl_ray.events.records import DataError


def open_regular(path: Path, what: str, max_bytes: int, root: Path | None = None) -> io.BufferedReader:
    """``path`` opened for reading.

    Args:
        path: where the name leads after all links must be a regular file inside ``root``.
        what: the kind of file, for errors ("image").
        max_bytes: a larger file is refused.
        root: default the folder that ``path`` names.

    Raises DataError.
    """
    try:
        real, base = path.resolve(strict=True), (path.parent if root is None else root).resolve(strict=True)
    except (OSError, RuntimeError, ValueError):
        raise DataError(path, None, what, "no such file", f"an {what} file") from None
    if not real.is_relative_to(base):
        raise DataError(path, None, what, f"a link to {real}", f"a file inside {base}")
    try:
        # Without O_NONBLOCK a pipe would wait for its writer; without O_NOFOLLOW a link made meanwhile would count.
        opened = os.open(real, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise DataError(path, None, what, error.strerror, "a file that can be opened") from None
    facts = os.fstat(opened)
    if not stat.S_ISREG(facts.st_mode):
        os.close(opened)
        raise DataError(path, None, what, "a folder, pipe, socket or device", "a regular file")
    if facts.st_size > max_bytes:
        os.close(opened)
        raise DataError(path, None, what, f"{facts.st_size} bytes", f"at most {max_bytes}")
    return io.BufferedReader(io.FileIO(opened))


def readable_size(size: float) -> str:
    """Bytes with a prefix, for messages.

    >>> readable_size(1536)
    '1.5 KiB'
    """
    for prefix in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {prefix}" if prefix == "B" else f"{size:.1f} {prefix}"
        size /= 1024
    return f"{size:,.1f} GiB"
