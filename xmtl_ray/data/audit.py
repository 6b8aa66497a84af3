"""What is wrong with data before anything is trained on it, and what is in it.

Readers check what their format promises; this checks what records mean together with their files and with each other:
boxes against the image's real size, images and videos that cannot be read, duplicates, and leaks between what is
trained on and what is tested on. Nothing is mended or left out: it is told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from xmtl_ray.data import frames, images
from xmtl_ray.data.audit_report import EXAMPLES, Contents, Finding, Level, Report
from xmtl_ray.data.leaks import Images, Match, Texts, text_key
from xmtl_ray.events.records import (
    Annotation,
    Box,
    Conversation,
    DataError,
    Document,
    Image,
    Media,
    Pair,
    Sentence,
    Situation,
    TextEvent,
    document_id,
)

Record = Sentence | Situation | Pair | Document | Image | Conversation | Annotation
PIECES_PER_WORD = 1.25
"""Word pieces of a word, about, where no tokenizer counts them; two more for [CLS] and [SEP]."""
_CONTROL = re.compile(r"[\x00-\x08\x0e-\x1f\x7f]")
_TOGETHER = 256
"""Media that are looked at at once."""


@dataclass
class Source:
    """Records of one corpus. ``errors`` are filled by its reader while ``records`` is gone through."""

    name: str
    records: Iterable[Record]
    errors: list[DataError] = field(default_factory=list)
    media: Path | None = None
    """Folder of the media that conversations refer to."""


def audit(
    sources: Sequence[Source],
    against: Sequence[Source] = (),
    max_tokens: int = 300,
    pixels: bool = True,
    pieces: Callable[[Sequence[str]], int] | None = None,
) -> Report:
    """Go through all records once.

    Args:
        sources: what is to be trained on.
        against: what it must not contain, e.g. test documents; gone through first and remembered, and checked alike.
        max_tokens: longest input in word pieces; longer sentences are counted as cut.
        pixels: whether image files are decoded, which finds broken ones and nearly equal ones; without it only their
            headers and bytes are looked at.
        pieces: word pieces of a sentence by the model's tokenizer; none: about 1.25 a word.
    """
    walk = _Walk(max_tokens, pixels, pieces or (lambda words: round(PIECES_PER_WORD * len(words)) + 2))
    contents = [walk.through(source, remember=True) for source in against]
    contents += [walk.through(source, remember=False) for source in sources]
    found = sorted(walk.findings.values(), key=lambda finding: (finding.level, -finding.count, finding.kind))
    return Report(tuple(found), tuple(contents), pixels)


@dataclass(frozen=True)
class _Text:
    id: str
    words: Sequence[str]
    events: Sequence[TextEvent]


@dataclass(frozen=True)
class _Picture:
    id: str
    path: Path
    boxes: Sequence[tuple[str, Box]]


@dataclass(frozen=True)
class _Looked:
    """What one look at a medium gave; ``error`` where it could not be read."""

    width: int = 0
    height: int = 0
    digest: str = ""
    perceptual: str | None = None
    error: DataError | None = None


class _Walk:
    """What is remembered while the sources are gone through."""

    def __init__(self, max_tokens: int, pixels: bool, pieces: Callable[[Sequence[str]], int]) -> None:
        self.max_tokens, self.pixels, self.pieces = max_tokens, pixels, pieces
        self.findings: dict[tuple[Level, str], Finding] = {}
        self.texts, self.images = Texts(), Images()
        self.ids, self.documents = set[str](), set[str]()
        self.quiet = set[str]()
        """Remembered texts without an event."""

    def tell(self, level: Level, kind: str, text: str) -> None:
        finding = self.findings.setdefault((level, kind), Finding(level, kind))
        finding.count += 1
        if len(finding.examples) < EXAMPLES:
            finding.examples.append(text)

    def through(self, source: Source, remember: bool) -> Contents:
        contents, own = Contents(source.name), _Own()
        pictures: list[_Picture] = []
        told = 0
        with ThreadPoolExecutor() as threads:
            for record in source.records:
                contents.records += 1
                for text in _texts(record):
                    self._text(source.name, text, contents, own, remember)
                pictures += _pictures(record)
                _count_images(record, contents)
                if isinstance(record, Conversation | Annotation) and record.media is not None:
                    self._medium(source, record.id, record.media, contents, pictures)
                if len(pictures) >= _TOGETHER:
                    self._look(source.name, pictures, contents, own, remember, threads)
                    pictures.clear()
                told = self._reader_errors(source, told)
            self._look(source.name, pictures, contents, own, remember, threads)
        self._reader_errors(source, told)
        if not contents.records and not source.errors:
            self.tell("error", "no record", source.name)
        return contents

    def _reader_errors(self, source: Source, told: int) -> int:
        for error in source.errors[told:]:
            self.tell("error", "not as the format says", str(error))
        return len(source.errors)

    def _text(self, source: str, text: _Text, contents: Contents, own: _Own, remember: bool) -> None:
        contents.sentences += 1
        contents.lengths[len(text.words)] += 1
        contents.quiet_sentences += not text.events
        if text.events:
            contents.events_per_sentence[len(text.events)] += 1
        contents.text_events.update(event.type for event in text.events)
        contents.text_roles.update(f"{e.type}.{a.role}" for e in text.events for a in e.arguments)
        if self.pieces(text.words) > self.max_tokens:
            contents.cut_sentences += 1
            self.tell("warning", f"longer than {self.max_tokens} word pieces: the rest is not read",
                      f"{source}: {text.id}: {len(text.words)} words")  # fmt: skip
        if (control := _CONTROL.search(" ".join(text.words))) is not None:
            self.tell("error", "a control character in a text", f"{source}: {text.id}: {control.group()!r}")
        self._id(source, text.id, own, "text", remember)
        key = text_key(text.words)
        if key in own.texts:
            self.tell("warning", "the same text twice in a source", f"{source}: {text.id} and {own.texts[key]}")
        own.texts.setdefault(key, text.id)
        if remember:
            self.texts.remember(text.id, text.words)
            if not text.events:
                self.quiet.add(text.id)
        elif (match := self.texts.like(text.words)) is not None:
            # "He did not comment." is told everywhere; only what has an event gives an answer away.
            quiet = not text.events and match.id in self.quiet
            level: Level = "error" if match.likeness == "same" and not quiet else "warning"
            what = " without event" if quiet else ""
            self._leak(level, f"text{what}", match, f"{source}: {text.id}: {_short(text.words)}")

    def _id(self, source: str, name: str, own: _Own, kind: str, remember: bool) -> None:
        if (kind, name) in own.ids:
            self.tell("error", f"the same {kind} id twice in a source", f"{source}: {name}")
        own.ids.add((kind, name))
        if remember:
            self.ids.add(f"{kind} {name}")
            self.documents.add(document_id(name))
            return
        if f"{kind} {name}" in self.ids:
            self.tell("error", f"leak: the same {kind} id on both sides", f"{source}: {name}")
        elif (document := document_id(name)) in self.documents and document not in own.documents:
            own.documents.add(document)
            self.tell("error", "leak: the same document on both sides", f"{source}: {document}")

    def _leak(self, level: Level, kind: str, match: Match, place: str) -> None:
        self.tell(level, f"leak: {'the same' if match.likeness == 'same' else 'nearly the same'} {kind} on both sides",
                  f"{place} ↔ {match.id}")  # fmt: skip

    def _medium(self, source: Source, name: str, media: Media, contents: Contents, pictures: list[_Picture]) -> None:
        path = (source.media or Path()) / media.path
        if media.kind == "image":
            contents.images += 1
            pictures.append(_Picture(name, path, ()))
        elif media.kind == "audio":
            contents.audio += 1
            if not path.is_file():
                self.tell("error", "missing or unreadable medium", f"{source.name}: {name}: {path}: no such file")
        else:
            contents.videos += 1
            try:
                frames.check(path, root=source.media)
            except DataError as error:
                self.tell("error", "missing or unreadable medium", f"{source.name}: {name}: {error}")

    def _look(
        self,
        source: str,
        pictures: Sequence[_Picture],
        contents: Contents,
        own: _Own,
        remember: bool,
        threads: ThreadPoolExecutor,
    ) -> None:
        """Files are looked at side by side, and what was seen is judged in their order."""
        for picture, seen in zip(pictures, threads.map(self._see, pictures), strict=True):
            self._id(source, picture.id, own, "image", remember)
            if seen.error is not None:
                self.tell("error", "missing or unreadable medium", f"{source}: {picture.id}: {seen.error}")
                continue
            contents.images_read += 1
            contents.pixels[_size_class(max(seen.width, seen.height))] += 1
            for label, box in picture.boxes:
                self._box(f"{source}: {picture.id}: {label}", box, seen)
            if seen.digest in own.images:
                self.tell("warning", "the same image twice in a source",
                          f"{source}: {picture.id} and {own.images[seen.digest]}")  # fmt: skip
            own.images.setdefault(seen.digest, picture.id)
            if remember:
                self.images.remember(picture.id, seen.digest, seen.perceptual)
            elif (match := self.images.like(seen.digest, seen.perceptual)) is not None:
                level: Level = "error" if match.likeness == "same" else "warning"
                self._leak(level, "image", match, f"{source}: {picture.id}")

    def _see(self, picture: _Picture) -> _Looked:
        try:
            facts = images.probe(picture.path)
            if self.pixels:
                digest, perceptual = images.hashes(picture.path)
                return _Looked(facts.width, facts.height, digest, perceptual)
            return _Looked(facts.width, facts.height, images.content_hash(picture.path))
        except DataError as error:
            return _Looked(error=error)

    def _box(self, place: str, box: Box, seen: _Looked) -> None:
        size = f"of an image of {seen.width} x {seen.height}"
        corners = f"{box.x0:g}, {box.y0:g}, {box.x1:g}, {box.y1:g} {size}"
        if box.x1 <= 0 or box.y1 <= 0 or box.x0 >= seen.width or box.y0 >= seen.height:
            self.tell("error", "box outside its image", f"{place}: {corners}")
        elif box.x0 < -1 or box.y0 < -1 or box.x1 > seen.width + 1 or box.y1 > seen.height + 1:
            # One pixel over is how some annotation tools count.
            self.tell("warning", "box partly outside its image", f"{place}: {corners}")


@dataclass
class _Own:
    """What was met in the source that is gone through."""

    ids: set[tuple[str, str]] = field(default_factory=set)
    documents: set[str] = field(default_factory=set)
    texts: dict[str, str] = field(default_factory=dict)
    images: dict[str, str] = field(default_factory=dict)


def _texts(record: Record) -> Iterator[_Text]:
    if isinstance(record, Sentence):
        yield _Text(record.id, record.words, record.events)
    elif isinstance(record, Document):
        for sentence in record.sentences:
            yield _Text(sentence.id, sentence.words, sentence.events)
    elif isinstance(record, Pair):
        yield _Text(record.id, record.sentence.words, record.sentence.events)
    elif isinstance(record, Conversation):
        for number, turn in enumerate(record.turns):
            name = record.id if len(record.turns) == 1 else f"{record.id}#{number}"
            yield _Text(name, turn.prompt.split(), ())
    elif isinstance(record, Annotation) and record.text:
        yield _Text(record.id, record.text.split(), ())


def _shown(record: Record) -> Sequence[Image]:
    if isinstance(record, Image):
        return (record,)
    if isinstance(record, Pair | Situation):
        return (record.image,)
    return record.images if isinstance(record, Document) else ()


def _pictures(record: Record) -> Iterator[_Picture]:
    for image in _shown(record):
        if image.path is not None:
            boxes = [(f"{e.type}.{a.role}", a.box) for e in image.events for a in e.arguments]
            boxes += [(found.label, found.box) for found in image.objects]
            if isinstance(record, Situation):
                boxes += [(role, box) for role, box in record.grounding if box is not None]
            yield _Picture(image.id, image.path, boxes)


def _count_images(record: Record, contents: Contents) -> None:
    for image in _shown(record):
        contents.images += 1
        contents.image_events.update(event.type for event in image.events)
        contents.image_roles.update(f"{e.type}.{a.role}" for e in image.events for a in e.arguments)
    if isinstance(record, Situation):
        contents.verbs[record.verb] += 1
    if isinstance(record, Conversation | Annotation):
        contents.languages[record.language or "?"] += 1
    if isinstance(record, Annotation):
        contents.labels.update(label for region in record.regions for label in region.labels)


def _size_class(pixels: int) -> str:
    for limit in (64, 128, 256, 512, 1024, 2048, 4096):
        if pixels <= limit:
            return f"up to {limit}"
    return "above 4096"


def _short(words: Sequence[str]) -> str:
    text = " ".join(words[:12])
    return repr(text + (" …" if len(words) > 12 else ""))
