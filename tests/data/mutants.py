"""Small files of every source, and seeded ways to break them: what a reader must read or refuse with a DataError.

``tried`` runs them and counts; the tests ask for no failure, ``benchmarks/mutants.py`` prints the table.
"""

import copy
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xmtl_ray.data import ace05, imsitu, label_studio, m2e2, voa
from xmtl_ray.events.records import DataError

WORDS = ["Guards", "held", "two", "old", "men", "in", "Arn", "on", "Monday"]
DOC = "VOA_EN_NW_2016.01.02.0000001"


def text_row(**more):
    mentions = [
        {"entity-type": "PER:Group", "start": 0, "end": 1, "text": "Guards"},
        {"entity-type": "PER:Group", "start": 2, "end": 5, "text": "two old men", "head": {"start": 4, "end": 5}},
    ]
    arguments = [{"role": "Agent", "start": 0, "end": 1}, {"role": "Person", "start": 2, "end": 5}]
    trigger = {"start": 1, "end": 2, "text": "held"}
    event = {"event_type": "Justice:Arrest-Jail", "trigger": trigger, "arguments": arguments}
    return {"words": WORDS, "golden-entity-mentions": mentions, "golden-event-mentions": [event], **more}


def oneie_row():
    entities = [
        {"id": "E0", "entity_type": "PER", "text": "Guards", "start": 0, "end": 1},
        {"id": "E1", "entity_type": "PER", "text": "men", "start": 4, "end": 5},
    ]
    arguments = [{"entity_id": "E0", "role": "Agent"}, {"entity_id": "E1", "role": "Person", "start": 4, "end": 5}]
    trigger = {"start": 1, "end": 2, "text": "held"}
    event = {"event_type": "Justice:Arrest-Jail", "trigger": trigger, "arguments": arguments}
    row = {"doc_id": "D", "tokens": WORDS, "entity_mentions": entities, "event_mentions": [event]}
    return [{**row, "sent_id": f"D-{number}"} for number in range(2)]


def dygiepp_row():
    event = [[2, "Justice.Arrest-Jail"], [1, 1, "Agent"], [5, 5, "Person"]]
    return [
        {
            "doc_key": "D",
            "sentences": [["."], WORDS],
            "_sentence_start": [0, 1],
            "ner": [[], [[1, 1, "PER"], [5, 5, "PER"]]],
            "events": [[], [event]],
        }
    ]


def spans_lie_within(sentences):
    for sentence in sentences:
        size = len(sentence.words)
        spans = [e.span for e in sentence.entities]
        for event in sentence.events:
            spans += [event.trigger, *(a.span for a in event.arguments)]
        assert all(type(s.start) is int and 0 <= s.start < s.end <= size for s in spans)


def boxes_have_an_area(images):
    for image in images:
        boxes = [a.box for e in image.events for a in e.arguments] + [o.box for o in image.objects]
        assert all(box.x0 < box.x1 and box.y0 < box.y1 for box in boxes)


def paths_stay_inside(folder, images):
    root = (folder / "image").resolve()
    assert all(image.path is None or image.path.resolve().is_relative_to(root) for image in images)


FRAMES = [{"agent": "n1", "victim": "n2", "place": ""}, {"agent": "n3", "victim": "", "place": "n4"}] * 2
SITUATIONS = {f"detaining_{n}.jpg": {"verb": "detaining", "frames": FRAMES[:3]} for n in range(3)}
BOXES = {
    name: {
        "verb": "detaining",
        "width": 512,
        "height": 341,
        "bb": {"agent": [40, 22, 210, 330], "victim": [205, 60, 371.5, 333], "place": [-1, -1, -1, -1]},
    }
    for name in SITUATIONS
}
SPACE = {"nouns": {}, "verbs": {"detaining": {"order": ["agent", "victim", "place"]}}}

IMAGES = {
    f"{DOC}_0": {"event_type": "Contact:Meet", "role": {"Entity": [["1", 5, 6, 90, 61.5], ["0", 4, 8, 26, 60]]}},
    f"{DOC}_1": {"event_type": "Life:Die", "role": {}},
}

