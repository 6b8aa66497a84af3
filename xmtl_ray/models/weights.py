"""A model as a folder: safetensors, the config that built them, the encoders' configurations and the tokenizer.

Loading needs nothing else: no hub, no training data, no pickle.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedTokenizerFast

from xmtl_ray.config import load as config_files
from xmtl_ray.config.schema import IMAGE_TASKS, TEXT_TASKS, Config
from xmtl_ray.events.ontology import m2e2, type_words
from xmtl_ray.models import encoders
from xmtl_ray.models.inputs import TextCodec
from xmtl_ray.models.xmtl import XMTL, SharedEncoder

WEIGHTS, CONFIG, LABELS = "model.safetensors", "config.yaml", "labels.json"
TEXT, IMAGE = "text_encoder", "image_encoder"


class ModelFolderError(ValueError):
    """A folder that holds no model of this project, or one that does not fit this version."""


@dataclass
class LoadedModel:
    """A model, what turns words into its inputs, and the config that built it."""

    model: XMTL
    codec: TextCodec | None
    config: Config


def make_tokenizer(config: Config, sentences: Iterable[Sequence[str]]) -> PreTrainedTokenizerFast | None:
    """The text encoder's own tokenizer, or one learnt from ``sentences`` for a built encoder; None without text."""
    if not set(config.multitask.tasks) & set(TEXT_TASKS):
        return None
    if config.model.text_encoder != encoders.BUILT:
        return encoders.tokenizer(config.model.text_encoder)
    extra = [config.data.text_prompt.marker, *(type_words(name) for name in m2e2().types)]
    return encoders.learn_tokenizer(sentences, extra, config.model.built_text.vocabulary)


def create(config: Config, tokenizer: PreTrainedTokenizerFast | None) -> LoadedModel:
    """A model to train: pretrained encoders where the config names them, everything else seeded by ``train.seed``."""
    torch.manual_seed(config.train.seed)
    spec = config.model
    text = image = None
    if tokenizer is not None:
        text = encoders.text_config(spec.text_encoder, spec.built_text, len(tokenizer))
    if set(config.multitask.tasks) & set(IMAGE_TASKS):
        image = encoders.image_config(spec.image_encoder, spec.built_image)
    return _assemble(config, tokenizer, text, image, pretrained=True)


def save(folder: Path, loaded: LoadedModel, state: Mapping[str, Tensor] | None = None) -> None:
    """Write the model folder; ``state`` stands in for the model's own weights where an engine has sharded them."""
    folder.mkdir(parents=True, exist_ok=True)
    state = loaded.model.state_dict() if state is None else state
    save_file({name: value.detach().cpu().contiguous() for name, value in state.items()}, folder / WEIGHTS)
    (folder / CONFIG).write_text(config_files.dump(loaded.config), encoding="utf-8")
    ontology = m2e2()
    labels = {"version": ontology.version, "tags": ontology.tags, "roles": ontology.roles, "types": ontology.types}
    (folder / LABELS).write_text(json.dumps(labels, indent=1), encoding="utf-8")
    if loaded.codec is not None:
        loaded.model.text_encoder.config.save_pretrained(folder / TEXT)
        loaded.codec.tokenizer.save_pretrained(folder / TEXT)
    if loaded.model.image_encoder is not None:
        loaded.model.image_encoder.config.save_pretrained(folder / IMAGE)


def config_of(folder: Path) -> Config:
    """The config that built the model in a folder. Raises ModelFolderError."""
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise ModelFolderError(f"{folder}: no {CONFIG} and {WEIGHTS} in it, expected a model folder")
    return config_files.loads((folder / CONFIG).read_text(encoding="utf-8"), Config)


def load(folder: Path) -> LoadedModel:
    """Read what :func:`save` wrote, in evaluation mode. Raises ModelFolderError."""
    config = config_of(folder)
    ontology, labels = m2e2(), json.loads((folder / LABELS).read_text(encoding="utf-8"))
    if tuple(labels["tags"]) != ontology.tags or tuple(labels["roles"]) != ontology.roles:
        raise ModelFolderError(
            f"{folder / LABELS}: labels of ontology {labels['version']!r} found, {ontology.version!r} expected"
        )
    tokenizer = encoders.tokenizer(str(folder / TEXT)) if (folder / TEXT).is_dir() else None
    text = encoders.configuration(str(folder / TEXT), TEXT) if tokenizer is not None else None
    image = encoders.configuration(str(folder / IMAGE), IMAGE) if (folder / IMAGE).is_dir() else None
    loaded = _assemble(config, tokenizer, text, image, pretrained=False)
    try:
        loaded.model.load_state_dict(load_file(folder / WEIGHTS))
    except (SafetensorError, RuntimeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]  # the first counts the others
        found = lines[min(1, len(lines) - 1)] if lines else type(error).__name__
        raise ModelFolderError(f"{folder / WEIGHTS}: found {found}, expected this model's weights") from None
    loaded.model.eval()
    return loaded


def _assemble(
    config: Config,
    tokenizer: PreTrainedTokenizerFast | None,
    text: PretrainedConfig | None,
    image: PretrainedConfig | None,
    *,
    pretrained: bool,
) -> LoadedModel:
    def weights(name: str) -> str | None:
        return name if pretrained and name != encoders.BUILT else None

    spec, shared = config.model, config.model.shared
    model = XMTL(
        config.multitask.tasks,
        m2e2(),
        None if text is None else encoders.text_encoder(text, weights(spec.text_encoder)),
        None if image is None else encoders.image_encoder(image, weights(spec.image_encoder)),
        SharedEncoder(shared.layers, shared.width, shared.heads, shared.dropout),
        shared.width,
    )
    if pretrained and spec.gradient_checkpointing:
        for encoder in filter(None, (model.text_encoder, model.image_encoder)):
            encoder.activation_checkpointing_enable()
    return LoadedModel(
        model, None if tokenizer is None else TextCodec(tokenizer, spec.max_tokens, spec.argument), config
    )
