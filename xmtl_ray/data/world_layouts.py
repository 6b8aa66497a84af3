"""From what was written and drawn to the records of the real files: JMEE's ACE, imSitu, SWiG, VOA and M2E2.

Pure functions from drafts and figures to JSON values; nothing is invented here but what the formats ask for and the
world has no opinion about (part-of-speech tags, parses and noun synsets are well-formed placeholders).
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Sequence
from pathlib import Path

from xmtl_ray.data.world_images import Figure
from xmtl_ray.data.world_text import Draft, Mention, language
from xmtl_ray.events.ontology import m2e2

Json = dict[str, object]
Box = tuple[int, int, int, int]

NO_BOX = [-1, -1, -1, -1]
CORE_NLP = {
    "PER": "PERSON",
    "GPE": "CITY",
    "ORG": "ORGANIZATION",
    "FAC": "LOCATION",
    "VEH": "MISC",
    "WEA": "MISC",
    "Numeric": "MONEY",
    "TIM": "DATE",
}
NOUNS = (
    "person",
    "car",
    "truck",
    "bus",
    "boat",
    "dog",
    "gun",
    "bullet",
    "club",
    "building",
    "placard",
    "handcuffs",
    "crate",
    "bag",
    "phone",
    "laptop",
    "letter",
    "book",
    "coffin",
    "shovel",
    "banknotes",
    "camera",
    "pot",
    "rod",
    "bench",
    "street",
    "room",
)


def write_json(path: Path, value: object) -> None:
    """Write ``value`` as one JSON file; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def plain_text(words: Sequence[str]) -> tuple[str, list[tuple[int, int]]]:
    """Words as running text, and the first and last character of each word in it."""
    text, places = "", []
    for word in words:
        if text and word not in {",", ".", "'s"}:
            text += " "
        places.append((len(text), len(text) + len(word) - 1))
        text += word
    return text, places


def jmee(draft: Draft, name: str) -> Json:
    """A record of JMEE's ACE JSON: full extents with their heads, events of all ACE types."""
    words = draft.words

    def extent(start: int, end: int) -> Json:
        return {"start": start, "end": end, "text": " ".join(words[start:end])}

    def argument(role: str, mention: Mention) -> Json:
        return {"role": role, "entity-type": mention.type, **extent(mention.start, mention.end)}

    return {
        "sentence": " ".join(words),
        "words": words,
        "pos-tags": [_tag(word) for word in words],
        "lemma": [word if word[0].isupper() else word.lower() for word in words],
        "combined-parsing": [f"dep/dep={i}/gov={i - 1}" if i else "ROOT/dep=0/gov=-1" for i in range(len(words))],
        "golden-entity-mentions": [
            {
                "entity-type": mention.type,
                **extent(mention.start, mention.end),
                "head": extent(mention.head_start, mention.head_end),
                "entity_id": f"{name}-E{k}-1",
            }
            for k, mention in enumerate(draft.mentions, start=1)
        ],
        "golden-event-mentions": [
            {
                "event_type": event.type,
                "trigger": extent(event.start, event.end),
                "arguments": [argument(role, draft.mentions[k]) for role, k in event.arguments],
            }
            for event in draft.events
        ],
    }


def _tag(word: str) -> str:
    if not word[0].isalnum():
        return word if word in {",", "."} else ":"
    return "CD" if word[0].isdigit() else "NNP" if word[0].isupper() else "NN"


def m2e2_sentence(draft: Draft, sentence_id: str, start: int, images: list[str], types: Iterable[str]) -> Json:
    """A record of M2E2's text files with the events of ``types``: heads only, plain entity types, no times."""
    words, wanted, ontology = draft.words, set(types), m2e2()
    text, places = plain_text(words)
    kept = {k: m for k, m in enumerate(draft.mentions) if not m.type.startswith("TIM")}

    def head(mention: Mention) -> Json:
        start, end = mention.head_start, mention.head_end
        return {"start": start, "end": end, "text": " ".join(words[start:end])}

    return {
        "sentence_id": sentence_id,
        "sentence_start": start,
        "sentence_end": start + len(text) - 1,
        "sentence": text.removesuffix("."),
        "words": words,
        "index": [[str(start + first), str(start + last)] for first, last in places],
        "golden-entity-mentions": [
            {"entity-type": "VALUE" if m.type.startswith("Numeric") else m.type.split(":")[0], **head(m)}
            for m in kept.values()
        ],
        "golden-event-mentions": [
            {
                "trigger": {"start": e.start, "end": e.end, "text": " ".join(words[e.start : e.end])},
                "event_type": e.type,
                "arguments": [
                    {"role": role, **head(kept[k])}
                    for role, k in e.arguments
                    if k in kept and ontology.allows(e.type, role)
                ],
            }
            for e in draft.events
            if e.type in wanted
        ],
        "image": images,
    }


