"""Any image-text-to-text model of transformers that has a chat template, as a chat model: Video-LLaVA and the like.

Their processors decide on prompts, pixels and how many places a medium takes; what is learnt from is ours to decide.
Two surprising facts: a processor makes a medium's places when it sees the medium, so labels are laid from the end of a
row, where only text stands; and some templates (LLaVA's) end no answer, so that a model tuned by them would never stop:
there the end token is put after each answer.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image as Picture
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    BitsAndBytesConfig,
    PreTrainedModel,
    ProcessorMixin,
)

from xmtl_ray.data import images
from xmtl_ray.data.frames import read_frames
from xmtl_ray.events.records import Conversation, DataError, Media
from xmtl_ray.generative.hf_template import end_of_answers, kinds, user, written
from xmtl_ray.generative.samples import Sample
from xmtl_ray.models import checkpoint_files, own_code, untrusted_template
from xmtl_ray.models.chat import ChatError, pad_id, special_tokens
from xmtl_ray.models.splice import IGNORED, Row

log = logging.getLogger(__name__)

FRAMES = 8
"""Taken of a video, as Video-LLaVA was trained."""

CONNECTORS = ("multi_modal_projector", "connector", "merger", "aligner", "embed_vision")
"""Last names that transformers gives what leads from a tower to the language model."""

_SAFE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
_CHANGED_LOGITS = ("final_logit_softcapping", "logits_scaling", "logit_scale")
"""Settings of models that do more to a hidden state than their head does."""
_SIZES = ((336, 336), (672, 448))
"""Two pictures that take the same number of places where a model makes all pictures alike."""


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
        processor: with a chat template that takes content as lists.
        media: folder that the conversations' media lie below.

    Raises ChatError where the template or the tokenizer is not fit.
    """

    def __init__(self, model: PreTrainedModel, processor: Any, media: Path) -> None:
        self.module, self.processor, self.media = model, processor, media
        self.tokenizer = processor.tokenizer
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.convert_ids_to_tokens(pad_id(self.tokenizer))
        named = (getattr(processor, name, None) for name in ("image_token", "video_token"))
        self._signs = sorted({sign for sign in named if sign} | special_tokens(self.tokenizer))
        self._end = end_of_answers(processor)
        self._kinds = kinds(processor)
        self._places: dict[tuple[str, tuple[int, int]], int] = {}
        self._sizes: dict[str, tuple[int, int]] = {}

    @property
    def language_model(self) -> nn.Module:
        """Its decoder: towers have layers of the same names, and get no adapters."""
        return self.module.get_decoder()

    @property
    def head(self) -> nn.Linear:
        """See :class:`ChatModel`."""
        return self.module.get_output_embeddings()

    @property
    def connector(self) -> nn.Module | None:
        """See :class:`ChatModel`."""
        named = ((name.rpartition(".")[2], part) for name, part in self.module.named_modules())
        return next((part for name, part in named if name in CONNECTORS), None)

    def encode(self, conversation: Conversation) -> Sample:
        """See :class:`ChatModel`. Of media that take places by their size the size is read."""
        medium = conversation.media
        self._check(conversation)
        said = self._messages(conversation)
        ids = self._ids(said, generation=False)
        labels, done = list(ids), 0
        for place, message in enumerate(said):
            if message["role"] != "assistant":
                continue
            asked = self._ids(said[:place], generation=True)
            if ids[: len(asked)] != asked:
                raise ChatError(
                    f"chat template: record {conversation.id!r}: found a prompt that is not the beginning of the "
                    "conversation, expected it to be, in tokens"
                )
            labels[done : len(asked)] = [IGNORED] * (len(asked) - done)
            done = len(self._ids(said[: place + 1], generation=False))
        labels[0] = IGNORED
        places = 0 if medium is None else self._visual_places(medium)
        return Sample(conversation, Row(ids, labels), tuple(self._ids(said[:1], generation=True)), len(ids) + places)

    def collate(self, samples: Sequence[Sample], generation: bool = False) -> ProcessorBatch:
        """See :class:`ChatModel`."""
        texts, pictures, videos = [], list[list[Picture.Image]](), list[np.ndarray]()
        for sample in samples:
            said = self._messages(sample.conversation)
            texts.append(self._text(said[:1] if generation else said, generation=generation))
            pictures.append([])
            if (medium := sample.conversation.media) is None:
                continue
            path = self.media / medium.path
            if medium.kind == "image":
                pictures[-1].append(images.read(path, root=self.media))
            else:
                videos.append(_stacked(read_frames(path, FRAMES, root=self.media)))
        inputs = self._process(texts, pictures, videos, left=generation)
        labels = torch.full(inputs["input_ids"].shape, IGNORED)
        for number, sample in enumerate(samples if not generation else ()):
            first = len(sample.asked)  # media stand before it
            wanted, end = torch.tensor(sample.row.ids[first:]), int(inputs["attention_mask"][number].sum())
            place = slice(end - len(wanted), end)
            if not torch.equal(inputs["input_ids"][number, place], wanted):
                raise ChatError(
                    f"processor: record {sample.conversation.id!r}: found other tokens after a medium than without it"
                )
            labels[number, place] = torch.tensor(sample.row.labels[first:])
        return ProcessorBatch(inputs, labels)

    def hidden(self, batch: ProcessorBatch) -> Tensor:
        """See :class:`ChatModel`."""
        return self.module.base_model(**self._typed(batch), use_cache=False).last_hidden_state

    def generate(self, batch: ProcessorBatch, **settings: Any) -> Tensor:
        """See :class:`ChatModel`."""
        whole = self.module.generate(**self._typed(batch), **settings)
        return whole[:, batch.inputs["input_ids"].shape[1] :]

    def save_whole(self, folder: Path, state: dict[str, Tensor]) -> None:
        """See :class:`ChatModel`."""
        self.module.save_pretrained(folder, state_dict=state, save_original_format=False)
        self.processor.save_pretrained(folder)

    def read_whole(self, folder: Path) -> dict[str, Tensor]:
        """See :class:`ChatModel`."""
        state = {
            name: value for file in checkpoint_files.files(folder) for name, value in checkpoint_files.tensors(file)
        }
        tied: Mapping[str, str] = self.module.all_tied_weights_keys
        return state | {name: state[source] for name, source in tied.items() if source in state}

    def _check(self, conversation: Conversation) -> None:
        """Raises DataError for a medium that the model has no sense for and for the processor's signs in the text."""
        medium = conversation.media
        if medium is not None and medium.kind not in self._kinds:
            senses = " or ".join(["a text", *sorted(self._kinds)])
            expected = f"{senses}: {type(self.module).__name__} takes nothing else"
            raise DataError(self.media / medium.path, conversation.id, "media", medium.kind, expected)
        words = [text for turn in conversation.turns for text in (turn.prompt, turn.answer)]
        for sign in self._signs:
            if any(sign in text for text in words):
                raise DataError(
                    self.media, conversation.id, "conversations", sign, "text without the model's own signs"
                )

    def _messages(self, conversation: Conversation) -> list[dict[str, Any]]:
        """Turns as processors take them; a last answer that is empty is left out."""
        said: list[dict[str, Any]] = []
        for number, turn in enumerate(conversation.turns):
            kind = conversation.media.kind if conversation.media is not None and not number else None
            said.append(user(turn.prompt, kind))
            if turn.answer or number < len(conversation.turns) - 1:
                said.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer + self._end}]})
        return said

    def _text(self, said: Sequence[dict[str, Any]], *, generation: bool) -> str:
        text = written(self.processor, said, generation=generation)
        # What such a template puts between turns stands after the end token, where no answer goes on.
        return text.rstrip() if self._end and not generation else text

    def _ids(self, said: Sequence[dict[str, Any]], *, generation: bool) -> list[int]:
        text = self._text(said, generation=generation)
        return list(self.tokenizer(text, add_special_tokens=self._begins(text))["input_ids"])

    def _begins(self, text: str) -> bool:
        """Whether the tokenizer is to put the first token there: the template has not."""
        return not (self.tokenizer.bos_token and text.startswith(self.tokenizer.bos_token))

    def _process(
        self, texts: list[str], pictures: list[list[Picture.Image]], videos: list[np.ndarray], left: bool
    ) -> dict[str, Tensor]:
        given: dict[str, Any] = {"images": pictures} if any(pictures) else {}
        if videos:
            given |= {"videos": videos, "do_sample_frames": False}
        found = self.processor(
            text=texts,
            padding=True,
            padding_side="left" if left else "right",
            return_tensors="pt",
            add_special_tokens=self._begins(texts[0]),
            **given,
        )
        return {name: value for name, value in found.items() if isinstance(value, Tensor)}

    def _typed(self, batch: ProcessorBatch) -> dict[str, Tensor]:
        dtype = self.module.dtype
        return {name: value.to(dtype) if value.is_floating_point() else value for name, value in batch.inputs.items()}

    def _visual_places(self, medium: Media) -> int:
        """How many places a medium adds to its sign."""
        usual, other = (self._measured(medium.kind, size) for size in _SIZES)
        return usual if usual == other else self._measured(medium.kind, self._size(medium))

    def _size(self, medium: Media) -> tuple[int, int]:
        """Width and height, from the file."""
        if medium.path not in self._sizes:
            path = self.media / medium.path
            if medium.kind == "image":
                facts = images.probe(path, root=self.media)
                self._sizes[medium.path] = facts.width, facts.height
            else:
                self._sizes[medium.path] = read_frames(path, 1, root=self.media)[0].size
        return self._sizes[medium.path]

    def _measured(self, kind: str, size: tuple[int, int]) -> int:
        if (kind, size) not in self._places:
            blank = Picture.new("RGB", size)
            pictures, videos = ([[blank]], []) if kind == "image" else ([[]], [_stacked([blank] * FRAMES)])
            said = [user("x", kind)]
            text = self._text(said, generation=True)
            whole = self._process([text], pictures, videos, left=False)["input_ids"].shape[1]
            self._places[kind, size] = whole - len(self._ids(said, generation=True))
        return self._places[kind, size]


