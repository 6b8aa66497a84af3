"""Where a data file's name for an image, video or sound leads: below the folder of the media, or nowhere.

A data file comes from somebody else, so a name in it is neither a path of this machine nor an address: not absolute,
without ``..``, backslash, control sign or URL scheme, and without a link on the way that leads out of the folder.
Whether the file exists is not looked at. The surprising fact: ``:`` in the first part of a name is refused, since
``c:`` and ``file:`` look alike.
"""

from __future__ import annotations

import os
import re
from pathlib import Path, PurePosixPath

from xmtl_ray.events.records import DataError

_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f\\]|^[^/]*:|^/|(^|/)\.\.(/|$)|^~|[\ud800-\udfff]")
_LONGEST = 1024


def relative(name: str, file: Path | str, record: object, field: str) -> str:
    """``name`` without ``.`` parts and doubled slashes. Raises DataError where it could lead out of a folder."""
    plain = str(PurePosixPath(name)) if "/" in name or not name else name
    too_long = len(name) > _LONGEST or any(len(part.encode(errors="replace")) > 255 for part in plain.split("/"))
    if plain == "." or too_long or _FORBIDDEN.search(name):
        raise DataError(file, record, field, name, "a relative path: no .., no leading /, no scheme, no backslash")
    return plain


def inside(root: Path, name: str, file: Path | str, record: object, field: str) -> Path:
    """``root/name``, which lies below ``root`` after all links. Raises DataError, as ``relative`` does, if not."""
    place = relative(name, file, record, field)
    path = root / place
    while place:
        if os.path.islink(f"{root}/{place}"):
            if not _inside_after_links(root, path):
                raise DataError(file, record, field, name, f"a file inside {root}, not a link out of it")
            break
        place = place.rpartition("/")[0]
    return path


def _inside_after_links(root: Path, path: Path) -> bool:
    try:
        return path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError):  # a link to itself
        return False
