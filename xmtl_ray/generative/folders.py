"""Generative models as folders: a base in the public layout, or an adapter with the hash of its base.

What training leaves is one of the two, with the tokenizer and the config that it was trained by beside it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import (
    AutoTokenizer,
    BitsAndBytesConfig,
    PretrainedConfig,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from xmtl_ray.config import load as config_files
from xmtl_ray.config.finetune import FinetuneConfig, Generation
from xmtl_ray.data.pixels import Preprocess
from xmtl_ray.data.tower_features import TowerFeatures
from xmtl_ray.events.records import Conversation
from xmtl_ray.generative import built, hf_vlm
from xmtl_ray.generative.chat_model import ChatModel
from xmtl_ray.generative.constrained import AnswerGrammars
from xmtl_ray.generative.prompting import Schema
from xmtl_ray.generative.videollama2 import VideoLLaMA2Chat
from xmtl_ray.models import checkpoint_files, own_code, qlora, untrusted_template
from xmtl_ray.models.chat import ChatError
from xmtl_ray.models.connector import Connector
from xmtl_ray.models.qlora import Base
from xmtl_ray.models.videollama2 import VideoLLaMA2, read_checkpoint

log = logging.getLogger(__name__)

CONFIG, SCHEMA = "config.yaml", "schema.json"


class FolderError(ValueError):
    """A folder that holds no generative model, or not the one that is needed."""


@dataclass(frozen=True)
class Loaded:
    """A chat model with what it was made from."""

    chat: ChatModel
    config: FinetuneConfig
    base: Base | None
    """What adapters are pinned to; None where all weights are its own."""
    schema: Schema
    """Event type → roles, of the data that it was trained on; empty where that is not known."""


def create(config: FinetuneConfig, conversations: Sequence[Conversation], dtype: torch.dtype, schema: Schema) -> Loaded:
    """A model to train: the base with untrained adapters, or with all its weights learning.

    Args:
        config: of the run.
        conversations: that a built model's tokenizer is learnt from.
        dtype: of weights that are not learnt, and of products.
        schema: of the training data, which is kept with the model.

    Raises ValueError for whatever the user gave us wrong.
    """
    loaded = Loaded(_base(config, dtype, conversations), config, _pinned(config), schema)
    module, language, spec = loaded.chat.module, loaded.chat.language_model, config.adapter
    torch.manual_seed(config.train.seed)
    module.requires_grad_(False)
    if spec.method == "full":
        language.requires_grad_(True)
        loaded.chat.head.requires_grad_(True)
    else:
        qlora.add_adapters(language, spec.r, spec.alpha, spec.dropout, spec.targets)
        language.get_input_embeddings().requires_grad_(spec.train_embeddings)
        loaded.chat.head.requires_grad_(spec.train_embeddings)
    connector = loaded.chat.connector
    if connector is not None and config.model.train_connector:
        connector.requires_grad_(True)
    elif config.model.train_connector:
        log.warning("model.train_connector: has no effect, the connector of %s is not known", type(module).__name__)
    if config.model.train_tower:
        module.tower.thaw()
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # steps of the optimizer are lost in 16 bits
    if config.model.gradient_checkpointing:
        language.activation_checkpointing_enable()
        if isinstance(connector, Connector):
            connector.checkpoint_activations()
    return loaded


def save(folder: Path, loaded: Loaded, state: Mapping[str, Tensor]) -> None:
    """Write what was trained, ``state``: adapters pinned to their base, or a whole checkpoint."""
    if loaded.base is None:
        loaded.chat.save_whole(folder, dict(state))
    else:
        qlora.save_adapter(folder, loaded.chat.language_model, state, loaded.base, _prefix(loaded.chat))
        loaded.chat.tokenizer.save_pretrained(folder)
    _describe(folder, loaded)


def _describe(folder: Path, loaded: Loaded) -> None:
    (folder / CONFIG).write_text(config_files.dump(loaded.config), encoding="utf-8")
    (folder / SCHEMA).write_text(json.dumps(dict(loaded.schema), indent=1, ensure_ascii=False), encoding="utf-8")


def read_state(folder: Path, loaded: Loaded) -> dict[str, Tensor]:
    """The weights that :func:`save` wrote, by the module's names."""
    if loaded.base is not None:
        return qlora.read_adapter(folder, _prefix(loaded.chat))
    return loaded.chat.read_whole(folder)


