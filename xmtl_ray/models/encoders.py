"""Text and vision encoders: from a Hugging Face folder or name, or built small from scratch.

Poolers and output norms that the token states do not pass through are taken out, so that every parameter learns.
No remote code is trusted; weights in pickle files are read by transformers with ``weights_only``. A name of the hub may
be followed by ``@`` and the 40 hexadecimal digits of a commit: without, it means whatever lies there that day.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    BertConfig,
    CLIPVisionConfig,
    CLIPVisionModel,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from xmtl_ray.config.schema import BuiltImage, BuiltText
from xmtl_ray.models import own_code

log = logging.getLogger(__name__)

BROKEN = (OSError, ValueError, RuntimeError, EOFError, UnpicklingError, SafetensorError)
"""What reading the weights of a folder may raise."""
BUILT = "built"
"""Encoder name that asks for one made from scratch."""


class EncoderError(ValueError):
    """A model folder or name that no encoder could be made from."""


def text_config(name: str, built: BuiltText, vocabulary: int) -> PretrainedConfig:
    """Configuration of the text encoder ``name``, or of a small BERT."""
    if name != BUILT:
        config = configuration(name, "model.text_encoder")
        if not hasattr(config, "hidden_size"):
            raise EncoderError(f"model.text_encoder: found a {config.model_type}, expected BERT or the like")
        return config
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=built.width,
        num_hidden_layers=built.layers,
        num_attention_heads=built.heads,
        intermediate_size=4 * built.width,
        hidden_dropout_prob=built.dropout,
        attention_probs_dropout_prob=built.dropout,
    )


def image_config(name: str, built: BuiltImage) -> PretrainedConfig:
    """Configuration of the vision encoder ``name`` (of a whole CLIP, its vision half), or of a small CLIP ViT."""
    if name != BUILT:
        config = configuration(name, "model.image_encoder")
        return getattr(config, "vision_config", config)
    return CLIPVisionConfig(
        image_size=built.image_px,
        patch_size=built.patch_px,
        hidden_size=built.width,
        num_hidden_layers=built.layers,
        num_attention_heads=built.heads,
        intermediate_size=4 * built.width,
        attention_dropout=built.dropout,
    )


def text_encoder(config: PretrainedConfig, weights: str | None) -> nn.Module:
    """BERT or the like from its configuration; ``weights`` names pretrained ones."""
    if weights is None:
        encoder = AutoModel.from_config(config, trust_remote_code=False)
        positions = torch.arange(config.max_position_embeddings)
        encoder.embeddings.position_embeddings.weight.data = _waves(positions, config.hidden_size)
    else:
        encoder = _load(AutoModel, weights, "model.text_encoder")
    if getattr(encoder, "pooler", None) is not None:
        encoder.pooler = None
    return encoder


def image_encoder(config: PretrainedConfig, weights: str | None) -> nn.Module:
    """CLIP's vision transformer from its configuration; ``weights`` names pretrained ones."""
    if config.model_type != "clip_vision_model":
        raise EncoderError(f"model.image_encoder: found a {config.model_type}, expected a CLIP model")
    if weights is None:
        encoder = CLIPVisionModel(config)
        side = config.image_size // config.patch_size
        rows, columns = (_waves(torch.arange(side), config.hidden_size // 2) for _ in range(2))
        grid = torch.cat([rows[:, None].expand(-1, side, -1), columns[None].expand(side, -1, -1)], -1)
        encoder.embeddings.position_embedding.weight.data[1:] = grid.flatten(0, 1)  # the first is the class token's
    else:
        encoder = _load(CLIPVisionModel, weights, "model.image_encoder")
    # It only normalises the class token's pooled output, which nothing reads.
    encoder.post_layernorm = nn.Identity()
    return encoder


def _waves(positions: Tensor, width: int) -> Tensor:
    """Sines and cosines to begin learnt positions with, [positions, width]; as large as BERT's initial noise.

    Beside noise, neighbours are found in far fewer steps: a shift is the same linear map everywhere.
    """
    angles = positions[:, None] * 200.0 ** (-torch.arange(0, width, 2) / width)
    return 0.02 * 2**0.5 * torch.stack([angles.sin(), angles.cos()], -1).flatten(1)


def tokenizer(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer in a folder or of a name; it must be a fast one, for word positions."""
    place, revision = located(name, "model.text_encoder")
    try:
        loaded = AutoTokenizer.from_pretrained(place, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise EncoderError(f"model.text_encoder: no tokenizer in {name!r}: {first_line(error)}") from None
    if len(loaded) <= len(loaded.all_special_tokens):
        # Where the files are missing, transformers makes a tokenizer to which every word is unknown.
        raise EncoderError(f"model.text_encoder: no tokenizer in {name!r}: it knows no word")
    if not loaded.is_fast:
        raise EncoderError(f"model.text_encoder: {name!r} has no fast tokenizer (tokenizer.json)")
    return loaded


def learn_tokenizer(
    sentences: Iterable[Sequence[str]], extra: Sequence[str], vocabulary: int
) -> PreTrainedTokenizerFast:
    """A lower-casing tokenizer of at most ``vocabulary`` pieces, learnt from ``sentences``.

    ``extra`` words (markers, event types) get pieces of their own; unseen words are spelt in pieces. Byte pairs rather
    than word pieces, because only their trainer gives the same pieces in every process.
    """
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    core = Tokenizer(models.BPE(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=special, show_progress=False)
    core.train_from_iterator(
        [*(" ".join(words) for words in sentences), *(" ".join(extra) for _ in range(50))], trainer
    )
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, core.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
    )


def configuration(name: str, field: str) -> PretrainedConfig:
    """The configuration in a Hugging Face folder or of a name that setting ``field`` gives. Raises EncoderError."""
    place, revision = located(name, field)
    try:
        return AutoConfig.from_pretrained(place, revision=revision, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise EncoderError(
            f"{field}: found {name!r}, expected a Hugging Face folder or name: {first_line(error)}"
        ) from None


def _load(family: type, weights: str, field: str) -> nn.Module:
    place, revision = located(weights, field)
    try:
        return family.from_pretrained(place, revision=revision, trust_remote_code=False)
    except BROKEN as error:
        raise EncoderError(f"{field}: cannot load weights of {weights!r}: {first_line(error)}") from None


def located(name: str, field: str) -> tuple[str, str]:
    """Folder or name of the hub, and revision, of what setting ``field`` names.

    Raises EncoderError for a folder with code of its own, and for a revision that is no commit.
    """
    if Path(name).is_dir():
        own_code.refuse(name, EncoderError)
        return name, "main"
    place, pinned, revision = name.partition("@")
    if pinned and not re.fullmatch(r"[0-9a-f]{40}", revision):
        raise EncoderError(f"{field}: found revision {revision!r}, expected the 40 hexadecimal digits of a commit")
    if not pinned:
        _tell_unpinned(field, name)
    return place, revision or "main"


@cache
def _tell_unpinned(field: str, name: str) -> None:
    log.warning("%s: %s is whatever the hub has there today; %s@COMMIT pins it", field, name, name)


def first_line(error: Exception) -> str:
    """What an error of a library says, without its advice."""
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
