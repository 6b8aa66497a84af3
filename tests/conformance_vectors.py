"""What the checks of VideoLLaMA2's conformance vectors share: findings, differences, stored files and batches."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from xmtl_ray.models import splice
from xmtl_ray.models.splice import Layout, Row


class Found(NamedTuple):
    """One comparison: what, by how much we differ from the vectors, by how much we may."""

    quantity: str
    difference: float
    tolerance: float


class Unchecked(NamedTuple):
    """A part of the folder that was not compared, and why."""

    part: str
    reason: str


Check = Callable[[Path], Iterator[Found | Unchecked]]

EXACT = 0.0


def far(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference; infinite for other shapes."""
    if ours.shape != theirs.shape:
        return math.inf
    return (ours.detach().double() - theirs.double()).abs().max().item() if theirs.numel() else 0.0


def unequal(ours: object, theirs: object) -> float:
    """0 for equal things, else 1."""
    return float(ours != theirs)


def relative(ours: float, theirs: float, floor: float = 0.0) -> float:
    """|a - b| / |b|; nothing where it is below ``floor``."""
    gap = abs(ours - theirs)
    return 0.0 if gap <= floor else gap / abs(theirs) if theirs else math.inf


def listing(folder: Path, pattern: str) -> list[Path]:
    """Sorted paths."""
    return sorted(folder.glob(pattern))


def read(file: Path) -> Any:
    """A JSON file."""
    return json.loads(file.read_text(encoding="utf-8"))


@cache
def tokenizer_in(folder: Path) -> PreTrainedTokenizerBase:
    """Any of the tokenizers, read once."""
    return AutoTokenizer.from_pretrained(folder, local_files_only=True)


class Case(NamedTuple):
    """One stored batch as ours takes it."""

    told: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    every: list[Tensor]
    """All media, as the original has them."""
    used: list[Tensor]
    """Those that a tag stands for."""
    layout: Layout
    """Of whole rows, pads among them."""
    real: Layout
    """Of rows without their pads."""


def case_of(file: Path, tokens: int) -> Case:
    """The case whose JSON is ``file``."""
    told, tensors = read(file), load_file(file.with_suffix(".safetensors"))
    pixels = load_file(file.parent / "pixels.safetensors")
    every = [pixels[one["tensor"]] for one in told["media"] or []]
    every = [one if one.dim() == 4 else one[None] for one in every]
    used, left = list[Tensor](), iter(every)
    for row in tensors["input_ids"]:
        for _ in range(tags := int((row < 0).sum())):
            used.append(next(left))
        if not tags:
            next(left, None)
    whole, trimmed = list[Row](), list[Row]()
    for ids, labels, mask in zip(*(tensors[name] for name in ("input_ids", "labels", "attention_mask")), strict=True):
        keep = mask.bool()
        whole.append(Row(ids.tolist(), labels.tolist()))
        trimmed.append(Row(ids[keep].tolist(), labels[keep].tolist()))
    return Case(told, tensors, every, used, splice.lay_out(whole, tokens), splice.lay_out(trimmed, tokens))
