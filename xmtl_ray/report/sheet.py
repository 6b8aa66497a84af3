"""A contact sheet: records of any source as the model is given them, in words and pictures, on one HTML page.

Nothing is trained or predicted. Prompts are made by the functions that make a batch, with a recipe's settings; with a
tokenizer the word pieces are shown, the very ones of a batch, and which of them stand for the argument. Pictures go
through the canvas to the vision encoder's side as a batch does, but by Pillow's bicubic filter instead of torch's, and
are kept as JPEG.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
from PIL import Image as Picture
from tokenizers import Tokenizer

from xmtl_ray.config.schema import Config
from xmtl_ray.data import imsitu
from xmtl_ray.data.images import Canvases
from xmtl_ray.data.media_paths import inside
from xmtl_ray.data.prompts import EntityPrompt, entity_prompt, object_prompt
from xmtl_ray.events.json_format import parse
from xmtl_ray.events.ontology import NONE, VerbMap
from xmtl_ray.events.records import (
    Annotation,
    Conversation,
    DataError,
    DetectedObject,
    Document,
    Image,
    Pair,
    Region,
    Sentence,
    Situation,
)
from xmtl_ray.report.comparison import mentions
from xmtl_ray.report.gallery import Piece, marked
from xmtl_ray.report.pictures import short_type
from xmtl_ray.report.templates import render

Record = Sentence | Image | Situation | Pair | Document | Conversation | Annotation

_SENTENCES, _IMAGES, _PROMPTS, _OBJECTS = 8, 4, 12, 11
"""Most of one record that are shown; the page says how many are not."""
_CLIP_PX = 224
"""Side of the images that CLIP's base models take."""


@dataclass(frozen=True)
class Token:
    """A word or word piece of an input; ``pooled`` tells that its state is one that the answer is read from."""

    text: str
    pooled: bool
    special: bool = False


@dataclass(frozen=True)
class ShownPrompt:
    """A question to the text encoder, and its answer."""

    entity: str
    event: str
    role: str
    tokens: tuple[Token, ...]


@dataclass(frozen=True)
class ShownText:
    """A sentence with its gold, and the questions about it."""

    number: str
    """In its document."""
    pieces: tuple[Piece, ...]
    aside: tuple[tuple[str, object], ...]
    others: tuple[tuple[str, str], ...]
    """Entities that are no argument: words and type."""
    tokens: tuple[Token, ...]
    """Its word pieces, as trigger detection has them; none without a tokenizer."""
    prompts: tuple[ShownPrompt, ...]
    hidden: int


@dataclass(frozen=True)
class ShownPicture:
    """What the vision encoder is given; ``uri`` is None where the file cannot be read, and ``caption`` says why."""

    uri: str | None
    caption: str
    answer: str
    """The right one; empty where the record does not tell."""


@dataclass(frozen=True)
class ShownImage:
    """An image as a whole and with each object marked."""

    id: str
    note: str
    whole: ShownPicture
    objects: tuple[ShownPicture, ...]
    left_out: str
    """Which objects are not shown, and why."""


@dataclass(frozen=True)
class Entry:
    """A record on the sheet."""

    id: str
    kind: str
    note: str
    texts: tuple[ShownText, ...] = ()
    images: tuple[ShownImage, ...] = ()
    lines: tuple[tuple[str, str], ...] = ()
    """Further words with their names: of a conversation its turns, of an annotation its text, regions and relations."""
    hidden: str = ""


