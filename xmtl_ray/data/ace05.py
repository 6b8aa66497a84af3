"""ACE 2005 as sentences, from any of the layouts of ``ace_layouts``.

Only what the benchmark's ontology knows is kept: other event types, and roles such as time, price and crime, are
dropped and counted in one log line. The surprising fact: ACE's arguments name an entity's full extent where M2E2
annotates its head, so an argument takes the span that was chosen for the entity of the same extent.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from xmtl_ray.data.ace_layouts import LAYOUTS, Layout, Told, layout_of
from xmtl_ray.events.ontology import m2e2
from xmtl_ray.events.records import Entity, Report, Sentence, Span, TextArgument, TextEvent
from xmtl_ray.events.strict_json import stream_list

log = logging.getLogger(__name__)


def read(
    path: Path, extent: Literal["head", "full"] = "head", layout: Layout | None = None, on_error: Report | None = None
) -> tuple[Sentence, ...]:
    """All sentences of one file; see ``stream``."""
    return tuple(stream(path, extent, layout, on_error))


def stream(
    path: Path, extent: Literal["head", "full"] = "head", layout: Layout | None = None, on_error: Report | None = None
) -> Iterator[Sentence]:
    """The sentences of one file, one record in memory at a time.

    Args:
        path: a JSON list or JSON lines.
        extent: ``head`` takes an entity's head where the file has one; ``full`` its full extent.
        layout: default the one that the first record's keys belong to.
        on_error: see ``strict_json.stream_list``.

    Ids are ``<file stem>_<index>`` where the layout has none (JMEE). Entities whose chosen spans are equal become one
    (the first), and so do arguments of one role and event mentions of one type and trigger. An argument that is no
    entity of the file keeps its own span. Raises DataError.
    """
    model = LAYOUTS[layout or recognised(path) or "jmee"]
    dropped: Counter[str] = Counter()
    sentences = kept = 0
    for rows in stream_list(
        path,
        TypeAdapter[Any](model),
        lambda index, row: [_sentence(told, f"{path.stem}_{index}", dropped) for told in row.told(path, index, extent)],
        on_error,
    ):
        for sentence in rows:
            sentences += 1
            kept += len(sentence.events)
            yield sentence
    log.log(
        logging.WARNING if dropped["events"] and not kept else logging.INFO,
        "%s: %d sentences, %d events kept; dropped %d events of other types, %d arguments of other roles; "
        "%d arguments are no entity",
        *(path, sentences, kept, dropped["events"], dropped["arguments"], dropped["no entity"]),
    )


def recognised(path: Path) -> Layout | None:
    """The layout of the first record that is an object; None where there is none or it has nothing of any layout."""
    first = stream_list(path, _OBJECT, lambda _, record: layout_of(record), on_error=lambda error: None)
    return next(first, None)


_OBJECT = TypeAdapter(dict[str, Any])


def _sentence(told: Told, unnamed: str, dropped: Counter[str]) -> Sentence:
    chosen = {extent: span for extent, span, _ in reversed(told.entities)}
    entities = distinct_spans(Entity(chosen[extent], kind) for extent, _, kind in told.entities)
    return Sentence(told.id or unnamed, told.words, entities, union(_known(told, chosen, dropped)))


def _known(told: Told, chosen: dict[Span, Span], dropped: Counter[str]) -> Iterable[TextEvent]:
    """The sentence's events as far as the ontology has them; counts the rest in ``dropped``."""
    ontology = m2e2()
    for event_type, trigger, mentioned in told.events:
        if event_type not in ontology.roles_of:
            dropped["events"] += 1
            continue
        arguments = []
        for role, extent in mentioned:
            if not ontology.allows(event_type, role):
                dropped["arguments"] += 1
                continue
            dropped["no entity"] += extent not in chosen
            arguments.append(TextArgument(role, chosen.get(extent, extent)))
        yield TextEvent(event_type, trigger, tuple(arguments))


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
