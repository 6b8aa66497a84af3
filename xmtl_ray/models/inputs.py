"""What the encoders take: word pieces and pixels, made from words and arrays.

Shapes: B rows, T word pieces, W words, S pixels. A text batch holds the sentences of trigger detection first, then the
prompts of argument extraction, so that one encoder pass serves both; likewise whole images, then marked images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from xmtl_ray.events.records import Span

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class TensorRecord:
    """A dataclass of tensors and numbers that moves to a device as one."""

    def to(self, device: torch.device) -> Self:
        """The same record with every tensor on ``device``."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            moved[field.name] = value.to(device) if isinstance(value, Tensor | TensorRecord) else value
        return type(self)(**moved)


@dataclass(frozen=True)
class TextInputs(TensorRecord):
    """Rows of word pieces: ``sentences`` sentences, then prompts."""

    ids: Tensor
    """[B, T] word-piece ids, padded at the end."""
    mask: Tensor
    """[B, T] True on real pieces."""
    types: Tensor
    """[B, T] 0 on the first part, 1 on what follows its [SEP]."""
    words: Tensor
    """[sentences, W] position of each word's first piece; 0 where there is no word."""
    word_mask: Tensor
    """[sentences, W] True on words that are there and were not cut."""
    sentences: int
    """How many rows are sentences."""
    pooled: Tensor
    """[B - sentences, T] True on the states of each prompt that stand for its argument."""


@dataclass(frozen=True)
class Inputs(TensorRecord):
    """One step's inputs for all tasks; a modality that no task of the step uses is None."""

    text: TextInputs | None
    pixels: Tensor | None
    """[B, 3, S, S] normalised: ``images`` whole images, then images with an object marked."""
    images: int = 0
    """How many rows of ``pixels`` are whole images."""


class TextCodec:
    """Words → :class:`TextInputs` by the text encoder's own tokenizer; counts the words that it had to cut.

    ``argument`` is what stands for one (``model.argument``): span pools the entity's pieces, prompt and concat pool
    all; who makes the prompts must know concat from prompt.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, max_tokens: int, argument: str = "prompt") -> None:
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.argument = argument
        self.cut_words = 0

    def __call__(
        self,
        sentences: Sequence[Sequence[str]],
        prompts: Sequence[tuple[Sequence[str], Sequence[str], Span]] = (),
    ) -> TextInputs:
        """Encode sentences and (text, event, entity in the text) prompts into one batch, padded to its longest row."""
        ids: list[list[int]] = []
        types: list[list[int]] = []
        positions: list[list[int]] = []
        entity_pieces: list[tuple[int, int]] = []
        if sentences:
            encoded = self._encode([list(words) for words in sentences], None, True)
            for row, words in enumerate(sentences):
                first: dict[int, int] = {}
                for position, word in enumerate(encoded.word_ids(row)):
                    if word is not None:
                        first.setdefault(word, position)
                # A word may have no piece of its own (control characters); only a cut tail shortens the sentence.
                kept = max(first) + 1 if encoded.encodings[row].overflowing else len(words)
                positions.append([first.get(word, 0) for word in range(kept)])
                self.cut_words += len(words) - kept
            ids += encoded["input_ids"]
            types += encoded["token_type_ids"]
        if prompts:
            # Only the text is cut: the event at the end is what the question is about.
            encoded = self._encode([list(p[0]) for p in prompts], [list(p[1]) for p in prompts], "only_first")
            if self.argument == "span":
                entity_pieces = [_pieces(encoded, row, prompt[2]) for row, prompt in enumerate(prompts)]
            ids += encoded["input_ids"]
            types += encoded["token_type_ids"]
        padding = self.tokenizer.pad_token_id or 0
        words, mask = _pad(positions, 0), _lengths_mask(ids)
        pooled = mask[len(sentences) :]
        if entity_pieces:
            pooled = torch.zeros_like(pooled)
            for row, (start, end) in enumerate(entity_pieces):
                pooled[row, start:end] = True
        return TextInputs(
            ids=_pad(ids, padding),
            mask=mask,
            types=_pad(types, 0),
            words=words,
            word_mask=_lengths_mask(positions) if positions else words.bool(),
            sentences=len(sentences),
            pooled=pooled,
        )

    def _encode(self, texts: list[list[str]], pairs: list[list[str]] | None, truncation: bool | str) -> Any:
        return self.tokenizer(
            texts,
            pairs,
            is_split_into_words=True,
            truncation=truncation,
            max_length=self.max_tokens,
            return_token_type_ids=True,
        )


def normalise(canvases: Sequence[np.ndarray], side: int) -> Tensor:
    """uint8 [H, W, 3] arrays → [B, 3, side, side] with CLIP's mean and deviation."""
    batch = torch.from_numpy(np.stack(canvases)).permute(0, 3, 1, 2)
    if batch.shape[-2:] != (side, side):
        batch = torch.nn.functional.interpolate(
            batch.float(), (side, side), mode="bicubic", antialias=True, align_corners=False
        ).clamp(0, 255)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (CLIP_MEAN, CLIP_STD))
    return (batch.float() / 255 - mean) / std


def _pieces(encoded: Any, row: int, words: Span) -> tuple[int, int]:
    """First and behind-last piece of ``words`` in the first part of a row; the whole row where they were cut off."""
    first, last = (encoded.word_to_tokens(row, word, 0) for word in (words.start, words.end - 1))
    if first is None or last is None:
        return 0, len(encoded["input_ids"][row])
    return first.start, last.end


def _pad(rows: list[list[int]], value: int) -> Tensor:
    width = max(map(len, rows), default=0)
    return torch.tensor([row + [value] * (width - len(row)) for row in rows], dtype=torch.long).view(len(rows), width)


def _lengths_mask(rows: list[list[int]]) -> Tensor:
    lengths = torch.tensor([len(row) for row in rows])
    return torch.arange(int(lengths.max()))[None, :] < lengths[:, None]