def write_sheet(
    path: Path,
    records: Iterable[Record],
    config: Config,
    source: str,
    verb_map: VerbMap,
    tokenizer: Path | None = None,
    media: Path | None = None,
) -> int:
    """Write the page; returns how many records it shows.

    Args:
        path: file to write.
        records: of any source; an image that cannot be read is told on the page.
        config: gives the prompts, the sizes and what is pooled.
        source: what the page says the records are from.
        verb_map: tells which of a situation's roles are arguments.
        tokenizer: a folder with ``tokenizer.json``; none: words are shown instead of word pieces.
        media: folder of the images that conversations are about; none: they are named only.

    Raises DataError for a folder without a tokenizer.
    """
    sheet = _Sheet(
        config, verb_map, None if tokenizer is None else _tokenizer(tokenizer, config.model.max_tokens), media
    )
    shown = tuple(records)
    situations = [record for record in shown if isinstance(record, Situation)]
    if situations:
        sheet.refined = {image.id: image for image in imsitu.refine(situations, verb_map, keep_unmapped=1.0)}
    entries = [sheet.entry(record) for record in shown]
    prompt = config.data.visual_prompt
    facts = [
        ("Source", source),
        ("Records", str(len(entries))),
        ("Textual argument", config.model.argument),
        ("Text", f"word pieces of {tokenizer}" if tokenizer else "words (no tokenizer given)"),
        ("Longest text", f"{config.model.max_tokens} word pieces"),
        ("Visual prompt", f"{prompt.kind} on {prompt.canvas_px} × {prompt.canvas_px} pixels"),
        ("Vision encoder", f"{sheet.side} × {sheet.side} pixels"),
    ]
    if not any(entry.texts for entry in entries):
        del facts[2:5]
    if not any(entry.images for entry in entries):
        del facts[-2:]
    page = render(
        "sheet.html",
        title=Path(source).name,
        facts=facts,
        entries=entries,
        side=sheet.side,
        argument=config.model.argument,
    )
    path.write_text(page, encoding="utf-8")
    return len(entries)


def record_id(record: Record) -> str:
    """The id under which the sheet shows a record; a situation's is its image's."""
    return record.image.id if isinstance(record, Situation) else record.id


def image_px(config: Config) -> int:
    """Side of the images that the configured vision encoder takes; CLIP's 224 where its folder is not at hand."""
    if config.model.image_encoder == "built":
        return config.model.built_image.image_px
    file = Path(config.model.image_encoder) / "config.json"
    if not file.is_file():
        return _CLIP_PX
    described = json.loads(file.read_text(encoding="utf-8"))
    return int(described.get("vision_config", described).get("image_size", _CLIP_PX))


def tokens(prompt: EntityPrompt, argument: str, tokenizer: Tokenizer | None) -> tuple[Token, ...]:
    """The input that a prompt becomes: word pieces, or words and the special tokens of BERT without a tokenizer."""
    if tokenizer is None:
        inside = range(prompt.entity.start, prompt.entity.end) if argument == "span" else None
        text = [Token(word, inside is None or index in inside) for index, word in enumerate(prompt.text)]
        others = inside is None
        separator = Token("[SEP]", others, special=True)
        event = [Token(word, others) for word in prompt.event]
        return (Token("[CLS]", others, special=True), *text, separator, *event, separator)
    encoded = tokenizer.encode(prompt.text, prompt.event, is_pretokenized=True)
    places = list(zip(encoded.sequence_ids, encoded.word_ids, strict=True))
    own = [part == 0 and word in range(prompt.entity.start, prompt.entity.end) for part, word in places]
    # As in a batch: an entity that was cut off is read from the whole prompt.
    last = (0, prompt.entity.end - 1)
    pooled = own if argument == "span" and (0, prompt.entity.start) in places and last in places else [True] * len(own)
    return tuple(
        Token(piece, chosen, part is None)
        for piece, chosen, (part, _) in zip(encoded.tokens, pooled, places, strict=True)
    )


def _tokenizer(folder: Path, max_tokens: int) -> Tokenizer:
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise DataError(file, None, "file", "nothing", "the tokenizer.json of a Hugging Face folder")
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_tokens, strategy="only_first")
    return tokenizer


def _label(item: DetectedObject) -> str:
    """A detection's label and confidence; an annotated box has none but 1."""
    return item.label if item.confidence == 1 else f"{item.label} {item.confidence:.2f}"


def _about(record: Conversation | Annotation) -> str:
    """The language and the medium."""
    language = f"language {record.language}" if record.language else "no language"
    return language if record.media is None else f"{language}, {record.media.kind} {record.media.path}"


