"""The miniature news world: its files go through the real readers, repeat byte for byte, and are not too easy."""

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image as Pictures

from xmtl_ray.data import ace05, imsitu, m2e2, voa
from xmtl_ray.data.world import UNMAPPED_SHARE, write_world
from xmtl_ray.data.world_text import invent_names
from xmtl_ray.events.ontology import m2e2 as ontology
from xmtl_ray.events.ontology import verb_map
from xmtl_ray.events.records import DataError

TYPES = set(ontology().types)


@pytest.fixture(scope="module")
def train(world):
    return ace05.read(world / "ace" / "train.json")


@pytest.fixture(scope="module")
def documents(world):
    folder = world / "m2e2"
    return m2e2.read(folder, objects=folder / "image_entity.json")


@pytest.fixture(scope="module")
def situations(world):
    folder = world / "imsitu"
    train = folder / "train.json"
    return imsitu.read(train, folder / "swig" / "train.json", folder / "images", folder / "imsitu_space.json")


def digest(folder):
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_and_size_give_the_same_bytes_under_any_hash_seed(world, tmp_path):
    """Two other processes under another PYTHONHASHSEED write the same files as this one."""
    code = "import sys; from pathlib import Path; from xmtl_ray.data.world import write_world\n"
    code += "if __name__ == '__main__': write_world(Path(sys.argv[1]), 0, 'small', processes=2)"
    environment = {**os.environ, "PYTHONHASHSEED": "4711"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "again")], check=True, env=environment)
    assert digest(tmp_path / "again") == digest(world)


def test_another_seed_names_other_people():
    assert invent_names(0).common != invent_names(1).common
    for names in (invent_names(0), invent_names(1)):
        assert not {*names.common["place"], *names.common["last"]} & {*names.test["place"], *names.test["last"]}


def test_an_unknown_size_is_refused(tmp_path):
    with pytest.raises(DataError, match="small, medium, large"):
        write_world(tmp_path, 0, "huge")


def test_the_readers_find_what_was_counted(world, train, documents, situations):
    out, counts = world, json.loads((world / "world.json").read_text())["counts"]
    pairs = voa.read(
        *(out / "voa" / f"{name}.json" for name in ("img_dataset", "text_entity", "image_entity")),
        out / "voa" / "images",
    )
    assert len(train) == counts["ace_train_sentences"] == 200
    assert len(ace05.read(out / "ace" / "dev.json")) == counts["ace_dev_sentences"]
    assert len(situations) == counts["imsitu_train_images"]
    assert len(pairs) == counts["pairs"]
    assert len(documents) == counts["documents"]
    assert sum(len(document.sentences) for document in documents) == counts["document_sentences"]
    assert sum(len(document.images) for document in documents) == counts["document_images"]
    assert sum(len(document.multimedia_events) for document in documents) == counts["coreference_pairs"]
    assert all(pair.image.path.is_file() for pair in pairs)
    assert not imsitu.missing_images(situation.image for situation in situations)
    assert all(image.path is not None for document in documents for image in document.images)


def test_every_type_is_told_and_shown(train, documents, situations):
    assert {event.type for sentence in train for event in sentence.events} == TYPES
    assert {verb_map().type_of.get(situation.verb) for situation in situations} == {*TYPES, None}
    assert {event.type for d in documents for sentence in d.sentences for event in sentence.events} == TYPES
    assert {event.type for d in documents for image in d.images for event in image.events} == TYPES


def test_sentences_without_events_and_with_several_exist(train, documents):
    for sentences in (train, [sentence for document in documents for sentence in document.sentences]):
        counts = Counter(len(sentence.events) for sentence in sentences)
        assert counts[0] > 0.2 * len(sentences)
        assert counts[2] > 0.03 * len(sentences)
    assert len({sentence.words for sentence in train}) > 0.98 * len(train)


def test_a_word_tells_an_event_here_and_none_there(train):
    """Many trigger words also occur outside triggers, and some tell two types: a word list cannot do."""
    told, plain = {}, set()
    for sentence in train:
        inside = {i for event in sentence.events for i in range(event.trigger.start, event.trigger.end)}
        for event in sentence.events:
            told.setdefault(sentence.words[event.trigger.start].lower(), set()).add(event.type)
        plain |= {word.lower() for i, word in enumerate(sentence.words) if i not in inside}
    assert len(plain & told.keys()) >= 15
    assert sum(len(types) > 1 for types in told.values()) >= 3


def test_ace_has_full_extents_and_types_and_times_outside_the_benchmark(world):
    records = json.loads((world / "ace" / "train.json").read_text())
    events = [event for record in records for event in record["golden-event-mentions"]]
    entities = [entity for record in records for entity in record["golden-entity-mentions"]]
    assert {event["event_type"] for event in events} - TYPES
    assert any(argument["role"] == "Time-Within" for event in events for argument in event["arguments"])
    assert any(entity["head"]["text"] != entity["text"] for entity in entities)
    for record in records:
        for entity in record["golden-entity-mentions"]:
            assert entity["text"] == " ".join(record["words"][entity["start"] : entity["end"]])
            assert entity["start"] <= entity["head"]["start"] < entity["head"]["end"] <= entity["end"]


def test_entities_without_a_role_exist(train, documents):
    for sentences in (train, [sentence for document in documents for sentence in document.sentences]):
        with_events = [sentence for sentence in sentences if sentence.events]
        spans = [{a.span for event in s.events for a in event.arguments} for s in with_events]
        idle = [e for s, used in zip(with_events, spans, strict=True) for e in s.entities if e.span not in used]
        assert len(idle) > 0.15 * sum(len(sentence.entities) for sentence in with_events)


