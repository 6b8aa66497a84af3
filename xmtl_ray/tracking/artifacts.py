"""Model folders out of MLflow: of a run, or of a version in its registry, into a cache on this machine.

Training logs the model folder as plain artifacts of its run (``model``), and a version in the registry points at such
a place; no flavour of MLflow is needed to read one. What `xmtl register` has put there is checked against the hash that
it wrote down. The surprising fact: an alias is asked for each time, for it may have moved; what a version or a finished
run holds is downloaded once.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xmtl_ray.tracking.registry import SHA256, check_tree
from xmtl_ray.tracking.server import VARIABLE, first_line, with_password, without_password

log = logging.getLogger(__name__)

EXPECTED = "models:/NAME@ALIAS, models:/NAME/VERSION or runs:/RUN_ID/model"
_RUN = re.compile(r"runs:/(?P<run>[^/@]+)/(?P<path>.+)")
_VERSION = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))")


class ArtifactError(ValueError):
    """A model that MLflow does not give: which, where it was looked for, and what is in the way."""


def is_uri(text: str) -> bool:
    """Whether MLflow is meant and no folder."""
    return text.startswith(("models:", "runs:"))


def fetch(uri: str, tracking_uri: str | None, holds: Sequence[str], cache: Path | None = None) -> Path:
    """The folder that has the files ``holds``, of what ``uri`` names in MLflow.

    Args:
        uri: see ``EXPECTED``.
        tracking_uri: MLflow's; None: the environment's MLFLOW_TRACKING_URI.
        holds: names of files that lie side by side, at the top of what is fetched or in one folder below it.
        cache: folder to download to; None: ``xmtl/models`` in XDG_CACHE_HOME or ~/.cache.

    Raises ArtifactError, and Tampered for files that are not those that were registered.
    """
    tracking_uri = address(uri, tracking_uri)
    shown = without_password(tracking_uri)
    if (found := _RUN.fullmatch(uri) or _VERSION.fullmatch(uri)) is None:
        raise ArtifactError(f"{uri}: expected {EXPECTED}")
    # A user waits for the answer: a server that is down should be told soon.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    folder = cache or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xmtl" / "models"
    try:
        source, state, sha256 = _source(MlflowClient(tracking_uri), found)
        key = hashlib.sha256(repr((shown, source, state)).encode()).hexdigest()[:32]
        place, partial = folder / key, folder / f".{key}.{uuid.uuid4().hex}"
        if state is None or not place.exists():
            partial.mkdir(parents=True)
            log.info("%s: downloading from %s", uri, shown)
            try:
                download_artifacts(artifact_uri=source, dst_path=str(partial), tracking_uri=tracking_uri)
                if sha256 is not None:
                    check_tree(partial, sha256, uri)
                _replace(partial, place)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except (MlflowException, RequestException, SQLAlchemyError, OSError) as error:
        raise ArtifactError(f"{uri}: {shown} does not give it: {first_line(error)}") from None
    return _holding(uri, place, holds)


def address(uri: str, tracking_uri: str | None) -> str:
    """Of the MLflow that is asked for ``uri``: the one that is named, or the environment's. Raises ArtifactError."""
    asked = tracking_uri or os.environ.get(VARIABLE)
    if not asked:
        expected = "--tracking URI or MLFLOW_TRACKING_URI, e.g. http://server:5000 or sqlite:///runs/mlflow.db"
        raise ArtifactError(f"{uri}: found no tracking server to ask, expected {expected}")
    if asked.startswith("sqlite:///") and not Path(asked.removeprefix("sqlite:///")).is_file():
        # MLflow would make an empty database there.
        raise ArtifactError(f"{uri}: {asked}: found no such file, expected the mlflow.db of some runs")
    return with_password(asked)


def _source(client: Any, found: re.Match[str]) -> tuple[str, object, str | None]:
    """Where the artifacts lie, as a URI; the state that they belong to, None as long as they may change; their hash."""
    if "run" in found.re.groupindex:
        run = client.get_run(found["run"])
        return found[0], run.info.end_time, None
    if found["alias"] is None:
        version = client.get_model_version(found["name"], found["version"])
    else:
        version = client.get_model_version_by_alias(found["name"], found["alias"])
    source = client.get_model_version_download_uri(version.name, version.version)
    return source, (version.name, version.version, version.creation_timestamp), version.tags.get(SHA256)


def _replace(partial: Path, place: Path) -> None:
    if place.exists():
        shutil.rmtree(place)
    partial.rename(place)


def _holding(uri: str, place: Path, holds: Sequence[str]) -> Path:
    folders = sorted({path.parent for path in place.rglob(holds[0]) if all((path.parent / n).is_file() for n in holds)})
    if len(folders) != 1:
        names = sorted(path.relative_to(place).as_posix() for path in place.rglob("*") if path.is_file())
        shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
        found = f"{len(folders)} model folders" if folders else "no model folder"
        raise ArtifactError(
            f"{uri}: found {found} among {len(names)} files ({shown}), expected one folder with {' and '.join(holds)}"
        )
    return folders[0]
