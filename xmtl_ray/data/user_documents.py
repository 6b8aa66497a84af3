"""Documents of a user, to be extracted from: M2E2's files, JSON documents, or folders of text files and images.

A source lists its documents first and reads each when it is asked for, so a hundred thousand of them fit in memory.
Ids are the project's: sentence and image ids are the document's id, an underscore and a number. Every sentence keeps
where it and its words stand in what the user gave. The surprising fact: gold is never here, not even in M2E2's layout;
entities are, for they are the candidates that the paper's models choose arguments from.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StringConstraints, TypeAdapter

from xmtl_ray.data import images as image_files
from xmtl_ray.data import m2e2
from xmtl_ray.data import objects as object_files
from xmtl_ray.data.ace05 import distinct_spans
from xmtl_ray.data.local_files import open_regular
from xmtl_ray.data.media_paths import inside
from xmtl_ray.data.sentences import covered, sentences, words
from xmtl_ray.events.event_lines import SourceImage, SourceSentence
from xmtl_ray.events.records import Box, DataError, DetectedObject, Document, Entity, Image, Sentence, Span
from xmtl_ray.events.strict_json import Number, PositiveCorners, read_json

_TEXT_MIB = 16
"""Largest text file or JSON document."""


@dataclass(frozen=True)
class UserDocument:
    """A document, where its sentences and images are from, and which argument candidates are still to be found."""

    document: Document
    sentences: tuple[SourceSentence, ...]
    """In the order of the document's."""
    images: tuple[SourceImage, ...]
    """In the order of the document's; ``objects`` is none where the user gave none."""
    has_entities: bool


class Documents(Protocol):
    """A source of documents."""

    @property
    def names(self) -> Sequence[str]:
        """What each document is called here, in the order in which they are read."""

    @property
    def root(self) -> Path:
        """Folder that the images' files are named from."""

    def read(self, name: str) -> UserDocument:
        """One of them. Raises DataError."""


def find(path: Path, objects: Path | None = None, language: str = "en") -> Documents:
    """The documents of a folder or file.

    Args:
        path: a folder in M2E2's layout; a folder of JSON documents; a folder of folders with text files and images; one
            such JSON document or folder.
        objects: detections of the images, see ``objects.read``; a store is asked by an image's content, a file by its
            name without ending.
        language: of documents that name none; decides where sentences end.

    Raises DataError where nothing is found or two layouts are.
    """
    if path.is_file():
        if path.suffix != ".json":
            raise DataError(path, None, "documents", path.name, "a .json document, or a folder")
        return JsonDocuments(path.parent, [path.name], objects, language)
    if not path.is_dir():
        raise DataError(path, None, "documents", "nothing", "a folder of documents, or one .json document")
    if (path / "text_only_event.json").is_file():
        return M2e2Documents(path, objects)
    shown = sorted(each for each in path.iterdir() if not each.name.startswith("."))
    jsons = [each.name for each in shown if each.suffix == ".json" and each.is_file()]
    if jsons:
        return JsonDocuments(path, jsons, objects, language)
    own = [each for each in shown if each.is_file() and _is_part(each)]
    folders = [each.name for each in shown if each.is_dir() and any(map(_is_part, each.iterdir()))]
    if own and folders:
        found = f"{own[0].name} beside the folder {folders[0]}"
        raise DataError(path, None, "documents", found, "one document's files, or a folder for each document")
    if own:
        return FolderDocuments(path.parent, [path.name], objects, language)
    if folders:
        return FolderDocuments(path, folders, objects, language)
    expected = "M2E2's files, .json documents, or folders with .txt files and images (docs/prediction.md)"
    raise DataError(path, None, "documents", [each.name for each in shown][:8], expected)


def _is_part(path: Path) -> bool:
    return not path.name.startswith(".") and (path.suffix == ".txt" or path.suffix.lower() in image_files.ENDINGS)


class M2e2Documents:
    """Documents in M2E2's layout, all read at once; their gold is left out."""

    def __init__(self, folder: Path, objects: Path | None) -> None:
        self.root, self._objects = folder, objects
        self._by_id = {document.id: _without_gold(document) for document in m2e2.read(folder, objects=objects)}
        self.names = list(self._by_id)

    def read(self, name: str) -> UserDocument:
        """The document of an id."""
        document = self._by_id[name]
        listed = tuple(
            SourceImage(
                image.id,
                None if image.path is None else str(image.path.relative_to(self.root)),
                "none" if self._objects is None else "given",
            )
            for image in document.images
        )
        texts = tuple(_joined(sentence.id, sentence.words, "words") for sentence in document.sentences)
        return UserDocument(document, texts, listed, has_entities=True)