def _place(region: Region) -> str:
    """Where a region is: its characters, corners, seconds or frames."""
    if region.frames or region.track:
        frames = [f"{span.start} to {span.end - 1}" for span in region.frames]
        return "frames " + ", ".join(frames or [str(key.frame) for key in region.track])
    where = region.characters or region.box or region.seconds
    return "" if where is None else f"({', '.join(f'{value:g}' for value in astuple(where))})"


class _Sheet:
    def __init__(self, config: Config, verb_map: VerbMap, tokenizer: Tokenizer | None, media: Path | None) -> None:
        self.config, self.verb_map, self.tokenizer, self.media = config, verb_map, tokenizer, media
        self.side = image_px(config)
        self.refined = dict[str, Image]()
        self.canvases = Canvases(config.data.visual_prompt.canvas_px, 64)

    def entry(self, record: Record) -> Entry:
        match record:
            case Sentence():
                entry = Entry(record.id, "sentence", "", texts=(self._text(record),))
            case Image():
                entry = Entry(record.id, "image", "", images=(self._image(record),))
            case Pair():
                texts, images = (self._text(record.sentence),), (self._image(record.image, gold=False),)
                entry = Entry(record.id, "image-text pair without gold", "", texts, images)
            case Situation():
                entry = self._situation(record)
            case Document():
                entry = self._document(record)
            case Conversation():
                entry = self._conversation(record)
            case Annotation():
                entry = self._annotation(record)
        return entry

    def _situation(self, record: Situation) -> Entry:
        image = self.refined[record.image.id]
        event_type = self.verb_map.type_of.get(record.verb)
        nouns = dict(record.nouns)
        roles = ", ".join(
            f"{role}{f' {nouns[role]}' if role in nouns else ''}{'' if box else ' (not in the picture)'}"
            for role, box in record.grounding
        )
        note = f"{record.verb}: {roles}. " + (
            f"The map makes it {event_type}." if event_type else "The map makes no event of this verb."
        )
        return Entry(image.id, "situation", note, images=(self._image(image, annotated=True),))

    def _document(self, record: Document) -> Entry:
        told = sorted(record.sentences, key=lambda sentence: not sentence.events)
        shown = sorted(record.images, key=lambda image: not image.events)
        pairs = ", ".join(
            f"{pair.sentence.rpartition('_')[2]} and image {pair.image.rpartition('_')[2]} tell one {pair.type}"
            for pair in record.multimedia_events
        )
        hidden = [
            f"{len(items) - most} more {name}"
            for items, most, name in ((told, _SENTENCES, "sentences"), (shown, _IMAGES, "images"))
            if len(items) > most
        ]
        return Entry(
            record.id,
            "document",
            f"Sentence {pairs}." if pairs else "",
            tuple(self._text(sentence) for sentence in told[:_SENTENCES]),
            tuple(self._image(image) for image in shown[:_IMAGES]),
            hidden=", ".join(hidden),
        )

    def _conversation(self, record: Conversation) -> Entry:
        lines = []
        for turn in record.turns:
            parsed = parse(turn.answer)
            found = f"{parsed.state}, {len(parsed.events)} event{'' if len(parsed.events) == 1 else 's'}"
            lines += [("prompt", turn.prompt), ("answer", turn.answer), ("read as", found)]
        return Entry(record.id, "conversation", _about(record), images=self._medium(record), lines=tuple(lines))

    def _annotation(self, record: Annotation) -> Entry:
        lines = [("text", record.text)] if record.text else []
        named = {region.id: region.text or " ".join(region.labels) for region in record.regions}
        for region in record.regions:
            lines.append((", ".join(region.labels) or "region", f"{region.text} {_place(region)}".strip()))
        for relation in record.relations:
            ends = (named.get(end, end) for end in (relation.source, relation.target))
            lines.append((relation.role, " → ".join(ends)))
        lines += [("choice", choice) for choice in record.choices]
        return Entry(record.id, "annotation", _about(record), images=self._medium(record), lines=tuple(lines))

    def _medium(self, record: Conversation | Annotation) -> tuple[ShownImage, ...]:
        """The image that a record is about, where it is one and its folder is known."""
        if record.media is None or record.media.kind != "image" or self.media is None:
            return ()
        path = inside(self.media, record.media.path, "media", record.id, "image")
        regions = record.regions if isinstance(record, Annotation) else ()
        objects = (DetectedObject(r.box, ", ".join(r.labels), 1.0) for r in regions if r.box is not None)
        return (self._image(Image(record.media.path, path, objects=tuple(objects)), gold=False),)

    def _text(self, sentence: Sentence) -> ShownText:
        words = sentence.words
        pieces, aside = marked(words, mentions(sentence.events, sentence.events))
        arguments = {argument.span for event in sentence.events for argument in event.arguments}
        prompts = []
        for event in sentence.events:
            role_of = {argument.span: argument.role for argument in event.arguments}
            for entity in sentence.entities:
                settings = self.config.data.text_prompt
                prompt = entity_prompt(
                    *(words, entity.span, event.trigger, event.type, settings.marker, settings.event_type),
                    appended=self.config.model.argument == "concat",
                )
                prompts.append(
                    ShownPrompt(
                        " ".join(words[entity.span.start : entity.span.end]),
                        event.type,
                        role_of.get(entity.span, NONE),
                        tokens(prompt, self.config.model.argument, self.tokenizer),
                    )
                )
        return ShownText(
            sentence.id.rpartition("_")[2] if sentence.id != sentence.document else "",
            pieces,
            tuple(aside),
            tuple(
                (" ".join(words[e.span.start : e.span.end]), e.type)
                for e in sentence.entities
                if e.span not in arguments
            ),
            self._pieces(words),
            tuple(prompts[:_PROMPTS]),
            len(prompts[_PROMPTS:]),
        )

    def _pieces(self, words: Sequence[str]) -> tuple[Token, ...]:
        if self.tokenizer is None:
            return ()
        encoded = self.tokenizer.encode(list(words), is_pretokenized=True)
        before = [None, *encoded.word_ids]
        return tuple(
            Token(piece, word is not None and word != last, special=word is None)
            for piece, word, last in zip(encoded.tokens, encoded.word_ids, before, strict=False)
        )

    def _image(self, image: Image, gold: bool = True, annotated: bool = False) -> ShownImage:
        """``gold``: its events are known. ``annotated``: so is the role, or None, of each of its objects."""
        types = (", ".join(dict.fromkeys(short_type(event.type) for event in image.events)) or NONE) if gold else ""
        try:
            if image.path is None:
                raise DataError("image", image.id, "file", "none", "an image file")
            canvas = self.canvases(image.path)
        except DataError as error:
            return ShownImage(image.id, str(error), ShownPicture(None, "cannot be read", types), (), "")
        least = self.config.inference.object_confidence
        role_of = {argument.box: argument.role for event in image.events for argument in event.arguments}
        label_of = {item.box: _label(item) for item in reversed(image.objects) if item.confidence >= least}
        boxes = list(dict.fromkeys((*role_of, *label_of)))
        mark = self.config.data.visual_prompt
        objects = tuple(
            ShownPicture(
                self._uri(object_prompt(canvas.array, canvas.fractions(box), mark.line_px, mark.color, mark.kind)),
                label_of.get(box, "gold box"),
                role_of.get(box, NONE if annotated else ""),
            )
            for box in boxes[:_OBJECTS]
        )
        unsure = sum(item.confidence < least for item in image.objects)
        left_out = [f"{len(boxes) - _OBJECTS} more objects"] if len(boxes) > _OBJECTS else []
        left_out += [f"detections below {least:g}, which are no candidates: {unsure}"] if unsure else []
        whole = ShownPicture(self._uri(canvas.array), "whole image", types)
        note = f"{canvas.width} × {canvas.height} pixels in the file"
        return ShownImage(image.id, note, whole, objects, "; ".join(left_out))

    def _uri(self, array: np.ndarray) -> str:
        seen = Picture.fromarray(array).resize((self.side, self.side), Picture.Resampling.BICUBIC)
        jpeg = io.BytesIO()
        seen.save(jpeg, "JPEG", quality=92, subsampling=0)
        return "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode()
