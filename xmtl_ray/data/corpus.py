"""The synthetic corpus of paper B's shape: 5,728 conversations in four languages about texts, pictures and videos.

It stands in for a data set that is not public: sentences from templates (corpus_text.py), the miniature world's
pictures and videos of them (corpus_media.py). The same seed and size give the same bytes. Nothing in it is real: its
figures say whether a method works, not how well it works on news. The surprising fact: the test part is made first,
and whatever of the others would be like one of its texts or pictures is made anew.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import BaseModel, TypeAdapter

from xmtl_ray.data import videollama2
from xmtl_ray.data.corpus_drawing import Drawn, draw_all, file_of
from xmtl_ray.data.corpus_names import Names, Use, corpus_data, invent_names
from xmtl_ray.data.corpus_plan import PARTS, SIZES, Part, Plan, Shown, plans
from xmtl_ray.data.corpus_text import Told, Writer
from xmtl_ray.data.leaks import Texts, text_key
from xmtl_ray.data.world import pool
from xmtl_ray.data.world_layouts import write_json
from xmtl_ray.data.world_text import chance_of
from xmtl_ray.events.answers import write_samples
from xmtl_ray.events.json_format import dumps
from xmtl_ray.events.records import Conversation, DataError, Media, Turn
from xmtl_ray.events.strict_json import stream_list

VERSION = "corpus-1"
"""Written into corpus.json; changes when the same seed gives another corpus."""

SUMMARY = "corpus.json"
"""Written last: a folder that has it holds a whole corpus."""

FACTS = "facts.jsonl"
"""What is known about each record and given to no model: its part, its events' types, what its medium shows."""

BESIDE_SHARE = 0.35
"""Texts that have a sentence without an event beside the one that tells theirs."""

SPACE = "corpus"
"""Sets this corpus's chance apart from others of the same seed."""

_README = """\
# A synthetic corpus for multimedia event extraction

Made by `xmtl corpus`, version {version}, seed {seed}, size {size}. **Nothing in it is real**: sentences come from
templates, names are invented from syllables, pictures and videos are drawn by a program. A name that somebody bears is
chance. What a model scores on it says whether a method works, not how well it works on news.

It has the shape of the data set of "Cross-Lingual Multimodal Event Extraction: A Unified Framework for
Parameter-Efficient Fine-Tuning", which is not public: languages and modalities in its proportions.

| file | content |
|---|---|
| `train.json`, `dev.json`, `test.json` | conversations as VideoLLaMA2 reads them; media below this folder |
| `dev_samples.jsonl`, `test_samples.jsonl` | the same with their gold events, for `xmtl evaluate generative` |
| `images/`, `videos/` | JPEG; mp4 (H.264) |
| `facts.jsonl` | for analysis only, never for a model: see below |
| `corpus.json` | version, seed, size and counts |

The parts were dealt out by id before anything was written. Names of people, places and firms in the test part occur
nowhere else, and no text or picture of it is like one of the other parts.

Half of the records with a medium have a caption that tells their event; the caption of the others would fit every
event, and only the picture or video tells whether there is one and of which type (`needs_picture` in `facts.jsonl`).
Roles follow from the type: who is named first and second is

{roles}
"""


def write_corpus(folder: Path, seed: int, size: str = "paper", processes: int = 1) -> dict[str, int]:
    """Write the corpus of ``seed`` and ``size`` (small, paper) into ``folder``; returns what was written.

    Files already there are overwritten, others left alone. The number of processes that draw changes no byte. Raises
    DataError for an unknown size.
    """
    if size not in SIZES:
        raise DataError(folder, None, "size", size, f"one of {', '.join(SIZES)}")
    planned, names = plans(seed, SIZES[size]), invent_names(seed)
    folder.mkdir(parents=True, exist_ok=True)
    told = _texts(planned, names, seed)
    shown = {one.id: one for one in _media(folder, planned, seed, processes)}
    counts = Counter[str]()
    records = [(plan, _conversation(plan, told[plan.id])) for plan in planned]
    chance_of(seed, "corpus order").shuffle(records)
    for part in PARTS:
        own = [record for plan, record in records if plan.part == part]
        counts[part] = videollama2.write(folder / f"{part}.json", own)
        if part != "train":
            samples = (videollama2.sample(record, folder / f"{part}.json") for record in own)
            write_samples(folder / f"{part}_samples.jsonl", samples)
    for plan in planned:
        counts.update((plan.language, plan.modality))
        counts["needs_picture"] += plan.needs_picture
    facts = (Facts(**asdict(plan), drawn=shown.get(plan.id)) for plan in planned)
    _write_lines(folder / FACTS, (row.model_dump(exclude_none=True) for row in facts))
    (folder / "README.md").write_text(
        _README.format(version=VERSION, seed=seed, size=size, roles=_roles_table()), encoding="utf-8"
    )
    write_json(folder / SUMMARY, {"version": VERSION, "seed": seed, "size": size, "counts": dict(counts)})
    return dict(counts)


