"""The vision towers of VideoLLaMA2 (CLIP) and 2.1 (SigLIP): transformers' own classes, frozen, cut where they are read.

A checkpoint of VideoLLaMA2 holds the tower's weights but not its configuration, which lies in another repository of the
hub; the two that the releases name are therefore kept here.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, PretrainedConfig, SiglipVisionConfig, SiglipVisionModel

TowerFamily = Literal["clip", "siglip"]
_CONFIGS: dict[TowerFamily, type[PretrainedConfig]] = {"clip": CLIPVisionConfig, "siglip": SiglipVisionConfig}
_MODELS = {"clip": CLIPVisionModel, "siglip": SiglipVisionModel}

RELEASED: dict[str, PretrainedConfig] = {
    "openai/clip-vit-large-patch14-336": CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16, image_size=336,
        patch_size=14, projection_dim=768,
    ),
    "google/siglip-so400m-patch14-384": SiglipVisionConfig(
        hidden_size=1152, intermediate_size=4304, num_hidden_layers=27, num_attention_heads=16, image_size=384,
        patch_size=14,
    ),
}  # fmt: skip
"""Name on the hub → configuration."""


def tower_family(name: str) -> TowerFamily:
    """Family by its name or path; the last part decides, where the original looks at all of it. Raises ValueError."""
    last = name.rstrip("/").rpartition("/")[2].lower()
    for family in _CONFIGS:
        if family in last:
            return family
    raise ValueError(f"mm_vision_tower: found {name!r}, expected a name with clip or siglip in it")


def tower_config(name: str, folder: Path | None) -> PretrainedConfig:
    """Configuration of the tower that a checkpoint names.

    Args:
        name: ``mm_vision_tower`` of the checkpoint: a path below it, a folder, or one of ``RELEASED``.
        folder: the checkpoint's.

    Raises ValueError where it is none of them: nothing is fetched.
    """
    for place in ([] if folder is None else [folder / name]) + [Path(name)]:
        if (file := place / "config.json").is_file():
            family = _CONFIGS[tower_family(name)]
            whole = json.loads(file.read_text(encoding="utf-8"))
            return family.from_dict(whole.get("vision_config", whole))
    if name in RELEASED:
        return RELEASED[name]
    raise ValueError(
        f"mm_vision_tower: found {name!r}, expected a folder with config.json (by itself or below the checkpoint) or "
        f"one of {', '.join(RELEASED)}"
    )


class Tower(nn.Module):
    """Frames → patches of one hidden layer, without gradient unless ``frozen`` is set to False.

    Args:
        config: CLIP's or SigLIP's.
        select_layer: index into the hidden states, 0 those before the first layer; -2 as released. What comes after it
            does not run.
    """

    def __init__(self, config: PretrainedConfig, select_layer: int = -2) -> None:
        super().__init__()
        self.family = cast(TowerFamily, config.model_type.removesuffix("_vision_model"))
        self.select_layer = select_layer
        self.vision_tower = _MODELS[self.family](config)
        self.frozen = True
        self.requires_grad_(False)

    def thaw(self) -> None:
        """Let it learn: the original never does, but a tower of random weights must."""
        self.frozen = False
        self.requires_grad_(True)

    @property
    def config(self) -> PretrainedConfig:
        """The encoder's."""
        return self.vision_tower.config

    @property
    def side(self) -> int:
        """g: patches along each side of a frame; pixels beyond the last whole patch are not looked at."""
        return int(self.config.image_size // self.config.patch_size)

    def forward(self, frames: Tensor) -> Tensor:
        """[n, 3, S, S] → [n, P, D]; CLIP's class token is left out."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            return self._patches(frames)

    def _patches(self, frames: Tensor) -> Tensor:
        layers = self.config.num_hidden_layers
        last = self.select_layer if self.select_layer >= 0 else layers + 1 + self.select_layer
        encoder = self.vision_tower.encoder.layers
        states = self._embedded(frames.to(self.dtype))
        for layer in encoder[:last]:
            states = layer(states, None)
        return states[:, 1:] if self.family == "clip" else states

    def _embedded(self, frames: Tensor) -> Tensor:
        states = self.vision_tower.embeddings(frames)
        return self.vision_tower.pre_layrnorm(states) if self.family == "clip" else states

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return next(self.vision_tower.parameters()).dtype

    def train(self, mode: bool = True) -> Tower:
        """Stays in evaluation mode while it is frozen."""
        return super().train(mode and not self.frozen)
