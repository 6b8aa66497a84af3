"""Test documents of the miniature news world in the M2E2 layout: sentences, pictures, and which of them corefer.

A document tells a few stories. A story is one event that pictures show, and that sentences may tell: those corefer.
Around them stand sentences and pictures of other events or of none. In one document of eight a sentence tells an
event of a pictured type that is another event, so that agreeing on a type is good evidence and no proof.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path

from xmtl_ray.data import world_layouts as layouts
from xmtl_ray.data.world_scenes import Drawn, draw
from xmtl_ray.data.world_stage import Facts
from xmtl_ray.data.world_text import Draft, Grammar, Names
from xmtl_ray.events.ontology import m2e2

TWO_EVENT_SHARE, NO_EVENT_SHARE, TOLD_SHARE, DECEPTIVE_SHARE = 0.06, 0.22, 0.72, 0.125


@dataclass
class _Telling:
    """A sentence, and the event type and pictures it corefers with, if any."""

    draft: Draft
    type: str = ""
    pictures: list[int] = field(default_factory=list)


@dataclass
class _Document:
    """Pictures with the events they show, and sentences, before they get ids. ``told`` are (picture, type)."""

    pictures: list[Drawn] = field(default_factory=list)
    tellings: list[_Telling] = field(default_factory=list)
    told: set[tuple[int, str]] = field(default_factory=set)


def write_documents(folder: Path, count: int, names: Names, rng: random.Random) -> dict[str, int]:
    """Write ``count`` documents under ``folder`` in M2E2's files; returns how much there is of what."""
    (folder / "image").mkdir(parents=True, exist_ok=True)
    grammar = Grammar(rng, names, test=True)
    texts: dict[bool, list[layouts.Json]] = {False: [], True: []}
    images: dict[bool, dict[str, layouts.Json]] = {False: {}, True: {}}
    objects: dict[str, list[list[object]]] = {}
    coreference: list[str] = []
    sentences = 0
    for number in range(1, count + 1):
        day = f"2026.{rng.randint(1, 12):02d}.{rng.randint(1, 28):02d}"
        name = f"WORLD_EN_NW_{day}.{number:07d}"
        document = _compose(grammar, rng)
        files = [f"{name}_{k}.jpg" for k in range(len(document.pictures))]
        for k, drawn in enumerate(document.pictures):
            drawn.picture.save(folder / "image" / files[k], "JPEG", quality=92)
            objects[files[k]] = layouts.detections(drawn.figures, *drawn.picture.size, rng)
            for event_type, _, figures, _ in drawn.scenes:
                if event_type:
                    record = layouts.m2e2_image(event_type, figures, rng)
                    images[(k, event_type) in document.told][files[k].removesuffix(".jpg")] = record
        start = 0
        for k, telling in enumerate(document.tellings):
            sentence_id = f"{name}_{k}"
            types = {event.type for event in telling.draft.events} & set(m2e2().types)
            corefers = {telling.type} if telling.type else set()
            record = layouts.m2e2_sentence(telling.draft, sentence_id, start, files, corefers)
            start += len(layouts.plain_text(telling.draft.words)[0]) + 1
            if corefers:
                texts[True].append(record)
                coreference += [f"{sentence_id}\t{files[picture]}\t{telling.type}" for picture in telling.pictures]
            if not corefers or types - corefers or rng.random() < 0.12:
                at = int(str(record["sentence_start"]))
                texts[False].append(layouts.m2e2_sentence(telling.draft, sentence_id, at, files, types - corefers))
        sentences += len(document.tellings)
    for multimedia, kind in ((False, "only"), (True, "multimedia")):
        layouts.write_json(folder / f"text_{kind}_event.json", texts[multimedia])
        layouts.write_json(folder / f"image_{kind}_event.json", images[multimedia])
    layouts.write_json(folder / "image_entity.json", objects)
    (folder / "crossmedia_coref.txt").write_text("".join(f"{row}\n" for row in coreference), encoding="utf-8")
    return {
        "documents": count,
        "document_sentences": sentences,
        "document_images": len(objects),
        "coreference_pairs": len(coreference),
    }


def _compose(grammar: Grammar, rng: random.Random) -> _Document:
    document = _Document()
    types = list(m2e2().types)
    rng.shuffle(types)
    wanted = rng.choice((1, 2, 2, 3, 3, 4))
    shown: list[str] = []
    while len(document.pictures) < wanted:
        if rng.random() < NO_EVENT_SHARE:
            document.pictures.append(draw(rng, [""], test=True))
        elif rng.random() < TWO_EVENT_SHARE:
            both = [types.pop(), types.pop()]
            shown += both
            document.pictures.append(draw(rng, both, test=True))
            _tell(document, grammar, rng, both[rng.randrange(2)], [len(document.pictures) - 1], {})
        else:
            event_type = types.pop()
            shown.append(event_type)
            views = [draw(rng, [event_type], test=True)]
            if len(document.pictures) + 1 < wanted and rng.random() < 0.2:
                views.append(draw(rng, [event_type], test=True))
            places = list(range(len(document.pictures), len(document.pictures) + len(views)))
            document.pictures += views
            if rng.random() < TOLD_SHARE:
                _tell(document, grammar, rng, event_type, places, views[0].scenes[0][3])
    if shown and rng.random() < DECEPTIVE_SHARE:
        document.tellings.append(_Telling(grammar.sentence([rng.choice(shown)])))
    for _ in range(max(1, rng.randint(4, 8) - len(document.tellings))):
        chance = rng.random()
        others = rng.choices(types, k=0 if chance < 0.5 else 1 if chance < 0.84 else 2)
        document.tellings.append(_Telling(grammar.sentence(others)))
    rng.shuffle(document.tellings)
    return document


def _tell(
    document: _Document, grammar: Grammar, rng: random.Random, event_type: str, pictures: list[int], facts: Facts
) -> None:
    """Add one or two sentences that tell what ``pictures`` show."""
    shown = {name for drawn in document.pictures for name, *_ in drawn.scenes}
    for k in range(rng.choice((1, 1, 2))):
        if k == 0 and rng.random() < 0.55:
            draft = grammar.caption(event_type, facts)
        else:
            draft = grammar.sentence([event_type], facts)
        assert {event.type for event in draft.events} & shown >= {event_type}
        document.tellings.append(_Telling(draft, event_type, pictures))
    document.told |= {(picture, event_type) for picture in pictures}
