"""The miniature news world: a seeded corpus in the files of ACE 2005, imSitu + SWiG, VOA and M2E2.

It stands in for data that licences keep away: sentences from a grammar (world_text.py), pictures drawn with their
boxes (world_images.py, world_scenes.py), documents with gold coreference (world_documents.py). The same seed and size
give the same bytes. Nothing here is real: its figures say whether a method works, not how well it works on news.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import starmap
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image as Pictures
from pydantic import BaseModel, TypeAdapter

from xmtl_ray.data import ace05
from xmtl_ray.data import world_layouts as layouts
from xmtl_ray.data.world_documents import write_documents
from xmtl_ray.data.world_scenes import Drawn, draw
from xmtl_ray.data.world_text import Draft, Grammar, Mention, Names, chance_of, invent_names
from xmtl_ray.events.ontology import m2e2
from xmtl_ray.events.records import DataError, Sentence
from xmtl_ray.events.strict_json import read_json

VERSION = "world-2"
"""Written into world.json; changes when the same seed gives another world."""


def version_of(folder: Path) -> str | None:
    """The version of the world that lies in ``folder``; None if none does. Raises DataError for a broken world.json."""
    summary = folder / SUMMARY
    return read_json(summary, TypeAdapter(_Summary)).version if summary.exists() else None


def pair_truth(folder: Path) -> dict[str, PairTruth]:
    """Truth about each caption pair of the world that lies in ``folder``. Raises DataError."""
    return read_json(folder / SUMMARY, TypeAdapter(_Truth)).pairs


class _Summary(BaseModel):
    version: str


class PairTruth(BaseModel):
    """Types of events that a caption tells and its picture shows."""

    text: tuple[str, ...]
    image: tuple[str, ...]


class _Truth(BaseModel):
    pairs: dict[str, PairTruth]


Run = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], Iterator[Any]]
"""What ``pool`` gives."""


@dataclass(frozen=True)
class Size:
    """How much of each source is written: sentences, images, caption pairs, documents."""

    ace_train: int
    ace_dev: int
    imsitu_train: int
    imsitu_dev: int
    pairs: int
    documents: int


SIZES = {
    "small": Size(200, 60, 160, 60, 40, 18),
    "medium": Size(8000, 250, 12000, 250, 300, 100),
    "large": Size(32000, 1000, 48000, 1000, 1500, 500),
}

SUMMARY = "world.json"
"""Written last: a folder that has it holds a whole world."""

BLOCK = 500
"""Images drawn one after another; blocks are drawn side by side."""

UNMAPPED_SHARE = 0.25
"""Share of imSitu pictures whose verb shows no event of the benchmark."""


def write_world(out: Path, seed: int, size: str, processes: int = 1, pairs: int | None = None) -> dict[str, int]:
    """Write the world of ``seed`` and ``size`` (small, medium, large) under ``out``; returns what was written.

    Files already there are overwritten, others left alone. The number of processes that draw changes no byte, and
    ``pairs``, another number of caption pairs than the size has, none outside the pairs' own files and world.json.
    Raises DataError for an unknown size.
    """
    if size not in SIZES:
        raise DataError(out, None, "size", size, f"one of {', '.join(SIZES)}")
    how_much, names = SIZES[size], invent_names(seed)
    if pairs is not None:
        how_much = replace(how_much, pairs=pairs)
    counts: dict[str, int] = {}
    with pool(processes) as run:
        images = {
            part: run(partial(_draw_imsitu, out / "imsitu" / "images", part, seed), _blocks(count))
            for part, count in (("train", how_much.imsitu_train), ("dev", how_much.imsitu_dev))
        }
        captioned = run(_write_pairs, [(out / "voa", how_much.pairs, names, chance_of(seed, "voa"))])
        documents = run(write_documents, [(out / "m2e2", how_much.documents, names, chance_of(seed, "m2e2"))])
        for part, count in (("train", how_much.ace_train), ("dev", how_much.ace_dev)):
            chance = chance_of(seed, f"ace {part}")
            counts[f"ace_{part}_sentences"] = _write_ace(out / "ace", part, count, names, chance)
        layouts.write_json(out / "imsitu" / "imsitu_space.json", layouts.imsitu_space())
        for part, blocks in images.items():
            counts[f"imsitu_{part}_images"] = _write_imsitu(out / "imsitu", part, blocks)
        truth = next(captioned)
        counts["pairs"] = len(truth)
        counts |= next(documents)
    summary = {"version": VERSION, "seed": seed, "size": size, "counts": counts, "pairs": truth}
    layouts.write_json(out / SUMMARY, summary)
    return counts


@contextmanager
def pool(processes: int) -> Iterator[Run]:
    """Calls a function once per tuple of arguments, in other processes if asked for; results in order."""
    if processes == 1:
        yield starmap
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        yield lambda function, arguments: pool.map(function, *zip(*arguments, strict=True))


def _blocks(count: int) -> list[tuple[int, int]]:
    """First and behind-last number of each block of images: a block has its own chance, and can be drawn alone."""
    return [(start, min(count, start + BLOCK)) for start in range(0, count, BLOCK)]


def _write_ace(folder: Path, part: str, count: int, names: Names, rng: random.Random) -> int:
    grammar = Grammar(rng, names)
    records = []
    for number in range(count):
        types = grammar.some_types()
        caption = len(types) == 1 and rng.random() < 0.3
        draft = grammar.caption(types[0]) if caption else grammar.sentence(types)
        records.append(layouts.jmee(draft, f"WORLD_ACE_{part}_{number:05d}"))
    layouts.write_json(folder / f"{part}.json", records)
    return count


def sentences(count: int, seed: int) -> tuple[Sentence, ...]:
    """As many training sentences as a world of this seed begins with, read as any ACE file is; nothing is kept."""
    with TemporaryDirectory() as folder:
        _write_ace(Path(folder), "train", count, invent_names(seed), chance_of(seed, "ace train"))
        return ace05.read(Path(folder) / "train.json")


def _draw_imsitu(folder: Path, part: str, seed: int, start: int, end: int) -> dict[str, layouts.Json]:
    """Draw images ``start`` to ``end`` of a part; returns their SWiG records by file name."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, types = chance_of(seed, f"imsitu {part} {start}"), m2e2().types
    grounded: dict[str, layouts.Json] = {}
    for number in range(start, end):
        # every type and the unmapped verbs get their exact share, in turn
        unmapped = int((number + 1) * UNMAPPED_SHARE) > int(number * UNMAPPED_SHARE)
        drawn = draw(rng, ["" if unmapped else types[number % len(types)] if rng.random() < 0.5 else rng.choice(types)])
        _, verb, figures, _ = drawn.scenes[0]
        name = f"{verb}_{number + (1 if part == 'train' else 100001)}.jpg"
        grounded[name] = layouts.swig(verb, figures, *drawn.picture.size, rng)
        save(drawn.picture, folder / name)
    return grounded


