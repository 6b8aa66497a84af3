"""Event types, roles and tags: what the labels are and which go together.

Labels are read from ``ontology.yaml``; the (imSitu verb, role) → (type, role) map from ``imsitu_to_m2e2.tsv``, which
is this project's own, written from the verbs' meaning. The ACE 2005 → M2E2 map is the ontology itself, under its
``version``: a type or role of ACE that it lists keeps its name, any other (time, price, crime) is dropped.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

import yaml

from xmtl_ray.events.records import DataError, Span

NONE = "None"
"""The role of an entity or object that takes no part in the event."""


@dataclass(frozen=True)
class Ontology:
    """Event types with their roles, in a fixed order: the order of every label index."""

    version: str
    roles_of: dict[str, tuple[str, ...]]

    @property
    def types(self) -> tuple[str, ...]:
        """Event types, e.g. ``Justice:Arrest-Jail``; the label order of verb classification."""
        return tuple(self.roles_of)

    @property
    def roles(self) -> tuple[str, ...]:
        """``None`` first, then every role once: the label order of both argument classifiers."""
        seen = dict.fromkeys(role for roles in self.roles_of.values() for role in roles)
        return (NONE, *seen)

    @property
    def tags(self) -> tuple[str, ...]:
        """``O``, then ``B-`` and ``I-`` of each type: the label order of trigger detection."""
        return ("O", *(f"{prefix}-{event_type}" for event_type in self.types for prefix in "BI"))

    def allows(self, event_type: str, role: str) -> bool:
        """Whether ``role`` belongs to ``event_type``."""
        return role in self.roles_of.get(event_type, ())


@cache
def m2e2() -> Ontology:
    """The benchmark's ontology."""
    raw = yaml.safe_load((files("xmtl_ray.events") / "ontology.yaml").read_text(encoding="utf-8"))
    return Ontology(raw["version"], {name: tuple(roles) for name, roles in raw["types"].items()})


def type_words(event_type: str) -> str:
    """``Justice:Arrest-Jail`` → ``justice arrest jail``: the type as a text encoder can read it."""
    return event_type.replace(":", " ").replace("-", " ").lower()


@dataclass(frozen=True)
class VerbMap:
    """imSitu verb → event type, and (verb, role) → M2E2 role."""

    type_of: dict[str, str]
    role_of: dict[tuple[str, str], str]
    version: str = ""
    """What the file's comments call it; empty where they do not."""


COLUMNS = ("imsitu_verb", "imsitu_role", "m2e2_event", "m2e2_role")
"""Of a verb map's file."""


def verb_map(path: Path | None = None) -> VerbMap:
    """Our (imSitu verb, role) map, or the user's file in the same layout.

    Tab-separated with a header line; columns ``imsitu_verb imsitu_role m2e2_event m2e2_role``. Further columns are
    ignored, and lines starting with ``#`` but for ``version NAME:`` in one. Raises DataError for an unknown type or
    role, or a verb with two types.
    """
    source = files("xmtl_ray.events") / "imsitu_to_m2e2.tsv" if path is None else path
    text = source.read_text(encoding="utf-8")
    version = re.search(r"^#.*\bversion (\S+):", text, re.MULTILINE)
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    ontology, type_of, role_of = m2e2(), dict[str, str](), dict[tuple[str, str], str]()
    for number, row in enumerate(csv.DictReader(lines, delimiter="\t"), start=2):
        try:
            verb, verb_role, event_type, role = (row[name] for name in COLUMNS)
        except KeyError as error:
            raise DataError(str(source), f"line {number}", str(error), sorted(row), "that column") from None
        if event_type not in ontology.roles_of:
            raise DataError(str(source), f"line {number}", "m2e2_event", event_type, f"one of {ontology.types}")
        if role not in ontology.roles:
            raise DataError(str(source), f"line {number}", "m2e2_role", role, f"one of {ontology.roles}")
        if type_of.setdefault(verb, event_type) != event_type:
            raise DataError(str(source), f"line {number}", "m2e2_event", event_type, f"{type_of[verb]}, as for {verb}")
        role_of[verb, verb_role] = role
    return VerbMap(type_of, role_of, version[1] if version else "")


def mentions(tags: Sequence[str]) -> list[tuple[str, Span]]:
    """BIO tags → (event type, trigger span) in order; an ``I-`` that continues nothing begins a mention.

    >>> mentions(["O", "B-Life:Die", "I-Life:Die", "I-Contact:Meet"])
    [('Life:Die', Span(start=1, end=3)), ('Contact:Meet', Span(start=3, end=4))]
    """
    found: list[tuple[str, Span]] = []
    for position, tag in enumerate(tags):
        prefix, _, event_type = tag.partition("-")
        if prefix == "O":
            continue
        if prefix == "I" and found and found[-1][0] == event_type and found[-1][1].end == position:
            found[-1] = (event_type, Span(found[-1][1].start, position + 1))
        else:
            found.append((event_type, Span(position, position + 1)))
    return found