def load(
    folder: Path, media: Path, quantization: BitsAndBytesConfig | None, dtype: torch.dtype, device: torch.device | None
) -> HfVlm:
    """The model in ``folder``. Raises ValueError (ChatError where it has no chat template that is fit)."""
    if not folder.is_dir():
        raise ValueError(f"model.path: found {folder}, expected a folder of an image-text-to-text model")
    own_code.refuse(folder, ValueError)
    checkpoint_files.check(folder)
    try:
        processor = AutoProcessor.from_pretrained(folder, **_SAFE)
        model, found = AutoModelForImageTextToText.from_pretrained(
            folder,
            dtype=dtype,
            quantization_config=quantization,
            device_map=None if quantization is None else {"": device or torch.device("cpu")},
            output_loading_info=True,
            **_SAFE,
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: no image-text-to-text model: {str(error).strip().splitlines()[0]}") from None
    if absent := sorted(found["missing_keys"]):  # transformers would go on with random ones
        raise ValueError(f"{folder}: weights do not fit its config.json: no {absent[0]}, of {len(absent)} such")
    if not isinstance(processor, ProcessorMixin) or not getattr(processor, "chat_template", None):
        raise ChatError(f"{folder}: its processor has no chat template, expected chat_template.jinja or the like")
    _check_head(folder, model)
    try:
        untrusted_template.check(
            processor.chat_template, untrusted_template.special(processor.tokenizer), ("image", "video")
        )
        return HfVlm(model, processor, media)
    except ChatError as error:
        raise ChatError(f"{folder}: {error}") from None


def outside_decoder(folder: Path) -> list[str]:
    """Names of the parts of the model in ``folder`` that are not its language model, without reading weights.

    Raises ValueError.
    """
    own_code.refuse(folder, ValueError)
    try:
        config = AutoConfig.from_pretrained(folder, **_SAFE)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: no image-text-to-text model: {str(error).strip().splitlines()[0]}") from None
    names = {part: name for name, part in model.named_modules()}
    within = names[model.get_decoder()].split(".")
    levels = [".".join(within[:depth]) for depth in range(len(within))]
    return [
        f"{level}.{name}".removeprefix(".")
        for depth, level in enumerate(levels)
        for name, _ in model.get_submodule(level).named_children()
        if name != within[depth]
    ]


def _stacked(frames: Sequence[Picture.Image]) -> np.ndarray:
    """uint8 [T, H, W, 3]."""
    return np.stack([np.asarray(frame) for frame in frames])


def _check_head(folder: Path, model: PreTrainedModel) -> None:
    """Raises ValueError for a model whose logits are not its head's product with the last hidden states."""
    head, settings = model.get_output_embeddings(), model.config.get_text_config()
    changed = [name for name in _CHANGED_LOGITS if getattr(settings, name, None) not in (None, 1, 1.0)]
    if not isinstance(head, nn.Linear) or head.bias is not None or changed or model.base_model is model:
        found = ", ".join(changed) or "another output head"
        raise ValueError(f"{folder}: {type(model).__name__}: found {found}, expected logits by one matrix alone")
