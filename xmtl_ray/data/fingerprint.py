"""Hashes of files and folders by content: of a model, and of the annotations that a run saw."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from xmtl_ray.config.load import leaves
from xmtl_ray.config.run import Section


def fingerprints(data: Section) -> dict[str, str]:
    """Dotted path of each file or folder of annotations → sha256 of its content.

    A folder counts with its JSON and text files, by name; images do not, their names stand in the annotations.
    """
    found = {}
    for name, value, _ in leaves(data, "data."):
        path = Path(str(value))
        if name == "data.root" or value is None or not path.is_absolute():
            continue
        if path.is_file():
            found[name] = of_files([path], path.parent)
        elif path.is_dir() and (files := sorted(f for f in path.iterdir() if f.suffix in {".json", ".txt"})):
            found[name] = of_files(files, path)
    return found


def of_file(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_folder(folder: Path) -> str:
    """sha256 of the names and the content of all files below a folder."""
    return of_files(sorted(path for path in folder.rglob("*") if path.is_file()), folder)


def of_files(files: Iterable[Path], folder: Path) -> str:
    """sha256 of some files' names below ``folder`` and of their content, in the order given."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(bytes.fromhex(of_file(path)))
    return digest.hexdigest()
