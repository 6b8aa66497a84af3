"""What the synthetic corpus holds before anything is written: its records, and which part each belongs to.

The sums by language and by modality are paper B's (its Table 1); how they meet is not told there, so modalities are
shared out evenly. Ids come first and are dealt out to train, dev and test before a text is written or a picture drawn.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal, TypeVar

from xmtl_ray.data.world_text import chance_of
from xmtl_ray.events.ontology import m2e2

T = TypeVar("T")

Shown = Literal["text", "image", "video"]
Part = Literal["train", "dev", "test"]
PARTS: tuple[Part, ...] = ("train", "dev", "test")

QUIET_SHARE, NEEDED_SHARE, PAIR_SHARE = 0.08, 0.5, 0.12
"""Records without an event; of the others with a medium, those whose caption does not tell it; texts with two."""


@dataclass(frozen=True)
class Size:
    """Records of all parts by language and by modality, and how many of each modality are tested on per language.

    The dev part has as many as the test part.
    """

    languages: dict[str, int]
    modalities: dict[Shown, int]
    test: dict[Shown, int]


SIZES = {
    "small": Size(
        {"en": 84, "zh": 128, "ru": 102, "es": 86},
        {"text": 240, "image": 136, "video": 24},
        {"text": 6, "image": 4, "video": 2},
    ),
    "paper": Size(
        {"en": 1197, "zh": 1844, "ru": 1449, "es": 1238},
        {"text": 3449, "image": 1971, "video": 308},
        {"text": 48, "image": 28, "video": 4},
    ),
}


@dataclass(frozen=True)
class Plan:
    """One record. ``types`` are its events', in the order in which they are told, none for one without."""

    id: str
    language: str
    modality: Shown
    part: Part
    types: tuple[str, ...] = ()
    needs_picture: bool = False
    """The caption does not tell whether there is an event and of which type: only picture or video does."""


def plans(seed: int, size: Size) -> list[Plan]:
    """All records in the order of their ids; parts and events come from ``seed``."""
    rng, planned = chance_of(seed, "corpus plan"), list[Plan]()
    for (language, modality), count in shares(size.languages, size.modalities).items():
        ids = [f"synthetic-{language}-{modality}-{number:04d}" for number in range(count)]
        held_out = size.test[modality]
        dealt = rng.sample(ids, 2 * held_out)
        tested, dev = set(dealt[:held_out]), set(dealt[held_out:])
        for name in ids:
            part: Part = "test" if name in tested else "dev" if name in dev else "train"
            planned.append(Plan(name, language, modality, part))
    filled = dict[str, Plan]()
    for part in PARTS:
        for modality in size.modalities:
            own = [plan for plan in planned if plan.part == part and plan.modality == modality]
            filled |= {plan.id: plan for plan in _eventful(own, rng)}
    return [filled[plan.id] for plan in planned]


def shares(languages: dict[str, int], modalities: dict[Shown, int]) -> dict[tuple[str, Shown], int]:
    """Records of each language and modality: whole numbers with the given sums, as even as those allow."""
    total = sum(languages.values())
    assert total == sum(modalities.values())
    rows, columns = list(accumulate(languages.values())), list(accumulate(modalities.values()))
    # Rounded corners of growing rectangles: their differences have the right sums.
    corner = [[0] * (len(columns) + 1)]
    corner += [[0, *(round(row * column / total) for column in columns)] for row in rows]
    return {
        (language, modality): corner[i + 1][j + 1] - corner[i][j + 1] - corner[i + 1][j] + corner[i][j]
        for i, language in enumerate(languages)
        for j, modality in enumerate(modalities)
    }


def _eventful(own: Sequence[Plan], rng: random.Random) -> Iterator[Plan]:
    """Events for the records of one part and modality: exact shares of each kind, every type equally often."""
    types = _deck(m2e2().types, rng)
    counts = [round(QUIET_SHARE * len(own))]
    if own and own[0].modality == "text":
        counts.append(round(PAIR_SHARE * len(own)))
        for plan, kind in zip(own, _shuffled(counts, len(own), rng), strict=True):
            first = next(types) if kind else ""
            second = next(name for name in types if name != first) if kind == 1 else ""
            yield replace(plan, types=tuple(name for name in (first, second) if name))
        return
    # Of the quiet ones, too, half need the picture.
    needed = round(NEEDED_SHARE * counts[0]), round(NEEDED_SHARE * (len(own) - counts[0]))
    counts = [counts[0] - needed[0], needed[0], needed[1]]
    for plan, kind in zip(own, _shuffled(counts, len(own), rng), strict=True):
        yield replace(plan, types=() if kind < 2 else (next(types),), needs_picture=kind in {1, 2})


def _shuffled(counts: Sequence[int], total: int, rng: random.Random) -> list[int]:
    """``counts[k]`` times k, and the number of counts for the rest, in any order."""
    kinds = [kind for kind, count in enumerate(counts) for _ in range(count)]
    kinds += [len(counts)] * (total - len(kinds))
    rng.shuffle(kinds)
    return kinds


def _deck(cards: Sequence[T], rng: random.Random) -> Iterator[T]:
    """The cards in any order, then all of them again in another."""
    while True:
        yield from rng.sample(cards, len(cards))
