"""The layouts in which ACE 2005 is passed on: JMEE, OneIE (TextEE's is the same with other names) and DyGIE++.

Each is a pydantic model of one record with ``told``, which gives its sentences in one form; ``ace05`` makes records of
them. Every span lies within its words, and a text that stands beside a span is that of its words. M2E2 and VOA use
JMEE's mentions. The surprising fact: the preprocessing that made the JMEE files looked for a mention's letters inside
its tokens' letters, so that is how a text is compared, too: spaces, punctuation and the tail of a token do not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, StrictInt

from xmtl_ray.events.records import DataError, Span

Layout = Literal["jmee", "oneie", "textee", "dygiepp"]


@dataclass(frozen=True)
class Told:
    """A sentence as every layout can tell it.

    ``entities`` are (extent that arguments name, span to take for it, type); ``events`` (type, trigger, (role, extent)
    of each argument), of all types that the file has. ``id`` is None where the layout has none.
    """

    id: str | None
    words: tuple[str, ...]
    entities: list[tuple[Span, Span, str]] = field(default_factory=list)
    events: list[tuple[str, Span, list[tuple[str, Span]]]] = field(default_factory=list)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class Extent(_Frozen):
    """Words ``start`` up to, not including, ``end``, and the text that they are."""

    start: StrictInt
    end: StrictInt
    text: str | None = None

    @property
    def span(self) -> Span:
        """The same as a record."""
        return Span(self.start, self.end)

    def check(self, file: Path, record: object, place: str, words: Sequence[str]) -> None:
        """``0 <= start < end <= len(words)``, and the text is in the words. Raises DataError."""
        if not 0 <= self.start < self.end <= len(words):
            expected = f"0 <= start < end <= {len(words)}, the number of words"
            raise DataError(file, record, place, [self.start, self.end], expected)
        own = words[self.start : self.end]
        if self.text is not None and self.text != " ".join(own) and _letters([self.text]) not in _letters(own):
            expected = f"text of the words {self.start} to {self.end}: {' '.join(own)!r}"
            raise DataError(file, record, f"{place}.text", self.text, expected)


_BRACKETS = {f"-{side}{kind}B-" for side in "LR" for kind in "RSC"}
"""Treebank tokens for ``( ) [ ] { }``."""


def _letters(words: Iterable[str]) -> str:
    return "".join(sign for word in words if word not in _BRACKETS for sign in word if sign.isalnum())


class EntityMention(Extent):
    """An entity's full extent, and its head where the file has one (times and values have none)."""

    type: str = Field(alias="entity-type")
    head: Extent | None = None


class ArgumentMention(Extent):
    """What fills a role, by the full extent of its entity."""

    role: str


class EventMention(_Frozen):
    """A trigger with its event type and arguments."""

    event_type: str
    trigger: Extent
    arguments: list[ArgumentMention]


class JmeeSentence(_Frozen):
    """JMEE: one sentence; fields that nobody needs (tags, lemmas, parses) are ignored."""

    words: Annotated[list[str], Field(min_length=1)]
    entities: list[EntityMention] = Field(alias="golden-entity-mentions")
    events: list[EventMention] = Field(alias="golden-event-mentions")

    def check_spans(self, file: Path, record: object) -> None:
        """Every extent lies within the words and has their text. Raises DataError."""
        for place, extent in self._extents():
            extent.check(file, record, place, self.words)

    def _extents(self) -> Iterable[tuple[str, Extent]]:
        for number, entity in enumerate(self.entities):
            yield f"golden-entity-mentions.{number}", entity
            if entity.head is not None:
                yield f"golden-entity-mentions.{number}.head", entity.head
        for number, event in enumerate(self.events):
            yield f"golden-event-mentions.{number}.trigger", event.trigger
            for place, argument in enumerate(event.arguments):
                yield f"golden-event-mentions.{number}.arguments.{place}", argument

    def told(self, file: Path, record: object, extent: Literal["head", "full"]) -> Iterator[Told]:
        """The sentence; entities take their head or their full extent. Raises DataError."""
        self.check_spans(file, record)
        yield Told(
            None,
            tuple(self.words),
            [(e.span, e.head.span if extent == "head" and e.head else e.span, e.type) for e in self.entities],
            [(e.event_type, e.trigger.span, [(a.role, a.span) for a in e.arguments]) for e in self.events],
        )


class _OneieEntity(Extent):
    id: str
    type: str = Field("", alias="entity_type")
    subtype: str = Field("", alias="entity_subtype")


class _OneieArgument(_Frozen):
    entity_id: str
    role: str
    text: str | None = None
    start: StrictInt | None = None
    end: StrictInt | None = None


class _OneieEvent(_Frozen):
    event_type: str
    trigger: Extent
    arguments: list[_OneieArgument]


