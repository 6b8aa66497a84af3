"""Which MLflow a run talks to, and how its address is told: never with a password.

The surprising fact: an address may hold a password (``postgresql://user:password@host/db``), and addresses go
everywhere: into settings, journals, messages. So a password is taken from the environment at the moment of the
connection only; what is kept or shown is the address without it.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote

VARIABLE = "MLFLOW_TRACKING_URI"
SECRETS = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY")
"""Variables whose values no message may hold."""

_FILE = "sqlite:///"
_PASSWORD = re.compile(r"(?P<scheme>[a-zA-Z][\w+.-]*://)(?P<user>[^\s/:@?#]*):(?P<password>[^\s/?#]*)@")
_QUERY = re.compile(r"(?<=[?&])(?P<name>password|sslpassword|token)=[^&#\s]*")


def without_password(uri: str) -> str:
    """``uri`` as it may be kept and shown.

    >>> without_password("postgresql://xmtl:s3cret@db:5432/mlflow?sslmode=require")
    'postgresql://xmtl@db:5432/mlflow?sslmode=require'
    """
    bare = _PASSWORD.sub(lambda found: f"{found['scheme']}{found['user']}@", uri)
    return re.sub(_QUERY.pattern + "&?", "", bare).rstrip("?&") if _QUERY.search(bare) else bare


def masked(text: str) -> str:
    """``text`` with every password in it, of an address or of the environment, as ``***``."""
    text = _PASSWORD.sub(lambda found: f"{found['scheme']}{found['user']}:***@", text)
    text = _QUERY.sub(lambda found: f"{found['name']}=***", text)
    secrets = {os.environ.get(name, "") for name in SECRETS}
    if (found := _PASSWORD.search(os.environ.get(VARIABLE, ""))) is not None:
        secrets |= {found["password"], unquote(found["password"])}
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def with_password(uri: str) -> str:
    """``uri`` as MLflow needs it: the environment's, password and all, where that is the same address."""
    asked = os.environ.get(VARIABLE, "")
    return asked if asked and without_password(asked) == without_password(uri) else uri


def tracking_uri(named: str | None, storage_path: str | None) -> str | None:
    """The address that runs report to, without a password; a database's file by its whole path.

    Workers have working directories of their own: ``sqlite:///runs/mlflow.db`` is another file in each.

    Args:
        named: the setting ``tracking.uri``; it goes before the environment.
        storage_path: folder whose ``mlflow.db`` it is where neither names any; None: there is none then.
    """
    beside = None if storage_path is None else f"{_FILE}{storage_path}/mlflow.db"
    asked = named or os.environ.get(VARIABLE) or beside
    return None if asked is None else _whole(without_password(asked))


def _whole(uri: str) -> str:
    path = uri.removeprefix(_FILE)
    return uri if path == uri else f"{_FILE}{Path(path).absolute()}"


def first_line(error: Exception) -> str:
    """What an error says first, for a message: without passwords."""
    text = str(error).strip()
    with suppress(IndexError):
        return masked(text.splitlines()[0])
    return type(error).__name__
