"""M2E2's five files as documents."""

import json
from pathlib import Path

import pytest

from xmtl_ray.data import m2e2
from xmtl_ray.events.records import Box, DataError, DetectedObject, Entity, MultimediaEvent, Span, VisualArgument

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def row(sentence, words, entities=(), events=(), images=()):
    return {
        "sentence_id": sentence,
        "sentence": words[:-1],
        "words": words.split(),
        "golden-entity-mentions": [{"entity-type": "PER", "start": start, "end": end} for start, end in entities],
        "golden-event-mentions": [
            {
                "event_type": kind,
                "trigger": {"start": start, "end": start + 1},
                "arguments": [{"role": role, "start": first, "end": end} for role, first, end in arguments],
            }
            for kind, start, *arguments in events
        ],
        "image": list(images),
    }


DIE, MEET = "Life:Die", "Contact:Meet"
WORDS = "Two men died when they met ."


@pytest.fixture
def folder(tmp_path):
    """Sentence D_2 is in both text files, image D_10 in both image files, image D_3 in a sentence's list alone."""
    files = {
        "text_only_event.json": [
            row("D_2", WORDS, [(0, 2)], [(DIE, 2, ("Victim", 0, 2))], ["D_10.jpg", "D_3.jpg"]),
            row("D_1", "Nothing .", images=["D_10.jpg"]),
        ],
        "text_multimedia_event.json": [
            row("D_2", WORDS, [(0, 2), (4, 5)], [(MEET, 5, ("Entity", 4, 5)), (DIE, 2, ("Place", 4, 5))]),
        ],
        "image_only_event.json": {
            "D_10": {"event_type": DIE, "role": {"Victim": [["1", 0, 0, 10, 10], ["0", 0, 0, 20, 10]]}},
        },
        "image_multimedia_event.json": {
            "D_10": {"event_type": MEET, "role": {"Entity": [["1", 1, 2, 3.5, 4]]}},
            "E_0": {"event_type": MEET, "role": {}},
        },
    }
    for name, body in files.items():
        (tmp_path / name).write_text(json.dumps(body), encoding="utf-8")
    (tmp_path / "crossmedia_coref.txt").write_text(f"D_2\tD_10.jpg\t{DIE}\n\n", encoding="utf-8")
    return tmp_path


def test_sentence_in_both_text_files(folder):
    """One sentence, the union of events; one event of both files has the union of arguments."""
    document, _ = m2e2.read(folder)
    sentence = document.sentences[1]
    assert sentence.multimedia
    assert sentence.entities == (Entity(Span(0, 2), "PER"), Entity(Span(4, 5), "PER"))
    assert [(e.type, e.trigger.start, [a.role for a in e.arguments]) for e in sentence.events] == [
        (DIE, 2, ["Victim", "Place"]),
        (MEET, 5, ["Entity"]),
    ]
    own = [(e.type, e.trigger.start, [a.role for a in e.arguments]) for e in sentence.multimedia_events]
    assert own == [(MEET, 5, ["Entity"]), (DIE, 2, ["Place"])]  # as the multimedia file alone has them
    assert document.sentences[0].multimedia_events == ()


def test_order_and_multimedia_flags(folder):
    """Documents as first named, sentences and images by number: 2 before 10."""
    first, second = m2e2.read(folder)
    assert [(s.id, s.multimedia) for s in first.sentences] == [("D_1", False), ("D_2", True)]
    assert [(i.id, i.multimedia) for i in first.images] == [("D_3", False), ("D_10", True)]
    assert first.multimedia_events == (MultimediaEvent("D_2", "D_10", DIE),)
    assert (second.id, second.sentences, [i.id for i in second.images]) == ("E", (), ["E_0"])


def test_images(folder):
    """Both files' events, union boxes marked; an image that only a sentence lists has none; no pixels, no path."""
    document, _ = m2e2.read(folder)
    listed, shown = document.images
    assert listed.events == ()
    assert listed.path is None
    assert [e.type for e in shown.events] == [DIE, MEET]
    assert shown.events[0].arguments == (
        VisualArgument("Victim", Box(0, 0, 10, 10)),
        VisualArgument("Victim", Box(0, 0, 20, 10), union=True),
    )
    assert shown.events[1].arguments[0].box == Box(1, 2, 3.5, 4)