class OneieSentence(_Frozen):
    """OneIE and TextEE: one sentence; arguments name entities by id, and TextEE repeats their spans."""

    document: str = Field(alias="doc_id")
    own_id: str = Field(validation_alias=AliasChoices("sent_id", "wnd_id"))
    words: Annotated[list[str], Field(min_length=1, alias="tokens")]
    entities: list[_OneieEntity] = Field(alias="entity_mentions")
    events: list[_OneieEvent] = Field(alias="event_mentions")

    def told(self, file: Path, record: object, extent: Literal["head", "full"]) -> Iterator[Told]:
        """The sentence; its spans are heads whatever is asked for. Raises DataError."""
        spans: dict[str, Span] = {}
        for number, entity in enumerate(self.entities):
            place = f"entity_mentions.{number}"
            entity.check(file, record, place, self.words)
            if spans.setdefault(entity.id, entity.span) != entity.span:
                raise DataError(file, record, f"{place}.id", entity.id, "an id that no other entity has")
        events = []
        for number, event in enumerate(self.events):
            place = f"event_mentions.{number}"
            event.trigger.check(file, record, f"{place}.trigger", self.words)
            arguments = []
            for index, argument in enumerate(event.arguments):
                at = f"{place}.arguments.{index}"
                if argument.entity_id not in spans:
                    raise DataError(file, record, f"{at}.entity_id", argument.entity_id, "the id of an entity")
                span = spans[argument.entity_id]
                start, end = (argument.start, argument.end)
                if (span.start if start is None else start, span.end if end is None else end) != (span.start, span.end):
                    raise DataError(file, record, at, [start, end], f"{[span.start, span.end]}, as its entity")
                named = Extent(start=span.start, end=span.end, text=argument.text)
                named.check(file, record, at, self.words)
                arguments.append((argument.role, span))
            events.append((event.event_type, event.trigger.span, arguments))
        entities = [(e.span, e.span, f"{e.type}:{e.subtype}" if e.subtype else e.type) for e in self.entities]
        yield Told(_sentence_id(self.document, self.own_id), tuple(self.words), entities, events)


_Start = tuple[StrictInt, str]
_Labelled = tuple[StrictInt, StrictInt, str]


class DygieDocument(_Frozen):
    """DyGIE++: one document; offsets count the document's tokens and include a span's last one.

    An event is a list: (trigger token, type), then (first, last, role) of each argument. Types are written
    ``Justice.Arrest-Jail``.
    """

    document: str = Field(alias="doc_key")
    sentences: list[Annotated[list[str], Field(min_length=1)]]
    starts: list[StrictInt] | None = Field(None, alias="_sentence_start")
    entities: list[list[_Labelled]] = Field(alias="ner")
    events: list[list[Annotated[list[_Start | _Labelled], Field(min_length=1)]]]

    def told(self, file: Path, record: object, extent: Literal["head", "full"]) -> Iterator[Told]:
        """The document's sentences; their spans are heads whatever is asked for. Raises DataError."""
        expected = f"one entry for each of {len(self.sentences)} sentences"
        counted = [0, *accumulate(map(len, self.sentences))][: len(self.sentences)]
        starts = counted if self.starts is None else self.starts
        counts = {"_sentence_start": len(starts), "ner": len(self.entities), "events": len(self.events)}
        for name, count in counts.items():
            if count != len(self.sentences):
                raise DataError(file, record, name, count, expected)
        for number, (words, start) in enumerate(zip(self.sentences, starts, strict=True)):

            def span(first: int, last: int, place: str, words: list[str] = words, start: int = start) -> Span:
                own = Extent(start=first - start, end=last - start + 1)
                own.check(file, record, place, words)
                return own.span

            entities = []
            for index, (first, last, kind) in enumerate(self.entities[number]):
                extent_of = span(first, last, f"ner.{number}.{index}")
                entities.append((extent_of, extent_of, kind))
            events = []
            for index, (head, *rest) in enumerate(self.events[number]):
                place = f"events.{number}.{index}"
                arguments = []
                for at, item in enumerate(rest, start=1):
                    if len(item) != 3:
                        raise DataError(file, record, f"{place}.{at}", item, "first token, last token and role")
                    arguments.append((item[2], span(item[0], item[1], f"{place}.{at}")))
                trigger = span(head[0], head[1] if len(head) == 3 else head[0], f"{place}.0")
                events.append((head[-1].replace(".", ":", 1), trigger, arguments))
            yield Told(f"{self.document}_{number}", tuple(words), entities, events)


LAYOUTS: dict[Layout, type[JmeeSentence] | type[OneieSentence] | type[DygieDocument]] = {
    "jmee": JmeeSentence,
    "oneie": OneieSentence,
    "textee": OneieSentence,
    "dygiepp": DygieDocument,
}


def layout_of(keys: Iterable[str]) -> Layout | None:
    """Which layout a record with these keys has; None where it has nothing of any."""
    known: dict[str, Layout] = {
        "golden-event-mentions": "jmee",
        "golden-entity-mentions": "jmee",
        "wnd_id": "textee",
        "sent_id": "oneie",
        "event_mentions": "oneie",
        "doc_key": "dygiepp",
    }
    own = set(keys)
    return next((layout for key, layout in known.items() if key in own), None)


def _sentence_id(document: str, own: str) -> str:
    """``DOC_1`` and ``DOC_1-0`` → ``DOC_1_0``: the document's id, an underscore and the rest."""
    rest = own.removeprefix(document).lstrip("-_.")
    return f"{document}_{rest}" if rest and rest != own else own
