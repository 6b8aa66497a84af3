"""VideoLLaMA2 and 2.1: a frozen vision tower, the connector, and Mistral or Qwen2 by transformers.

Reads and writes the public checkpoints' layout. Ours are the connector, the order in which media meet their places, and
the map of names; the rest is transformers and timm. R rows, M places, C language width, K media, T frames, P patches,
D vision width, N visual tokens of a medium.

Unlike the original, an image goes through the tower once and not once per repeated frame, and a row of text needs no
medium; both change no result.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import (
    BitsAndBytesConfig,
    MistralConfig,
    MistralForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from xmtl_ray.models import checkpoint_files
from xmtl_ray.models.connector import PADDING, Connector, ConnectorKind, tokens_per_medium
from xmtl_ray.models.splice import VISUAL, Layout
from xmtl_ray.models.towers import RELEASED, Tower, tower_config

CONNECTOR_PREFIX = "model.mm_projector."
TOWER_PREFIX = "model.vision_tower.vision_tower.vision_model."


class CheckpointError(ValueError):
    """A folder that holds no VideoLLaMA2: which part of it is not as expected."""


class MistralLanguage(MistralForCausalLM):
    """Mistral out of a checkpoint that holds more."""

    _keys_to_ignore_on_load_unexpected = (r"vision_tower", r"mm_projector")


class Qwen2Language(Qwen2ForCausalLM):
    """Qwen2 out of a checkpoint that holds more."""

    _keys_to_ignore_on_load_unexpected = (r"vision_tower", r"mm_projector")


_LANGUAGES: dict[str, tuple[type[PretrainedConfig], type[PreTrainedModel]]] = {
    "videollama2": (MistralConfig, MistralLanguage),
    "videollama2_mistral": (MistralConfig, MistralLanguage),
    "videollama2_qwen2": (Qwen2Config, Qwen2Language),
}


@dataclass(frozen=True)
class Checkpoint:
    """What config.json of a checkpoint says, with the tower's configuration."""

    raw: Mapping[str, Any]
    """The file as it is, which is also what is written."""
    language: PretrainedConfig
    tower: PretrainedConfig

    @property
    def model_type(self) -> str:
        """E.g. videollama2_qwen2."""
        return str(self.raw["model_type"])

    @property
    def connector(self) -> ConnectorKind:
        """Which of the two."""
        return cast(ConnectorKind, self.raw["mm_projector_type"])

    @property
    def tower_name(self) -> str:
        """As the file names it."""
        return str(self.raw["mm_vision_tower"])

    @property
    def select_layer(self) -> int:
        """Of the tower's hidden states."""
        return int(self.raw.get("mm_vision_select_layer", -2))

    @property
    def frames(self) -> int:
        """T: frames of a video; 8 where the file does not say."""
        return int(self.raw.get("num_frames") or 8)

    @property
    def tokens(self) -> int:
        """N."""
        return tokens_per_medium(self.connector, self.frames, self.tower.image_size // self.tower.patch_size)


def read_checkpoint(folder: Path) -> Checkpoint:
    """Settings of the checkpoint in ``folder``. Raises CheckpointError."""
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointError(f"{folder}: found no config.json, expected a checkpoint of VideoLLaMA2 or 2.1")
    return parse_checkpoint(json.loads(file.read_text(encoding="utf-8")), folder)


def parse_checkpoint(
    raw: Mapping[str, Any], folder: Path | None = None, tower: PretrainedConfig | None = None
) -> Checkpoint:
    """Settings as config.json has them.

    Args:
        raw: its content.
        folder: where it lies.
        tower: the vision tower's; None: found by the name that ``raw`` has for it.

    Raises CheckpointError.
    """
    where = "config.json" if folder is None else str(folder / "config.json")
    for field, known in (("model_type", _LANGUAGES), ("mm_projector_type", PADDING)):
        if raw.get(field) not in known:
            raise CheckpointError(f"{where}: {field}: found {raw.get(field)!r}, expected {' or '.join(known)}")
    if "auto_map" in raw:
        raise CheckpointError(f"{where}: auto_map: found code of its own, which is not run; remove the field")
    if raw.get("mm_vision_select_feature", "patch") != "patch":
        raise CheckpointError(f"{where}: mm_vision_select_feature: found {raw['mm_vision_select_feature']!r}, expected "
                              "'patch': with the class token the patches are no square")  # fmt: skip
    family, _ = _LANGUAGES[raw["model_type"]]
    own = {name: value for name, value in raw.items() if not name.startswith("mm_") and name not in _NOT_LANGUAGE}
    try:
        tower = tower or tower_config(str(raw["mm_vision_tower"]), folder)
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}") from None
    return Checkpoint(dict(raw), family.from_dict(own), tower)