def test_pixels_and_detections(folder):
    """Image files are looked for in folder/image, or where the caller says; detections are joined by id."""
    for place in (folder / "image", folder / "other"):
        place.mkdir()
    (folder / "image" / "D_10.jpg").touch()
    (folder / "other" / "D_3.jpg").touch()
    detections = [[[0, 0, 1, 1], 0.3, "person"]]
    (folder / "objects.json").write_text(json.dumps({"D_10.jpg": detections, "Z_1.jpg": detections}))
    listed, shown = m2e2.read(folder, objects=folder / "objects.json")[0].images
    assert (listed.path, shown.path) == (None, folder / "image" / "D_10.jpg")
    assert (listed.objects, shown.objects) == ((), (DetectedObject(Box(0, 0, 1, 1), "person", 0.3),))
    listed, shown = m2e2.read(folder, images=folder / "other")[0].images
    assert (listed.path, shown.path) == (folder / "other" / "D_3.jpg", None)
    with pytest.raises(DataError, match="nowhere: images: found 'no folder'"):
        m2e2.read(folder, images=folder / "nowhere")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (f"D_9\tD_10.jpg\t{DIE}", "record 'line 2': sentence: found 'D_9', expected a sentence of the text files"),
        (f"D_2\tD_9.jpg\t{DIE}", "record 'line 2': image: found 'D_9', expected an image of"),
        (f"D_2\tE_0.jpg\t{DIE}", "record 'line 2': image: found 'E_0', expected an image of document 'D'"),
        ("D_2\tD_10.jpg\tLife:Marry", "record 'line 2': event_type: found 'Life:Marry', expected one of"),
        ("D_2 D_10.jpg", "record 'line 2': whole record: found 'D_2 D_10.jpg', expected sentence id, image name"),
    ],
)
def test_bad_coreference_row(folder, line, message):
    """A pair of something unknown would never be found: it is an error, with its line."""
    path = folder / "crossmedia_coref.txt"
    path.write_text(f"D_2\tD_10.jpg\t{DIE}\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        m2e2.read(folder)


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("text_only_event.json", [row("D_1", "a b", [(1, 3)])], r"'D_1': golden-entity-mentions.0: found \[1, 3\]"),
        ("text_only_event.json", [row("D_1", "a b", [], [("Die", 0)])], "'D_1': event_type: found 'Die', expected"),
        ("text_only_event.json", [row("D_1", "a", [], [(DIE, 0, ("X", 0, 1))])], "'D_1': role: found 'X', expected"),
        ("text_only_event.json", [row("D/1", "a b")], "record 0: sentence_id: found 'D/1', expected"),
        ("text_only_event.json", [row("D_1", "a", images=["../D_1.jpg"])], "record 0: image.0: found '../D_1.jpg'"),
        ("text_only_event.json", [row("D_2", "Other words .")], "text_multimedia.*'D_2': words: .* as before"),
        (
            "image_only_event.json",
            {"D_1": {"event_type": DIE, "role": {"Victim": [["1", 5, 0, 5, 9]]}}},
            r"record 'D_1': role.Victim.0: found \['1', 5, 0, 5, 9\], expected flag, x0, y0, x1, y1 with x1 > x0",
        ),
        (
            "image_only_event.json",
            {"D_1": {"event_type": DIE, "role": {"Victim": [["2", 0, 0, 5, 9]]}}},
            r"record 'D_1': role.Victim.0.0: found '2', expected '0' or '1'",
        ),
        (
            "image_only_event.json",
            {"D_1": {"event_type": DIE, "role": {"Entity": []}}},
            "record 'D_1': role: found 'Entity', expected one of Life:Die's",
        ),
    ],
)
def test_errors_say_where(folder, name, body, message):
    """File, record, field, found and expected."""
    (folder / name).write_text(json.dumps(body), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        m2e2.read(folder)


def test_missing_file(folder):
    """All five files are needed."""
    (folder / "image_only_event.json").unlink()
    with pytest.raises(DataError, match=r"image_only_event.json: file: found 'nothing', expected an existing file"):
        m2e2.read(folder)


@pytest.mark.skipif(not (SHARED / "m2e2").is_dir(), reason="the public half of M2E2 is not at hand")
def test_public_half():
    """The counts that its README gives, and documents without sentences."""
    documents = m2e2.read(SHARED / "m2e2")
    sentences = [sentence for document in documents for sentence in document.sentences]
    events = [event for sentence in sentences for event in sentence.events]
    shown = [image for document in documents for image in document.images if image.events]
    assert (len(documents), sum(bool(document.sentences) for document in documents)) == (108, 105)
    assert (len(sentences), len(events), sum(len(event.arguments) for event in events)) == (2894, 576, 893)
    assert sum(sentence.multimedia for sentence in sentences) == 84
    assert (len(shown), sum(image.multimedia for image in shown)) == (166, 88)
    assert sum(len(event.arguments) for image in shown for event in image.events) == 605
    assert sum(len(document.multimedia_events) for document in documents) == 128
