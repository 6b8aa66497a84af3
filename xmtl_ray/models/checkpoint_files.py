"""Weights in a folder as the hub has them: safetensors or PyTorch's pickles, in one file or in shards with an index.

A pickle is read by ``plain_pickles``, which builds tensors and nothing else.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from huggingface_hub import split_torch_state_dict_into_shards
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from xmtl_ray.models import plain_pickles

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_NAMES = ((WEIGHTS, INDEX), ("pytorch_model.bin", "pytorch_model.bin.index.json"))


class WeightsError(ValueError):
    """A folder whose weights cannot be read: which file, what is wrong with it."""


def files(folder: Path) -> list[Path]:
    """The files that hold the weights, safetensors before pickles. Raises WeightsError where there are none."""
    for single, index in _NAMES:
        if (folder / single).is_file():
            return [folder / single]
        if (folder / index).is_file():
            names = sorted(set(json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values()))
            for name in names:
                if Path(name).name != name or not (folder / name).is_file():
                    raise WeightsError(f"{folder / index}: names {name!r}, expected a file beside it")
            return [folder / name for name in names]
    raise WeightsError(f"{folder}: found no {WEIGHTS} and no {INDEX}, expected a checkpoint's folder")


def check(folder: Path) -> None:
    """Open every file of weights, so that a broken or hostile one is named. Raises WeightsError."""
    for file in files(folder):
        next(tensors(file), None)


def tensors(file: Path, wanted: Callable[[str], bool] = lambda name: True) -> Iterator[tuple[str, Tensor]]:
    """(name, tensor) of every wanted tensor of one file. Raises WeightsError."""
    if file.suffix == ".safetensors":
        try:
            opened = safe_open(file, "pt")
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{file}: found {str(error).splitlines()[0]}, expected safetensors") from None
        with opened:
            for name in filter(wanted, opened.keys()):
                yield name, opened.get_tensor(name)
        return
    try:
        state = plain_pickles.read(file, mmap=True)
    except plain_pickles.PickleError as error:
        raise WeightsError(str(error)) from None
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise WeightsError(f"{file}: found {type(state).__name__}, expected names with tensors")
    yield from ((name, value) for name, value in state.items() if wanted(name))


def save(folder: Path, state: Mapping[str, Tensor], shard: str = "5GB") -> None:
    """Write ``state`` as safetensors, with an index where one file would exceed ``shard``."""
    plan = split_torch_state_dict_into_shards(
        dict(state), filename_pattern="model{suffix}.safetensors", max_shard_size=shard
    )
    for name, members in plan.filename_to_tensors.items():
        save_file({key: state[key].contiguous() for key in members}, folder / name, {"format": "pt"})
    if plan.is_sharded:
        index = {"metadata": plan.metadata, "weight_map": plan.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=1, sort_keys=True), encoding="utf-8")


def sha256(folder: Path) -> str:
    """Hash of a checkpoint: its config.json and the names and bytes of its weights. Files are read side by side."""
    paths = [folder / "config.json", *files(folder)]

    def digest(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    with ThreadPoolExecutor(4) as pool:
        lines = [f"{path.name} {value}" for path, value in zip(paths, pool.map(digest, paths), strict=True)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
