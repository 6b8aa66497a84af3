"""Bytes on a store, local or remote: what fails for a moment is tried again, what is written reaches the disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pyarrow import fs

from xmtl_ray.training.manifest import Entry, hashed
from xmtl_ray.training.retries import CheckpointError, patiently

T = TypeVar("T")

_BLOCK = 1 << 20


class Files:
    """Operations on one file system; see ``retries.patiently`` for what they raise.

    Args:
        filesystem: any of pyarrow's.
        pause_s: wait before a failed operation is tried again.
    """

    def __init__(self, filesystem: fs.FileSystem, pause_s: float = 0.5) -> None:
        self.filesystem, self._pause_s = filesystem, pause_s
        self.local = isinstance(filesystem, fs.LocalFileSystem)
        self.renames = filesystem.type_name in {"local", "hdfs"}
        """Whether a folder can be renamed, at once for all who look."""

    def retry(self, work: Callable[[], T], path: str, needed: int | None = None) -> T:
        """What ``work`` gives."""
        return patiently(work, path, needed, self._pause_s)

    def info(self, path: str) -> fs.FileInfo:
        """Of a file, a folder or nothing."""
        return self.retry(lambda: self.filesystem.get_file_info(path), path)

    def exists(self, path: str) -> bool:
        """As file or folder."""
        return bool(self.info(path).type != fs.FileType.NotFound)

    def listed(self, folder: str) -> list[fs.FileInfo]:
        """What is in it; nothing where it is not there."""
        chosen = fs.FileSelector(folder, allow_not_found=True)
        return list(self.retry(lambda: self.filesystem.get_file_info(chosen), folder))

    def make_folder(self, path: str) -> None:
        """With those that it is in."""
        self.retry(lambda: self.filesystem.create_dir(path, recursive=True), path)

    def read(self, path: str) -> bytes | None:
        """A small file; None where there is none."""

        def content() -> bytes | None:
            try:
                return b"".join(self._blocks(path))
            except FileNotFoundError:
                return None

        return self.retry(content, path)

    def hashed(self, path: str) -> Entry:
        """Of a file's content."""
        return self.retry(lambda: hashed(self._blocks(path)), path)

    def write(self, path: str, content: bytes) -> None:
        """A small file."""
        self.retry(lambda: self._store(path, [content]), path, len(content))

    def replace(self, path: str, content: bytes) -> None:
        """A small file that others may read meanwhile: they find the old content or the new."""
        if not self.renames:
            self.write(path, content)
            return
        folder, _, name = path.rpartition("/")
        partial = f"{folder}/.{name}"
        try:
            self.write(partial, content)
        except CheckpointError:
            with suppress(OSError):
                self.filesystem.delete_file(partial)
            raise
        self.rename(partial, path)

    def rename(self, source: str, target: str) -> None:
        """A file or a folder; only where ``renames``."""
        self.retry(lambda: self.filesystem.move(source, target), target)
        self.flush(target.rpartition("/")[0])

    def put(self, source: Path, path: str, needed: int) -> Entry:
        """Copy a local file to ``path``; ``needed`` bytes are told where it does not fit."""

        def copy() -> Entry:
            with source.open("rb") as file:
                return self._store(path, iter(lambda: file.read(_BLOCK), b""))

        return self.retry(copy, path, needed)

    def get(self, path: str, target: Path) -> Entry:
        """Copy ``path`` to a local file."""

        def copy() -> Entry:
            with target.open("wb") as file:
                return hashed(_each(self._blocks(path), file.write))

        target.parent.mkdir(parents=True, exist_ok=True)
        return self.retry(copy, path)

    def flush(self, path: str) -> None:
        """To the disk, a file's content or a folder's names; a store on the network has done so when it answers."""
        if not self.local:
            return
        held = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(held)
        finally:
            os.close(held)

    def flush_folders(self, path: str) -> None:
        """A folder and those in it."""
        if self.local:
            for folder, _, _ in os.walk(path):
                self.flush(folder)

    def _blocks(self, path: str) -> Iterator[bytes]:
        with self.filesystem.open_input_stream(path, compression=None) as stream:  # else by the name's ending
            while block := stream.read(_BLOCK):
                yield block

    def _store(self, path: str, blocks: Iterable[bytes]) -> Entry:
        self.filesystem.create_dir(path.rpartition("/")[0], recursive=True)
        with self.filesystem.open_output_stream(path, compression=None) as stream:
            entry = hashed(_each(blocks, stream.write))
        self.flush(path)
        return entry


def _each(blocks: Iterable[bytes], take: Callable[[bytes], object]) -> Iterator[bytes]:
    for block in blocks:
        take(block)
        yield block
