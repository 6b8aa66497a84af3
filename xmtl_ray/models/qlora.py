"""QLoRA: a language model in 4 or 8 bits by bitsandbytes, adapters by PEFT, and adapters as folders.

W' = W + (alpha/r)·BA, as PEFT scales it (paper B's Eq. 4 has alpha alone, which would be 128 times as much). An
adapter's folder holds what was trained and nothing else, and is pinned to the weights that it was trained on: on others
it would give other answers without a sign of it. PEFT and bitsandbytes are known here only.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal

import torch
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from peft.utils import load_peft_weights
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BitsAndBytesConfig

Bits = Literal[4, 8, 16]

ADAPTER, ADAPTER_CONFIG, BASE = "adapter_model.safetensors", "adapter_config.json", "base.json"
REST = "non_lora_trainables.safetensors"
"""What was trained besides the adapters: the connector. The original writes a pickle of this name."""
_PEFT = "base_model.model."
"""What PEFT's files put before the names of a model's weights."""


class AdapterError(ValueError):
    """An adapter that does not go with a model."""


@dataclass(frozen=True)
class Base:
    """What an adapter was trained on."""

    path: str
    """Folder, as it was named; where it lies elsewhere now, another may be given."""
    sha256: str
    """Of its config.json and weights (``checkpoint_files.sha256``)."""
    family: str
    bits: int
    """Of the language model's weights while it was trained."""


def quantization(
    bits: Bits, dtype: torch.dtype, double: bool = True, skip: Sequence[str] = ("lm_head",)
) -> BitsAndBytesConfig | None:
    """How transformers quantises a language model as it loads it; None for 16 bits.

    4 bits are NF4. The packed weights are stored as ``dtype``, so that ZeRO-3 and FSDP can shard them.

    Args:
        bits: per weight.
        dtype: what products are computed in.
        double: quantise the quantisation constants as well (0.37 bits less per weight).
        skip: parts by name that stay as they are.
    """
    if bits == 16:
        return None
    if bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(skip))
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=dtype,
        llm_int8_skip_modules=list(skip),
    )


def add_adapters(language_model: nn.Module, r: int, alpha: float, dropout: float, targets: Collection[str]) -> int:
    """Put untrained adapters (B = 0) into ``language_model``, freeze all else in it; returns how many layers have one.

    A language model of 4 bits on a CPU must not have run before.

    Args:
        language_model: only its own layers are looked at, so no tower's projections of the same names.
        r: rank.
        alpha: scale times r.
        dropout: on the adapters' inputs.
        targets: last parts of layers' names, e.g. q_proj.

    Raises AdapterError for a target that no layer has.
    """
    names = {name.rpartition(".")[2] for name, layer in language_model.named_modules() if isinstance(layer, nn.Linear)}
    if unknown := sorted(set(targets) - names):
        raise AdapterError(f"adapter.targets: found {', '.join(unknown)}, expected some of {', '.join(sorted(names))}")
    # A name alone would be matched as the end of a path; a list keeps its order, so the file is the same every time.
    settings = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=sorted(targets), bias="none")
    language_model.requires_grad_(False)
    for layer in language_model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            # Else bitsandbytes repacks the weights in evaluation, for a product that from then on has no gradient.
            layer.support_avx512bf16_for_cpu = False
    inject_adapter_in_model(settings, language_model)
    for name, parameter in language_model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()  # the optimizer's steps are too small for 16 bits
    return sum(isinstance(layer, LoraLayer) for layer in language_model.modules())


def trainable_names(model: nn.Module) -> list[str]:
    """Names of the weights that learn, in the model's order."""
    return [name for name, parameter in model.named_parameters() if parameter.requires_grad]


