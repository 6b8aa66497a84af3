"""Sentences of the miniature news world: a template grammar that writes words and their gold at once.

The language is data, ``world.yaml`` (its head explains the notation); this file parses and expands it. It knows no
file layout. The one surprising fact: names, words and templates marked as the test documents' own are out of reach
of a grammar with ``test=False``, so training text cannot leak them.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import TypedDict

import yaml

TEST_WORDS, TEST_TEMPLATES = 0.1, 0.04
"""How often a test sentence takes an entity word, and a template, that training text never has."""

_PIECE = re.compile(r"<[^>]*>|\{[^}]*\}|[\[\]()|*]|[^\s\[\]()|*<{]+|\s+")
_NAMES = {"first": 2, "last": 2, "place": 2}


@dataclass(frozen=True, slots=True)
class Mention:
    """Words ``start`` to ``end`` name somebody; ``head_start`` to ``head_end`` of them are the head."""

    start: int
    end: int
    head_start: int
    head_end: int
    type: str


@dataclass(slots=True)
class Happening:
    """One event of a sentence under construction: arguments are (role, index of the mention)."""

    type: str
    start: int = -1
    end: int = -1
    arguments: list[tuple[str, int]] = field(default_factory=list)


@dataclass(slots=True)
class Draft:
    """A sentence with its gold, in no file's layout."""

    words: list[str] = field(default_factory=list)
    mentions: list[Mention] = field(default_factory=list)
    events: list[Happening] = field(default_factory=list)


class _Class(TypedDict, total=False):
    type: str
    plural: bool
    words: str
    any: list[str]


class _Block(TypedDict):
    clauses: str
    nominals: str
    captions: str


class _Language(TypedDict):
    codes: dict[str, str]
    syllables: dict[str, list[str]]
    classes: dict[str, _Class]
    phrases: dict[str, str]
    frames: str
    quiet_frames: str
    events: dict[str, _Block]
    pairs: str
    decoys: str
    plain: str
    verbs: dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class _Node:
    """One piece of a template: ``kind`` is word, alt, trigger, entity, phrase, number or star."""

    kind: str
    text: str = ""
    parts: tuple[tuple[_Node, ...], ...] = ()


@dataclass(frozen=True)
class _Lines:
    """The lines of one block: those for everybody, and those for the test documents only."""

    common: tuple[tuple[_Node, ...], ...]
    test: tuple[tuple[_Node, ...], ...]


def chance_of(seed: int, part: str) -> random.Random:
    """The one source of chance of a part of the world: other parts can change without moving this one."""
    return random.Random(f"{seed} {part}")  # noqa: S311 - a seeded corpus, no secret


@cache
def language() -> _Language:
    """The content of ``world.yaml``."""
    raw: _Language = yaml.safe_load((files("xmtl_ray.data") / "world.yaml").read_text(encoding="utf-8"))
    return raw


@cache
def _lines(block: str) -> _Lines:
    lines = [line.strip() for line in block.splitlines() if line.strip()]
    test = [line.removeprefix("~") for line in lines if line.startswith("~")]
    common = [line for line in lines if not line.startswith("~")]
    return _Lines(tuple(map(_parse, common)), tuple(map(_parse, test)))


def _parse(line: str) -> tuple[_Node, ...]:
    pieces = _PIECE.findall(line)
    nodes, rest = _sequence(pieces, 0, "")
    assert rest == len(pieces), f"unbalanced brackets: {line}"
    return nodes


def _sequence(pieces: list[str], at: int, closers: str) -> tuple[tuple[_Node, ...], int]:
    nodes: list[_Node] = []
    star = False
    while at < len(pieces) and pieces[at] not in (closers or "\0"):
        piece = pieces[at]
        at += 1
        if piece == "*":
            star = True
            continue
        if piece.isspace() or piece == "_":
            continue
        if piece == "[":
            inner, at = _sequence(pieces, at, "]")
            node, at = _Node("trigger", parts=(inner,)), at + 1
        elif piece == "(":
            branches = []
            while True:
                branch, at = _sequence(pieces, at, "|)")
                branches.append(branch)
                at += 1
                if pieces[at - 1] == ")":
                    break
            node = _Node("alt", parts=tuple(branches))
        elif piece[0] == "<":
            node = _Node("entity", piece[1:-1])
        elif piece[0] == "{":
            node = _Node("number" if "/" in piece else "phrase", piece[1:-1])
        else:
            node = _Node("word", piece)
        nodes.append(_Node("star", parts=((node,),)) if star else node)
        star = False
    return tuple(nodes), at


@dataclass(frozen=True)
class Names:
    """Invented proper names by kind; the second list of each is for the test documents only."""

    common: dict[str, list[str]]
    test: dict[str, list[str]]


