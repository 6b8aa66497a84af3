"""What data a run saw: a hash per annotation file that its config names."""

from __future__ import annotations

import hashlib
from pathlib import Path

from xmtl_ray.config.load import leaves
from xmtl_ray.config.schema import Data


def fingerprints(data: Data) -> dict[str, str]:
    """Dotted path of each file or folder of annotations → sha256 of its content.

    A folder counts with its JSON and text files, by name; images do not, their names stand in the annotations.
    """
    found = {}
    for name, value, _ in leaves(data, "data."):
        path = Path(str(value))
        if name == "data.root" or value is None or not path.is_absolute():
            continue
        if path.is_file():
            found[name] = _hash([path])
        elif path.is_dir() and (files := sorted(f for f in path.iterdir() if f.suffix in {".json", ".txt"})):
            found[name] = _hash(files)
    return found


def _hash(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
