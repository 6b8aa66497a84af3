"""Textual and visual prompts: how an entity or an object is marked in its sentence or image (paper A, Fig. 2 and 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image as Picture
from PIL import ImageDraw

from xmtl_ray.events.ontology import type_words
from xmtl_ray.events.records import Box, Span


class EntityPrompt(NamedTuple):
    """A question to the text encoder: which role does the marked entity have in the event?"""

    text: list[str]
    """The sentence, with markers unless the entity stands in ``event``."""
    event: list[str]
    """What follows [SEP] and is never cut: the trigger's words and, if asked for, the type's."""
    entity: Span
    """The entity's words in ``text``, without the markers."""


def entity_prompt(
    words: Sequence[str],
    entity: Span,
    trigger: Span,
    event_type: str,
    marker: str,
    with_type: bool,
    appended: bool = False,
) -> EntityPrompt:
    """The sentence with ``marker`` around the entity, and the event.

    With ``appended`` the sentence stays as it is, and the entity is put behind it, before the marker and the event.

    >>> entity_prompt(["Police", "held", "him"], Span(2, 3), Span(1, 2), "Justice:Arrest-Jail", "$", True)[:2]
    (['Police', 'held', '$', 'him', '$'], ['held', 'justice', 'arrest', 'jail'])
    """
    event = list(words[trigger.start : trigger.end])
    if with_type:
        event += type_words(event_type).split()
    own = words[entity.start : entity.end]
    if appended:
        return EntityPrompt(list(words), [*own, marker, *event], entity)
    marked = [*words[: entity.start], marker, *own, marker, *words[entity.end :]]
    return EntityPrompt(marked, event, Span(entity.start + 1, entity.end + 1))


def object_prompt(
    canvas: np.ndarray,
    box: Box,
    line_px: int,
    color: tuple[int, int, int],
    kind: Literal["box", "circle", "crop"] = "box",
) -> np.ndarray:
    """A picture of ``canvas``'s size (uint8 [H, W, 3]) that marks ``box``, given as fractions of its sides.

    box: its outline drawn on a copy. circle: the ellipse within it (Shtedritski et al., 2023). crop: its content
    alone, stretched to the canvas.
    """
    height, width = canvas.shape[:2]
    # The line lies inside the box and at least one pixel of it inside the image.
    x0, y0 = (min(max(round(value * side), 0), side - 1) for value, side in ((box.x0, width), (box.y0, height)))
    x1, y1 = (min(max(round(value * side), 1), side) for value, side in ((box.x1, width), (box.y1, height)))
    outer = slice(y0, max(y0 + 1, y1)), slice(x0, max(x0 + 1, x1))
    if kind == "crop":
        part = Picture.fromarray(np.ascontiguousarray(canvas[outer]))
        return np.asarray(part.resize((width, height), Picture.Resampling.BICUBIC))
    if kind == "circle":
        drawn = Picture.fromarray(canvas)
        corners = (outer[1].start, outer[0].start, outer[1].stop - 1, outer[0].stop - 1)
        ImageDraw.Draw(drawn).ellipse(corners, outline=color, width=line_px)
        return np.asarray(drawn)
    inner = tuple(slice(side.start + line_px, max(side.start, side.stop - line_px)) for side in outer)
    marked = canvas.copy()
    marked[outer] = color
    marked[inner] = canvas[inner]
    return marked
