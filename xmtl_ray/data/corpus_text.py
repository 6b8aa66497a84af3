"""Sentences of the synthetic corpus in four languages, with their events: the templates of corpus.yaml, filled in.

Inflected forms are written out there; nothing here makes one. The surprising fact: a neutral caption is written
without a look at its event's type, so that from its words the type cannot be told: only the names of the roles differ.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

from xmtl_ray.data.corpus_names import Events, LanguageData, Names, corpus_data
from xmtl_ray.events.records import GenerativeArgument, GenerativeEvent

_PIECE = re.compile(
    r"<(?:(?P<role>\w+):)?(?P<class>\w+)(?:\.(?P<case>\w+))?>"
    r"|\[(?P<trigger>\w+)(?:@(?P<trigger_of>[\w+]+))?\]"
    r"|\{(?P<phrase>[^}@]+)(?:@(?P<phrase_of>[\w+]+))?\}"
)
_TRIES = 50
"""Fillers that are tried until one is new in its text."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A word or phrase of a class: its gender and number, and one form per case or a single one for all."""

    code: str
    forms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Told:
    """A text with its events in the order of their triggers, their arguments in the order of their places.

    ``named`` tells whether an invented name is in it.
    """

    text: str
    events: tuple[GenerativeEvent, ...]
    named: bool


@dataclass(frozen=True, slots=True)
class _Node:
    kind: Literal["text", "entity", "trigger", "phrase"]
    text: str
    role: str = ""
    """Of an entity its own; else what the form agrees with."""
    case: str = ""


@dataclass(frozen=True, slots=True)
class _Mark:
    """Characters ``start`` to ``end`` are the trigger ('' as role) or an argument of an event, by its number."""

    event: int
    role: str
    start: int
    end: int


@cache
def lines(block: str) -> tuple[str, ...]:
    """The entries or templates of a block."""
    return tuple(line for line in block.splitlines() if line and not line.startswith("#"))


@cache
def entries(language: str, name: str) -> tuple[Entry, ...]:
    """The entries of a class; one that stands for another class has ``<class>`` as its code."""
    data = corpus_data()["languages"][language]
    found = []
    for line in lines(data["classes"][name]):
        if re.fullmatch(r"<\w+>", line):
            found.append(Entry(line, (line,)))
            continue
        code, text = line.split(" ", 1) if data["codes"] else ("", line)
        assert code in (data["codes"] or [""]), line
        forms = tuple(text.split("|"))
        assert len(forms) in {1, len(data["cases"])}, line
        found.append(Entry(code, forms))
    return tuple(found)


@cache
def _parse(template: str) -> tuple[_Node, ...]:
    nodes, end = list[_Node](), 0
    for match in _PIECE.finditer(template):
        if match.start() > end:
            nodes.append(_Node("text", template[end : match.start()]))
        end = match.end()
        if match["class"]:
            nodes.append(_Node("entity", match["class"], match["role"] or "", match["case"] or ""))
        elif match["trigger"]:
            nodes.append(_Node("trigger", match["trigger"], match["trigger_of"] or ""))
        else:
            nodes.append(_Node("phrase", match["phrase"], match["phrase_of"] or ""))
    if end < len(template):
        nodes.append(_Node("text", template[end:]))
    return tuple(nodes)


class Writer:
    """Writes texts in one language; all chance comes from ``rng``."""

    def __init__(self, language: str, names: Names, rng: random.Random) -> None:
        self.language, self.names, self.rng = language, names, rng
        self.data = corpus_data()["languages"][language]

    def sentence(self, types: Sequence[str]) -> Told:
        """A sentence that tells an event of each of one or two types."""
        frame = self.rng.choice(lines(self.data["frames" if len(types) == 1 else "pair_frames"]))
        return self._written().frame(frame, [(name, self.data["events"][name]) for name in types]).told()

    def caption(self, event_type: str) -> Told:
        """A caption that tells its event."""
        frame = self.rng.choice(lines(self.data["caption_frames"]))
        return self._written().frame(frame, [(event_type, self.data["events"][event_type])]).told()

    def neutral(self, event_type: str) -> Told:
        """A caption that would fit every event; ``event_type`` ('' for none) decides on the roles of who is named."""
        frame = self.rng.choice(lines(self.data["caption_frames"]))
        told = self._written().frame(frame, [(event_type, self.data["neutral"])]).told()
        if not event_type:
            return Told(told.text, (), told.named)
        roles = dict(zip(("First", "Second", "Where"), corpus_data()["named"][event_type], strict=True))
        (event,) = told.events
        arguments = ((roles[role], text) for role, text in event.arguments)
        kept = tuple(GenerativeArgument(role, text) for role, text in arguments if role is not None)
        return Told(told.text, (GenerativeEvent(event_type, event.trigger, kept),), told.named)

    def quiet(self) -> Told:
        """A sentence without an event."""
        return self._written().frame(self.rng.choice(lines(self.data["quiet"])), []).told()

    def beside(self, told: Told) -> Told:
        """``told`` with a sentence without an event before or behind it."""
        quiet, gap = self.quiet(), "" if self.language == "zh" else " "
        first, second = (quiet, told) if self.rng.random() < 0.5 else (told, quiet)
        return Told(f"{first.text}{gap}{second.text}", told.events, told.named or quiet.named)

    def _written(self) -> _Writing:
        return _Writing(self.language, self.data, self.names, self.rng)