def load(
    folder: Path,
    base: Path | None = None,
    bits: qlora.Bits | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | None = None,
    media: Path | None = None,
    config: FinetuneConfig | None = None,
) -> Loaded:
    """A model to answer with, in evaluation mode on ``device``.

    Args:
        folder: a base's or an adapter's.
        base: where the adapter's base lies now; None: where it lay.
        bits: of the language model's weights; None: as the adapter was trained, 16 for a base.
        dtype: of the others, and of products.
        device: None: the CPU.
        media: folder that conversations' media lie below.
        config: the saved one, with other prompts or another way to write answers; None: the saved one.

    Features of media are neither read nor kept: the folder that training kept them in need not be here.
    Raises ValueError.
    """
    config = config or saved_config(folder)
    config = config.model_copy(update={"data": config.data.model_copy(update={"features": None})})
    if (where := base_folder(folder, base)) is not None:
        config = _of_base(config, str(where), bits or qlora.base_of(folder).bits)
        chat, found = _base(config, dtype, (), device, media), _pinned(config)
        assert found is not None
        qlora.load_adapter(folder, chat.module, chat.language_model, found.sha256)
    else:
        config, found = _of_base(config, str(folder), bits or 16), None
        chat = _base(config, dtype, (), device, media)
    chat.module.to(device or torch.device("cpu"))
    chat.module.eval()
    return Loaded(chat, config, found, saved_schema(folder))


def base_folder(folder: Path, base: Path | None = None) -> Path | None:
    """Where the base of the adapter in ``folder`` lies: ``base``, or where it lay; None of a model that is no adapter.

    Raises ValueError where it does not lie there, and for a base of what has none.
    """
    if not (folder / qlora.BASE).is_file():
        if base is not None:
            raise FolderError(f"{folder}: found no {qlora.BASE}, so it is no adapter and takes no base")
        return None
    where = base or Path(qlora.base_of(folder).path)
    if not where.is_dir():
        raise FolderError(f"{folder}: its base {where} is not here; name the folder where it lies now (--base)")
    return where


def merge(folder: Path, out: Path, base: Path | None = None, dtype: torch.dtype = torch.bfloat16) -> None:
    """Write the adapter of ``folder`` and its base as one checkpoint of 16 bits. Raises ValueError.

    The base is read unquantised, so that nothing is rounded twice; what was trained on 4-bit weights then meets better
    ones, and answers may differ a little from those on 4 bits.
    """
    loaded = load(folder, base, 16, dtype)
    qlora.merge(loaded.chat.language_model)
    state = {name: value.to(dtype) for name, value in loaded.chat.module.state_dict().items()}
    loaded.chat.save_whole(out, state)
    _describe(out, loaded)


def constraint(settings: Generation, loaded: Loaded) -> AnswerGrammars | None:
    """The language that answers are held to, if any. Raises ValueError where the schema is not known."""
    if settings.constrained == "none":
        return None
    if not loaded.schema:
        raise ValueError(
            f"generation.constrained: found {settings.constrained}, but no event schema is known; set it to none"
        )
    tokenizer, vocabulary = loaded.chat.tokenizer, loaded.chat.head.out_features
    return AnswerGrammars(tokenizer, vocabulary, loaded.schema, quoted=settings.constrained == "spans")


def saved_schema(folder: Path) -> Schema:
    """Event type → roles, of the data that a folder's model was trained on; empty where that is not known."""
    if not (folder / SCHEMA).is_file():
        return {}
    found: Schema = json.loads((folder / SCHEMA).read_text(encoding="utf-8"))
    return found


def saved_config(folder: Path) -> FinetuneConfig:
    """The config that a folder's model was trained by; of a checkpoint from elsewhere, the family's defaults."""
    if (folder / CONFIG).is_file():
        return config_files.loads((folder / CONFIG).read_text(encoding="utf-8"), FinetuneConfig)
    if not (folder / "config.json").is_file():
        raise FolderError(f"{folder}: found no {CONFIG} and no config.json, expected a generative model's folder")
    raw = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind = str(raw.get("model_type"))
    family = "hf_vlm" if not kind.startswith("videollama2") else "videollama21" if "qwen2" in kind else "videollama2"
    tree = {"name": folder.name or "base", "model": {"family": family, "path": str(folder)}}
    return config_files.build(tree, FinetuneConfig)


def _of_base(config: FinetuneConfig, path: str, bits: int) -> FinetuneConfig:
    """``config`` with its base named and of ``bits``; the adapter's settings are those in its folder."""
    method = "qlora" if bits < 16 else "lora"
    adapter = config.adapter.model_copy(update={"bits": bits, "method": method})
    return config.model_copy(
        update={"model": config.model.model_copy(update={"path": path, "train_tower": False}), "adapter": adapter}
    )


