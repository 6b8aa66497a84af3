"""What a checkpoint says of itself: ``manifest.json``, and the name of its folder.

A manifest is read as if a stranger had written it: only plain paths below its folder, no links, and a sum over itself,
so that an edited number is found as well as an edited file. (Who edits both with their sums is not found: there is no
secret in it.)
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from xmtl_ray.training.retries import CheckpointError

MANIFEST = "manifest.json"
FORMAT = 1
MOST_BYTES = 64 << 20
"""A longer manifest is none: it has some 100 bytes a file."""
_NAME = re.compile(r"checkpoint_a(\d{4,9})_s(\d{8,12})")
_SHA256 = re.compile(r"[0-9a-f]{64}")


class InvalidCheckpoint(CheckpointError):
    """A checkpoint that is not what its manifest says: which file, what was found, what was expected."""


@dataclass(frozen=True)
class Entry:
    """One file of a checkpoint."""

    sha256: str
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Manifest:
    """One checkpoint."""

    run: str
    """Random name of the run."""
    step: int
    attempt: int
    """Which start of the run made it, from 1."""
    world_size: int
    """Workers that made it."""
    metrics: dict[str, float]
    """Reported with it."""
    files: dict[str, Entry]
    """By their path in the folder, without the manifest."""

    @property
    def name(self) -> str:
        """Of the checkpoint's folder."""
        return name_of(self.attempt, self.step)

    def dump(self) -> bytes:
        """As JSON, with its own sum."""
        content = {"format": FORMAT, **asdict(self)}
        return json.dumps(content | {"sha256": _own_sum(content)}, indent=1, sort_keys=True).encode()


def name_of(attempt: int, step: int) -> str:
    """Of a checkpoint's folder: sorted as text, the newest is last."""
    return f"checkpoint_a{attempt:04d}_s{step:08d}"


def parse_name(name: str) -> tuple[int, int]:
    """Attempt and step; (-1, -1) for a name that no checkpoint of ours has, which sorts before all that do."""
    found = _NAME.fullmatch(name)
    return (-1, -1) if found is None else (int(found[1]), int(found[2]))


def parse(content: bytes, where: str) -> Manifest:
    """The manifest of ``content``. Raises InvalidCheckpoint, naming ``where``."""
    if len(content) > MOST_BYTES:
        raise InvalidCheckpoint(f"{where}: found {len(content)} bytes, expected a manifest of at most {MOST_BYTES}")
    try:
        raw = json.loads(content)
        if not isinstance(raw, dict):
            raise TypeError(f"found {type(raw).__name__}, expected an object")
        own = raw.pop("sha256", None)
        if raw.get("format") != FORMAT:
            raise ValueError(f"format: found {raw.get('format')!r}, expected {FORMAT}")
        if own != _own_sum(raw):
            raise ValueError("its own sha256 is another: it was edited")
        return _checked(raw)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise InvalidCheckpoint(f"{where}: no manifest of a checkpoint: {error}") from None


def hashed(blocks: Iterable[bytes]) -> Entry:
    """Of a file's content."""
    digest, size = hashlib.sha256(), 0
    for block in blocks:
        digest.update(block)
        size += len(block)
    return Entry(digest.hexdigest(), size)


def _checked(raw: Mapping[str, Any]) -> Manifest:
    counts = {}
    for name in ("step", "attempt", "world_size"):
        if type(raw[name]) is not int or raw[name] < 0:
            raise ValueError(f"{name}: found {raw[name]!r}, expected a count")
        counts[name] = raw[name]
    if not isinstance(raw["run"], str):
        raise ValueError(f"run: found {raw['run']!r}, expected a name")
    metrics = {}
    for name, value in raw["metrics"].items():
        if not isinstance(value, int | float) or math.isnan(value):
            raise ValueError(f"metrics.{name}: found {value!r}, expected a number")
        metrics[name] = float(value)
    files = {}
    for path, entry in raw["files"].items():
        if not _plain(path):
            raise ValueError(f"files: found the path {path!r}, expected one below the checkpoint's folder")
        sha256, size = entry["sha256"], entry["size"]
        if not (isinstance(sha256, str) and _SHA256.fullmatch(sha256)) or type(size) is not int or size < 0:
            raise ValueError(f"files: found {entry!r} for {path}, expected sha256 and size")
        files[path] = Entry(sha256, size)
    return Manifest(raw["run"], **counts, metrics=metrics, files=files)


def _plain(path: str) -> bool:
    """Whether it names something below a folder, on every kind of store."""
    parts = PurePosixPath(path).parts
    rooted = path.startswith("/") or "\\" in path or ":" in path or "\0" in path
    return bool(parts) and not rooted and ".." not in parts and "/".join(parts) == path and path != MANIFEST


def _own_sum(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
