"""Names of the synthetic corpus: invented from syllables, and spelled alike in a way of each language's own.

Nobody and no place is meant. The surprising fact: a name belongs to one of three uses, training, test or pretraining,
so that what a model copies from a test sentence it has never seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, TypedDict

import yaml

from xmtl_ray.data.world_text import chance_of

LANGUAGES = ("en", "es", "ru", "zh")
"""Codes, in the order in which corpus.yaml spells names."""

Use = Literal["train", "test", "pretrain"]
Kind = Literal["last", "town", "firm"]

_COUNTS: dict[Use, dict[Kind, int]] = {
    "train": {"last": 240, "town": 160, "firm": 80},
    "test": {"last": 60, "town": 40, "firm": 20},
    "pretrain": {"last": 240, "town": 160, "firm": 80},
}


class Events(TypedDict):
    """Words and templates of one event type, or of none."""

    triggers: dict[str, list[str]]
    templates: str


class LanguageData(TypedDict):
    """One language as corpus.yaml has it; its head explains the notation."""

    codes: list[str]
    cases: list[str]
    codes_of: dict[str, str]
    classes: dict[str, str]
    phrases: dict[str, str]
    frames: str
    pair_frames: str
    caption_frames: str
    quiet: str
    neutral: Events
    events: dict[str, Events]


class CorpusData(TypedDict):
    """All of corpus.yaml."""

    named: dict[str, tuple[str, str, str | None]]
    syllables: str
    last_syllables: str
    town_endings: list[str]
    men: str
    women: str
    languages: dict[str, LanguageData]
    scenes: dict[str, dict[str, str]]
    tasks: dict[str, dict[str, str]]


@cache
def corpus_data() -> CorpusData:
    """The content of ``corpus.yaml``."""
    raw: CorpusData = yaml.safe_load((files("xmtl_ray.data") / "corpus.yaml").read_text(encoding="utf-8"))
    return raw


@dataclass(frozen=True)
class Names:
    """Names in one language: of people, places and firms."""

    men: tuple[str, ...]
    women: tuple[str, ...]
    last: tuple[str, ...]
    town: tuple[str, ...]
    firm: tuple[str, ...]
    between: str
    """Sign between a first and a last name."""


def invent_names(seed: int) -> dict[tuple[Use, str], Names]:
    """Names by use and language. First names are everybody's; no other name of one use is another's, or of two kinds.

    In Russian all end in a vowel that foreign names keep in every case.
    """
    rng, data = chance_of(seed, "corpus names"), corpus_data()
    inner, last = (_spellings(data[kind]) for kind in ("syllables", "last_syllables"))
    taken = set[tuple[int, int, int]]()

    def invent() -> tuple[str, ...]:
        while True:
            name = rng.randrange(len(inner)), rng.randrange(len(inner)), rng.randrange(len(last))
            if name not in taken and name[0] != name[1]:
                taken.add(name)
                return tuple(
                    "".join(parts) for parts in zip(inner[name[0]], inner[name[1]], last[name[2]], strict=True)
                )

    found: dict[tuple[Use, str], Names] = {}
    for use, counts in _COUNTS.items():
        invented = {kind: [invent() for _ in range(count)] for kind, count in counts.items()}
        endings = [rng.choice(data["town_endings"]) for _ in invented["town"]]
        for place, language in enumerate(LANGUAGES):
            towns = [name[place].capitalize() for name in invented["town"]]
            found[use, language] = Names(
                men=tuple(row[place] for row in _spellings(data["men"])),
                women=tuple(row[place] for row in _spellings(data["women"])),
                last=tuple(name[place].capitalize() for name in invented["last"]),
                town=tuple(a + b for a, b in zip(towns, endings, strict=True)) if language == "zh" else tuple(towns),
                firm=tuple(name[place].capitalize() for name in invented["firm"]),
                between="·" if language == "zh" else " ",
            )
    return found


def _spellings(block: str) -> list[tuple[str, ...]]:
    return [tuple(line.split()) for line in block.splitlines()]
