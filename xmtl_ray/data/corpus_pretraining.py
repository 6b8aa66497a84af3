"""Plain material for a first, short training of a tiny language model, before it is taught to extract events.

Texts to repeat, to look words up in, to go on with, to imagine a picture of and to copy marked words of as JSON, and
pictures to describe, in the four languages of the synthetic corpus: what a language model that is to be fine-tuned
knows already. No event is extracted in it and no event type or role is named. The surprising fact: its names are its
own, and no picture is like one of the corpus's test part, so that nothing that is tested has been seen.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from xmtl_ray.data import videollama2
from xmtl_ray.data.corpus import read_facts
from xmtl_ray.data.corpus_drawing import Drawn, draw_all, file_of
from xmtl_ray.data.corpus_names import LANGUAGES, Names, Use, corpus_data, invent_names
from xmtl_ray.data.corpus_plan import Shown
from xmtl_ray.data.corpus_text import Writer
from xmtl_ray.data.world import pool
from xmtl_ray.data.world_text import chance_of
from xmtl_ray.events.ontology import m2e2, verb_map
from xmtl_ray.events.records import Conversation, Media, Turn

SPACE = "pretraining"
"""Sets its chance apart from that of the corpus of the same seed."""

FILE = "pretrain.json"

Task = Literal["repeat", "after", "continue", "about", "marked", "image", "video"]
_TASKS: tuple[Task, ...] = (
    *(*("repeat",) * 4, *("after",) * 4, *("continue",) * 2, *("about",) * 6, *("marked",) * 6),
    *(*("image",) * 7, "video"),
)
"""A task's share is its share of the tuple."""

_DECOYS = 0.3
"""Share of media in which nothing happens."""

_CUE, _FOLLOWING = 2, 4
"""Words that are asked about, at most, and that are the answer, at most; characters of Chinese are twice as many."""

_MARKED, _PARTS = 0.25, 4
"""Chance that a word begins a marked stretch, and such stretches of a text, at most."""


@dataclass(frozen=True)
class Pretext:
    """One record to be: what is asked in which language; ``types`` is the event that its medium shows."""

    id: str
    language: str
    task: Task
    types: tuple[str, ...]

    @property
    def modality(self) -> Shown:
        """What kind of record it is."""
        return self.task if self.task in {"image", "video"} else "text"


def write_pretraining(
    folder: Path, seed: int, count: int, processes: int = 1, corpus: Path | None = None
) -> dict[str, int]:
    """Write ``count`` conversations into ``folder``, with their media; returns how many of each task.

    ``corpus`` is the folder of the corpus whose test part nothing may be like; the same seed as that one's gives other
    names than it has. The number of processes changes no byte. Raises DataError where ``corpus`` is none.
    """
    tested = [] if corpus is None else [row.drawn for row in read_facts(corpus) if row.part == "test" and row.drawn]
    planned = _plan(seed, count)
    folder.mkdir(parents=True, exist_ok=True)
    with pool(processes) as run:
        media = [row for row in planned if row.modality != "text"]
        drawn = {one.id: one for one in draw_all(run, folder, SPACE, seed, media, tested)}
    names = invent_names(seed)
    rows = [_conversation(row, names, seed, drawn.get(row.id)) for row in planned]
    videollama2.write(folder / FILE, rows)
    counts: dict[str, int] = {}
    for row in planned:
        counts[row.task] = counts.get(row.task, 0) + 1
    return counts


def pretraining_texts(seed: int, count: int) -> list[Conversation]:
    """As many conversations without a medium as ``count``, in the order of their numbers; nothing is written."""
    names, found, number = invent_names(seed), list[Conversation](), 0
    while len(found) < count:
        row = _pretext(seed, number)
        number += 1
        if row.modality == "text":
            found.append(_conversation(row, names, seed, None))
    return found


def _plan(seed: int, count: int) -> list[Pretext]:
    return [_pretext(seed, number) for number in range(count)]


def _pretext(seed: int, number: int) -> Pretext:
    rng, language = chance_of(seed, f"{SPACE} plan {number}"), LANGUAGES[number % len(LANGUAGES)]
    types, task = () if rng.random() < _DECOYS else (rng.choice(m2e2().types),), rng.choice(_TASKS)
    if task == "about" and not types:
        task = "repeat"  # nothing happens that could be seen
    return Pretext(f"synthetic-pretrain-{language}-{number:05d}", language, task, types)


