"""Untrained VideoLLaMA2 and 2.1 of a few thousand weights, as checkpoints in the public layout."""

import json
from pathlib import Path

import torch
from transformers import CLIPVisionConfig, SiglipVisionConfig

from xmtl_ray.models.splice import Row
from xmtl_ray.models.videollama2 import VideoLLaMA2, read_checkpoint

FAMILIES = ("videollama2_mistral", "videollama2_qwen2")
VOCABULARY, END, FRAMES, SIDE = 64, 2, 2, 12
IMAGE_TAG, VIDEO_TAG = -200, -201


def write_config(folder: Path, family: str, width: int = 16, **changed) -> Path:
    """config.json and the tower's; no weights."""
    tower = {
        "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": SIDE, "patch_size": 4,
    }  # fmt: skip
    clip = family == "videollama2_mistral"
    name = "vision_tower/clip-tiny" if clip else "vision_tower/siglip-tiny"
    raw = {
        "model_type": family, "architectures": ["Videollama2"], "vocab_size": VOCABULARY, "hidden_size": width,
        "intermediate_size": 2 * width, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": 256, "rope_theta": 1000000.0, "rms_norm_eps": 1e-6, "bos_token_id": 1,
        "eos_token_id": END, "tie_word_embeddings": False, "mm_hidden_size": 8, "mm_vision_tower": name,
        "mm_projector_type": "stc_connector" if clip else "stc_connector_v35", "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch", "num_frames": FRAMES, "torch_dtype": "float32",
    }  # fmt: skip
    (CLIPVisionConfig if clip else SiglipVisionConfig)(**tower).save_pretrained(folder / name)
    (folder / "config.json").write_text(json.dumps({k: v for k, v in (raw | changed).items() if v is not None}))
    return folder


def build(folder: Path, family: str, seed: int = 0, **changed) -> VideoLLaMA2:
    """A model whose random weights are large enough that nothing it does is lost in rounding."""
    torch.set_num_threads(1)
    model = VideoLLaMA2(read_checkpoint(write_config(folder, family, **changed)))
    randomise(model, seed)
    return model.eval()


def randomise(model: torch.nn.Module, seed: int) -> None:
    """Other values in every weight."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
            if "norm" in name or ".bn." in name:
                value.add_(1)


def pixels(seed: int, frames: int = 1) -> torch.Tensor:
    """An image, or a video of so many frames."""
    return torch.randn(frames, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def row(*ids: int, learnt: int = 0) -> Row:
    """Ids and tags; the last ``learnt`` of them are to be said."""
    silent = len(ids) - learnt
    return Row(list(ids), [-100] * silent + list(ids[silent:]))