def _base(
    config: FinetuneConfig,
    dtype: torch.dtype,
    conversations: Sequence[Conversation],
    device: torch.device | None = None,
    media: Path | None = None,
) -> ChatModel:
    """The model that ``config.model`` names, without adapters."""
    spec, data = config.model, config.data
    media = media or data.media
    if spec.family == "hf_vlm":
        folder = Path(spec.path)
        quantization = None
        if config.adapter.bits < 16:
            quantization = _quantization(config, dtype, hf_vlm.outside_decoder(folder))
        chat = hf_vlm.load(folder, media, quantization, dtype, device)
        chat.language_model.set_attn_implementation(spec.attention)
        return chat
    if spec.path == "built":
        tokenizer: PreTrainedTokenizerBase = built.learn_tokenizer(conversations, spec.built.vocabulary, spec.family)
        model = built.make_model(spec.built, spec.family, tokenizer, config.train.seed)
        side, preprocess_file = spec.built.image_px, None
    else:
        folder = Path(spec.path)
        if not folder.is_dir():
            raise FolderError(
                f"model.path: found {spec.path!r}, expected a folder with a checkpoint; nothing is fetched: get it by "
                f"`hf download {spec.path} --local-dir FOLDER`"
            )
        checkpoint = read_checkpoint(folder)
        wanted = "videollama21" if checkpoint.model_type == "videollama2_qwen2" else "videollama2"
        if wanted != spec.family:
            raise FolderError(f"model.family: found {spec.family}, expected {wanted}, which {folder} is of")
        tokenizer = load_tokenizer(folder, checkpoint.language)
        model = VideoLLaMA2.from_pretrained(folder, dtype, _quantization(config, dtype), device)
        side = int(checkpoint.tower.image_size)
        preprocess_file = folder / checkpoint.tower_name / "preprocessor_config.json"
    model.language_model.set_attn_implementation(spec.attention)
    family = model.tower.family
    if preprocess_file is not None and preprocess_file.is_file():
        preprocess = Preprocess.from_file(preprocess_file, spec.pad)
    else:
        preprocess = Preprocess.built_in(family, side, spec.pad)
    return VideoLLaMA2Chat(
        model,
        tokenizer,
        preprocess,
        media,
        spec.max_tokens if config.train.pack else None,
        config.prompt.system,
        data.media_cache_mib,
        None if data.features is None else TowerFeatures(data.features),
        config.engine.zero_stage == 3 or (config.engine.zero_stage > 0 and spec.train_connector),
    )


def load_tokenizer(folder: Path, language: PretrainedConfig) -> PreTrainedTokenizerBase:
    """A checkpoint's tokenizer.

    Args:
        folder: of the checkpoint.
        language: its language model's configuration.

    Raises ChatError where it has no chat template, or one that is not to be used.
    """
    own_code.refuse(folder, ChatError)
    try:
        if _is_generic(folder):
            tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
        else:
            tokenizer = AutoTokenizer.from_pretrained(
                folder, config=language, trust_remote_code=False, local_files_only=True
            )
    except (OSError, ValueError) as error:
        raise ChatError(f"{folder}: no tokenizer that can be read: {str(error).splitlines()[0]}") from None
    if not tokenizer("a", add_special_tokens=False)["input_ids"]:  # some classes are made of nothing as well
        raise ChatError(f"{folder}: found a tokenizer without any piece, expected tokenizer.json or the like")
    if not tokenizer.chat_template:
        raise ChatError(f"{folder}: its tokenizer has no chat template, expected one in tokenizer_config.json")
    try:
        untrusted_template.check(tokenizer.chat_template, untrusted_template.special(tokenizer), None)
    except ChatError as error:
        raise ChatError(f"{folder}: {error}") from None
    return tokenizer


def _is_generic(folder: Path) -> bool:
    """Whether tokenizer.json alone says how text is cut; the language model's own class would cut it in its way."""
    file = folder / "tokenizer_config.json"
    named = json.loads(file.read_text(encoding="utf-8")).get("tokenizer_class") if file.is_file() else None
    return named in {"PreTrainedTokenizerFast", "TokenizersBackend"}


def prefix(module: nn.Module, part: nn.Module) -> str:
    """What the names of ``part``'s weights begin with in ``module``."""
    return next(f"{name}." for name, found in module.named_modules() if found is part)


def _prefix(chat: ChatModel) -> str:
    return prefix(chat.module, chat.language_model)


def _quantization(
    config: FinetuneConfig, dtype: torch.dtype, skip: Sequence[str] = ("lm_head",)
) -> BitsAndBytesConfig | None:
    return qlora.quantization(config.adapter.bits, dtype, config.adapter.double_quantization, skip)


def _pinned(config: FinetuneConfig) -> Base | None:
    if config.adapter.method == "full":
        return None
    folder = Path(config.model.path)
    return Base(str(folder), checkpoint_files.sha256(folder), config.model.family, config.adapter.bits)
