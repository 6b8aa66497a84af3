"""What a process can know of the Ray job that it is the entrypoint of, however that was submitted.

The surprising fact: a job runs in Ray's own copy of the working directory, which is deleted with the job. So an output
at a relative path is lost, and nobody is told.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

SECRETS = "XMTL_SECRETS"
"""Names, with commas, of variables that the job needs from the environment that Ray was started with."""
_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"


class SecretMissing(ValueError):
    """A variable that a job was promised is not in the environment of a machine."""


def variables() -> dict[str, str]:
    """Environment variables of the job's runtime environment; none outside of a job.

    Ray refuses a driver that sets one of them again, be it to the same value.
    """
    told = json.loads(os.environ.get(_CONFIG, "{}"))
    return dict((told.get("runtime_env") or {}).get("env_vars") or {})


def copy_of_working_dir() -> Path | None:
    """Ray's copy that this process runs in, deleted with its job; None: it runs in a folder that stays."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        if folder.name.startswith("_ray_pkg_") and folder.parent.name == "working_dir_files":
            return folder
    return None


def secrets() -> tuple[str, ...]:
    """Names of the variables that this job was promised."""
    return tuple(name for name in os.environ.get(SECRETS, "").split(",") if name)


def absent(names: Iterable[str]) -> list[str]:
    """Those of ``names`` that this process's environment does not have, or has empty."""
    return [name for name in names if not os.environ.get(name)]


def check_secrets() -> None:
    """Raises SecretMissing if a promised variable is not here, on the machine that runs the entrypoint."""
    if missing := absent(secrets()):
        raise SecretMissing(
            f"--secret {', '.join(missing)}: not in the environment that Ray was started with on "
            f"{os.uname().nodename}; "
            "set it there (a Kubernetes secret by envFrom, or before `ray start`), on every machine"
        )
