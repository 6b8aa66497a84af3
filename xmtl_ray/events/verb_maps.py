"""Two (imSitu verb, role) → (type, role) maps side by side: where they differ, and how many images that concerns."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, TypeAdapter

from xmtl_ray.events.ontology import COLUMNS, VerbMap, m2e2
from xmtl_ray.events.records import DataError
from xmtl_ray.events.strict_json import read_json, read_text

IMAGES_COLUMN = "images_in_swig_all_ims_list"
"""Of a table of verbs: how many images each has."""


@dataclass(frozen=True)
class RoleDifference:
    """A role of a verb that two maps treat differently; None where a map leaves it out."""

    role: str
    ours: str | None
    theirs: str | None


@dataclass(frozen=True)
class VerbDifference:
    """A verb that two maps treat differently."""

    verb: str
    ours: str | None
    """Its event type; None where the map does not list the verb."""
    theirs: str | None
    roles: tuple[RoleDifference, ...]
    """Those that differ."""
    images: int | None
    """Images of the verb; None where they were not counted."""


def differences(ours: VerbMap, theirs: VerbMap, images: Mapping[str, int] | None = None) -> list[VerbDifference]:
    """The verbs that the maps treat differently, by type or by a role, in alphabetical order."""
    found = []
    for verb in sorted(ours.type_of.keys() | theirs.type_of.keys()):
        own, other = roles_of(ours, verb), roles_of(theirs, verb)
        roles = tuple(
            RoleDifference(role, own.get(role), other.get(role))
            for role in sorted(own.keys() | other.keys())
            if own.get(role) != other.get(role)
        )
        types = ours.type_of.get(verb), theirs.type_of.get(verb)
        if roles or types[0] != types[1]:
            found.append(VerbDifference(verb, *types, roles, None if images is None else images.get(verb, 0)))
    return found


def roles_of(verb_map: VerbMap, verb: str) -> dict[str, str]:
    """The roles of ``verb`` that the map lists, each with its M2E2 role."""
    return {own: role for (name, own), role in verb_map.role_of.items() if name == verb}


def as_tsv(verb_map: VerbMap) -> str:
    """The map in the layout that ``ontology.verb_map`` reads."""
    lines = (
        [f"# (imSitu verb, role) -> (M2E2 event type, role), version {verb_map.version}:"] if verb_map.version else []
    )
    lines.append("\t".join(COLUMNS))
    for (verb, own), role in verb_map.role_of.items():
        lines.append("\t".join((verb, own, verb_map.type_of[verb], role)))
    return "\n".join(lines) + "\n"


def outside_schema(verb_map: VerbMap) -> dict[tuple[str, str], list[str]]:
    """(type, role) that the ontology does not have, each with the verbs that the map gives it to."""
    found = dict[tuple[str, str], list[str]]()
    for (verb, _), role in verb_map.role_of.items():
        if not m2e2().allows(verb_map.type_of[verb], role):
            found.setdefault((verb_map.type_of[verb], role), []).append(verb)
    return found


@dataclass(frozen=True)
class Coverage:
    """What of imSitu a map makes images of one event type."""

    verbs: int
    images: int | None


def coverage(verb_map: VerbMap, images: Mapping[str, int] | None = None) -> dict[str, Coverage]:
    """Event type → its verbs, and their images where they were counted."""
    verbs = {event_type: [v for v, own in verb_map.type_of.items() if own == event_type] for event_type in m2e2().types}
    return {
        event_type: Coverage(len(own), None if images is None else sum(images.get(verb, 0) for verb in own))
        for event_type, own in verbs.items()
    }


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True)

    verb: str


_ANNOTATIONS = TypeAdapter(dict[str, _Record])


def read_counts(path: Path) -> dict[str, int]:
    """Images of each verb, from imSitu's (or SWiG's) annotations or from a table of verbs.

    A file that ends in ``.json`` is the former; another one is tab-separated with columns ``imsitu_verb`` and
    ``images_in_swig_all_ims_list``, further columns are ignored. Raises DataError.
    """
    if path.suffix == ".json":
        return dict(Counter(record.verb for record in read_json(path, _ANNOTATIONS).values()))
    counts = dict[str, int]()
    lines = [line for line in read_text(path).split("\n") if line.strip() and not line.startswith("#")]
    for number, row in enumerate(csv.DictReader(lines, delimiter="\t"), start=2):
        for column in ("imsitu_verb", IMAGES_COLUMN):
            if row.get(column) is None:
                raise DataError(path, f"line {number}", column, sorted(map(str, row)), "that column")
        if not row[IMAGES_COLUMN].isascii() or not row[IMAGES_COLUMN].isdigit():
            raise DataError(path, f"line {number}", IMAGES_COLUMN, row[IMAGES_COLUMN], "a number of images")
        counts[row["imsitu_verb"]] = int(row[IMAGES_COLUMN])
    return counts