CAPTIONS = {DOC: {"0": {"url": "https://x.org/a.jpg", "cap": "Guards held two men."}, "1": {"url": "u", "cap": ""}}}
CAPTION_WORDS = {
    f"{DOC}_{n}": {"words": WORDS, "golden-entity-mentions": [{"entity-type": "CITY", "start": 6, "end": 7}]}
    for n in range(2)
}
DETECTIONS = {f"{DOC}_{n}.jpg": [[[12.5, 30.1, 220.0, 470.9], 0.93, "person"]] for n in range(2)}


def region(name, start, end, text):
    return {"id": name, "type": "labels", "value": {"start": start, "end": end, "text": text, "labels": ["launch"]}}


TEXT = "😀 Norvale\r\nunveiled a chip"
TASKS = [
    {
        "id": 1,
        "data": {"text": TEXT, "language": "en"},
        "annotations": [
            {
                "completed_by": 1,
                "was_cancelled": False,
                "result": [
                    region("T", 12, 20, "unveiled"),
                    region("A", 3, 10, "Norvale"),
                    {"type": "relation", "from_id": "T", "to_id": "A", "direction": "right", "labels": ["entity"]},
                ],
            },
            {"completed_by": 2, "was_cancelled": True, "result": []},
        ],
    },
    {
        "id": 2,
        "data": {"image": "/data/upload/1/chip.jpg"},
        "annotations": [
            {
                "result": [
                    {"id": "E", "type": "choices", "value": {"choices": ["launch"]}},
                    {
                        "id": "B",
                        "type": "rectanglelabels",
                        "original_width": 800,
                        "original_height": 600,
                        "image_rotation": 0,
                        "value": {"x": 12.5, "y": 20, "width": 30, "height": 45, "rectanglelabels": ["a"]},
                    },
                ]
            }
        ],
    },
    {
        "id": 3,
        "data": {"video": "/data/upload/1/demo.mp4"},
        "annotations": [
            {
                "result": [
                    {
                        "id": "V",
                        "type": "timelinelabels",
                        "value": {"ranges": [{"start": 31, "end": 120}], "timelinelabels": ["launch"]},
                    },
                    {
                        "id": "W",
                        "type": "videorectangle",
                        "value": {
                            "sequence": [{"frame": 3, "enabled": True, "x": 1, "y": 1.5, "width": 25, "height": 60}]
                        },
                    },
                    {"id": "X", "from_name": "events_json", "type": "textarea", "value": {"text": ['{"events": []}']}},
                ]
            }
        ],
    },
    {
        "id": 4,
        "data": {"audio": "/data/upload/1/news.wav"},
        "annotations": [
            {"result": [{"id": "S", "type": "labels", "value": {"start": 2.1, "end": 6.7, "labels": ["launch"]}}]}
        ],
    },
]


def no_span_is_misaligned(annotations):
    for annotation in annotations:
        for marked in annotation.regions:
            place = marked.characters
            if place is not None:
                assert place.start < place.end and annotation.text[place.start : place.end] == marked.text
            assert marked.box is None or (marked.box.x0 < marked.box.x1 <= annotation.size[0])


@dataclass
class Target:
    """A source: its files (JSON values, or text), how it is read, and what holds of whatever is accepted."""

    files: dict[str, Any]
    read: Callable[[Path, Callable[[DataError], None] | None], Any]
    holds: Callable[[Any], None]
    count: int
    prepare: Callable[[Path], None] = lambda folder: None


def ace(rows, count):
    return Target(
        {"dev.json": rows},
        lambda folder, on_error: ace05.read(folder / "dev.json", on_error=on_error),
        spans_lie_within,
        count,
    )


def links(folder):
    """An images' folder with an empty file, a link that leads out, and names that differ in case alone."""
    images = folder / "image"
    images.mkdir()
    (folder / "outside.jpg").touch()
    (images / f"{DOC}_0.jpg").touch()
    (images / "out.jpg").symlink_to(folder / "outside.jpg")
    (images / f"{DOC}_3.jpg").symlink_to(folder / "outside.jpg")