_NOT_LANGUAGE = {"model_type", "architectures", "_name_or_path", "num_frames", "use_mm_proj", "image_aspect_ratio"}


class VideoLLaMA2(nn.Module):
    """See the module.

    Args:
        checkpoint: settings.
        language_model: of its language model's class; None: made with random weights.
    """

    def __init__(self, checkpoint: Checkpoint, language_model: PreTrainedModel | None = None) -> None:
        super().__init__()
        self.checkpoint = checkpoint
        self.tower = Tower(checkpoint.tower, checkpoint.select_layer)
        self.connector = Connector(checkpoint.connector, checkpoint.tower.hidden_size, checkpoint.language.hidden_size)
        if language_model is None:
            language_model = _LANGUAGES[checkpoint.model_type][1](checkpoint.language)
        self.language_model = language_model
        self.frames, self.tokens = checkpoint.frames, checkpoint.tokens

    @classmethod
    def from_pretrained(
        cls,
        folder: Path,
        dtype: torch.dtype = torch.float32,
        quantization: BitsAndBytesConfig | None = None,
        device: torch.device | None = None,
    ) -> VideoLLaMA2:
        """Read a checkpoint in the public layout; only the language model is quantised.

        Raises CheckpointError or WeightsError; nothing in the folder is run.
        """
        checkpoint = read_checkpoint(folder)
        _, family = _LANGUAGES[checkpoint.model_type]
        checkpoint_files.check(folder)
        language, found = family.from_pretrained(
            folder,
            config=checkpoint.language,
            dtype=dtype,
            quantization_config=quantization,
            device_map=None if quantization is None else {"": device or torch.device("cpu")},
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        if absent := sorted(found["missing_keys"]):  # transformers would go on with random ones
            raise CheckpointError(
                f"{folder}: weights do not fit its config.json: no {absent[0]}, of {len(absent)} such"
            )
        model = cls(checkpoint, language)
        state: dict[str, Tensor] = {}
        for file in checkpoint_files.files(folder):
            state |= {
                name: tensor.to(dtype)
                for public, tensor in checkpoint_files.tensors(file)
                if (name := own_name(public)) is not None and not name.startswith("language_model.")
            }
        wrong = model.load_state_dict(state, strict=False)
        missing = [name for name in wrong.missing_keys if not name.startswith("language_model.")]
        if missing or wrong.unexpected_keys:
            raise CheckpointError(
                f"{folder}: weights do not fit its config.json: {len(missing)} missing, {len(wrong.unexpected_keys)} "
                f"too many, e.g. {[*missing, *wrong.unexpected_keys][0]}"
            )
        model.tower.to(dtype)
        model.connector.to(dtype)
        return model.eval()

    def save_pretrained(self, folder: Path, state: Mapping[str, Tensor] | None = None, shard: str = "5GB") -> None:
        """Write the public layout, which the original reads as well.

        Args:
            folder: is made.
            state: whole weights by this module's names, where an engine has sharded the module's own.
            shard: size of a file at most.
        """
        folder.mkdir(parents=True, exist_ok=True)
        named = self.state_dict() if state is None else state
        checkpoint_files.save(folder, {public_name(name): value.detach().cpu() for name, value in named.items()}, shard)
        raw = dict(self.checkpoint.raw)
        if (name := self.checkpoint.tower_name) not in RELEASED:
            inside = not Path(name).is_absolute() and ".." not in Path(name).parts
            below = name if inside else f"vision_tower/{Path(name).name}"
            raw["mm_vision_tower"] = below
            self.checkpoint.tower.save_pretrained(folder / below)
        raw["torch_dtype"] = str(next(iter(named.values())).dtype).removeprefix("torch.")
        (folder / "config.json").write_text(json.dumps(raw, indent=2), encoding="utf-8")
        self.language_model.generation_config.save_pretrained(folder)

    def features(self, media: Sequence[Tensor]) -> list[Tensor]:
        """The tower's patches of each medium: pixels [T or 1, 3, S, S] → [T or 1, P, D], all frames in one pass."""
        frames = self.tower(torch.cat(list(media)))
        return list(frames.split([len(one) for one in media]))

    def visual_tokens(self, features: Sequence[Tensor]) -> Tensor:
        """Features of K media → [K, N, C]."""
        weight = self.connector.readout[0].weight
        return self.connector([one.to(weight.device, weight.dtype) for one in features], self.frames)

    def embeddings(self, layout: Layout, features: Sequence[Tensor]) -> Tensor:
        """[R, M, C]: embedded ids, visual tokens in their places in order of the media, zeros in empty places."""
        states = self.language_model.get_input_embeddings()(layout.ids.clamp(min=0))
        states = states.masked_fill((layout.ids < 0)[..., None], 0)
        if features:
            places = (layout.ids == VISUAL)[..., None]
            states = states.masked_scatter(places, self.visual_tokens(features).to(states.dtype))
        return states

    def hidden(self, layout: Layout, features: Sequence[Tensor]) -> Tensor:
        """Last hidden states [R, M, C]. Sequences that share a row are kept apart by their positions."""
        states = self.language_model.model(
            inputs_embeds=self.embeddings(layout, features), position_ids=layout.positions, use_cache=False
        )
        return states.last_hidden_state

    @property
    def head(self) -> nn.Linear:
        """From hidden states to logits over the vocabulary."""
        return self.language_model.lm_head

    def generate(self, layout: Layout, features: Sequence[Tensor], **settings: Any) -> Tensor:
        """New tokens [R, …] of rows padded on the left; ``settings`` are those of transformers' ``generate``."""
        embeddings = self.embeddings(layout, features)
        return self.language_model.generate(inputs_embeds=embeddings, attention_mask=layout.mask.long(), **settings)


def public_name(name: str) -> str:
    """This module's name of a weight → the checkpoints'."""
    part, _, rest = name.partition(".")
    match part:
        case "connector":
            return CONNECTOR_PREFIX + rest
        case "tower":
            return TOWER_PREFIX + rest.removeprefix("vision_tower.")
        case _:
            return rest


def own_name(public: str) -> str | None:
    """The checkpoints' name of a weight → this module's; None for buffers that older transformers stored."""
    if public.startswith(CONNECTOR_PREFIX):
        return "connector." + public.removeprefix(CONNECTOR_PREFIX)
    if public.startswith(TOWER_PREFIX):
        rest = public.removeprefix(TOWER_PREFIX)
        return None if rest.endswith("position_ids") else "tower.vision_tower." + rest
    return "language_model." + public


def connector_weights(file: Path) -> dict[str, Tensor]:
    """The connector's weights in a ``mm_projector.bin``, ``non_lora_trainables.bin`` or safetensors file.

    Raises WeightsError where there are none.
    """
    found = {
        name.rpartition("mm_projector.")[2]: value
        for name, value in checkpoint_files.tensors(file, lambda name: "mm_projector." in name)
    }
    if not found:
        raise checkpoint_files.WeightsError(f"{file}: found no tensor named …mm_projector.…, expected a connector's")
    return found