def m2e2_image(event_type: str, figures: Sequence[Figure], rng: random.Random) -> Json:
    """A record of M2E2's image files: every instance per role; a crowd sometimes under a union box (flag "0") too."""
    roles: dict[str, list[list[object]]] = {}
    for figure in figures:
        if figure.role and m2e2().allows(event_type, figure.role):
            roles.setdefault(figure.role, []).append(["1", *figure.box])
    for role, boxes in roles.items():
        if len(boxes) >= 3 and rng.random() < 0.3:
            boxes.insert(0, ["0", *union([f.box for f in figures if f.role == role])])
    return {"role": roles, "event_type": event_type}


def union(boxes: Sequence[Box]) -> Box:
    """The smallest box around all."""
    x0s, y0s, x1s, y1s = zip(*boxes, strict=True)
    return min(x0s), min(y0s), max(x1s), max(y1s)


def swig(verb: str, figures: Sequence[Figure], width: int, height: int, rng: random.Random) -> Json:
    """A SWiG record: one box per role of the verb, none for its place; three noun annotations."""
    roles = language()["verbs"][verb]
    boxes: dict[str, list[int]] = {role: NO_BOX for role in roles}
    nouns: dict[str, str] = {role: "" for role in roles}
    for figure in figures:
        assert not figure.slot or figure.slot in boxes, f"{verb} has no role {figure.slot}"
        if figure.slot and boxes[figure.slot] is NO_BOX:
            group = [other.box for other in figures if other.slot == figure.slot]
            boxes[figure.slot] = list(union(group) if rng.random() < 0.3 else figure.box)
            nouns[figure.slot] = synset(figure.label)
    nouns["place"] = synset(rng.choice(("street", "room")))
    frames = [dict(nouns) for _ in range(3)]
    for frame in frames[1:]:
        if rng.random() < 0.2:
            frame[rng.choice(roles)] = ""
    return {"verb": verb, "height": height, "width": width, "bb": boxes, "frames": frames}


def synset(label: str) -> str:
    """An invented noun id in WordNet's shape."""
    return f"n{99000000 + NOUNS.index(label):08d}"


def imsitu_space() -> Json:
    """The file that explains imSitu's nouns and verbs."""
    nouns = {synset(label): {"gloss": [label], "def": f"(drawn) a {label}"} for label in NOUNS}
    verbs = {
        verb: {
            "framenet": verb.capitalize(),
            "abstract": " ".join([verb, *(role.upper() for role in roles)]),
            "def": f"(drawn) {verb}",
            "order": roles,
            "roles": {role: {"framenet": role, "def": f"(drawn) the {role}"} for role in roles},
        }
        for verb, roles in language()["verbs"].items()
    }
    return {"nouns": nouns, "verbs": verbs}


def detections(figures: Sequence[Figure], width: int, height: int, rng: random.Random) -> list[list[object]]:
    """What a good detector reports: nearly every figure, its box a little off; now and then something that is not."""
    found: list[list[object]] = []
    for figure in figures:
        if rng.random() < 0.03:
            continue
        x0, y0, x1, y1 = figure.box
        dx, dy = 0.03 * (x1 - x0), 0.03 * (y1 - y0)
        box = [
            max(0.0, x0 + rng.uniform(-dx, dx)),
            max(0.0, y0 + rng.uniform(-dy, dy)),
            min(float(width), x1 + rng.uniform(-dx, dx)),
            min(float(height), y1 + rng.uniform(-dy, dy)),
        ]
        confidence = rng.uniform(0.8, 0.99) if rng.random() < 0.85 else rng.uniform(0.5, 0.8)
        found.append([[round(value, 1) for value in box], round(confidence, 3), figure.label])
    if rng.random() < 0.2:
        x, y = rng.uniform(0, 0.7) * width, rng.uniform(0, 0.7) * height
        box = [x, y, x + rng.uniform(0.1, 0.3) * width, y + rng.uniform(0.1, 0.3) * height]
        label = rng.choice(("person", "dog", "car", "bag"))
        found.append([[round(value, 1) for value in box], round(rng.uniform(0.2, 0.45), 3), label])
    return found


def voa_entities(draft: Draft) -> Json:
    """A record of VOA's text_entity file: words, and mentions with a named-entity tagger's types."""
    mentions = [
        {
            "text": " ".join(draft.words[m.head_start : m.head_end]),
            "entity-type": CORE_NLP[m.type.split(":")[0]],
            "start": m.head_start,
            "end": m.head_end,
        }
        for m in draft.mentions
        if not m.type.startswith("TIM")
    ]
    return {"words": draft.words, "golden-entity-mentions": mentions}