def documents_hold(documents):
    spans_lie_within(s for document in documents for s in document.sentences)
    boxes_have_an_area(i for document in documents for i in document.images)


def targets() -> dict[str, Target]:
    """The sources by their number in the reliability plan."""

    def read_voa(folder, on_error):
        pairs = voa.read(
            *(folder / f"{name}.json" for name in ("captions", "words", "objects")), folder / "image", on_error
        )
        paths_stay_inside(folder, [pair.image for pair in pairs])
        return pairs

    def read_imsitu(folder, on_error):
        names = (folder / f"{name}.json" for name in ("train", "boxes"))
        found = imsitu.read(*names, folder / "image", folder / "space.json", on_error)
        paths_stay_inside(folder, [situation.image for situation in found])
        return found

    return {
        "I1 ACE, JMEE": ace([text_row(), text_row()], 300),
        "I1 ACE, OneIE": ace(oneie_row(), 150),
        "I1 ACE, DyGIE++": ace(dygiepp_row(), 150),
        "I2 imSitu and SWiG": Target(
            {"train.json": SITUATIONS, "boxes.json": BOXES, "space.json": SPACE},
            read_imsitu,
            lambda found: boxes_have_an_area(situation.image for situation in found),
            350,
            links,
        ),
        "I3 M2E2": Target(
            {
                "text_only_event.json": [text_row(sentence_id=f"{DOC}_0", image=[f"{DOC}_0.jpg"])],
                "text_multimedia_event.json": [text_row(sentence_id=f"{DOC}_1", image=[f"{DOC}_1.jpg"])],
                "image_only_event.json": {f"{DOC}_1": IMAGES[f"{DOC}_1"]},
                "image_multimedia_event.json": IMAGES,
                "crossmedia_coref.txt": f"{DOC}_1\t{DOC}_0.jpg\tContact:Meet\n",
            },
            lambda folder, on_error: m2e2.read(folder, on_error=on_error),
            documents_hold,
            350,
        ),
        "I4 VOA": Target(
            {"captions.json": CAPTIONS, "words.json": CAPTION_WORDS, "objects.json": DETECTIONS},
            read_voa,
            lambda pairs: spans_lie_within(pair.sentence for pair in pairs),
            250,
            links,
        ),
        "I5 Label Studio": Target(
            {"export.json": TASKS},
            lambda folder, on_error: label_studio.read(folder / "export.json", on_error=on_error),
            no_span_is_misaligned,
            400,
        ),
    }


ODD = [
    *(
        None,
        True,
        False,
        -1,
        0,
        1,
        2,
        7,
        10**6,
        10**30,
        1.5,
        -0.5,
        1e308,
        float("nan"),
        float("inf"),
        "",
        " ",
        "x",
        "0",
    ),
    *("../x.jpg", "/etc/passwd", "http://x/a.jpg", "a\\b", "a\0b", "\ud800", "😀", "é" * 300, "out.jpg", "Arn"),
    *([], {}, [[]], [-1, -1, -1, -1], [1, 1, 1, 1], [9, 9, 1, 1], [0, 0, 10**9, 10**9], {"start": 2, "end": 1}),
    *("Life:Marry", "Place", f"{DOC}_0", f"{DOC.lower()}_0", f"{DOC}_3", "polygonlabels"),
]


