"""Untrained image-text-to-text models of transformers with a few thousand weights, as folders that it reads.

Video-LLaVA and LLaVA with the chat template of their public checkpoints, which ends no answer and begins with no sign;
Qwen2-VL with one of the shape of its own, whose number of places follows from a picture's size.
"""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLConfig,
    Qwen2VLForConditionalGeneration,
    Qwen2VLProcessor,
    VideoLlavaConfig,
    VideoLlavaForConditionalGeneration,
    VideoLlavaProcessor,
)
from transformers.models.llava.image_processing_llava import LlavaImageProcessor
from transformers.models.qwen2_vl.image_processing_qwen2_vl import Qwen2VLImageProcessor
from transformers.models.qwen2_vl.video_processing_qwen2_vl import Qwen2VLVideoProcessor
from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor
from transformers.models.video_llava.video_processing_video_llava import VideoLlavaVideoProcessor

from xmtl_ray.config.finetune import Generation
from xmtl_ray.events.records import Conversation, Turn
from xmtl_ray.generative.answering import answers

NAMES = ("video_llava", "qwen2_vl", "llava")
SIDE, PATCH = 28, 14
LLAVA = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'video') %}{{ '<video>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' '}}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
QWEN = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}{% for content in message['content'] %}"
    "{% if content['type'] == 'text' %}{{ content['text'] }}{% else %}{{ '<|vision_start|><|' + content['type'] + "
    "'_pad|><|vision_end|>' }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def tokenizer(texts: Iterable[str], special: list[str], bos: str | None, eos: str, pad: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE learnt from ``texts`` that puts ``bos`` before everything, as Llama's does."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=500, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    given = {"eos_token": eos, "pad_token": pad}
    if bos is not None:
        given["bos_token"] = bos
        core.post_processor = processors.TemplateProcessing(f"{bos} $A", special_tokens=[(bos, core.token_to_id(bos))])
    made = PreTrainedTokenizerFast(tokenizer_object=core, **given)
    made.add_special_tokens({"additional_special_tokens": [name for name in special if name not in given.values()]})
    return made


def randomise(model: torch.nn.Module, seed: int = 0, scale: float = 0.1) -> None:
    """Weights large enough that nothing the model does is lost in rounding."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.named_parameters():
            value.copy_(torch.randn(value.shape, generator=generator) * scale)
            if "norm" in name:
                value.add_(1)


def _vision() -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE,
        patch_size=PATCH, projection_dim=16,
    )  # fmt: skip


def _llama(words: PreTrainedTokenizerFast) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(words), hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=4096, bos_token_id=words.bos_token_id,
        eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id,
    )  # fmt: skip


_SIZES = {"size": {"shortest_edge": SIDE}, "crop_size": {"height": SIDE, "width": SIDE}}


def write_video_llava(folder: Path, texts: Iterable[str]) -> Path:
    """Sees images and videos of 8 frames."""
    words = tokenizer(texts, ["<unk>", "<s>", "</s>", "<pad>", "<image>", "<video>"], "<s>", "</s>", "<pad>")
    config = VideoLlavaConfig(
        vision_config=_vision(), text_config=_llama(words), image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"), image_seq_length=4, video_seq_length=40,
    )  # fmt: skip
    processor = VideoLlavaProcessor(
        VideoLlavaImageProcessor(**_SIZES), VideoLlavaVideoProcessor(**_SIZES), words, patch_size=PATCH,
        vision_feature_select_strategy="default", num_additional_image_tokens=1, chat_template=LLAVA,
    )  # fmt: skip
    return _write(folder, VideoLlavaForConditionalGeneration(config), processor)


def write_llava(folder: Path, texts: Iterable[str]) -> Path:
    """Sees images alone; its template would leave a video out without a word if it were not for its branch for them."""
    words = tokenizer(texts, ["<unk>", "<s>", "</s>", "<pad>", "<image>"], "<s>", "</s>", "<pad>")
    config = LlavaConfig(
        vision_config=_vision(), text_config=_llama(words), image_token_index=words.convert_tokens_to_ids("<image>"),
        image_seq_length=4,
    )  # fmt: skip
    processor = LlavaProcessor(
        LlavaImageProcessor(**_SIZES), words, patch_size=PATCH, vision_feature_select_strategy="default",
        num_additional_image_tokens=1, chat_template=LLAVA,
    )  # fmt: skip
    return _write(folder, LlavaForConditionalGeneration(config), processor)


def write_qwen2_vl(folder: Path, texts: Iterable[str]) -> Path:
    """Head and embeddings are one; positions have three axes."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"]
    words = tokenizer(texts, [*special, "<|video_pad|>"], None, "<|im_end|>", "<|endoftext|>")
    ids = {name: words.convert_tokens_to_ids(f"<|{name}|>") for name in ("vision_start", "vision_end")}
    config = Qwen2VLConfig(
        text_config={
            "vocab_size": len(words), "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
            "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
            "tie_word_embeddings": True, "bos_token_id": None, "eos_token_id": words.eos_token_id,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]},
        },
        vision_config={
            "depth": 2, "embed_dim": 32, "hidden_size": 64, "num_heads": 2, "mlp_ratio": 2, "patch_size": 14,
            "spatial_merge_size": 2, "temporal_patch_size": 2,
        },
        image_token_id=words.convert_tokens_to_ids("<|image_pad|>"),
        video_token_id=words.convert_tokens_to_ids("<|video_pad|>"),
        vision_start_token_id=ids["vision_start"], vision_end_token_id=ids["vision_end"], tie_word_embeddings=True,
    )  # fmt: skip
    sizes = {"size": {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 8}}
    processor = Qwen2VLProcessor(
        Qwen2VLImageProcessor(**sizes), words, Qwen2VLVideoProcessor(**sizes), chat_template=QWEN
    )
    return _write(folder, Qwen2VLForConditionalGeneration(config), processor)


def _write(folder: Path, model: torch.nn.Module, processor: object) -> Path:
    randomise(model)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def known(name: str, conversations: list[Conversation]) -> list[Conversation]:
    """Those that the model has a sense for, and one of two turns."""
    some = [one for one in conversations if name != "llava" or one.media is None or one.media.kind == "image"]
    first = some[1]
    return [*some, replace(first, id="turns", turns=(*first.turns, Turn("And where?", "Там, 那里.")))]


def answered(chat, conversations, batch: int = 4) -> dict[str, str]:
    settings = Generation(greedy=True, max_new_tokens=6, batch=batch)
    return {
        found.id: found.text
        for found in answers(chat, [chat.encode(one) for one in conversations], settings, torch.device("cpu"))
    }