def _conversation(row: Pretext, names: dict[tuple[Use, str], Names], seed: int, drawn: Drawn | None) -> Conversation:
    ask = corpus_data()["tasks"][row.language][row.task]
    if drawn is not None:
        turn = Turn(ask, description(drawn.verb, row.language))
        return Conversation(row.id, (turn,), row.language, Media(row.task, file_of(row.id, row.modality)))  # type: ignore[arg-type]
    rng = chance_of(seed, f"{SPACE} text {row.id}")
    writer = Writer(row.language, names["pretrain", row.language], rng)
    told = writer.quiet() if not row.types else writer.sentence(row.types)
    if rng.random() < 0.3:
        told = writer.beside(told)
    if row.task == "about":
        turn = Turn(f"{ask}\n{told.text}", description(rng.choice(_verbs()[row.types[0]]), row.language))
    else:
        turn = _TURNS[row.task](ask, told.text, row.language, rng.random())
    return Conversation(row.id, (turn,), row.language)


def description(verb: str, language: str) -> str:
    """What a scene that is drawn for an imSitu verb shows, in a sentence."""
    scenes = corpus_data()["scenes"]
    text = next(scene[language] for verbs, scene in scenes.items() if verb in verbs.split("|"))
    return f"{text[0].upper()}{text[1:]}{'。' if language == 'zh' else '.'}"


@cache
def _verbs() -> dict[str, list[str]]:
    """Event type → imSitu verbs that a scene is drawn for."""
    type_of, found = verb_map().type_of, dict[str, list[str]]()
    for verb in (verb for verbs in corpus_data()["scenes"] for verb in verbs.split("|")):
        if verb in type_of:
            found.setdefault(type_of[verb], []).append(verb)
    return found


def _repeat(ask: str, text: str, language: str, chance: float) -> Turn:
    return Turn(f"{ask}\n{text}", text)


def _after(ask: str, text: str, language: str, chance: float) -> Turn:
    """Asks what follows words that are in the text once."""
    words, gap, often = _units(text, language)
    cue = _CUE * often
    # Something has to follow that is more than the full stop of a Chinese sentence.
    starts = range(max(1, len(words) - cue - often + 1))
    once = [at for at in starts if text.count(gap.join(words[at : at + cue])) == 1] or [0]
    at = once[int(chance * len(once))]
    asked, answer = gap.join(words[at : at + cue]), gap.join(words[at + cue : at + cue + _FOLLOWING * often])
    return Turn(f"{ask.format(cue=asked)}\n{text}", answer)


def _marked(ask: str, text: str, language: str, chance: float) -> Turn:
    """Some stretches of the text between asterisks, to be written as JSON in their order."""
    words, gap, often = _units(text, language)
    rng = chance_of(0, f"{SPACE} marks {chance}")
    at, shown, parts = 0, list[str](), list[str]()
    while at < len(words):
        length = rng.randint(1, _FOLLOWING * often) if rng.random() < _MARKED / often else 0
        if length and len(parts) < _PARTS:
            parts.append(gap.join(words[at : at + length]))
            shown.append(f"*{parts[-1]}*")
        else:
            length = 1
            shown.append(words[at])
        at += length
    answer = {"parts": [{"number": number, "text": part} for number, part in enumerate(parts, 1)]}
    return Turn(f"{ask}\n{gap.join(shown)}", json.dumps(answer, ensure_ascii=False))


def _continue(ask: str, text: str, language: str, chance: float) -> Turn:
    words, gap, _ = _units(text, language)
    half = len(words) // 2
    return Turn(f"{ask}\n{gap.join(words[:half])}", gap.join(words[half:]))


def _units(text: str, language: str) -> tuple[Sequence[str], str, int]:
    """What a text is cut into, what stands between, and how many of them make a word or so."""
    return (text, "", 2) if language == "zh" else (text.split(" "), " ", 1)


_TURNS: dict[str, Callable[[str, str, str, float], Turn]] = {
    "repeat": _repeat,
    "after": _after,
    "continue": _continue,
    "marked": _marked,
}
