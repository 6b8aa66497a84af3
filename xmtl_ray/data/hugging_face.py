"""Local folders of Hugging Face models that a user names: complete, as safetensors, without code of their own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from xmtl_ray.data import fingerprint


def problem(folder: Path) -> str | None:
    """What keeps a folder from being used; None if nothing does."""
    if not list(folder.glob("*.safetensors")) or not (folder / "config.json").is_file():
        return f"{folder}: expected a folder with config.json and *.safetensors"
    for name in ("config.json", "preprocessor_config.json", "tokenizer_config.json"):
        if (folder / name).is_file() and "auto_map" in (folder / name).read_text(encoding="utf-8"):
            return f"{folder / name}: found auto_map, expected no code in it"
    return None


def hash_of(settings: Mapping[str, object], files: Sequence[Path]) -> str:
    """sha256 of settings and of files' contents."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in files:
        digest.update(f"{path.suffix} {fingerprint.of_file(path)}".encode())
    return digest.hexdigest()


def hash_of_folder(settings: Mapping[str, object], folder: Path) -> str:
    """sha256 of settings and of what a model in ``folder`` is made of."""
    names = ("config.json", "preprocessor_config.json", "tokenizer*.json", "vocab.txt", "*.safetensors")
    return hash_of(settings, sorted(file for name in names for file in folder.glob(name)))
