"""VideoLLaMA2 and 2.1 as a chat model: prompts, media to pixels or kept features, rows of a batch."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from cachetools import LRUCache
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from xmtl_ray.data import frames as video_frames
from xmtl_ray.data import tower_features
from xmtl_ray.data.pixels import Preprocess, load_media
from xmtl_ray.data.tower_features import TowerFeatures
from xmtl_ray.events.records import Conversation, DataError
from xmtl_ray.generative.samples import Sample
from xmtl_ray.models import chat, checkpoint_files, splice
from xmtl_ray.models.splice import Layout, Row
from xmtl_ray.models.videollama2 import VideoLLaMA2, own_name


@dataclass(frozen=True)
class Medium:
    """One image or video of a batch: pixels that the tower must see, or its features, kept from an earlier time."""

    tensor: Tensor
    """[T or 1, 3, S, S] pixels or [T or 1, P, D] features."""
    seen: bool
    """Whether they are features."""
    key: str | None
    """What new features are kept under; None: they are not."""


@dataclass(frozen=True)
class MediaBatch:
    """Rows and their media, in the order of their places."""

    layout: Layout
    media: tuple[Medium, ...]

    @property
    def labels(self) -> Tensor:
        """[R, M]."""
        return self.layout.labels

    def to(self, device: torch.device) -> MediaBatch:
        """The same on ``device``."""
        media = tuple(replace(one, tensor=one.tensor.to(device)) for one in self.media)
        return MediaBatch(self.layout.to(device), media)


class VideoLLaMA2Chat:
    """See ``generative.chat_model.ChatModel``.

    Args:
        model: the weights.
        tokenizer: the checkpoint's, with its chat template.
        preprocess: what the tower's pictures are made by.
        media: folder that the conversations' media lie below.
        capacity: places of a row that sequences are packed into; None: a row for each.
        system: begin conversations with the family's system message, if it has one.
        cache_mib: memory for pixels that were made, in MiB.
        features: where the frozen tower's outputs are kept; None: nowhere.
        always_see: run tower and connector on an empty picture where a batch has no medium, without effect: under
            ZeRO-3 all workers gather their weights at once, under ZeRO-1 and -2 they reduce the connector's gradients.
    """

    def __init__(
        self,
        model: VideoLLaMA2,
        tokenizer: PreTrainedTokenizerBase,
        preprocess: Preprocess,
        media: Path,
        capacity: int | None = None,
        system: bool = True,
        cache_mib: int = 0,
        features: TowerFeatures | None = None,
        always_see: bool = False,
    ) -> None:
        self.module, self.tokenizer = model, tokenizer
        self.preprocess, self.media, self.capacity = preprocess, media, capacity
        self.features, self.always_see = features, always_see
        self.system = chat.system_of(model.checkpoint.model_type) if system else None
        self._tokens, self._frames = model.tokens, model.frames
        self._tower_hash = "" if features is None else weights_hash(model.tower)
        self._content: dict[Path, str] = {}
        self._pixels: LRUCache[Path, Tensor] = LRUCache(max(1, cache_mib << 20), getsizeof=lambda pixels: pixels.nbytes)

    @property
    def language_model(self) -> nn.Module:
        """Mistral or Qwen2."""
        return self.module.language_model

    @property
    def head(self) -> nn.Linear:
        """The language model's."""
        return self.module.head

    @property
    def connector(self) -> nn.Module:
        """See :class:`ChatModel`."""
        return self.module.connector

    def encode(self, conversation: Conversation) -> Sample:
        """See :class:`ChatModel`. The prompt is the same in training and answering, system message included."""
        medium = conversation.media
        kind = None if medium is None else medium.kind
        if medium is not None and kind == "audio":
            expected = "a text, image or video: VideoLLaMA2's ear is not built"
            raise DataError(self.media / medium.path, conversation.id, "media", kind, expected)
        mark = chat.sign(kind)
        said = chat.messages([chat.unsigned(turn, kind) for turn in conversation.turns], kind, self.system)
        first = next(place for place, message in enumerate(said) if message["role"] == "user")
        asked = tuple(chat.prompt(self.tokenizer, said[: first + 1], mark))
        row = chat.supervised(self.tokenizer, said, mark)
        row = Row(row.ids, [splice.IGNORED, *row.labels[1:]])
        return Sample(conversation, row, asked, splice.merged_length(row.ids, self._tokens))

    def collate(self, samples: Sequence[Sample], generation: bool = False) -> MediaBatch:
        """See :class:`ChatModel`."""
        order = list(range(len(samples)))
        if generation:
            rows = [Row(sample.asked, [splice.IGNORED] * len(sample.asked)) for sample in samples]
            layout = splice.lay_out(rows, self._tokens, left=True)
        elif self.capacity is not None:
            layout, order = splice.pack([sample.row for sample in samples], self._tokens, self.capacity)
        else:
            layout = splice.lay_out([sample.row for sample in samples], self._tokens)
        seen = (samples[number] for number in order if samples[number].conversation.media is not None)
        return MediaBatch(layout, tuple(self._read(sample) for sample in seen))

    def hidden(self, batch: MediaBatch) -> Tensor:
        """See :class:`ChatModel`."""
        return self.module.hidden(batch.layout, self._seen(batch.media))

    def generate(self, batch: MediaBatch, **settings: Any) -> Tensor:
        """See :class:`ChatModel`."""
        return self.module.generate(batch.layout, self._seen(batch.media), **settings)

    def save_whole(self, folder: Path, state: dict[str, Tensor]) -> None:
        """See :class:`ChatModel`."""
        self.module.save_pretrained(folder, state)
        self.tokenizer.save_pretrained(folder)

    def read_whole(self, folder: Path) -> dict[str, Tensor]:
        """See :class:`ChatModel`."""
        return {
            name: tensor
            for file in checkpoint_files.files(folder)
            for public, tensor in checkpoint_files.tensors(file)
            if (name := own_name(public)) is not None
        }

    def _read(self, sample: Sample) -> Medium:
        medium = sample.conversation.media
        assert medium is not None
        path, frames = self.media / medium.path, self._frames
        key = None
        if self.features is not None:
            key = self._key(path, medium.kind)
            if (kept := self.features.get(key)) is not None:
                return Medium(kept, True, None)
        pixels = self._pixels.get(path)
        if pixels is None:
            pixels = load_media(path, medium.kind, frames, self.preprocess, self.media)
            if pixels.nbytes <= self._pixels.maxsize:
                self._pixels[path] = pixels
        return Medium(pixels, False, key)

    def _key(self, path: Path, kind: str) -> str:
        if path not in self._content:
            self._content[path] = video_frames.content_hash(path, root=self.media)
        tower, asked = self.module.tower, [kind, self._frames]
        parts = self._content[path], self.preprocess.identity(), asked, self._tower_hash
        return tower_features.key(*parts, tower.select_layer, str(tower.dtype))

    def _seen(self, media: Sequence[Medium]) -> list[Tensor]:
        """Features of each medium; all that the tower must see it sees in one pass, and what is kept only once."""
        if not media and self.always_see:
            # It has no place to stand in, but the same weights are used, and in the same order, as by other workers.
            side, device = self.module.tower.config.image_size, next(self.module.connector.parameters()).device
            return self.module.features([torch.zeros(1, 3, side, side, device=device)])
        names = [one.key or number for number, one in enumerate(media)]
        new = {name: one for name, one in zip(names, media, strict=True) if not one.seen}
        seen = self.module.features([one.tensor for one in new.values()]) if new else []
        found = dict(zip(new, seen, strict=True))
        for name, one in new.items():
            if one.key is not None and self.features is not None:
                self.features.put(one.key, found[name])
        return [one.tensor if one.seen else found[name] for name, one in zip(names, media, strict=True)]


def weights_hash(module: nn.Module) -> str:
    """sha256 of a module's weights, names and bytes."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