def save_adapter(
    folder: Path, language_model: nn.Module, state: Mapping[str, Tensor], base: Base, prefix: str = "language_model."
) -> None:
    """Write an adapter's folder: PEFT's two files, what else was trained, and what it was trained on.

    Args:
        folder: is made.
        language_model: has the adapters' settings.
        state: trained weights by the whole model's names.
        base: is pinned.
        prefix: of the language model's names in ``state``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lora, rest = {}, {}
    for name, value in state.items():
        if "lora_" in name:
            plain = name.removeprefix(prefix).replace(".default", "")
            lora[_PEFT + plain] = value.detach().cpu().contiguous()
        else:
            rest[name] = value.detach().cpu().contiguous()
    save_file(lora, folder / ADAPTER, {"format": "pt"})
    if rest:
        save_file(rest, folder / REST, {"format": "pt"})
    settings: LoraConfig = language_model.peft_config["default"]
    written = settings.to_dict() | {
        "base_model_name_or_path": base.path,
        "target_modules": sorted(settings.target_modules),
        "inference_mode": True,
    }
    (folder / ADAPTER_CONFIG).write_text(json.dumps(written, indent=1, sort_keys=True, default=str), encoding="utf-8")
    (folder / BASE).write_text(json.dumps(asdict(base), indent=1), encoding="utf-8")


def base_of(folder: Path) -> Base:
    """What the adapter in ``folder`` was trained on. Raises AdapterError."""
    for name in (BASE, ADAPTER_CONFIG, ADAPTER):
        if not (folder / name).is_file():
            raise AdapterError(f"{folder}: found no {name}, expected an adapter's folder")
    return Base(**json.loads((folder / BASE).read_text(encoding="utf-8")))


def read_adapter(folder: Path, prefix: str = "language_model.") -> dict[str, Tensor]:
    """The weights that :func:`save_adapter` wrote, by the whole model's names."""
    state = load_file(folder / REST) if (folder / REST).is_file() else {}
    for name, value in load_file(folder / ADAPTER).items():
        path, _, kind = name.removeprefix(_PEFT).rpartition(".")
        state[f"{prefix}{path}.default.{kind}"] = value
    return state


def load_adapter(folder: Path, model: nn.Module, language_model: nn.Module, base_sha256: str) -> None:
    """Put the adapters of ``folder`` into ``language_model``, a part of ``model``, and the rest into ``model``.

    Raises AdapterError where ``base_sha256``, the hash of the weights that were loaded, is not the pinned one.
    """
    base = base_of(folder)
    if base.sha256 != base_sha256:
        raise AdapterError(
            f"{folder}: was trained on weights {base.sha256[:12]}… ({base.path}), found {base_sha256[:12]}…; an "
            "adapter on another base answers wrongly without a sign of it"
        )
    attach(folder, language_model)
    if (folder / REST).is_file():
        found = load_file(folder / REST)
        wrong = model.load_state_dict(found, strict=False)
        if wrong.unexpected_keys:
            raise AdapterError(f"{folder / REST}: {wrong.unexpected_keys[0]} is no part of the model")


def attach(folder: Path, language_model: nn.Module) -> None:
    """Put the adapters of a folder of PEFT's, safetensors or pickle, into ``language_model``, whatever their base.

    Raises AdapterError for weights that belong to no layer and for adapted layers that the folder has no weights of.
    """
    settings = LoraConfig.from_pretrained(str(folder))
    try:  # before anything is changed; PEFT reads its older files with weights_only
        stored = load_peft_weights(str(folder), device="cpu")
    except (SafetensorError, UnpicklingError, RuntimeError, ValueError, EOFError) as error:
        found = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise AdapterError(f"{folder}: found {found}, expected the weights of an adapter") from None
    add_adapters(language_model, settings.r, settings.lora_alpha, settings.lora_dropout, settings.target_modules)
    weights = {name.removeprefix(_PEFT): value for name, value in stored.items()}
    wrong = set_peft_model_state_dict(language_model, weights)
    missing = [name for name in wrong.missing_keys if "lora_" in name]
    if wrong.unexpected_keys or missing:
        raise AdapterError(
            f"{folder}: adapters do not fit the model: {len(missing)} missing, {len(wrong.unexpected_keys)} too many, "
            f"e.g. {[*missing, *wrong.unexpected_keys][0]}"
        )


@torch.no_grad()
def merge(language_model: nn.Module) -> None:
    """Add the adapters to the weights, W + (alpha/r)·BA, and take them out. Raises AdapterError for packed weights."""
    for path, layer in list(language_model.named_modules()):
        if not isinstance(layer, LoraLayer):
            continue
        weight = layer.get_base_layer().weight
        if hasattr(weight, "bnb_quantized") or not weight.is_floating_point():
            raise AdapterError(
                f"{path}: found packed weights, expected 16 or 32 bits: load the base with 16 bits to merge"
            )
        layer.merge()
        parent = language_model.get_submodule(path.rpartition(".")[0])
        setattr(parent, path.rpartition(".")[2], layer.get_base_layer())
    del language_model.peft_config
