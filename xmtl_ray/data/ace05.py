"""ACE 2005 in the JMEE layout: a JSON list of sentences with entity and event mentions.

The models of the layout are public because M2E2's text files have it too. Only what the benchmark's ontology knows is
kept: other event types, and roles such as time, price and crime, are dropped and counted in one log line. The
surprising fact: ACE's arguments name an entity's full extent where M2E2 annotates its head, so an argument takes the
span that was chosen for the entity of the same extent.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt, TypeAdapter

from xmtl_ray.events.ontology import m2e2
from xmtl_ray.events.records import DataError, Entity, Sentence, Span, TextArgument, TextEvent
from xmtl_ray.events.strict_json import read_json

log = logging.getLogger(__name__)


class Extent(BaseModel):
    """Words ``start`` up to, not including, ``end``; the ``text`` beside them is not read."""

    model_config = ConfigDict(frozen=True)

    start: StrictInt
    end: StrictInt

    @property
    def span(self) -> Span:
        """The same as a record."""
        return Span(self.start, self.end)


class EntityMention(Extent):
    """An entity's full extent, and its head where the file has one (times and values have none)."""

    type: str = Field(alias="entity-type")
    head: Extent | None = None


class ArgumentMention(Extent):
    """What fills a role, by the full extent of its entity."""

    role: str


class EventMention(BaseModel):
    """A trigger with its event type and arguments."""

    model_config = ConfigDict(frozen=True)

    event_type: str
    trigger: Extent
    arguments: list[ArgumentMention]


class JmeeSentence(BaseModel):
    """One sentence of the layout; fields that nobody needs (tags, lemmas, parses) are ignored."""

    model_config = ConfigDict(frozen=True)

    words: Annotated[list[str], Field(min_length=1)]
    entities: list[EntityMention] = Field(alias="golden-entity-mentions")
    events: list[EventMention] = Field(alias="golden-event-mentions")

    def check_spans(self, file: Path, record: object) -> None:
        """Every span lies within the words: ``0 <= start < end <= len(words)``. Raises DataError."""
        for field, extent in self._extents():
            if not 0 <= extent.start < extent.end <= len(self.words):
                expected = f"0 <= start < end <= {len(self.words)}, the number of words"
                raise DataError(file, record, field, [extent.start, extent.end], expected)

    def _extents(self) -> Iterable[tuple[str, Extent]]:
        for number, entity in enumerate(self.entities):
            yield f"golden-entity-mentions.{number}", entity
            if entity.head is not None:
                yield f"golden-entity-mentions.{number}.head", entity.head
        for number, event in enumerate(self.events):
            yield f"golden-event-mentions.{number}.trigger", event.trigger
            for place, argument in enumerate(event.arguments):
                yield f"golden-event-mentions.{number}.arguments.{place}", argument


_LAYOUT = TypeAdapter(list[JmeeSentence])


def read(path: Path, extent: Literal["head", "full"] = "head") -> tuple[Sentence, ...]:
    """The sentences of one JMEE file, with ids ``<file stem>_<index>``.

    Args:
        path: JSON file.
        extent: ``head`` takes an entity's head where the file has one; ``full`` its full extent.

    Entities whose chosen spans are equal become one (the first), and so do arguments of one role and event mentions
    of one type and trigger. An argument that is no entity of the file keeps its own span. Raises DataError.
    """
    dropped: Counter[str] = Counter()
    sentences = []
    rows = read_json(path, _LAYOUT)
    for index, row in enumerate(rows):
        row.check_spans(path, index)
        chosen = {e.span: e.head.span if extent == "head" and e.head else e.span for e in reversed(row.entities)}
        entities = distinct_spans(Entity(chosen[mention.span], mention.type) for mention in row.entities)
        events = union(_known(row, chosen, dropped))
        sentences.append(Sentence(f"{path.stem}_{index}", tuple(row.words), entities, events))
    kept = sum(len(sentence.events) for sentence in sentences)
    log.log(
        logging.WARNING if dropped["events"] and not kept else logging.INFO,
        "%s: %d sentences, %d events kept; dropped %d events of other types, %d arguments of other roles; "
        "%d arguments are no entity",
        *(path, len(sentences), kept, dropped["events"], dropped["arguments"], dropped["no entity"]),
    )
    return tuple(sentences)


def _known(row: JmeeSentence, chosen: dict[Span, Span], dropped: Counter[str]) -> Iterable[TextEvent]:
    """The row's events as far as the ontology has them; counts the rest in ``dropped``."""
    ontology = m2e2()
    for event in row.events:
        if event.event_type not in ontology.roles_of:
            dropped["events"] += 1
            continue
        arguments = []
        for argument in event.arguments:
            if not ontology.allows(event.event_type, argument.role):
                dropped["arguments"] += 1
                continue
            dropped["no entity"] += argument.span not in chosen
            arguments.append(TextArgument(argument.role, chosen.get(argument.span, argument.span)))
        yield TextEvent(event.event_type, event.trigger.span, tuple(arguments))


def distinct_spans(entities: Iterable[Entity]) -> tuple[Entity, ...]:
    """Entities with the first of each span only."""
    first: dict[Span, Entity] = {}
    for entity in entities:
        first.setdefault(entity.span, entity)
    return tuple(first.values())


def union(events: Iterable[TextEvent]) -> tuple[TextEvent, ...]:
    """One event per type and trigger, with every argument once: the order of first appearance."""
    merged: dict[tuple[str, Span], dict[TextArgument, None]] = {}
    for event in events:
        merged.setdefault((event.type, event.trigger), {}).update(dict.fromkeys(event.arguments))
    return tuple(TextEvent(kind, trigger, tuple(arguments)) for (kind, trigger), arguments in merged.items())
