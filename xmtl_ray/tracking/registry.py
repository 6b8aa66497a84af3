"""What a registered model's folder must be: the files that registration wrote down, and nothing besides.

A version's tag ``xmtl.sha256`` has the hash of the whole folder, so one who can write artifacts but not the registry
can change nothing unnoticed; ``registration.json`` in the folder has a line for each file of the model, for MLflow's
own ``load_model``, which knows no tags.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

SHA256 = "xmtl.sha256"
"""Tag of a version: hash of its folder."""
MODEL_ARTIFACT, MANIFEST_ARTIFACT = "model", "registration"
"""Names that MLflow passes the model's folder and the list of its files by."""
MLMODEL = "MLmodel"
_OWN = {"registered_model_meta"}
"""Written by MLflow beside what it has downloaded."""


class RegistryError(ValueError):
    """A registered model that is not what it should be, or a registry that does not answer."""


class Tampered(RegistryError):
    """Files that differ from what registration wrote down."""


def files_of(folder: Path) -> dict[str, str]:
    """Relative path → sha256 of every file below a folder. Raises Tampered for a link: it may lead anywhere."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise Tampered(f"{folder}: found the link {name}, expected files and folders alone")
        if path.is_file() and name not in _OWN:
            with path.open("rb") as file:
                found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def tree_sha256(folder: Path) -> str:
    """Hash of the names and the content of all files below a folder. Raises Tampered."""
    lines = "".join(f"{value}  {name}\n" for name, value in sorted(files_of(folder).items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def check_tree(downloaded: Path, sha256: str, what: str) -> Path:
    """The folder of an MLflow model below ``downloaded``. Raises Tampered where its hash is not ``sha256``."""
    tops = sorted(downloaded.rglob(MLMODEL), key=lambda path: len(path.parts))
    if not tops:
        raise Tampered(f"{what}: found no {MLMODEL} in its files, expected what registration wrote")
    if (found := tree_sha256(tops[0].parent)) != sha256:
        raise Tampered(
            f"{what}: found files with hash {found[:12]}…, expected {sha256[:12]}…, which registration wrote down: "
            "they were changed since"
        )
    return tops[0].parent


def write_manifest(folder: Path, path: Path) -> None:
    """Write down the files of a model's folder. Raises Tampered for a link in it."""
    path.write_text(json.dumps({"files": files_of(folder)}, indent=1), encoding="utf-8")


def check_manifest(folder: Path, path: Path) -> None:
    """Raises Tampered where the folder's files are not those that were written down."""
    expected: dict[str, str] = json.loads(path.read_text(encoding="utf-8"))["files"]
    found = files_of(folder)
    for name in sorted(expected.keys() | found.keys()):
        if name not in expected:
            raise Tampered(f"{folder}: found {name}, expected no file that registration has not written down")
        if found.get(name) != expected[name]:
            state = "no" if name not in found else "another"
            raise Tampered(f"{folder}: found {state} {name}, expected the one that registration wrote down")
