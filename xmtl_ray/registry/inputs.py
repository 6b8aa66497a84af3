"""What a registered model is asked, and how that becomes documents and conversations: JSON with the bytes of its media.

A server has no folder of its caller's, so a medium's bytes come as base64 beside the names that documents have anyway
(docs/prediction.md): ``"images": ["1.jpg"], "media": {"1.jpg": "…"}``. The surprising fact: a name without bytes is
looked up on the server only below ``XMTL_MEDIA_ROOT``, which its owner sets; a caller can name no folder.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from xmtl_ray.data import videollama2
from xmtl_ray.data.local_files import open_regular
from xmtl_ray.data.media_paths import inside
from xmtl_ray.data.user_documents import JsonDocuments, UserDocument
from xmtl_ray.events.records import Conversation, DataError, Media, Turn

MEDIA_ROOT = "XMTL_MEDIA_ROOT"
"""Environment variable of the folder that names without bytes are looked up in."""
_MEDIUM_MIB = 1024
"""Largest medium; images are held to less where they are read."""


class _Input(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class EntityInput(_Input):
    """An argument candidate in the text: ``words`` of a ``sentence``, or ``chars``."""

    sentence: int | None = None
    words: list[int] | None = None
    chars: list[int] | None = None
    type: str | None = None


class ObjectInput(_Input):
    """An argument candidate in an image: x0, y0, x1, y1 in pixels."""

    box: list[float]
    label: str | None = None
    confidence: float | None = None


class DocumentInput(_Input):
    """A document for X-MTL: the JSON document of docs/prediction.md, and its images' bytes."""

    id: str | None = None
    language: str | None = None
    text: str | None = None
    sentences: list[str | list[str]] | None = None
    images: list[str] | None = None
    media: dict[str, str] | None = Field(default=None, description="Name of an image → its file's bytes as base64")
    entities: list[EntityInput] | None = None
    objects: dict[str, list[ObjectInput]] | None = None


class ConversationInput(_Input):
    """A question to a generative model about a text, an image or a video."""

    id: str | None = None
    language: str | None = None
    text: str | None = Field(default=None, description="What the instruction of the training data is put around")
    prompt: str | None = Field(default=None, description="Or the whole prompt, word for word")
    image: str | None = None
    video: str | None = Field(default=None, description="A file, or a folder's name before those of its frames")
    media: dict[str, str] | None = Field(default=None, description="Name of a file → its bytes as base64")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if self.image is not None and self.video is not None:
            raise ValueError("found image and video, expected one of them")
        if self.text is not None and self.prompt is not None:
            raise ValueError("found text and prompt, expected one of them")
        if self.text is self.prompt is self.image is self.video is None:
            raise ValueError("found nothing to ask about, expected text, prompt, image or video")
        return self


def read_document(asked: DocumentInput, number: int, folder: Path) -> UserDocument:
    """The document, as `xmtl predict` reads it from a file.

    Args:
        asked: what was sent.
        number: names it where it has no id.
        folder: an empty one, where its images are put.

    Raises DataError.
    """
    name = f"document-{number}.json"
    _put(asked.media or {}, asked.images or (), folder, name)
    body = asked.model_dump(mode="json", exclude_none=True, exclude={"media"})
    (folder / name).write_text(json.dumps(body), encoding="utf-8")
    return JsonDocuments(folder, [name], None, "en").read(name)


def read_conversation(asked: ConversationInput, number: int, media: Path) -> Conversation:
    """The conversation, without an answer; its medium is put below ``media``. Raises DataError.

    The folder there is named by what was sent: a model may keep what it has decoded under a file's name.
    """
    name = f"conversation-{number}"
    medium = asked.image or asked.video
    kind = "image" if asked.image else "video"
    found = None
    if medium is not None:
        sent = json.dumps(dict(asked.media or {}), sort_keys=True)
        place = hashlib.sha256(f"{medium}\0{sent}".encode("utf-8", "surrogatepass")).hexdigest()[:32]
        (media / place).mkdir(exist_ok=True)
        _put(asked.media or {}, [medium], media / place, name)
        found = Media("image" if kind == "image" else "video", f"{place}/{medium}")
    elif asked.media:
        raise DataError(name, asked.id, "media", list(asked.media), "none without image or video")
    prompt = asked.prompt if asked.prompt is not None else videollama2.prompt(asked.language, asked.text or "")
    return Conversation(asked.id or name, (Turn(prompt, ""),), asked.language, found)


def _put(sent: Mapping[str, str], named: Sequence[str], folder: Path, record: str) -> None:
    """Write the bytes that were sent, and copy what was only named from the server's own folder."""
    for name, text in sent.items():
        if not any(name == each or name.startswith(f"{each}/") for each in named):
            raise DataError(record, None, f"media.{name}", name, f"a name of {list(named)}, or of a file below one")
        path = inside(folder, name, record, None, "media")
        try:
            content = base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise DataError(record, None, f"media.{name}", text[:20], "base64") from None
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    for name in named:
        path = inside(folder, name, record, None, "images")
        if path.exists():
            continue
        root = os.environ.get(MEDIA_ROOT)
        if not root:
            expected = f"its bytes in media, or a server with {MEDIA_ROOT}"
            raise DataError(record, None, "media", f"no bytes of {name}", expected)
        _copy(Path(root), inside(Path(root), name, record, None, "images"), path)


def _copy(root: Path, source: Path, target: Path) -> None:
    """A file, or a folder of frames, that lies below ``root`` after all links."""
    if source.is_dir():
        for each in sorted(source.iterdir()):
            if each.is_file():
                _copy(root, each, target / each.name)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    with open_regular(source, "media", _MEDIUM_MIB << 20, root) as file:
        target.write_bytes(file.read())
