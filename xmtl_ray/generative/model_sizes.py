"""Sizes of the model that a config names, without its weights.

They are counted on the model itself, made on torch's meta device; so a checkpoint's config.json is enough, and for the
released VideoLLaMA2 nothing at all.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText

from xmtl_ray.config.finetune import FinetuneConfig
from xmtl_ray.generative import built, hf_vlm
from xmtl_ray.models import own_code
from xmtl_ray.models.activations import Decoder, Projection, Vision
from xmtl_ray.models.videollama2 import Checkpoint, VideoLLaMA2, parse_checkpoint, read_checkpoint

_MISTRAL: dict[str, Any] = {
    "model_type": "videollama2_mistral", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000, "sliding_window": None,
    "mm_projector_type": "stc_connector", "mm_vision_tower": "openai/clip-vit-large-patch14-336",
}  # fmt: skip
_QWEN2: dict[str, Any] = {
    "model_type": "videollama2_qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
    "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064, "use_sliding_window": False,
    "mm_projector_type": "stc_connector_v35", "mm_vision_tower": "google/siglip-so400m-patch14-384",
}  # fmt: skip
RELEASED: dict[str, dict[str, Any]] = {
    "DAMO-NLP-SG/VideoLLaMA2-7B": _MISTRAL | {"num_frames": 8},
    "DAMO-NLP-SG/VideoLLaMA2-7B-16F": _MISTRAL | {"num_frames": 16},
    "DAMO-NLP-SG/VideoLLaMA2.1-7B-16F": _QWEN2 | {"num_frames": 16},
}
"""Name on the hub → what its config.json says of sizes; so they need not be here to be planned for."""


class SizesError(ValueError):
    """A model whose sizes are not known."""


def sizes_of(config: FinetuneConfig) -> tuple[Decoder, Vision]:
    """Sizes of the model that a config names. Raises SizesError or CheckpointError."""
    spec = config.model
    if spec.family == "hf_vlm":
        return _of_transformers(Path(spec.path))
    if spec.path == "built":
        tokenizer = built.learn_tokenizer((), spec.built.vocabulary, spec.family)
        small = built.checkpoint(spec.built, spec.family, tokenizer)
        # The learnt tokenizer has as many pieces as it may have, unlike the one of no conversations.
        checkpoint = parse_checkpoint(dict(small.raw) | {"vocab_size": spec.built.vocabulary}, tower=small.tower)
    elif Path(spec.path).is_dir():
        checkpoint = read_checkpoint(Path(spec.path))
    elif spec.path in RELEASED:
        checkpoint = parse_checkpoint(RELEASED[spec.path])
    else:
        raise SizesError(
            f"model.path: found {spec.path!r}, expected a folder with config.json, built, or one of "
            f"{', '.join(RELEASED)}"
        )
    return _of_videollama2(checkpoint)


def _of_videollama2(checkpoint: Checkpoint) -> tuple[Decoder, Vision]:
    with torch.device("meta"):
        model = VideoLLaMA2(checkpoint)
    tower, config = model.tower, checkpoint.tower
    layers = config.num_hidden_layers
    vision = Vision(
        tower=_count(tower),
        connector=_count(model.connector),
        width=config.hidden_size,
        hidden=config.intermediate_size,
        layers=tower.select_layer if tower.select_layer >= 0 else layers + 1 + tower.select_layer,
        places=tower.side**2 + (tower.family == "clip"),
        frames=model.frames,
        patches=tower.side**2,
        tokens=model.tokens,
        unrolled=_count(model.connector.sampler) + _count(model.connector.readout),
    )
    return _decoder(model.language_model, model.head), vision


def _of_transformers(folder: Path) -> tuple[Decoder, Vision]:
    if not (folder / "config.json").is_file():
        raise SizesError(f"model.path: found {folder}, expected a folder with config.json")
    own_code.refuse(folder, SizesError)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise SizesError(f"{folder}: no image-text-to-text model: {str(error).strip().splitlines()[0]}") from None
    decoder = _decoder(model.get_decoder(), model.get_output_embeddings())
    named = ((name.rpartition(".")[2], part) for name, part in model.named_modules())
    connector = next((part for name, part in named if name in hf_vlm.CONNECTORS), None)
    joined = 0 if connector is None else _count(connector)
    tower = _count(model) - decoder.projected - decoder.other - decoder.embeddings - decoder.head - joined
    sees = getattr(config, "vision_config", None) or config
    side = getattr(sees, "image_size", 336) // getattr(sees, "patch_size", 14)
    width = getattr(sees, "hidden_size", decoder.width)
    vision = Vision(
        tower=tower,
        connector=joined,
        width=width,
        hidden=getattr(sees, "intermediate_size", 4 * width),
        layers=getattr(sees, "num_hidden_layers", 0),
        places=side**2 + 1,
        frames=hf_vlm.FRAMES,
        patches=0,
        tokens=hf_vlm.FRAMES * side**2,
        unrolled=joined,
    )
    return decoder, vision


def _decoder(language: nn.Module, head: nn.Linear) -> Decoder:
    config: Any = language.config
    linear = [(name.rpartition(".")[2], part) for name, part in language.named_modules()
              if isinstance(part, nn.Linear) and part is not head]  # fmt: skip
    count = Counter(name for name, _ in linear)
    layers = config.num_hidden_layers
    shapes = {name: (part.in_features, part.out_features) for name, part in linear}
    embeddings = language.get_input_embeddings().weight.numel()
    tied = head.weight is language.get_input_embeddings().weight
    projections = tuple(
        Projection(name, *shape) for name, shape in shapes.items() for _ in range(round(count[name] / layers))
    )
    projected = layers * sum(one.width_in * one.width_out for one in projections)
    inside = any(part is head for part in language.modules()) and not tied
    other = _count(language) - projected - embeddings - (head.weight.numel() if inside else 0)
    heads = config.num_attention_heads
    return Decoder(
        layers=layers,
        width=config.hidden_size,
        hidden=config.intermediate_size,
        heads=heads,
        key_value_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_width=getattr(config, "head_dim", None) or config.hidden_size // heads,
        vocabulary=head.out_features,
        projections=projections,
        other=other,
        embeddings=embeddings,
        head=0 if tied else head.weight.numel(),
    )


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