def invent_names(seed: int) -> Names:
    """People, places, nations and organisations from common syllables; no name is an ordinary word of the grammar."""
    rng = chance_of(seed, "names")
    tongue = language()
    taken = set(re.findall(r"[a-z]+", str(tongue).lower()))
    common: dict[str, list[str]] = {}
    test: dict[str, list[str]] = {}
    for kind, count in (("first", 60), ("last", 150), ("place", 120)):
        names: list[str] = []
        while len(names) < count:
            name = "".join(rng.choices(tongue["syllables"][kind], k=rng.choice((2, 2, 3))))
            if name not in taken:
                taken.add(name)
                names.append(name.capitalize())
        common[kind], test[kind] = names[: count * 2 // 3], names[count * 2 // 3 :]
    for names_of in (common, test):
        places = names_of["place"]
        names_of["nation"] = [place + rng.choice(("ia", "land", "stan")) for place in places[::2]]
        names_of["country_adj"] = [place + rng.choice(("ian", "ese")) for place in places[::2]]
        kinds = ("Relief Fund", "Press Union", "Aid Network", "Rights Watch", "Policy Institute")
        names_of["orgname"] = [f"{place} {rng.choice(kinds)}" for place in places[::2]]
        kinds = ("Steel", "Motors", "Energy", "Telecom", "Foods")
        names_of["company"] = [f"{last} {rng.choice(kinds)}" for last in names_of["last"][::2]]
    return Names(common, test)


class Grammar:
    """Writes sentences; all chance comes from ``rng``.

    With ``test`` it may use what is marked as the test documents' own.
    """

    def __init__(self, rng: random.Random, names: Names, test: bool = False) -> None:
        self.rng, self.names, self.test = rng, names, test
        self.language = language()

    def sentence(self, types: list[str], facts: dict[str, str] | None = None) -> Draft:
        """A sentence with one event of each of ``types`` (none, one or two), in this order or another.

        ``facts`` maps roles of the first type's event to entity classes that an image has settled.
        """
        if len(types) == 2 and (pairs := self._pairs_of(types)) and self.rng.random() < 0.5:
            return _Writing(self, {}).close((*self._pick(pairs), _Node("word", ".")))
        block = self.language["frames" if types else "quiet_frames"]
        frame = self._pick(_with_slots(block, len(types)))
        order = list(types)
        self.rng.shuffle(order)
        return _Writing(self, facts or {}, order, types[0] if types else "").close(frame)

    def caption(self, event_type: str, facts: dict[str, str] | None = None) -> Draft:
        """A sentence in the style of a picture's caption: present tense, one event."""
        writing = _Writing(self, facts or {}, [], event_type)
        return writing.close((*writing.block(event_type, "captions"), _Node("word", ".")), event_type)

    def some_types(self) -> list[str]:
        """Event types of one sentence of ordinary news: often none, sometimes two."""
        chance = self.rng.random()
        count = 0 if chance < 0.36 else 1 if chance < 0.86 else 2
        return self.rng.choices(list(self.language["events"]), k=count)

    def _pick(self, lines: _Lines, chance: float = TEST_TEMPLATES) -> tuple[_Node, ...]:
        own = self.test and lines.test and self.rng.random() < chance
        return self.rng.choice(lines.test if own else lines.common)

    def _pairs_of(self, types: list[str]) -> _Lines | None:
        wanted = set(types)
        lines = _lines(self.language["pairs"])
        common, test = (tuple(n for n in group if _types_in(n) == wanted) for group in (lines.common, lines.test))
        return _Lines(common, test) if common else None


def _words_in(nodes: tuple[_Node, ...]) -> list[_Node]:
    found = []
    for node in nodes:
        found.append(node)
        for part in node.parts:
            found += _words_in(part)
    return found


@cache
def _types_in(nodes: tuple[_Node, ...]) -> set[str]:
    codes = language()["codes"]
    return {codes[n.text[0]] for n in _words_in(nodes) if n.kind == "word" and n.text[1:2] == ":"}


@cache
def _with_slots(block: str, count: int) -> _Lines:
    def fits(nodes: tuple[_Node, ...]) -> bool:
        return sum(n.kind == "word" and n.text in ("C", "N") for n in nodes) == count

    lines = _lines(block)
    return _Lines(tuple(filter(fits, lines.common)), tuple(filter(fits, lines.test)))


class _Writing:
    """One sentence while it is written."""

    def __init__(
        self, grammar: Grammar, facts: dict[str, str], types: list[str] | None = None, first: str = ""
    ) -> None:
        self.grammar, self.facts, self.types, self.first = grammar, facts, types or [], first
        self.rng = grammar.rng
        self.draft = Draft()
        self.open: dict[str, Happening] = {}
        self.plural = False
        self.stars: list[tuple[int, int]] = []

    def block(self, event_type: str, kind: str) -> tuple[_Node, ...]:
        block = self.grammar.language["events"][event_type]
        text = block["clauses"] if kind == "clauses" else block["nominals"] if kind == "nominals" else block["captions"]
        return self.grammar._pick(_lines(text))

    def close(self, nodes: tuple[_Node, ...], event_type: str = "") -> Draft:
        """Write ``nodes`` and finish the sentence: articles, capital letter, events without a trigger dropped."""
        self.write(nodes, event_type)
        self._shut()
        words = self.draft.words
        for i, word in enumerate(words[:-1]):
            if word in ("a", "an"):
                words[i] = "an" if words[i + 1][0].lower() in "aeio" else "a"
        words[0] = words[0][0].upper() + words[0][1:]
        self.draft.events.sort(key=lambda event: event.start)
        return self.draft

    def write(self, nodes: tuple[_Node, ...], event_type: str) -> None:
        for node in nodes:
            if node.kind == "word":
                self._word(node.text, event_type)
            elif node.kind == "alt":
                self.write(self.rng.choice(node.parts), event_type)
            elif node.kind == "phrase":
                self._phrase(node.text, event_type)
            elif node.kind == "number":
                self.draft.words += node.text.split("/")[self.plural].split()
            elif node.kind == "entity":
                self._entity(node.text, event_type)
            elif node.kind == "star":
                start = len(self.draft.words)
                self.write(node.parts[0], event_type)
                self.stars.append((start, len(self.draft.words)))
            else:
                self._trigger(node.parts[0], event_type)

    def _word(self, text: str, event_type: str) -> None:
        if text in ("C", "N"):
            self._shut()
            inner = self.types.pop()
            self.write(self.block(inner, "clauses" if text == "C" else "nominals"), inner)
            self._shut()
        elif text == "Q":
            self._shut()
            block = self.grammar.language["decoys" if self.rng.random() < 0.85 else "plain"]
            self.write(self.grammar._pick(_lines(block)), "")
            self._shut()
        else:
            self.draft.words.append(text)

    def _phrase(self, name: str, event_type: str) -> None:
        names = self.grammar.names
        if name in names.common:
            own = self.grammar.test and self.rng.random() < TEST_WORDS
            self.draft.words += self.rng.choice((names.test if own else names.common)[name]).split()
        else:
            self.write(self.grammar._pick(_lines(self.grammar.language["phrases"][name]), 0.07), event_type)

    def _trigger(self, nodes: tuple[_Node, ...], event_type: str) -> None:
        start = len(self.draft.words)
        self.write(nodes, event_type)
        first = self.draft.words[start]
        if first[1:2] == ":":
            event_type, self.draft.words[start] = self.grammar.language["codes"][first[0]], first[2:]
        if self.draft.words[start] in ("a", "an"):
            start += 1
        event = self._event(event_type)
        event.start, event.end = start, len(self.draft.words)

    def _entity(self, text: str, event_type: str) -> None:
        roles, _, name = text.rpartition("=")
        name = self._settle(name, roles, event_type)
        kind = self.grammar.language["classes"][name]
        start, outer_stars, self.stars = len(self.draft.words), self.stars, []
        self.write(self.grammar._pick(_lines(kind["words"]), TEST_WORDS), "")
        end = len(self.draft.words)
        head_start, head_end = (self.stars[0][0], self.stars[-1][1]) if self.stars else (start, end)
        self.stars = outer_stars
        if roles:
            self.plural = kind.get("plural", False)
        self.draft.mentions.append(Mention(start, end, head_start, head_end, kind["type"]))
        for role in filter(None, roles.split(",")):
            code, dot, bare = role.rpartition(".")
            event = self._event(self.grammar.language["codes"][code] if dot else event_type)
            event.arguments.append((bare, len(self.draft.mentions) - 1))

    def _settle(self, name: str, roles: str, event_type: str) -> str:
        """Walk from a class of classes to one that has words; an image's fact decides where it fits."""
        classes = self.grammar.language["classes"]
        fact = self.facts.get(roles) if event_type == self.first else None
        while "any" in classes[name]:
            members = classes[name]["any"]
            name = fact if fact is not None and fact in members else self.rng.choice(members)
        return name

    def _event(self, event_type: str) -> Happening:
        if event_type not in self.open:
            self.open[event_type] = Happening(event_type)
        return self.open[event_type]

    def _shut(self) -> None:
        self.draft.events += [event for event in self.open.values() if event.start >= 0]
        self.open = {}
