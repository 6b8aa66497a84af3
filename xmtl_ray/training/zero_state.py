"""AdamW's state under DeepSpeed, whole instead of in shards: the same files whatever the number of workers.

DeepSpeed's own checkpoints fit one number of workers, are pickles, and where their ``latest`` is missing training
begins anew without a word. Here every tensor is gathered, one weight at a time, and written by rank 0 as safetensors;
a load gives each rank its part of it. The price is that rank 0 writes for all; the files are cut so that it never holds
more than ``BLOCK_BYTES`` of them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

STATE = "zero.json"
MOMENTS = ("exp_avg", "exp_avg_sq")
MASTER = "master"
"""The fp32 weight of one that is trained in less."""
BLOCK_BYTES = 2 << 30


def save(engine: Any, model: nn.Module, folder: Path) -> None:
    """Write the state of all weights that learn; every rank calls it, after at least one step."""
    _link(engine)
    writes = dist.get_rank() == 0
    block: dict[str, Tensor] = {}
    files, size = 0, 0
    for name, weight in _learning(model):
        for key in (*MOMENTS, MASTER):
            if key == MASTER and weight.dtype == torch.float32:
                continue
            value = _gathered(engine, weight, key)
            if writes:
                block[f"{key}/{name}"] = value.detach().to("cpu", torch.float32, copy=True).contiguous()
                size += value.numel() * 4
        if size > BLOCK_BYTES:
            save_file(block, folder / _file(files))
            block, files, size = {}, files + 1, 0
    if writes:
        save_file(block, folder / _file(files))
        steps = {float(_base(engine).state[flat]["step"]) for flat in _flats(engine)}
        assert len(steps) == 1, f"AdamW counts its steps alike: {steps}"
        (folder / STATE).write_text(json.dumps({"step": steps.pop(), "files": files + 1}), encoding="utf-8")


def load(engine: Any, model: nn.Module, folder: Path) -> None:
    """Go back to what ``save`` wrote; the model has its weights already. Every rank calls it."""
    from deepspeed.utils import safe_set_full_fp32_param, safe_set_local_fp32_param

    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    base = _base(engine)
    for flat in _flats(engine):
        base.state[flat] = {"step": torch.tensor(state["step"], dtype=torch.float32)}
        base.state[flat] |= {key: torch.zeros_like(flat) for key in MOMENTS}
    _link(engine)
    files = [safe_open(folder / _file(number), framework="pt") for number in range(state["files"])]
    where = {key: file for file in files for key in file.keys()}  # noqa: SIM118 (no mapping)
    for name, weight in _learning(model):
        for key in MOMENTS:
            _give(engine, weight, key, where[f"{key}/{name}"].get_tensor(f"{key}/{name}"))
        whole = f"{MASTER}/{name}"
        if whole in where:
            _give(engine, weight, MASTER, where[whole].get_tensor(whole))
        elif hasattr(weight, "ds_id"):  # DeepSpeed steps on copies of its own
            safe_set_local_fp32_param(weight, weight.ds_tensor)
        elif hasattr(weight, "_hp_mapping"):
            safe_set_full_fp32_param(weight, weight.detach())


def _file(number: int) -> str:
    return f"zero_{number:05d}.safetensors"


def _learning(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)


def _base(engine: Any) -> Any:
    """AdamW itself."""
    return getattr(engine.optimizer, "optimizer", engine.optimizer)


def _flats(engine: Any) -> list[Tensor]:
    """What AdamW steps on: this rank's parts, or the weights themselves where nothing is sharded."""
    for name in ("fp32_partitioned_groups_flat", "single_partition_of_fp32_groups", "fp32_groups_flat_partition"):
        if (found := getattr(engine.optimizer, name, None)) is not None:
            return list(found)
    return [weight for group in _base(engine).param_groups for weight in group["params"]]


def _link(engine: Any) -> None:
    """Let each weight know its part of the moments.

    DeepSpeed does so once, after the step of the first group, when the other groups have no moments yet.
    """
    if hasattr(engine.optimizer, "_lazy_init_hp_params_optimizer_state"):
        engine.optimizer._hp_optimizer_states_linked = False
        engine.optimizer._lazy_init_hp_params_optimizer_state()


def _gathered(engine: Any, weight: Tensor, key: str) -> Tensor:
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if not hasattr(weight, "ds_id") and not hasattr(weight, "_hp_mapping"):
        return weight if key == MASTER else _base(engine).state[weight][key]
    value = safe_get_full_fp32_param(weight) if key == MASTER else safe_get_full_optimizer_state(weight, key)
    return value.reshape(getattr(weight, "ds_shape", weight.shape))


def _give(engine: Any, weight: Tensor, key: str, value: Tensor) -> None:
    from deepspeed.utils import (
        safe_set_full_fp32_param,
        safe_set_full_optimizer_state,
        safe_set_local_fp32_param,
        safe_set_local_optimizer_state,
    )

    value = value.to(weight.device)
    if hasattr(weight, "ds_id"):
        size = weight.ds_tensor.ds_numel
        padded = nn.functional.pad(value.flatten(), (0, size * dist.get_world_size() - value.numel()))
        mine = padded.narrow(0, size * dist.get_rank(), size)
        if key == MASTER:
            safe_set_local_fp32_param(weight, mine)
        else:
            safe_set_local_optimizer_state(weight, mine, key)
    elif hasattr(weight, "_hp_mapping"):
        if key == MASTER:
            safe_set_full_fp32_param(weight, value)
        else:
            safe_set_full_optimizer_state(weight, value, key)
    elif key == MASTER:
        weight.data.copy_(value)
    else:
        _base(engine).state[weight][key].copy_(value)
