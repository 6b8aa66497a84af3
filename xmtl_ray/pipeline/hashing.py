"""Hashes of files and folders by content, remembered by size and time so that unchanged ones are not read again.

The surprising fact: a change that keeps both a file's size and its time of modification is not seen.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from xmtl_ray.data.fingerprint import of_file


class Hashes:
    """Content hashes; what was read once is kept in ``cache``, one file for each file or folder that was asked for.

    Several processes may share a cache: entries are replaced whole, and one that is lost is made again.
    """

    def __init__(self, cache: Path) -> None:
        self.cache = cache

    def of(self, path: Path) -> str:
        """sha256 of a file's content, or of a folder's files by name and content. Raises FileNotFoundError."""
        return combined(self.files(path))

    def files(self, path: Path) -> dict[str, str]:
        """Relative name → sha256 of each file under ``path``; a file itself is named ``""``."""
        path = path.absolute()
        if not path.exists():
            raise FileNotFoundError(f"{path}: not there, expected a file or folder to hash")
        entry = self.cache / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"
        known = _known(entry)
        states = _states(path)
        stale = [name for name, state in states.items() if known.get(name, [None])[:2] != state]
        with ThreadPoolExecutor() as pool:
            digests = dict(zip(stale, pool.map(lambda name: of_file(path / name), stale), strict=True))
        found = {name: digests[name] if name in digests else str(known[name][2]) for name in states}
        if stale or known.keys() != states.keys():
            self.cache.mkdir(parents=True, exist_ok=True)
            partial = entry.with_suffix(f".{os.getpid()}")
            partial.write_text(json.dumps({name: [*states[name], found[name]] for name in states}), encoding="utf-8")
            partial.replace(entry)
        return found


def combined(files: Mapping[str, str]) -> str:
    """One hash of all files' names and hashes; that of a single file named ``""`` is the file's own."""
    if list(files) == [""]:
        return files[""]
    digest = hashlib.sha256()
    for name, value in sorted(files.items()):
        digest.update(f"{name}\0{value}\n".encode())
    return digest.hexdigest()


def _known(entry: Path) -> dict[str, list[object]]:
    try:
        return dict(json.loads(entry.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError):
        return {}


def _states(path: Path) -> dict[str, list[object]]:
    """Relative name → [size, time of modification in ns], in the order of names."""
    if path.is_file():
        return {"": _state(path.stat())}
    found: dict[str, list[object]] = {}
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in names:
            file = Path(folder) / name
            found[file.relative_to(path).as_posix()] = _state(file.stat())
    return dict(sorted(found.items()))


def _state(stat: os.stat_result) -> list[object]:
    return [stat.st_size, stat.st_mtime_ns]
