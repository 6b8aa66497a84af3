"""Label Studio's JSON export as annotations, and annotations as tasks whose predictions people correct.

Text spans, boxes, sounds and videos; JSON-MIN is refused, since it has no relations. Names in a labelling
configuration are free, so results are told apart by their type; the data are ``text`` and one of ``image``, ``video``
and ``audio``. Relations go from a trigger to its arguments, with the role as label.

The surprising fact: a browser counts a text in UTF-16 units, where an emoji is two, and may count ``\\r\\n`` as one;
Python and tasks that Python wrote count code points. So the spans of an annotation are read in the one way of counting
in which every span has the text that is stored beside it; where none fits, or two that disagree, it is an error.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import unquote

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, TypeAdapter, model_validator

from xmtl_ray.data.media_paths import relative
from xmtl_ray.events.records import (
    Annotation,
    Box,
    DataError,
    Interval,
    Keyframe,
    Media,
    Region,
    Relation,
    Report,
    Span,
)
from xmtl_ray.events.strict_json import Number, stream_list, validated

T = TypeVar("T")

log = logging.getLogger(__name__)

LOCAL_FILES = "/data/local-files/?d="
"""What Label Studio puts before the path of a file in its local storage."""
UPLOADS = "/data/"
"""What it puts before the path of an uploaded file."""
EVENTS_JSON = "events_json"
"""Name of the text area that holds the events of a sample as JSON."""


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class _Data(_Frozen):
    text: str = ""
    image: str | None = None
    video: str | None = None
    audio: str | None = None
    language: str | None = None

    @model_validator(mode="after")
    def _something(self) -> _Data:
        if not self.text and self.image is self.video is self.audio is None:
            raise ValueError("at least one of text, image, video and audio")
        return self


class _Item(_Frozen):
    """A result: ``value`` is checked by its type."""

    type: str
    id: str = ""
    from_name: str = ""
    value: dict[str, Any] = {}
    original_width: Annotated[StrictInt, Field(gt=0)] | None = None
    original_height: Annotated[StrictInt, Field(gt=0)] | None = None
    image_rotation: Number = 0
    from_id: str = ""
    to_id: str = ""
    direction: Literal["right", "left", "bi"] | None = "right"
    labels: list[str] = []


class _Annotated(_Frozen):
    result: list[_Item]
    was_cancelled: StrictBool = False
    ground_truth: StrictBool = False
    completed_by: StrictInt | str | dict[str, Any] | None = None
    model_version: str | None = None


class _Task(_Frozen):
    id: StrictInt | str | None = None
    data: _Data
    annotations: list[_Annotated] = []
    predictions: list[_Annotated] = []

    @model_validator(mode="before")
    @classmethod
    def _no_json_min(cls, value: object) -> object:
        if isinstance(value, dict) and "data" not in value:
            raise ValueError("a task with data and annotations: Label Studio's JSON export, not JSON-MIN or CSV")
        return value


_Label = Annotated[list[str], Field(min_length=1)]
_Percent = Annotated[Number, Field(ge=-0.5, le=100.5)]


class _Characters(_Frozen):
    start: StrictInt
    end: StrictInt
    text: str
    labels: _Label


class _Sound(_Frozen):
    start: Annotated[Number, Field(ge=0)]
    end: Number
    labels: _Label


class _Rectangle(_Frozen):
    x: _Percent
    y: _Percent
    width: _Percent
    height: _Percent
    rotation: Annotated[Number, Field(ge=0, le=0)] = 0

    def box(self, width: float, height: float) -> Box:
        """In pixels of an image of that size, cut at its sides."""
        x0, x1 = (min(max(x, 0), 100) * width / 100 for x in (self.x, self.x + self.width))
        y0, y1 = (min(max(y, 0), 100) * height / 100 for y in (self.y, self.y + self.height))
        return Box(x0, y0, x1, y1)


class _Labelled(_Rectangle):
    labels: _Label = Field(alias="rectanglelabels")


class _Range(_Frozen):
    start: Annotated[StrictInt, Field(ge=1)]
    end: StrictInt


class _Timeline(_Frozen):
    ranges: Annotated[list[_Range], Field(min_length=1)]
    labels: _Label = Field(alias="timelinelabels")


class _Key(_Rectangle):
    frame: Annotated[StrictInt, Field(ge=1)]
    enabled: StrictBool


class _Track(_Frozen):
    sequence: Annotated[list[_Key], Field(min_length=1)]
    labels: list[str] = []


class _Choices(_Frozen):
    choices: _Label


class _Area(_Frozen):
    text: str | list[str]


_TASK = TypeAdapter(_Task)


def read(
    path: Path, source: Literal["annotations", "predictions"] = "annotations", on_error: Report | None = None
) -> tuple[Annotation, ...]:
    """All annotations of an export; see ``stream``."""
    return tuple(stream(path, source, on_error))


def stream(
    path: Path, source: Literal["annotations", "predictions"] = "annotations", on_error: Report | None = None
) -> Iterator[Annotation]:
    """The annotations of an export, one task in memory at a time; one per annotator, in the order of the file.

    Args:
        path: what Label Studio exports as JSON.
        source: what people said, or what models had predicted before.
        on_error: see ``strict_json.stream_list``; a record is a task.

    Cancelled annotations are left out and counted in one log line, and so are tasks without any. One with an empty
    result says that there is no event. Raises DataError.
    """
    counts: Counter[str] = Counter()

    def annotations(index: int, task: _Task) -> list[Annotation]:
        kept = [(place, each) for place, each in enumerate(getattr(task, source)) if not each.was_cancelled]
        made = [_Reading(path, index, f"{source}.{place}", task).annotation(each) for place, each in kept]
        counts["cancelled"] += len(getattr(task, source)) - len(kept)
        counts["without any"] += not kept
        return made

    for made in stream_list(path, _TASK, annotations, on_error):
        counts["read"] += len(made)
        yield from made
    log.info(
        "%s: %d %s; %d cancelled, %d tasks without any",
        *(path, counts["read"], source, counts["cancelled"], counts["without any"]),
    )


def one_per_task(annotations: Iterable[Annotation]) -> Iterator[Annotation]:
    """Of annotations of one task, which follow each other, the ground truth; without one, the first."""
    chosen: Annotation | None = None
    for annotation in annotations:
        if chosen is None or annotation.id != chosen.id:
            if chosen is not None:
                yield chosen
            chosen = annotation
        elif annotation.ground_truth and not chosen.ground_truth:
            chosen = annotation
    if chosen is not None:
        yield chosen


@dataclass
class _Reading:
    """One annotation while it is read."""

    file: Path
    record: int
    place: str
    task: _Task
    regions: dict[str, Region] = field(default_factory=dict)
    spans: list[tuple[str, str, _Characters]] = field(default_factory=list)
    relations: list[tuple[str, _Item]] = field(default_factory=list)
    notes: list[tuple[str, str]] = field(default_factory=list)
    choices: tuple[str, ...] = ()
    size: tuple[int, int] | None = None
    events_json: str | None = None

    def annotation(self, raw: _Annotated) -> Annotation:
        """The whole; regions in the order of the results."""
        for number, item in enumerate(raw.result):
            where = f"{self.place}.result.{number}"
            if item.type not in _READERS:
                raise self.error(f"{where}.type", item.type, f"one of {', '.join(sorted(_READERS))}")
            _READERS[item.type](self, where, item)
        self._count_characters()
        for name, text in self.notes:
            if name in self.regions:
                self.regions[name] = replace(self.regions[name], text=text)
        data = self.task.data
        by = raw.completed_by if raw.completed_by is not None else raw.model_version
        return Annotation(
            id=str(self.record if self.task.id is None else self.task.id),
            text=data.text,
            media=self._media(),
            language=data.language,
            annotator=str(by.get("email", by.get("id", "")) if isinstance(by, dict) else "" if by is None else by),
            ground_truth=raw.ground_truth,
            size=self.size,
            regions=tuple(self.regions.values()),
            relations=tuple(self._relation(where, item) for where, item in self.relations),
            choices=self.choices,
            events_json=self.events_json,
        )

    def error(self, where: str, found: object, expected: str) -> DataError:
        return DataError(self.file, self.record, where, found, expected)

    def value(self, where: str, item: _Item, layout: TypeAdapter[T]) -> T:
        return validated(self.file, (self.record, f"{where}.value"), item.value, layout)

    def add(self, where: str, item: _Item, region: Region) -> None:
        """Remember a region; its id is its own."""
        if not region.id or region.id in self.regions:
            raise self.error(f"{where}.id", item.id, "an id that no other region has")
        self.regions[region.id] = region

    def labels(self, where: str, item: _Item) -> None:
        """A span of the text, or of the sound where the stored value has no text."""
        if self.task.data.audio is not None and not isinstance(item.value.get("text"), str):
            sound = self.value(where, item, _SOUND)
            if sound.end <= sound.start:
                raise self.error(f"{where}.value", [sound.start, sound.end], "start < end, in seconds")
            self.add(where, item, Region(item.id, tuple(sound.labels), seconds=Interval(sound.start, sound.end)))
            return
        span = self.value(where, item, _CHARACTERS)
        self.add(where, item, Region(item.id, tuple(span.labels), span.text))
        self.spans.append((where, item.id, span))

    def rectanglelabels(self, where: str, item: _Item) -> None:
        """A box of the image."""
        width, height = item.original_width, item.original_height
        if width is None or height is None:
            raise self.error(where, [width, height], "original_width and original_height")
        if item.image_rotation:
            raise self.error(f"{where}.image_rotation", item.image_rotation, "an image that was not turned")
        if self.size not in {None, (width, height)}:
            raise self.error(where, [width, height], f"{self.size}, as before")
        self.size = (width, height)
        marked = self.value(where, item, _LABELLED)
        box = self.positive(where, marked.box(width, height))
        self.add(where, item, Region(item.id, tuple(marked.labels), box=box))

    def timelinelabels(self, where: str, item: _Item) -> None:
        """Frames of the video; the file includes the last one."""
        line = self.value(where, item, _TIMELINE)
        for each in line.ranges:
            if each.end < each.start:
                raise self.error(f"{where}.value.ranges", [each.start, each.end], "start <= end, in frames")
        frames = tuple(Span(each.start, each.end + 1) for each in line.ranges)
        self.add(where, item, Region(item.id, tuple(line.labels), frames=frames))

    def videorectangle(self, where: str, item: _Item) -> None:
        """A box that moves through the video."""
        track = self.value(where, item, _TRACK)
        frames = [key.frame for key in track.sequence]
        if frames != sorted(set(frames)):
            raise self.error(f"{where}.value.sequence", frames, "frames in rising order")
        keys = tuple(Keyframe(k.frame, k.enabled, self.positive(where, k.box(1, 1))) for k in track.sequence)
        self.add(where, item, Region(item.id, tuple(track.labels), track=keys))

    def choose(self, where: str, item: _Item) -> None:
        """Event types of the whole sample."""
        self.choices += tuple(self.value(where, item, _CHOICES).choices)

    def textarea(self, where: str, item: _Item) -> None:
        """The events as JSON, or what was written about a region."""
        text = self.value(where, item, _AREA).text
        whole = text if isinstance(text, str) else "\n".join(text)
        if item.from_name == EVENTS_JSON:
            if self.events_json is not None:
                raise self.error(where, "a second one", f"one {EVENTS_JSON}")
            self.events_json = whole
        else:
            self.notes.append((item.id, whole))

    def relation(self, where: str, item: _Item) -> None:
        """Looked at when all regions are known."""
        self.relations.append((where, item))

    def positive(self, where: str, box: Box) -> Box:
        """The box, if there is something of it in the picture."""
        if not (box.x0 < box.x1 and box.y0 < box.y1):
            raise self.error(f"{where}.value", [box.x0, box.y0, box.x1, box.y1], "a box with an area in the picture")
        return box

    def _relation(self, where: str, item: _Item) -> Relation:
        for name, end in (("from_id", item.from_id), ("to_id", item.to_id)):
            if end not in self.regions:
                raise self.error(f"{where}.{name}", end, "the id of a region")
        if len(item.labels) != 1:
            raise self.error(f"{where}.labels", item.labels, "one label, the role")
        source, target = (item.to_id, item.from_id) if item.direction == "left" else (item.from_id, item.to_id)
        return Relation(source, target, item.labels[0])

    def _count_characters(self) -> None:
        """Give the regions of the text their code points."""
        text, fitting = self.task.data.text, dict[tuple[Span, ...], None]()
        for offsets in _ways_of_counting(text) if self.spans else ():
            places = tuple(Span(offsets.get(s.start, -1), offsets.get(s.end, -1)) for _, _, s in self.spans)
            if all(_is(text, place, stored.text) for place, (_, _, stored) in zip(places, self.spans, strict=True)):
                fitting[places] = None
        if self.spans and len(fitting) != 1:
            found = [[span.start, span.end, span.text] for _, _, span in self.spans]
            expected = (
                "one way of counting that fits, not two that disagree"
                if fitting
                else "offsets at which the text is the stored one"
            )
            raise self.error(f"{self.spans[0][0]}.value", found, expected)
        for places in fitting:
            for place, (_, name, _) in zip(places, self.spans, strict=True):
                self.regions[name] = replace(self.regions[name], characters=place, text=text[place.start : place.end])

    def _media(self) -> Media | None:
        data = self.task.data
        named = {kind: name for kind in _KINDS if (name := getattr(data, kind)) is not None}
        if len(named) > 1:
            raise self.error("data", sorted(named), "at most one of image, video and audio")
        for kind, name in named.items():
            path = name
            for prefix in (LOCAL_FILES, UPLOADS):
                if name.startswith(prefix):
                    path = unquote(name.removeprefix(prefix))
                    break
            return Media(kind, relative(path, self.file, self.record, f"data.{kind}"))
        return None


def _is(text: str, place: Span, stored: str) -> bool:
    found = text[place.start : place.end]
    return 0 <= place.start < place.end and found.replace("\r\n", "\n") == stored.replace("\r\n", "\n")


def _ways_of_counting(text: str) -> Iterator[dict[int, int]]:
    """From offset to code point: as code points and as UTF-16 units, with ``\\r\\n`` as two and as one."""
    if text.isascii() and "\r\n" not in text:  # all ways agree
        yield dict(enumerate(range(len(text) + 1)))
        return
    for joined in (False, True):
        for wide in (False, True):
            points, offset = dict[int, int](), 0
            for point, sign in enumerate(text):
                points.setdefault(offset, point)
                if not (joined and sign == "\r" and text.startswith("\n", point + 1)):
                    offset += 2 if wide and ord(sign) > 0xFFFF else 1
            points.setdefault(offset, len(text))
            yield points


_KINDS: tuple[Literal["image", "video", "audio"], ...] = ("image", "video", "audio")
_CHARACTERS, _SOUND, _LABELLED = TypeAdapter(_Characters), TypeAdapter(_Sound), TypeAdapter(_Labelled)
_TIMELINE, _TRACK, _CHOICES, _AREA = (
    TypeAdapter(_Timeline),
    TypeAdapter(_Track),
    TypeAdapter(_Choices),
    TypeAdapter(_Area),
)
_READERS: dict[str, Callable[[_Reading, str, _Item], None]] = {
    "labels": _Reading.labels,
    "rectanglelabels": _Reading.rectanglelabels,
    "timelinelabels": _Reading.timelinelabels,
    "videorectangle": _Reading.videorectangle,
    "choices": _Reading.choose,
    "textarea": _Reading.textarea,
    "relation": _Reading.relation,
}
