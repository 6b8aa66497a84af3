"""The records that every reader makes and every other room consumes.

Plain frozen dataclasses: no tensors, no file formats. Spans count words and exclude their end; boxes are
pixels ``x0, y0, x1, y1`` with ``x1 > x0`` and ``y1 > y0``. Ids are the files' own: a sentence or image id is its
document's id, an underscore and a number.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple


class DataError(ValueError):
    """A file does not say what its format promises: where, what was found, what was expected."""

    def __init__(self, file: Path | str, record: object, field: str, found: object, expected: str) -> None:
        try:
            text = repr(found)
        except RecursionError:
            text = f"a {type(found).__name__} nested too deep to show"
        if len(text) > 120:
            text = text[:117] + "..."
        place = f"{file}: record {record!r}" if record is not None else f"{file}"
        super().__init__(f"{place}: {field or 'whole record'}: found {text}, expected {expected}")


Report = Callable[[DataError], None]
"""What a lenient reader does with a bad record before it goes on without it."""


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """Words ``start`` up to, not including, ``end`` of one sentence."""

    start: int
    end: int


@dataclass(frozen=True, slots=True, order=True)
class Box:
    """A rectangle in pixels of its image; ``x1`` and ``y1`` lie outside it."""

    x0: float
    y0: float
    x1: float
    y1: float


@dataclass(frozen=True, slots=True)
class Entity:
    """A mention of somebody or something in a sentence: an argument candidate."""

    span: Span
    type: str


@dataclass(frozen=True, slots=True)
class TextArgument:
    """What fills ``role`` of a text event."""

    role: str
    span: Span
    confidence: float | None = field(default=None, compare=False)
    """Probability that the model which predicted it gave it; None: gold, or not known."""


@dataclass(frozen=True, slots=True)
class TextEvent:
    """An event mention in a sentence: its type, its trigger and who takes part."""

    type: str
    trigger: Span
    arguments: tuple[TextArgument, ...] = ()
    confidence: float | None = field(default=None, compare=False)
    """Probability that the model which predicted it gave it; None: gold, or not known."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """One sentence with its gold, as far as its source has any.

    ``multimedia`` tells that M2E2's text_multimedia file lists it (protocol ``table`` scores pairs among those), and
    ``multimedia_events`` are the events as that file alone has them: of the 38 sentences in both files fewer.
    """

    id: str
    words: tuple[str, ...]
    entities: tuple[Entity, ...] = ()
    events: tuple[TextEvent, ...] = ()
    multimedia: bool = False
    multimedia_events: tuple[TextEvent, ...] = ()

    @property
    def document(self) -> str:
        """Id of the document that holds this sentence."""
        return document_id(self.id)


@dataclass(frozen=True, slots=True)
class DetectedObject:
    """One detection in an image: a visual argument candidate."""

    box: Box
    label: str
    confidence: float


@dataclass(frozen=True, slots=True)
class VisualArgument:
    """The region that fills ``role`` of a visual event. ``union`` marks M2E2's box around several instances."""

    role: str
    box: Box
    union: bool = False
    confidence: float | None = field(default=None, compare=False)
    """Probability that the model which predicted it gave it; None: gold, or not known."""


@dataclass(frozen=True, slots=True)
class VisualEvent:
    """An event that an image shows; the whole image is its mention."""

    type: str
    arguments: tuple[VisualArgument, ...] = ()
    confidence: float | None = field(default=None, compare=False)
    """Probability that the model which predicted it gave it; None: gold, or not known."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image with its gold and its detections. ``path`` is None where the pixels are not at hand."""

    id: str
    path: Path | None
    events: tuple[VisualEvent, ...] = ()
    objects: tuple[DetectedObject, ...] = ()
    multimedia: bool = False

    @property
    def document(self) -> str:
        """Id of the document that holds this image."""
        return document_id(self.id)


@dataclass(frozen=True, slots=True)
class Situation:
    """One imSitu image: its verb, and per role the box that SWiG grounds it in (None: not in the picture)."""

    image: Image
    verb: str
    grounding: tuple[tuple[str, Box | None], ...]
    nouns: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Pair:
    """One news image and its caption, without gold: what the teachers label."""

    id: str
    sentence: Sentence
    image: Image