def nodes(value: Any, place: tuple = ()) -> Iterator[tuple]:
    """Every place in a JSON value except the whole."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*place, key)
        yield from nodes(inner, (*place, key))


def mutated(value: Any, draw: random.Random) -> Any:
    """A copy with one to three places changed."""
    value = copy.deepcopy(value)
    for _ in range(draw.choice([1, 1, 1, 2, 3])):
        places = list(nodes(value))
        if not places:
            return value
        *above, key = draw.choice(places)
        parent = value
        for step in above:
            parent = parent[step]
        old = parent[key]
        kind = draw.choice(["odd", "odd", "odd", "drop", "near", "rename", "again", "swap"])
        if kind == "drop":
            del parent[key]
        elif kind == "near" and type(old) in {int, float}:
            parent[key] = old + draw.choice([-1, 1, 3, -7, 0.5])
        elif kind == "near" and isinstance(old, str):
            parent[key] = draw.choice([old + "x", old[:-1], old.upper(), f"../{old}", old + "😀"])
        elif kind == "rename" and isinstance(parent, dict):
            parent[draw.choice([f"{key}x", f"../{key}", str(key).upper(), "", "start"])] = parent.pop(key)
        elif kind == "again" and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(old))
        elif kind == "swap" and isinstance(parent, list):
            draw.shuffle(parent)
        else:
            parent[key] = copy.deepcopy(draw.choice(ODD))
    return value


def written(value: Any, draw: random.Random) -> bytes:
    """The value as a file, sometimes as one that no JSON writer would leave."""
    text = value if isinstance(value, str) else json.dumps(value, indent=draw.choice([None, None, 1]))
    data = text.encode(errors="surrogatepass")
    kind = draw.choice(WAYS) if draw.random() < 0.3 else ""
    if kind == "cut":
        return data[: draw.randrange(len(data))]
    if kind == "noise":
        place = draw.randrange(len(data))
        return data[:place] + bytes(draw.choices(range(256), k=draw.choice([1, 1, 3]))) + data[place + 1 :]
    if kind == "twice":
        place = text.find('": ')
        key = text[text.rfind('"', 0, place) : place + 3]
        return text.replace(key, f"{key}0, {key}", 1).encode(errors="surrogatepass")
    if kind == "lines" and isinstance(value, list):
        return "\n".join(json.dumps(each) for each in value).encode()
    return {
        "bom": b"\xef\xbb\xbf" + data,
        "latin-1": data.replace(b"Arn", b"\xc5rn").replace(b"n1", b"n\xe9"),
        "crlf": data.replace(b"\n", b"\r\n") + b"\r\n",
        "nul": data.replace(b"a", b"\0", 1),
        "utf-16": text.encode("utf-16", errors="surrogatepass"),
        "deep": data.replace(b"0", b"[" * 100_000 + b"]" * 100_000, 1),
        "digits": data.replace(b"0", b"9" * 5000, 1),
        "nan": data.replace(b"1", b"NaN", 1),
        "long": data.replace(b"held", b"held" * 250_000, 1),
        "behind": data + b" {}",
        "empty": b"",
    }.get(kind, data)


WAYS = [*("cut", "noise", "twice", "lines", "bom", "latin-1", "crlf", "nul", "utf-16", "deep", "digits", "nan", "long")]
WAYS += ["behind", "empty"]


@dataclass
class Score:
    """What became of the mutants of a source. ``failures`` are neither read nor refused with a DataError."""

    tried: int = 0
    read: int = 0
    refused: int = 0
    failures: list[str] = field(default_factory=list)


def tried(folder: Path, target: Target, seed: int = 0) -> Score:
    """Break one file of the target at a time, read strictly and leniently, check what was accepted."""
    folder.mkdir()
    target.prepare(folder)
    score, draw = Score(), random.Random(seed)
    for number in range(target.count):
        broken = draw.choice(list(target.files))
        for name, value in target.files.items():
            if name == broken and isinstance(value, str):
                changed = value.replace(*draw.choice([("\t", " "), ("_0", "_9"), ("Contact", "x"), (".jpg", "/../x")]))
                data = written(changed, draw)
            else:
                data = written(mutated(value, draw), draw) if name == broken else json.dumps(value).encode()
                data = value.encode() if name != broken and isinstance(value, str) else data
            (folder / name).write_bytes(data)
        score.tried += 1
        errors: list[DataError] = []
        for on_error in (None, errors.append):
            try:
                found = target.read(folder, on_error)
                target.holds(found)
            except DataError as error:
                assert "expected" in str(error)
                outcome = "refused"
            except Exception as error:  # noqa: BLE001  what must never happen is counted
                score.failures.append(
                    f"mutant {number} of seed {seed}, {broken}: {type(error).__name__}: {error}"[:300]
                )
                outcome = "failed"
            else:
                outcome = "read"
            if on_error is None:
                score.read += outcome == "read"
                score.refused += outcome == "refused"
    return score
