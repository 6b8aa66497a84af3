"""A small VideoLLaMA2 made from scratch, with a tokenizer learnt from conversations: for tests and the miniature world.

It has every part of the released ones, and is written as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPVisionConfig, PreTrainedTokenizerFast, SiglipVisionConfig

from xmtl_ray.config.finetune import BuiltLanguage, Family
from xmtl_ray.events.records import Conversation
from xmtl_ray.models.induction import begin_with_induction
from xmtl_ray.models.videollama2 import Checkpoint, VideoLLaMA2, parse_checkpoint

_LLAMA = (
    "{{ bos_token }}{% set ns = namespace(sys='') %}{% for m in messages %}{% if m['role'] == 'system' %}"
    "{% set ns.sys = m['content'] + '\n\n' %}{% elif m['role'] == 'user' %}{{ '[INST] ' + ns.sys + m['content'] + "
    "' [/INST]' }}{% set ns.sys = '' %}{% else %}{{ ' ' + m['content'] + eos_token }}{% endif %}{% endfor %}"
)
_CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
_SPECIAL: dict[str, tuple[list[str], str]] = {
    "videollama2": (["<unk>", "<s>", "</s>", "[INST]", "[/INST]"], _LLAMA),
    "videollama21": (["<|endoftext|>", "<|im_start|>", "<|im_end|>"], _CHATML),
}


_LOUDER = 5.0
"""Times the usual deviation of embeddings: layers as narrow as these would drown out which word it is."""
_PIECES = r"[ ,]*[\"\[\]{}][ ,:\"\[\]{}]*|\p{Han}|\d|\s|[^\w\s]"
"""What stands alone: JSON's signs as they follow each other, a Chinese character, a digit, a space, any other sign. A
word is then the same pieces in a sentence, in JSON and at the end of a line, so that copying it is copying."""


def learn_tokenizer(conversations: Iterable[Conversation], vocabulary: int, family: Family) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most ``vocabulary`` pieces with the family's chat template; any text round-trips."""
    special, template = _SPECIAL[family]
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (text for one in conversations for turn in one.turns for text in (turn.prompt, turn.answer))
    core.train_from_iterator(texts, trainer)
    ends: dict[str, str] = {"eos_token": special[2]}
    if family == "videollama2":
        ends |= {"bos_token": "<s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    else:
        ends |= {"pad_token": "<|endoftext|>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, chat_template=template, **ends)
    tokenizer.add_special_tokens({"additional_special_tokens": [name for name in special if name not in ends.values()]})
    return tokenizer


def make_model(built: BuiltLanguage, family: Family, tokenizer: PreTrainedTokenizerFast, seed: int) -> VideoLLaMA2:
    """Random weights of ``family`` in the sizes of ``built``."""
    torch.manual_seed(seed)
    model = VideoLLaMA2(checkpoint(built, family, tokenizer))
    embeddings = model.tower.vision_tower.embeddings.position_embedding.weight.data
    grid = _grid(built.image_px // built.patch_px, built.vision_width)
    embeddings[-len(grid) :] = grid  # CLIP's first is its class token's
    language = model.language_model
    words = language.get_input_embeddings().weight.data.mul_(_LOUDER)
    # Not tied, but alike to begin with: to copy a word is then near to leaving it as it is.
    language.lm_head.weight.data.copy_(words)
    begin_with_induction(language)
    return model


def checkpoint(built: BuiltLanguage, family: Family, tokenizer: PreTrainedTokenizerFast) -> Checkpoint:
    """What its config.json says."""
    mistral = family == "videollama2"
    raw: dict[str, Any] = {
        "architectures": ["Videollama2MistralForCausalLM" if mistral else "Videollama2Qwen2ForCausalLM"],
        "model_type": "videollama2_mistral" if mistral else "videollama2_qwen2",
        "vocab_size": len(tokenizer),
        "hidden_size": built.width,
        "intermediate_size": built.hidden,
        "num_hidden_layers": built.layers,
        "num_attention_heads": built.heads,
        "num_key_value_heads": built.key_value_heads,
        "max_position_embeddings": 32_768,
        "rms_norm_eps": 1e-5 if mistral else 1e-6,
        "rope_theta": 1e6,
        "sliding_window": None,
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "mm_projector_type": "stc_connector" if mistral else "stc_connector_v35",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_vision_tower": f"vision_tower/{'clip' if mistral else 'siglip'}-built",
        "mm_hidden_size": built.vision_width,
        "num_frames": built.frames,
        "image_aspect_ratio": "pad",
        "use_mm_proj": True,
    }
    if not mistral:
        raw["use_sliding_window"] = False
    tower = (CLIPVisionConfig if mistral else SiglipVisionConfig)(
        hidden_size=built.vision_width,
        intermediate_size=4 * built.vision_width,
        num_hidden_layers=built.vision_layers,
        num_attention_heads=built.vision_heads,
        image_size=built.image_px,
        patch_size=built.patch_px,
    )
    return parse_checkpoint(raw, tower=tower)


def _grid(side: int, width: int) -> Tensor:
    """Positions [side², width] to begin with: sines and cosines of row and column; neighbours are soon found."""
    angles = torch.arange(side)[:, None] * 200.0 ** (-torch.arange(0, width // 2, 2) / (width // 2))
    waves = 0.02 * 2**0.5 * torch.stack([angles.sin(), angles.cos()], -1).flatten(1)
    return torch.cat([waves[:, None].expand(-1, side, -1), waves[None].expand(side, -1, -1)], -1).flatten(0, 1)
