"""Outputs of a frozen vision tower on disk: one safetensors file for each medium and way of looking at it.

Exact, not a guess: the tower is frozen, preprocessing has no randomness, and the key is a hash of all that decides on
the output. Several processes may share a store: a file is written beside its place and then renamed, so a reader sees
a whole file or none, and of two writers of one key the last wins with equal content. Nothing is ever removed; delete
the folder when it is too large.

The surprising fact: a file that is torn, of another key or no safetensors at all is a miss, so the next ``put``
replaces it; ``torn`` counts them. Shapes: T frames, P patches, D hidden.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from pathlib import Path
from typing import cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from xmtl_ray.data.objects import write_whole

_VERSION = "1"
_NAME = "features"
_KEY = re.compile("[0-9a-f]{64}")


def key(
    content: str,
    preprocess: str,
    frames: object,
    weights: str,
    select_layer: int,
    dtype: str,
) -> str:
    """sha256 of all that decides on a tower's output.

    Args:
        content: hash of the media file (``frames.content_hash``).
        preprocess: ``Preprocess.identity()``.
        frames: what was asked for, as JSON can hold it: the kind of medium, the number of frames, a window.
        weights: hash of the tower's weights.
        select_layer: which hidden state is taken.
        dtype: of the tower and its output.
    """
    parts = [_VERSION, content, preprocess, frames, weights, select_layer, dtype]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


class TowerFeatures:
    """A store in a folder, which need not exist yet.

    ``hits``, ``misses`` and ``torn`` count what ``get`` found; a torn file is a miss, too.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hits = self.misses = self.torn = 0

    def get(self, key: str) -> Tensor | None:
        """Features [T, P, D] as they were put, or None."""
        path = self._path(key)
        try:
            with safe_open(path, "pt") as file:
                facts, features = file.metadata() or {}, cast(Tensor, file.get_tensor(_NAME))
            if facts == _facts(key, features):
                self.hits += 1
                return features
            self.torn += 1
        except FileNotFoundError:
            pass
        except SafetensorError:
            self.torn += 1
        self.misses += 1
        return None

    def put(self, key: str, features: Tensor) -> None:
        """Keep ``features`` [T, P, D] on the disk. Raises OSError or SafetensorError where the disk is full."""
        if features.dim() != 3 or not features.is_floating_point():
            raise ValueError(f"features [T, P, D] are expected, not {features.dtype} {list(features.shape)}")
        features = features.detach().cpu().contiguous()
        write_whole(self._path(key), lambda path: save_file({_NAME: features}, path, _facts(key, features)))

    def size_bytes(self) -> int:
        """Bytes of all files of the store."""
        return sum(path.stat().st_size for path in self.folder.glob("??/*.safetensors"))

    def _path(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise ValueError(f"a key has 64 hexadecimal digits, not {key!r}")
        return self.folder / key[:2] / f"{key}.safetensors"


def _facts(key: str, features: Tensor) -> dict[str, str]:
    """Whose features these are, and a checksum: a copy that was cut may have its whole length."""
    return {"key": key, "crc32": str(zlib.crc32(features.flatten().view(torch.uint8).numpy().data))}
