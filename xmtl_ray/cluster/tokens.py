"""Ray's authentication token: where it is, the file of it that this machine makes, and whether a cluster asks for one.

Ray writes its token file so that every user of the machine can read it, and who reads it can run code on the cluster.
So the file is made here first, for its owner alone.
"""

from __future__ import annotations

import logging
import os
import secrets
import stat
from pathlib import Path

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"

log = logging.getLogger(__name__)


def own_file() -> Path:
    """Where Ray looks for a token that no variable names."""
    return Path.home() / ".ray" / "auth_token"


def source() -> str | None:
    """Where this process has its token from, in the order that Ray looks; None: it has none. Never the token."""
    if os.environ.get(TOKEN):
        return TOKEN
    if path := os.environ.get(TOKEN_PATH):
        return f"{path} ({TOKEN_PATH})"
    return str(own_file()) if own_file().is_file() else None


def read() -> str | None:
    """This process's token, to be sent to a cluster and told nowhere; None: it has none. Raises OSError."""
    if token := os.environ.get(TOKEN):
        return token.strip()
    path = Path(os.environ.get(TOKEN_PATH) or own_file())
    return path.read_text(encoding="ascii").strip() if source() else None


def make() -> None:
    """See that a new cluster of this machine has a token, in a file that only its owner reads (mode 0600).

    A file that Ray has written readable for everybody is made so, too. Where a variable names the token, nothing is
    done: who set it looks after it.
    """
    if os.environ.get(TOKEN) or os.environ.get(TOKEN_PATH):
        return
    path = own_file()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        if stat.S_IMODE(path.stat().st_mode) & 0o077:
            path.chmod(0o600)
            log.info("%s: others could read this token; now only its owner can", path)
        return
    with os.fdopen(opened, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))
