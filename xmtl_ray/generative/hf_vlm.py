"""Any image-text-to-text model of transformers that has a chat template, as a chat model: Video-LLaVA and the like.

Their processors decide on prompts, pixels and how many places a medium takes; ours is what is learnt from. The
surprising fact: a processor puts a medium's places in when it sees the medium, so labels are aligned from the end of a
row, where only text stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Picture
from torch import Tensor, nn
from transformers import AutoModelForImageTextToText, AutoProcessor, BitsAndBytesConfig, PreTrainedModel

from xmtl_ray.data import images
from xmtl_ray.data.frames import read_frames
from xmtl_ray.events.records import Conversation
from xmtl_ray.generative.samples import Sample
from xmtl_ray.models.chat import ChatError
from xmtl_ray.models.splice import IGNORED, Row

FRAMES = 8
"""Taken of a video, as Video-LLaVA was trained."""


@dataclass(frozen=True)
class ProcessorBatch:
    """What a processor made of samples."""

    inputs: Mapping[str, Tensor]
    labels: Tensor
    """[R, M]."""

    def to(self, device: torch.device) -> ProcessorBatch:
        """The same on ``device``."""
        return ProcessorBatch({name: value.to(device) for name, value in self.inputs.items()}, self.labels.to(device))


class HfVlm:
    """See ``generative.chat_model.ChatModel``.

    Args:
        model: with a language model and an output head.
        processor: with a chat template.
        media: folder that the conversations' media lie below.
    """

    def __init__(self, model: PreTrainedModel, processor: Any, media: Path) -> None:
        self.module, self.processor, self.media = model, processor, media
        self.tokenizer = processor.tokenizer
        self._places: dict[str, int] = {}

    @property
    def language_model(self) -> nn.Module:
        """Its decoder: towers have layers of the same names, and get no adapters."""
        return self.module.model.get_decoder()

    @property
    def head(self) -> nn.Linear:
        """See :class:`ChatModel`."""
        return self.module.get_output_embeddings()

    def encode(self, conversation: Conversation) -> Sample:
        """See :class:`ChatModel`. The length is an estimate where a medium's places depend on its size."""
        said = _messages(conversation)
        ids = self._ids(said, generation=False)
        labels, done = list(ids), 0
        for place, message in enumerate(said):
            if message["role"] != "assistant":
                continue
            asked = len(self._ids(said[:place], generation=True))
            labels[done:asked] = [IGNORED] * (asked - done)
            done = len(self._ids(said[: place + 1], generation=False))
        labels[0] = IGNORED
        places = 0 if conversation.media is None else self._visual_places(conversation.media.kind)
        return Sample(conversation, Row(ids, labels), tuple(self._ids(said[:1], generation=True)), len(ids) + places)

    def collate(self, samples: Sequence[Sample], generation: bool = False) -> ProcessorBatch:
        """See :class:`ChatModel`."""
        texts = []
        media: dict[str, list[Any]] = {"images": [], "videos": []}
        for sample in samples:
            said = _messages(sample.conversation)
            texts.append(self._text(said[:1] if generation else said, generation=generation))
            if (medium := sample.conversation.media) is None:
                continue
            path = self.media / medium.path
            if medium.kind == "image":
                media["images"].append(images.read(path, root=self.media))
            else:
                frames = read_frames(path, FRAMES, root=self.media)
                media["videos"].append(np.stack([np.asarray(frame) for frame in frames]))
        inputs = self._process(texts, media, left=generation)
        shape = inputs["input_ids"].shape
        labels = torch.full(shape, IGNORED)
        for number, sample in enumerate(samples if not generation else ()):
            end = int(inputs["attention_mask"][number].sum())
            learnt = _tail(sample.row.labels)
            labels[number, end - len(learnt) : end] = torch.tensor(learnt)
        return ProcessorBatch(inputs, labels)

    def hidden(self, batch: ProcessorBatch) -> Tensor:
        """See :class:`ChatModel`."""
        return self.module.model(**batch.inputs, use_cache=False).last_hidden_state

    def generate(self, batch: ProcessorBatch, **settings: Any) -> Tensor:
        """See :class:`ChatModel`."""
        whole = self.module.generate(**batch.inputs, **settings)
        return whole[:, batch.inputs["input_ids"].shape[1] :]

    def save_whole(self, folder: Path, state: dict[str, Tensor]) -> None:
        """See :class:`ChatModel`."""
        self.module.save_pretrained(folder, state_dict=state)
        self.processor.save_pretrained(folder)

    def own_name(self, public: str) -> str | None:
        """See :class:`ChatModel`."""
        return public

    def _text(self, said: Sequence[dict[str, Any]], *, generation: bool) -> str:
        return self.processor.apply_chat_template(list(said), tokenize=False, add_generation_prompt=generation)

    def _ids(self, said: Sequence[dict[str, Any]], *, generation: bool) -> list[int]:
        text = self._text(said, generation=generation)
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _process(self, texts: list[str], media: Mapping[str, list[Any]], left: bool) -> dict[str, Tensor]:
        self.tokenizer.padding_side = "left" if left else "right"
        given = {name: items for name, items in media.items() if items}
        found = self.processor(text=texts, padding=True, return_tensors="pt", add_special_tokens=False, **given)
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    def _visual_places(self, kind: str) -> int:
        """How many places a medium of usual size adds, measured once."""
        if kind not in self._places:
            blank = Picture.new("RGB", (336, 336))
            media = {"images": [blank]} if kind == "image" else {"videos": [np.stack([np.asarray(blank)] * FRAMES)]}
            said = [{"role": "user", "content": [{"type": kind}, {"type": "text", "text": "x"}]}]
            text = self._text(said, generation=False)
            whole = self._process([text], media, left=False)["input_ids"].shape[1]
            self._places[kind] = whole - len(self._ids(said, generation=False))
        return self._places[kind]


def load(
    folder: Path, media: Path, quantization: BitsAndBytesConfig | None, dtype: torch.dtype, device: torch.device | None
) -> HfVlm:
    """The model in ``folder``. Raises ValueError (ChatError where it has no chat template)."""
    if not folder.is_dir():
        raise ValueError(f"model.path: found {folder}, expected a folder of an image-text-to-text model")
    common: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        processor = AutoProcessor.from_pretrained(folder, **common)
        model = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=dtype,
            quantization_config=quantization,
            device_map=None if quantization is None else {"": device or torch.device("cpu")},
            **common,
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: no image-text-to-text model: {str(error).strip().splitlines()[0]}") from None
    if not getattr(processor, "chat_template", None):
        raise ChatError(f"{folder}: its processor has no chat template, expected chat_template.jinja or the like")
    return HfVlm(model, processor, media)


def _messages(conversation: Conversation) -> list[dict[str, Any]]:
    """Turns as processors take them; a last answer that is empty is left out."""
    said: list[dict[str, Any]] = []
    for number, turn in enumerate(conversation.turns):
        content: list[dict[str, str]] = [{"type": "text", "text": turn.prompt}]
        if not number and conversation.media is not None:
            content.insert(0, {"type": conversation.media.kind})
        said.append({"role": "user", "content": content})
        if turn.answer or number < len(conversation.turns) - 1:
            said.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
    return said


def _tail(labels: Sequence[int]) -> list[int]:
    """Labels from the first that is learnt on: media stand before it."""
    first = next((place for place, label in enumerate(labels) if label != IGNORED), len(labels))
    return list(labels[first:])
