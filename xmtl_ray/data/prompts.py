"""Textual and visual prompts: how an entity or an object is marked in its sentence or image (paper A, Fig. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from xmtl_ray.events.ontology import type_words
from xmtl_ray.events.records import Box, Span


class EntityPrompt(NamedTuple):
    """A question to the text encoder: which role does the marked entity have in the event?"""

    text: list[str]
    """The sentence with markers."""
    event: list[str]
    """What follows [SEP]: the trigger's words and, if asked for, the type's."""
    entity: Span
    """The entity's words in ``text``, without the markers."""


def entity_prompt(
    words: Sequence[str], entity: Span, trigger: Span, event_type: str, marker: str, with_type: bool
) -> EntityPrompt:
    """The sentence with ``marker`` around the entity, and the event.

    >>> entity_prompt(["Police", "held", "him"], Span(2, 3), Span(1, 2), "Justice:Arrest-Jail", "$", True)[:2]
    (['Police', 'held', '$', 'him', '$'], ['held', 'justice', 'arrest', 'jail'])
    """
    marked = [*words[: entity.start], marker, *words[entity.start : entity.end], marker, *words[entity.end :]]
    event = list(words[trigger.start : trigger.end])
    if with_type:
        event += type_words(event_type).split()
    return EntityPrompt(marked, event, Span(entity.start + 1, entity.end + 1))


def object_prompt(canvas: np.ndarray, box: Box, line_px: int, color: tuple[int, int, int]) -> np.ndarray:
    """A copy of ``canvas`` (uint8 [H, W, 3]) with ``box``, given as fractions of its sides, drawn on it."""
    height, width = canvas.shape[:2]
    # The line lies inside the box and at least one pixel of it inside the image.
    x0, y0 = (min(max(round(value * side), 0), side - 1) for value, side in ((box.x0, width), (box.y0, height)))
    x1, y1 = (min(max(round(value * side), 1), side) for value, side in ((box.x1, width), (box.y1, height)))
    outer = slice(y0, max(y0 + 1, y1)), slice(x0, max(x0 + 1, x1))
    inner = tuple(slice(side.start + line_px, max(side.start, side.stop - line_px)) for side in outer)
    marked = canvas.copy()
    marked[outer] = color
    marked[inner] = canvas[inner]
    return marked