def test_a_share_of_the_documents_entities_has_words_that_training_lacks(world, train, documents):
    out = world
    known = {word.lower() for sentence in train for word in sentence.words}
    known |= {word.lower() for sentence in ace05.read(out / "ace" / "dev.json") for word in sentence.words}
    captions = json.loads((out / "voa" / "text_entity.json").read_text())
    known |= {word.lower() for caption in captions.values() for word in caption["words"]}
    sentences = [sentence for document in documents for sentence in document.sentences]
    heads = [s.words[e.span.start : e.span.end] for s in sentences for e in s.entities]
    new = sum(any(word.lower() not in known for word in head) for head in heads)
    assert 0.1 < new / len(heads) < 0.4
    assert "paratroopers" not in known and "lorry" not in known


def test_a_quarter_of_the_boxes_and_of_the_verbs_have_no_role(situations):
    mapped = verb_map()
    boxes = [(s.verb, role) for s in situations for role, box in s.grounding if box is not None]
    none = sum(mapped.role_of.get(key, "None") == "None" for key in boxes)
    assert none >= 0.25 * len(boxes)
    unmapped = sum(situation.verb not in mapped.type_of for situation in situations)
    assert abs(unmapped - UNMAPPED_SHARE * len(situations)) <= 1
    assert all(box is None for s in situations for role, box in s.grounding if role == "place")


def test_boxes_lie_in_their_picture_around_something_drawn(documents, situations):
    """Inside a role's box the pixels vary more than the grain alone would make them."""
    boxed = [(s.image.path, box) for s in situations[:60] for _, box in s.grounding if box is not None]
    boxed += [(i.path, a.box) for d in documents for i in d.images for e in i.events for a in e.arguments]
    for path, box in boxed:
        with Pictures.open(path) as picture:
            assert 0 <= box.x0 < box.x1 <= picture.width and 0 <= box.y0 < box.y1 <= picture.height, path
            inside = np.asarray(picture.convert("L").crop((box.x0, box.y0, box.x1, box.y1)), dtype=float)
        assert inside.std() > 9, (path, box)


def test_detections_cover_nearly_all_arguments_and_more(documents):
    images = [image for document in documents for image in document.images]
    boxes = [(image, a.box) for image in images for event in image.events for a in event.arguments if not a.union]

    def found(image, box):
        return any(max(abs(o.box.x0 - box.x0), abs(o.box.y1 - box.y1)) < 8 for o in image.objects)

    assert sum(found(image, box) for image, box in boxes) > 0.9 * len(boxes)
    objects = [o for image in images for o in image.objects]
    assert len(objects) > 1.1 * len(boxes)
    assert sum(o.confidence > 0.8 for o in objects) > 0.6 * len(objects)


def test_some_pictures_show_two_events_one_in_each_file(world):
    files = [json.loads((world / "m2e2" / f"image_{kind}_event.json").read_text()) for kind in ("only", "multimedia")]
    both = files[0].keys() & files[1].keys()
    assert both
    assert all(files[0][name]["event_type"] != files[1][name]["event_type"] for name in both)


def test_coreference_names_events_of_both_sides(documents):
    for document in documents:
        told = {(s.id, event.type) for s in document.sentences for event in s.events if s.multimedia}
        shown = {(i.id, event.type) for i in document.images for event in i.events if i.multimedia}
        for pair in document.multimedia_events:
            assert (pair.sentence, pair.type) in told
            assert (pair.image, pair.type) in shown
    assert any(not image.events for document in documents for image in document.images)


def test_text_files_divide_the_events(world):
    """No event is in both text files, and some sentence is."""
    only, multimedia = (
        {row["sentence_id"]: row for row in json.loads((world / "m2e2" / f"text_{kind}_event.json").read_text())}
        for kind in ("only", "multimedia")
    )
    assert only.keys() & multimedia.keys()
    for name in only.keys() & multimedia.keys():
        own, other = (
            {(event["trigger"]["start"], event["event_type"]) for event in rows[name]["golden-event-mentions"]}
            for rows in (only, multimedia)
        )
        assert other and not own & other
    for row in [*only.values(), *multimedia.values()]:
        text_start = row["sentence_start"]
        text = row["sentence"] + "."
        assert all(
            text[int(first) - text_start : int(last) - text_start + 1] == word
            for word, (first, last) in zip(row["words"], row["index"], strict=True)
        )


def test_the_truth_about_pairs_is_beside_them(world):
    truth = json.loads((world / "world.json").read_text())["pairs"]
    agree = [bool(set(sides["text"]) & set(sides["image"])) for sides in truth.values()]
    assert 0.4 < sum(agree) / len(agree) < 0.8
    assert any(
        sides["text"] and sides["image"] and not set(sides["text"]) & set(sides["image"]) for sides in truth.values()
    )
    assert any(not sides["text"] and not sides["image"] for sides in truth.values())


def test_more_pairs_change_no_other_file(world, tmp_path):
    """With more caption pairs the first ones and all other files are the same; world.json counts them."""
    counts = write_world(tmp_path, 0, "small", pairs=45)
    before, after = digest(world), digest(tmp_path)
    listings = {f"voa/{name}.json" for name in ("img_dataset", "text_entity", "image_entity")} | {"world.json"}
    assert {name for name, content in before.items() if after[name] != content} == listings
    assert len(after) == len(before) + 5
    told = json.loads((tmp_path / "world.json").read_text())
    assert told["counts"] == counts and counts["pairs"] == len(told["pairs"]) == 45
    assert list(told["pairs"].items())[:40] == list(json.loads((world / "world.json").read_text())["pairs"].items())
