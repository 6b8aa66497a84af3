"""The registry behind a tracking URI: how it is reached, and a version of ours, looked at before it is used.

A version is ours if registration's tags are on it and its folder has the one flavour that we write: pyfunc by a script
of ours. Anything else, and above all a pickle, is refused by what its MLmodel says, before any of it is loaded.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from xmtl_ray.cluster.connection import set_environment
from xmtl_ray.tracking import artifacts
from xmtl_ray.tracking.registry import MLMODEL, SHA256, RegistryError, Tampered, check_manifest, check_tree
from xmtl_ray.tracking.server import first_line, without_password

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

CHAMPION, PREVIOUS = "champion", "previous"
SCRIPTS = {"document_model.py", "conversation_model.py"}
"""What MLflow may run of a model's folder."""
ENDINGS = {".safetensors", ".json", ".yaml", ".txt", ".jinja", ".model", ".md"}
"""Of files that a model's folder may have: none of them can hold a pickle that anything here would load."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_name(name: str) -> str:
    """``name``, if a model may be called so. Raises RegistryError."""
    if not _NAME.fullmatch(name) or name.endswith(".decisions"):
        raise RegistryError(f"name: found {name!r}, expected letters, digits and . _ -, and no .decisions at its end")
    return name


@contextlib.contextmanager
def registry(tracking_uri: str | None, what: str) -> Iterator[MlflowClient]:
    """A client of the registry; within it, what MLflow or the network does not do is a RegistryError about ``what``.

    Args:
        tracking_uri: MLflow's; None: the environment's MLFLOW_TRACKING_URI.
        what: is asked for.
    """
    uri = artifacts.address(what, tracking_uri)
    set_environment()
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        yield MlflowClient(uri, uri)
    except (MlflowException, RequestException, SQLAlchemyError) as error:
        # The error's own text may hold a password.
        raise RegistryError(f"{what}: {without_password(uri)}: {first_line(error)}") from None


def version_of(client: MlflowClient, name: str, version: str) -> ModelVersion:
    """A version that `xmtl register` has made. Raises RegistryError for one that it has not."""
    found = client.get_model_version(name, version)
    if SHA256 not in found.tags:
        raise RegistryError(
            f"models:/{name}/{version}: found no tag {SHA256}, expected a version that xmtl register has made"
        )
    return found


@contextlib.contextmanager
def checked_out(client: MlflowClient, name: str, version: str) -> Iterator[Path]:
    """The folder of a version of ours, downloaded, every file of it as registered, until the end of the block.

    Raises RegistryError, Tampered.
    """
    from mlflow.artifacts import download_artifacts

    uri = f"models:/{name}/{version}"
    registered = version_of(client, name, version)
    source = client.get_model_version_download_uri(name, version)
    with tempfile.TemporaryDirectory(prefix="xmtl-registry-") as folder:
        download_artifacts(artifact_uri=source, dst_path=folder, tracking_uri=client.tracking_uri)
        top = check_tree(Path(folder), registered.tags[SHA256], uri)
        yield model_folder(top, uri)


def model_folder(top: Path, what: str) -> Path:
    """The model's folder in an MLflow model of ours. Raises RegistryError for another flavour, Tampered."""
    try:
        described: Any = yaml.safe_load((top / MLMODEL).read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise RegistryError(f"{what}: {MLMODEL}: found no plain YAML: {error}") from None
    flavors = described.get("flavors", {})
    own = flavors.get("python_function", {})
    script = Path(str(own.get("model_code_path", ""))).name
    scripted = own.get("loader_module") == "mlflow.pyfunc.loaders.code_model" and script in SCRIPTS
    if set(flavors) != {"python_function"} or not scripted or "python_model" in own or own.get("code"):
        told = ", ".join(sorted(flavors)) or "none"
        raise RegistryError(
            f"{what}: found the flavours {told} by {own.get('loader_module')}, expected python_function by a script "
            f"of ours ({' or '.join(sorted(SCRIPTS))}): nothing else is loaded"
        )
    folder, manifest = top / "artifacts" / "model", top / "artifacts" / "registration.json"
    for artifact, place in (("model", folder), ("registration", manifest)):
        named = own.get("artifacts", {}).get(artifact, {}).get("path")
        if named != place.relative_to(top).as_posix() or not place.exists():
            raise Tampered(f"{what}: artifact {artifact}: found {named!r}, expected {place.relative_to(top)}")
    check_endings(folder)
    check_manifest(folder, manifest)
    return folder


def check_endings(folder: Path) -> None:
    """Raises RegistryError for a file in a model's folder that is neither weights in safetensors nor text."""
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or (path.is_file() and path.suffix not in ENDINGS):
            raise RegistryError(
                f"{folder}: found {path.relative_to(folder)}, expected safetensors and text files alone "
                f"({', '.join(sorted(ENDINGS))})"
            )