class _Writing:
    """One text while it is written."""

    def __init__(self, language: str, data: LanguageData, names: Names, rng: random.Random) -> None:
        self.language, self.data, self.names, self.rng = language, data, names, rng
        self.text, self.named = "", False
        self.marks: list[_Mark] = []
        self.types: list[str] = []
        self.used: set[str] = set()

    def frame(self, frame: str, clauses: Sequence[tuple[str, Events]]) -> _Writing:
        """Write a frame with a clause for each ``<S>``."""
        rest = list(clauses)
        for node in _parse(frame):
            if node.kind == "entity" and node.text == "S":
                event_type, block = rest.pop(0)
                self.types.append(event_type)
                self.clause(self.rng.choice(lines(block["templates"])), block["triggers"])
            elif node.kind == "entity":
                self.text += self.form(self.pick(node.text), node.case)
            else:
                self.text += self.phrase(node, {})
        assert not rest, frame
        return self

    def clause(self, template: str, triggers: dict[str, list[str]]) -> None:
        """Write one event. Who takes part is drawn first: a verb may agree with what follows it."""
        nodes = _parse(template)
        drawn = [self.pick(node.text) if node.kind == "entity" else None for node in nodes]
        codes: dict[str, str] = {}
        for node, entry in zip(nodes, drawn, strict=True):
            if entry is not None:
                # Of two with one role the second is kept, too, for what agrees with both.
                codes[node.role + ("+" if node.role in codes else "")] = entry.code
        number = len(self.types) - 1
        for node, entry in zip(nodes, drawn, strict=True):
            start = len(self.text)
            if entry is not None:
                self.text += self.form(entry, node.case)
            elif node.kind == "trigger":
                self.text += self.agreeing(self.rng.choice(triggers[node.text]), node.role, codes)
            else:
                self.text += self.phrase(node, codes)
            if node.kind == "trigger" or (node.kind == "entity" and node.role):
                self.marks.append(_Mark(number, node.role if entry else "", start, len(self.text)))

    def pick(self, name: str) -> Entry:
        """An entry of a class that this text does not have yet."""
        for _ in range(_TRIES):
            entry = self.draw(name)
            if entry.forms[0] not in self.used:
                break
        self.used.add(entry.forms[0])
        return entry

    def draw(self, name: str) -> Entry:
        """Any entry of a class, an invented name among them."""
        names, code = self.names, self.data["codes_of"].get(name, "")
        if name in {"man", "woman"}:
            self.named = True
            first = self.rng.choice(names.men if name == "man" else names.women)
            return Entry(code, (f"{first}{names.between}{self.rng.choice(names.last)}",))
        if name in {"last", "town", "firm"}:
            self.named = True
            pool = names.last if name == "last" else names.town if name == "town" else names.firm
            return Entry(code, (self.rng.choice(pool),))
        entry = self.rng.choice(entries(self.language, name))
        return self.draw(entry.code[1:-1]) if entry.code.startswith("<") else entry

    def form(self, entry: Entry, case: str) -> str:
        """An entry as it is written, with the names in it."""
        at = self.data["cases"].index(case) if case and len(entry.forms) > 1 else 0
        nodes = _parse(entry.forms[at])
        return "".join(
            self.form(self.pick(node.text), node.case) if node.kind == "entity" else self.phrase(node, {})
            for node in nodes
        )

    def phrase(self, node: _Node, codes: dict[str, str]) -> str:
        if node.kind == "text":
            return node.text
        if node.role:
            return self.agreeing(node.text, node.role, codes)
        return self.rng.choice(lines(self.data["phrases"][node.text]))

    def agreeing(self, word: str, roles: str, codes: dict[str, str]) -> str:
        """The form of ``word`` that agrees with whoever has ``roles``, one or two joined by ``+``."""
        forms = word.split("/")
        if len(forms) == 1:
            return word
        if "+" in roles:
            first, second = roles.split("+")
            both = codes[first], codes[f"{second}+" if second == first else second]
            # Spanish is feminine where all are; the other languages have one plural.
            plurals = [code for code in self.data["codes"] if code.endswith("p")]
            code = plurals[-1] if all(own.startswith("f") for own in both) else plurals[0]
        else:
            code = codes[roles]
        return forms[code.endswith("p")] if len(forms) == 2 else forms[self.data["codes"].index(code)]

    def told(self) -> Told:
        """The finished text: its first letter is a capital, also where an event begins with it."""
        text = self.text[0].upper() + self.text[1:]
        events = []
        for number, event_type in enumerate(self.types):
            own = sorted((mark for mark in self.marks if mark.event == number), key=lambda mark: mark.start)
            (trigger,) = (mark for mark in own if not mark.role)
            arguments = tuple(GenerativeArgument(m.role, text[m.start : m.end]) for m in own if m.role)
            events.append((trigger.start, GenerativeEvent(event_type, text[trigger.start : trigger.end], arguments)))
        return Told(text, tuple(event for _, event in sorted(events, key=lambda pair: pair[0])), self.named)
