"""Where a source says what gold and answer have of it: its triggers and arguments, and what became of them.

Generated events name no places, so what is marked is the first place with that text that nothing else has taken; what
an answer makes up, or words otherwise, stands nowhere and is marked nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from xmtl_ray.evaluation.accuracy import normalised_label, normalised_text
from xmtl_ray.events.records import GenerativeEvent

Kind = Literal["trigger", "argument"]
Outcome = Literal["correct", "missed", "wrong"]


@dataclass(frozen=True)
class Piece:
    """A part of the source."""

    text: str
    kind: Kind | None = None
    """None: neither gold nor answer has it."""
    outcome: Outcome | None = None
    """missed: only the gold has it; wrong: the answer has it, and not with what the gold says of it."""
    told: str = ""
    """Its types or roles."""


def pieces(
    source: str, gold: Sequence[GenerativeEvent], answered: Sequence[GenerativeEvent], language: str
) -> tuple[Piece, ...]:
    """``source`` in pieces that together are the whole of it.

    Args:
        source: as it is shown.
        gold: its events.
        answered: those of an answer.
        language: of the source; Chinese has no words to begin and end at.
    """
    taken: dict[tuple[int, int], tuple[Kind, Outcome, str]] = {}
    for kind in ("trigger", "argument"):
        there, told = (_labels(kind, events, language) for events in (gold, answered))
        for key in sorted({**there, **told}, key=lambda key: -len(key)):
            own, theirs = there.get(key, {}), told.get(key, {})
            text = next(iter({**own, **theirs}.values()))[1]
            place = _free(source, text, language, taken)
            if place is not None:
                taken[place] = (kind, _outcome(set(own), set(theirs)), _words(own, theirs))
    return tuple(_cut(source, taken))


def _labels(kind: str, events: Iterable[GenerativeEvent], language: str) -> dict[str, dict[str, tuple[str, str]]]:
    """Text as it is compared → its types or roles as they are compared → label and text as they are written."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for event in events:
        items = [(event.event_type, event.trigger)] if kind == "trigger" else event.arguments
        for label, text in items:
            found.setdefault(normalised_text(text, language), {})[normalised_label(label)] = (label, text)
    return found


def _outcome(gold: set[str], answered: set[str]) -> Outcome:
    if not answered:
        return "missed"
    return "correct" if gold == answered else "wrong"


def _words(gold: dict[str, tuple[str, str]], answered: dict[str, tuple[str, str]]) -> str:
    own, theirs = (", ".join(label for label, _ in side.values()) for side in (gold, answered))
    return own if set(gold) == set(answered) else f"gold {own or 'nothing'}, answer {theirs or 'nothing'}"


def _free(source: str, text: str, language: str, taken: Iterable[tuple[int, int]]) -> tuple[int, int] | None:
    """The first place of ``text`` that overlaps none that is taken."""
    word = re.escape(text.strip())
    if not word:
        return None
    if language != "zh":
        word = rf"(?<!\w){word}(?!\w)"
    for match in re.finditer(word, source, re.IGNORECASE):
        start, end = match.span()
        if all(end <= other[0] or start >= other[1] for other in taken):
            return start, end
    return None


def _cut(source: str, taken: dict[tuple[int, int], tuple[Kind, Outcome, str]]) -> Iterator[Piece]:
    at = 0
    for (start, end), what in sorted(taken.items()):
        if at < start:
            yield Piece(source[at:start])
        yield Piece(source[start:end], *what)
        at = end
    if at < len(source):
        yield Piece(source[at:])