@dataclass(frozen=True, slots=True, order=True)
class MultimediaEvent:
    """A sentence and an image of one document that tell the same event of ``type``.

    Its arguments are those of both sides' events of that type.
    """

    sentence: str
    image: str
    type: str
    similarity: float | None = field(default=None, compare=False)
    """Cosine of image and sentence by the model that joined them; None: gold, or joined without one."""


@dataclass(frozen=True, slots=True)
class Document:
    """A news document: sentences, images, and which of them corefer."""

    id: str
    sentences: tuple[Sentence, ...]
    images: tuple[Image, ...]
    multimedia_events: tuple[MultimediaEvent, ...] = ()


class GenerativeArgument(NamedTuple):
    """What fills ``role`` of a generative event, in the source's own words."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class GenerativeEvent:
    """An event as a language model writes it: strings instead of spans, types and roles of any schema.

    ``arguments`` may be given as plain (role, text) pairs, to which they are equal.
    """

    event_type: str
    trigger: str
    arguments: tuple[GenerativeArgument | tuple[str, str], ...] = ()


Modality = Literal["text", "image", "video", "audio"]


@dataclass(frozen=True, slots=True)
class GenerativeSample:
    """What a language model is asked about, with the gold answer.

    ``source`` is the text that it is given, empty where it sees or hears only; ``language`` a two-letter code, that of
    the gold answer.
    """

    id: str
    language: str
    source: str
    events: tuple[GenerativeEvent, ...]
    modality: Modality | None = None


@dataclass(frozen=True, slots=True)
class Media:
    """An image, video or sound that a data file refers to, by its path below the folder of the media."""

    kind: Literal["image", "video", "audio"]
    path: str


@dataclass(frozen=True, slots=True)
class Turn:
    """What a language model is told, and what it should answer. No sign for the medium is in ``prompt``."""

    prompt: str
    answer: str


@dataclass(frozen=True, slots=True)
class Conversation:
    """A training sample of a generative model: turns about a text, which the first prompt holds, or a medium."""

    id: str
    turns: tuple[Turn, ...]
    language: str | None = None
    media: Media | None = None


@dataclass(frozen=True, slots=True, order=True)
class Interval:
    """Seconds of a sound or a video, ``end`` not included."""

    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Keyframe:
    """Where a tracked object is in frame ``frame`` (from 1); between two frames it moves in a straight line.

    The box is in fractions of the frame's sides. ``enabled`` tells whether it is in the picture from here on.
    """

    frame: int
    enabled: bool
    box: Box


@dataclass(frozen=True, slots=True)
class Region:
    """What an annotator marked and named; one of the fields after ``text`` says where, according to the medium.

    ``text`` is the marked text, or what was written about the region (a transcript).
    """

    id: str
    labels: tuple[str, ...]
    text: str = ""
    characters: Span | None = None
    """Code points of the sample's text, not words."""
    box: Box | None = None
    seconds: Interval | None = None
    frames: tuple[Span, ...] = ()
    """Of a video; from 1, the end not included."""
    track: tuple[Keyframe, ...] = ()


@dataclass(frozen=True, slots=True)
class Relation:
    """Region ``target`` plays ``role`` for region ``source``."""

    source: str
    target: str
    role: str


@dataclass(frozen=True, slots=True)
class Annotation:
    """What one annotator, or a model, says about one sample: regions, their relations, and words about the whole."""

    id: str
    text: str = ""
    media: Media | None = None
    language: str | None = None
    annotator: str = ""
    ground_truth: bool = False
    size: tuple[int, int] | None = None
    """Width and height of the image in pixels, where an annotator marked boxes in it."""
    regions: tuple[Region, ...] = ()
    relations: tuple[Relation, ...] = ()
    choices: tuple[str, ...] = ()
    """Event types of the whole sample."""
    events_json: str | None = None
    """The events as text in the format of ``json_format``, where they were written down."""


def document_id(mention: str) -> str:
    """``VOA_EN_NW_2016.01.02.0000001_7`` → ``VOA_EN_NW_2016.01.02.0000001``."""
    return mention.rpartition("_")[0] or mention