def _write_imsitu(folder: Path, part: str, blocks: Iterable[dict[str, layouts.Json]]) -> int:
    grounded = {name: record for block in blocks for name, record in block.items()}
    situations = {name: {"verb": record["verb"], "frames": record["frames"]} for name, record in grounded.items()}
    layouts.write_json(folder / f"{part}.json", situations)
    layouts.write_json(folder / "swig" / f"{part}.json", grounded)
    return len(grounded)


def _write_pairs(folder: Path, count: int, names: Names, rng: random.Random) -> dict[str, dict[str, list[str]]]:
    """Captioned pictures; about six in ten tell one event twice, the others on one side, on neither, or disagree."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    grammar, types = Grammar(rng, names), m2e2().types
    listing: dict[str, dict[str, layouts.Json]] = {}
    texts: dict[str, layouts.Json] = {}
    objects: dict[str, list[list[object]]] = {}
    truth: dict[str, dict[str, list[str]]] = {}
    number, document, within = 0, "", 0
    while len(truth) < count:
        if not document or rng.random() < 0.6:
            number += 1
            day = f"2025.{rng.randint(1, 12):02d}.{rng.randint(1, 28):02d}"
            document, within = f"WORLD_EN_NW_{day}.{number:07d}", 0
        pair = f"{document}_{within}"
        drawn, draft, event_type = _caption_pair(grammar, rng, types)
        text, _ = layouts.plain_text(draft.words)
        file = f"{pair}.jpg"
        save(drawn.picture, folder / "images" / file)
        listing.setdefault(document, {})[str(within)] = {"url": f"https://example.org/world/{file}", "cap": text}
        texts[pair] = layouts.voa_entities(draft)
        objects[file] = layouts.detections(drawn.figures, *drawn.picture.size, rng)
        told = dict.fromkeys(event.type for event in draft.events if event.type in types)
        truth[pair] = {"text": list(told), "image": [event_type] if event_type else []}
        within += rng.choice((1, 1, 2))
    layouts.write_json(folder / "img_dataset.json", listing)
    layouts.write_json(folder / "text_entity.json", texts)
    layouts.write_json(folder / "image_entity.json", objects)
    return truth


def _caption_pair(grammar: Grammar, rng: random.Random, types: tuple[str, ...]) -> tuple[Drawn, Draft, str]:
    chance = rng.random()
    shown = rng.choice(types) if chance < 0.82 else ""
    drawn = draw(rng, [shown])
    facts = drawn.scenes[0][3]
    if chance < 0.6:
        draft = grammar.caption(shown, facts) if rng.random() < 0.65 else grammar.sentence([shown], facts)
    elif chance < 0.72 or 0.82 <= chance < 0.9:
        draft = grammar.caption(rng.choice([name for name in types if name != shown]))
    else:
        draft = grammar.sentence([])
    return drawn, _filed(draft) if rng.random() < 0.25 else draft, shown


def _filed(draft: Draft) -> Draft:
    """The caption of an archive picture: ``FILE -`` before it."""
    mentions = [Mention(m.start + 2, m.end + 2, m.head_start + 2, m.head_end + 2, m.type) for m in draft.mentions]
    for event in draft.events:
        event.start, event.end = event.start + 2, event.end + 2
    return Draft(["FILE", "-", *draft.words], mentions, draft.events)


def save(picture: Pictures.Image, path: Path) -> None:
    """Write a picture as the JPEG that the sources have."""
    picture.save(path, "JPEG", quality=92)
