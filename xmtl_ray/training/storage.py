"""The folder of a run: on this machine's disk, or behind a URI that pyarrow reaches."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pyarrow import fs


class StorageError(ValueError):
    """A storage path that cannot be reached or written to."""


def is_local(storage_path: str) -> bool:
    """Whether it is a folder of this machine rather than a URI."""
    return "://" not in storage_path


@contextmanager
def run_folder(storage_path: str, name: str) -> Iterator[Path]:
    """A local folder for what a run writes; at the end its content lies under ``storage_path/name``."""
    if is_local(storage_path):
        folder = Path(storage_path) / name
        folder.mkdir(parents=True, exist_ok=True)
        yield folder
        return
    filesystem, root = reach(storage_path)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            yield Path(temporary)
        finally:
            fs.copy_files(temporary, f"{root}/{name}", destination_filesystem=filesystem)


def reach(storage_path: str) -> tuple[fs.FileSystem, str]:
    """The file system behind ``storage_path`` and the path in it. Raises StorageError."""
    try:
        filesystem, root = fs.FileSystem.from_uri(
            storage_path if not is_local(storage_path) else Path(storage_path).resolve().as_uri()
        )
        filesystem.create_dir(root, recursive=True)
    except (OSError, ValueError) as error:
        raise StorageError(f"storage_path: {storage_path!r} cannot be written to: {error}") from None
    return filesystem, root
