"""VideoLLaMA2 of random weights in the released shapes, made where it will run, and conversations of random tokens.

The language model is made without memory and filled weight by weight, each packed to 4 bits as soon as it is there, so
that no more than one is ever whole. The same seed gives the same weights on the same device, whoever uses them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, PreTrainedTokenizerBase, SiglipVisionConfig
from transformers.integrations.bitsandbytes import replace_with_bnb_linear

from xmtl_ray.config.finetune import Adapter
from xmtl_ray.data.pixels import Preprocess
from xmtl_ray.events.records import Conversation, Media, Turn
from xmtl_ray.generative.model_sizes import RELEASED
from xmtl_ray.generative.samples import Sample
from xmtl_ray.generative.videollama2 import Medium, VideoLLaMA2Chat
from xmtl_ray.models import qlora, splice
from xmtl_ray.models.splice import IGNORED, TAGS, Row
from xmtl_ray.models.videollama2 import Checkpoint, MistralLanguage, Qwen2Language, VideoLLaMA2, parse_checkpoint

NAMES = {"videollama2": "DAMO-NLP-SG/VideoLLaMA2-7B-16F", "videollama21": "DAMO-NLP-SG/VideoLLaMA2.1-7B-16F"}
LEARNT = 0.2
"""Share of a conversation's words that are its answer."""
SCALE = 0.02
"""Standard deviation of weights."""


@dataclass(frozen=True)
class Scale:
    """How large everything is."""

    places: int = 9300
    """Of a sequence of the training steps, the visual tokens of one video among them [B 3.4]."""
    words: int = 500
    """Mean text of a conversation where sequences are of different lengths, and of a prompt; the paper has none."""
    r: int = 128
    alpha: float = 256
    requests: int = 64
    new: int = 200
    """Tokens of an answer."""
    frames: int = 64
    """That a tower sees at once."""
    matrix: int = 8192
    """Side of the product that is the ceiling of all products."""
    copied: int = 4_000_000_000
    """Bytes that are copied for the ceiling of memory; each is read and written."""


FULL = Scale()
TINY = Scale(places=64, words=12, r=4, alpha=8, requests=3, new=12, frames=4, matrix=128, copied=1 << 20)
_TINY: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 600, "num_frames": 4,
}  # fmt: skip
_TINY_TOWER: dict[str, Any] = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 24,
    "patch_size": 6,
}  # fmt: skip


def checkpoint(family: str, tiny: bool) -> Checkpoint:
    """Settings of the released model of a family, or of one that is wide enough to be packed and no wider."""
    raw = RELEASED[NAMES[family]]
    if not tiny:
        return parse_checkpoint(raw)
    tower = (CLIPVisionConfig if family == "videollama2" else SiglipVisionConfig)(**_TINY_TOWER)
    return parse_checkpoint(raw | _TINY, tower=tower)


def make(
    settings: Checkpoint, device: torch.device, dtype: torch.dtype, bits: qlora.Bits, seed: int = 0
) -> VideoLLaMA2:
    """Random weights on ``device``, the language model's of ``bits``."""
    torch.manual_seed(seed)
    language = _language(settings, device, dtype, bits)
    with torch.device(device):
        model = VideoLLaMA2(settings, language)
    model.tower.to(dtype)
    model.connector.to(dtype)
    return model.requires_grad_(False).eval()


def _language(settings: Checkpoint, device: torch.device, dtype: torch.dtype, bits: qlora.Bits) -> Any:
    family = Qwen2Language if settings.model_type == "videollama2_qwen2" else MistralLanguage
    with torch.device("meta"):
        model = family(settings.language)
    model.set_attn_implementation("sdpa")
    if bits != 16:
        replace_with_bnb_linear(model, ["lm_head"], qlora.quantization(bits, dtype))
        model.is_loaded_in_4bit = bits == 4  # as transformers marks what it has packed while loading
    for part in model.modules():
        for name, empty in list(part.named_parameters(recurse=False)):
            value = torch.empty(empty.shape, dtype=dtype, device=device).normal_(0, SCALE)
            if type(part).__name__.endswith("RMSNorm"):
                value.fill_(1)
            if type(empty) is nn.Parameter:
                made = nn.Parameter(value, requires_grad=False)
            else:  # bitsandbytes packs as it moves, even to where it is
                made = type(empty)(value, requires_grad=False, **empty.__dict__).to(device)
            setattr(part, name, made)
    with torch.device(device):
        model.model.rotary_emb = type(model.model.rotary_emb)(settings.language)
    assert not [name for name, value in (*model.named_parameters(), *model.named_buffers()) if value.is_meta]
    return model


