"""A document's image for the page: a small JPEG as data URI, and gold and predicted boxes to draw over it.

Coordinates are those of the frame, not of the file. An image whose pixels are not at hand gets an empty frame.
"""

from __future__ import annotations

import base64
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as Picture
from PIL import UnidentifiedImageError

from xmtl_ray.data import images
from xmtl_ray.events.records import Box
from xmtl_ray.report.comparison import Outcome, Region

log = logging.getLogger(__name__)

WIDTH_PX, HEIGHT_PX = 360, 400
"""Largest thumbnail and frame."""
_ENLARGE = 3.0
"""A smaller image is shown up to so much larger, for its labels to have room."""
_LETTER_PX, _LINE_PX = 6.6, 14.0
"""Average width of a letter and height of a label."""


@dataclass(frozen=True)
class Outline:
    """A rectangle to draw: x, y, width and height in the frame."""

    x: float
    y: float
    width: float
    height: float
    outcome: Outcome
    predicted: bool
    """Dashed; else gold, solid."""


@dataclass(frozen=True)
class Label:
    """Words to draw; x and y are the upper left corner."""

    x: float
    y: float
    width: float
    text: str
    outcome: Outcome


@dataclass(frozen=True)
class Framed:
    """An image with its boxes. ``uri`` is None where there are no pixels."""

    width: float
    height: float
    uri: str | None
    outlines: tuple[Outline, ...]
    labels: tuple[Label, ...]


def framed(path: Path | None, regions: Sequence[Region], marks: Mapping[str, str], signs: bool = True) -> Framed:
    """Thumbnail of ``path`` with ``regions`` (pixels of the file) drawn over it.

    ``marks`` maps each event type to what is set behind its roles, to tell the events of an image apart. Without
    ``signs`` no label tells an outcome: nothing is known that could judge it.
    """
    size, uri = _thumbnail(path)
    boxes = [box for region in regions for box in (region.gold, region.predicted) if box is not None]
    if size is None:
        size = (max((box.x1 for box in boxes), default=300) * 1.05, max((box.y1 for box in boxes), default=160) * 1.05)
    scale = min(WIDTH_PX / size[0], HEIGHT_PX / size[1], _ENLARGE)
    width, height = size[0] * scale, size[1] * scale
    outlines, labels = list[Outline](), list[Label]()
    for region in regions:
        for box, predicted in ((region.gold, False), (region.predicted, True)):
            if box is not None:
                corner, sides = (box.x0 * scale, box.y0 * scale), ((box.x1 - box.x0) * scale, (box.y1 - box.y0) * scale)
                outlines.append(Outline(*corner, *sides, region.outcome, predicted))
        text = region.role + marks[region.type]
        text = f"{SIGNS[region.outcome]} {text}" if signs else text
        labels.append(_label(text, region, scale, width, height, labels))
    return Framed(width, height, uri, tuple(outlines), tuple(labels))


def short_type(event_type: str) -> str:
    """``Justice:Arrest-Jail`` → ``Arrest-Jail``."""
    return event_type.rpartition(":")[2] or event_type


def _thumbnail(path: Path | None) -> tuple[tuple[float, float] | None, str | None]:
    """Size of the file in pixels, and the small JPEG; (None, None) without readable pixels."""
    if path is None:
        return None, None
    try:
        images.probe(path, root=Path("/"))  # may be a bomb
        with Picture.open(path) as picture:
            size = picture.size
            picture.draft("RGB", (2 * WIDTH_PX, 2 * HEIGHT_PX))
            small = picture.convert("RGB")
    except (OSError, ValueError, UnidentifiedImageError, Picture.DecompressionBombError) as error:
        log.warning("%s: not shown in the report: %s", path, error)
        return None, None
    scale = min(WIDTH_PX / size[0], HEIGHT_PX / size[1], 1.0)
    small = small.resize((max(1, round(size[0] * scale)), max(1, round(size[1] * scale))), Picture.Resampling.LANCZOS)
    jpeg = io.BytesIO()
    small.save(jpeg, "JPEG", quality=82, optimize=True)
    return size, "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode()


def _label(
    text: str, region: Region, scale: float, frame_width: float, frame_height: float, placed: Sequence[Label]
) -> Label:
    """At the top of a gold box, at the foot of a box that is only predicted; moved off the labels placed before."""
    box = region.gold or region.predicted
    assert box is not None
    width = _LETTER_PX * len(text) + 6
    x = _within(box.x0 * scale, frame_width - width)
    start = _within(_anchor(box, region.outcome) * scale, frame_height - _LINE_PX)
    step = -_LINE_PX if region.outcome == "wrong" else _LINE_PX
    for turns in range(int(2 * frame_height / _LINE_PX)):
        y = start + (turns + 1) // 2 * (step if turns % 2 else -step)
        if 0 <= y <= frame_height - _LINE_PX and not any(_collide(x, y, width, label) for label in placed):
            return Label(x, y, width, text, region.outcome)
    return Label(x, start, width, text, region.outcome)


SIGNS: dict[Outcome, str] = {"correct": "✓", "missed": "○", "wrong": "✗"}
"""What tells outcomes apart without colour."""


def _anchor(box: Box, outcome: Outcome) -> float:
    return box.y1 - _LINE_PX if outcome == "wrong" else box.y0


def _within(value: float, largest: float) -> float:
    return max(0.0, min(value, largest))


def _collide(x: float, y: float, width: float, other: Label) -> bool:
    return abs(y - other.y) < _LINE_PX and x < other.x + other.width and other.x < x + width