def _texts(planned: Sequence[Plan], names: dict[tuple[Use, str], Names], seed: int) -> dict[str, Told]:
    """A text for each record; all differ, those of the test part from all others by much."""
    told, keys, tested = dict[str, Told](), set[str](), Texts()
    for plan in sorted(planned, key=lambda plan: plan.part != "test"):
        use: Use = "test" if plan.part == "test" else "train"
        attempt = 0
        while True:
            text = compose(plan, names[use, plan.language], seed, attempt)
            attempt += 1
            words = _words(plan.language, videollama2.prompt(plan.language, text.text))
            key = text_key(words)
            if key in keys or (use == "test" and not text.named):
                continue
            if use == "test":
                tested.remember(plan.id, words)
            elif tested.like(words):
                continue
            break
        keys.add(key)
        told[plan.id] = text
    return told


def _words(language: str, text: str) -> Sequence[str]:
    """What two texts are compared by: Chinese has no spaces."""
    return list(text) if language == "zh" else text.split()


def compose(plan: Plan, names: Names, seed: int, attempt: int = 0) -> Told:
    """The text of a record, the ``attempt``-th that its id stands for."""
    rng = chance_of(seed, f"corpus text {plan.id} {attempt}")
    writer = Writer(plan.language, names, rng)
    if plan.needs_picture:
        return writer.neutral(plan.types[0] if plan.types else "")
    if not plan.types:
        told = writer.quiet()
    elif plan.modality == "text":
        told = writer.sentence(plan.types)
    else:
        return writer.caption(plan.types[0])
    return writer.beside(told) if rng.random() < BESIDE_SHARE else told


def _conversation(plan: Plan, told: Told) -> Conversation:
    turn = Turn(videollama2.prompt(plan.language, told.text), dumps(told.events))
    media = None if plan.modality == "text" else Media(plan.modality, file_of(plan.id, plan.modality))
    return Conversation(plan.id, (turn,), plan.language, media)


def _media(folder: Path, planned: Sequence[Plan], seed: int, processes: int) -> list[Drawn]:
    wanted = [plan for plan in planned if plan.modality != "text"]
    parts = [[plan for plan in wanted if (plan.part == "test") == tested] for tested in (True, False)]
    with pool(processes) as run:
        tested = draw_all(run, folder, SPACE, seed, parts[0])
        return tested + draw_all(run, folder, SPACE, seed, parts[1], tested)


class Facts(BaseModel):
    """What a line of facts.jsonl says of a record; ``drawn`` is None for one without a medium."""

    id: str
    part: Part
    language: str
    modality: Shown
    types: tuple[str, ...]
    needs_picture: bool
    drawn: Drawn | None = None


def read_facts(folder: Path) -> tuple[Facts, ...]:
    """The facts about the records of the corpus in ``folder``, in the order of their ids. Raises DataError."""
    return tuple(stream_list(folder / FACTS, TypeAdapter(Facts), lambda _, facts: facts))


def _roles_table() -> str:
    rows = "| event type | first | second | place |\n|---|---|---|---|"
    for event_type, roles in corpus_data()["named"].items():
        rows += f"\n| {event_type} | {' | '.join(role or '–' for role in roles)} |"
    return rows


def _write_lines(path: Path, rows: Iterable[dict[str, object]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
