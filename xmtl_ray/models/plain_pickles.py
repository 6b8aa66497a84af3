"""The one place that reads PyTorch's files: tensors, numbers, text and their containers, and nothing that is called.

They are pickles, and a pickle is a program. ``weights_only`` runs none of it but what builds tensors, and refuses other
classes. Whoever writes a new file writes safetensors and JSON.
"""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch


class PickleError(ValueError):
    """A file of PyTorch's that is broken, or holds more than it should."""


def read(path: str | Path, map_location: Any = "cpu", mmap: bool = False) -> Any:
    """What ``torch.save`` wrote.

    Args:
        path: the file.
        map_location: as torch takes it.
        mmap: leave tensors in the file until they are looked at.

    Raises PickleError.
    """
    try:
        return torch.load(path, map_location=map_location, weights_only=True, mmap=mmap)
    except (UnpicklingError, RuntimeError, ValueError, EOFError, OSError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        found = next((line.strip() for line in lines if "GLOBAL" in line), lines[0])
        raise PickleError(f"{path}: found {found}, expected plain tensors") from None