def _without_gold(document: Document) -> Document:
    sentences = tuple(Sentence(item.id, item.words, item.entities) for item in document.sentences)
    images = tuple(replace(image, events=(), multimedia=False) for image in document.images)
    return Document(document.id, sentences, images)


class _Entity(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    sentence: Annotated[StrictInt, Field(ge=0)] | None = None
    words: tuple[StrictInt, StrictInt] | None = None
    chars: tuple[StrictInt, StrictInt] | None = None
    type: str = ""


class _Object(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    box: PositiveCorners
    label: str = ""
    confidence: Annotated[Number, Field(ge=0, le=1)] = 1.0


_Word = Annotated[str, StringConstraints(pattern=r"^\S+$")]
_Name = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")]


class _Json(BaseModel):
    """A JSON document."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: _Name | None = None
    language: Annotated[str, StringConstraints(pattern=r"^[A-Za-z-]{2,12}$")] | None = None
    text: str | None = None
    sentences: list[str | list[_Word]] | None = None
    images: list[str] = []
    entities: list[_Entity] | None = None
    objects: dict[str, list[_Object]] = {}
    meta: Any = None
    """The user's own; not looked at."""


_JSON = TypeAdapter(_Json)


class JsonDocuments:
    """A JSON file for each document; images are named from the folder of the files."""

    def __init__(self, folder: Path, names: Sequence[str], objects: Path | None, language: str) -> None:
        self.root, self.names, self._language = folder, names, language
        self._detections = _Detections(objects)

    def read(self, name: str) -> UserDocument:
        """The document of a file."""
        path = self.root / name
        with open_regular(path, "JSON", _TEXT_MIB << 20):
            pass
        body = read_json(path, _JSON)
        own = body.id or path.stem
        if body.text is not None and body.sentences is not None:
            raise DataError(path, own, "text", "text and sentences", "one of them")
        texts = _texts(own, body, body.language or self._language)
        entities = _entities(path, own, body, texts)
        if not texts and not body.images:
            raise DataError(path, own, "", "neither words nor images", "text, sentences or images")
        if unknown := sorted(body.objects.keys() - set(body.images)):
            raise DataError(path, own, "objects", unknown[0], f"a name of images: {body.images}")
        files = [self._image(image, path, own, f"images.{place}") for place, image in enumerate(body.images)]
        given = {
            number: tuple(DetectedObject(Box(*item.box), item.label, item.confidence) for item in body.objects[image])
            for number, image in enumerate(body.images)
            if image in body.objects
        }
        document, listed = _assembled(own, self.root, texts, entities, files, given, self._detections)
        return UserDocument(document, tuple(texts), listed, has_entities=body.entities is not None)

    def _image(self, name: str, path: Path, document: str, field: str) -> Path:
        found = inside(self.root, name, path, document, field)
        if not found.is_file():
            raise DataError(path, document, field, name, f"an image file in {self.root}")
        return found


def _texts(document: str, body: _Json, language: str) -> list[SourceSentence]:
    if body.text is not None:
        return _split(document, 0, body.text, "text", language)
    found = []
    for number, sentence in enumerate(body.sentences or ()):
        name, source = f"{document}_{number}", f"sentences.{number}"
        if isinstance(sentence, str):
            found.append(SourceSentence(name, sentence, source, Span(0, len(sentence)), words(sentence)))
        else:
            found.append(_joined(name, sentence, source))
    return [sentence for sentence in found if sentence.words]


def _entities(path: Path, document: str, body: _Json, texts: Sequence[SourceSentence]) -> dict[str, list[Entity]]:
    """Entities by sentence id. One of characters is the words that it touches, of the sentence that it starts in."""
    by_id = {sentence.id: sentence for sentence in texts}
    found: dict[str, list[Entity]] = {}
    for number, entity in enumerate(body.entities or ()):
        place = f"entities.{number}"
        start, end = entity.words or entity.chars or (0, 0)
        if (entity.words is None) == (entity.chars is None) or not 0 <= start < end:
            raise DataError(
                path, document, place, entity.model_dump(), "words or chars: [start, end] with 0 <= start < end"
            )
        if body.text is not None and entity.sentence is None and entity.words is None:
            holder = next((each for each in texts if start < each.characters.end), None)
        elif entity.sentence is not None:
            holder = by_id.get(f"{document}_{entity.sentence}")
        else:
            raise DataError(path, document, place, entity.model_dump(), "sentence: its number, from 0")
        span = None
        if holder is not None and entity.words is not None:
            span = Span(start, end) if end <= len(holder.words) else None
        elif holder is not None:
            span = covered(holder.words, Span(start, end))
        if holder is None or span is None:
            raise DataError(path, document, place, [start, end], f"within the {len(texts)} sentences of the document")
        found.setdefault(holder.id, []).append(Entity(span, entity.type))
    return found


class FolderDocuments:
    """A folder for each document, with its text files (UTF-8, a paragraph a line) and images, taken by their names."""

    def __init__(self, folder: Path, names: Sequence[str], objects: Path | None, language: str) -> None:
        self.root, self.names, self._language = folder, names, language
        self._detections = _Detections(objects)

    def read(self, name: str) -> UserDocument:
        """The document of a folder."""
        texts: list[SourceSentence] = []
        files = []
        for path in sorted(each for each in (self.root / name).iterdir() if _is_part(each)):
            if path.suffix == ".txt":
                texts += _split(name, len(texts), _read_text(path), path.name, self._language)
            else:
                files.append(inside(self.root, f"{name}/{path.name}", path, name, "image"))
        if not texts and not files:
            raise DataError(self.root / name, None, "folder", "neither words nor images", ".txt files or images")
        document, listed = _assembled(name, self.root, texts, {}, files, {}, self._detections)
        return UserDocument(document, tuple(texts), listed, has_entities=False)


def _read_text(path: Path) -> str:
    with open_regular(path, "text", _TEXT_MIB << 20) as file:
        try:
            text = file.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise DataError(path, None, f"byte {error.start}", error.object[error.start], "UTF-8") from None
    return " " + text[1:] if text.startswith("\ufeff") else text  # a byte order mark is no word, but a character


class _Detections:
    """What a user has of detections; a store is read when the first image is asked for."""

    def __init__(self, path: Path | None) -> None:
        self._path = path

    @cached_property
    def _found(self) -> dict[str, tuple[DetectedObject, ...]]:
        assert self._path is not None
        return object_files.read_contents(self._path) if self._path.is_dir() else object_files.read(self._path)

    def __call__(self, image: Path) -> tuple[DetectedObject, ...] | None:
        """Detections of an image file; None where there are none of it."""
        if self._path is None:
            return None
        return self._found.get(image_files.content_hash(image) if self._path.is_dir() else image.stem)


def _split(document: str, first: int, text: str, source: str, language: str) -> list[SourceSentence]:
    """The sentences of a text, numbered from ``first``."""
    found = []
    for number, where in enumerate(sentences(text, language), start=first):
        own = text[where.start : where.end]
        shifted = tuple(Span(word.start + where.start, word.end + where.start) for word in words(own))
        found.append(SourceSentence(f"{document}_{number}", own, source, where, shifted))
    return found


def _joined(name: str, given: Sequence[str], source: str) -> SourceSentence:
    """A sentence of which only the words are known: its text is they, with spaces between."""
    spans, position = [], 0
    for word in given:
        spans.append(Span(position, position + len(word)))
        position += len(word) + 1
    text = " ".join(given)
    return SourceSentence(name, text, source, Span(0, len(text)), tuple(spans))


def _assembled(
    name: str,
    root: Path,
    texts: Iterable[SourceSentence],
    entities: dict[str, list[Entity]],
    files: Iterable[Path],
    given: dict[int, tuple[DetectedObject, ...]],
    detections: _Detections,
) -> tuple[Document, tuple[SourceImage, ...]]:
    own = []
    for sentence in texts:
        start = sentence.characters.start
        plain = tuple(sentence.text[word.start - start : word.end - start] for word in sentence.words)
        own.append(Sentence(sentence.id, plain, distinct_spans(entities.get(sentence.id, ()))))
    shown, listed = [], []
    for number, path in enumerate(files):
        known = given.get(number)
        known = detections(path) if known is None else known
        shown.append(Image(f"{name}_{number}", path, objects=known or ()))
        listed.append(
            SourceImage(f"{name}_{number}", str(path.relative_to(root)), "none" if known is None else "given")
        )
    return Document(name, tuple(own), tuple(shown)), tuple(listed)