def adapt(model: VideoLLaMA2, spec: Adapter) -> None:
    """Adapters and connector learn, as ``generative.folders.create`` has it."""
    model.requires_grad_(False)
    qlora.add_adapters(model.language_model, spec.r, spec.alpha, spec.dropout, spec.targets)
    begin(model)


def begin(model: VideoLLaMA2, seed: int = 1) -> None:
    """What learns has 32 bits, and adapters begin alike whoever has put them in."""
    model.connector.requires_grad_(True)
    torch.manual_seed(seed)
    for name, value in model.language_model.named_parameters():
        if "lora_A" in name:
            nn.init.kaiming_uniform_(value, a=5**0.5)
    for value in model.parameters():
        if value.requires_grad:
            value.data = value.data.float()


def checkpointing(model: VideoLLaMA2, on: bool) -> None:
    """Recompute activations of language model and connector in the backward pass, or keep them."""
    verb = "enable" if on else "disable"
    # Its name before transformers 5.20 or so.
    new, old = (f"{kind}_checkpointing_{verb}" for kind in ("activation", "gradient"))
    getattr(model.language_model, new if hasattr(model.language_model, new) else old)()
    model.connector.s1.grad_checkpointing = model.connector.s2.grad_checkpointing = on


def set_dropout(model: nn.Module, share: float) -> None:
    """Of all layers that have one."""
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = share


class RandomChat(VideoLLaMA2Chat):
    """The project's chat model with media of random pixels.

    Args:
        model: its weights.
        tokenizer: for answers; training needs none.
        capacity: of a row that sequences are packed into.
    """

    def __init__(
        self, model: VideoLLaMA2, tokenizer: PreTrainedTokenizerBase | None = None, capacity: int | None = None
    ) -> None:
        preprocess = Preprocess.built_in(model.tower.family, model.tower.config.image_size, True)
        super().__init__(model, tokenizer, preprocess, Path(), capacity)  # type: ignore[arg-type]
        self._drawn: dict[tuple[str, int], Tensor] = {}

    def _read(self, sample: Sample) -> Medium:
        medium = sample.conversation.media
        assert medium is not None
        key = medium.kind, int(sample.conversation.id)
        if key not in self._drawn:  # what is measured is not how long drawing takes
            self._drawn[key] = pixels(self.module.checkpoint, *key)
        return Medium(self._drawn[key], False, None)


def pixels(settings: Checkpoint, kind: str, seed: int) -> Tensor:
    """Random ones of an image or a video: [1 or T, 3, S, S]."""
    side, frames = settings.tower.image_size, 1 if kind == "image" else settings.frames
    return torch.randn(frames, 3, side, side, generator=torch.Generator().manual_seed(seed))


def sample(settings: Checkpoint, number: int, length: int, kind: str | None) -> Sample:
    """A conversation of random tokens: ``length`` places, those of its medium included; the last words are learnt."""
    words = length - (0 if kind is None else settings.tokens)
    tag = [] if kind is None else [TAGS[kind]]
    drawn = torch.Generator().manual_seed(number)
    ids = torch.randint(3, settings.language.vocab_size, (words,), generator=drawn).tolist()
    answer = max(1, round(LEARNT * words))
    row = Row([*tag, *ids], [IGNORED] * (len(tag) + words - answer) + ids[-answer:])
    media = None if kind is None else Media(kind, "random")  # type: ignore[arg-type]
    conversation = Conversation(str(number), (Turn("", ""),), None, media)
    assert splice.merged_length(row.ids, settings.tokens) == length
    return Sample(conversation, row, tuple(row.ids), length)


def batches(chat: RandomChat, kinds: Sequence[tuple[int, str | None]], seed: int) -> Iterator[tuple[list[Sample], Any]]:
    """Two batches of conversations of such lengths and media: each time the samples and what the model takes."""
    for turn in range(2):
        numbers = range(seed + 1000 * turn, seed + 1000 * turn + len(kinds))
        held = [sample(chat.module.checkpoint, n, *kind) for n, kind in zip(numbers, kinds, strict=True)]
        yield held, chat.collate(held)


def mixed(settings: Checkpoint, scale: Scale) -> list[tuple[int, str | None]]:
    """Conversations as the paper mixes them: of 5,728 samples 3,449 text, 1,971 image, 308 video; eight fill a row."""
    about = scale.words
    lengths = [about * tenths // 10 for tenths in (6, 8, 9, 10, 10, 11, 12, 14)]
    kinds: list[str | None] = [None, "image", None, "video", None, "image", None, None]
    return [
        (words + (0 if kind is None else settings.tokens), kind) for words, kind in zip(lengths, kinds, strict=True)
    ]
