"""Addresses of data and results in a bucket, as settings have them: what is one, and where data from there will lie."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_KEYS = re.compile(r"://[^/?#\s]*:[^/?#\s]*@|[?&](access_key|secret_key|session_token)=")


def is_uri(text: str) -> bool:
    """Whether it is an address (``s3://…``) and no path."""
    return _URI.match(text) is not None


def refuse_keys(setting: str, uri: str) -> None:
    """Raises ValueError for an address with keys: pyarrow would take them, but settings are saved, logged and shown."""
    if _KEYS.search(uri):
        raise ValueError(
            f"{setting}: found keys in the address, expected none; put them where Ray is started, in "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY or a file of credentials"
        )


def cache_of(uri: str) -> Path:
    """The folder below which copies of what is at ``uri`` lie on this machine, one for each of its states.

    ``xmtl/data`` in XDG_CACHE_HOME or ~/.cache; its own name depends on ``uri`` alone.
    """
    top = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return top.absolute() / "xmtl" / "data" / hashlib.sha256(uri.encode()).hexdigest()[:32]


def is_copy(root: Path, uri: str) -> bool:
    """Whether ``root`` is called like a copy of what is at ``uri``, here or on another machine; or like all of them."""
    return cache_of(uri).name in {root.name, root.parent.name}
