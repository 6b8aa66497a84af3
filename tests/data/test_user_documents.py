"""Documents of users in each layout: ids, places in what they gave, candidates, and what is refused."""

import json

import pytest
from PIL import Image as Picture

from xmtl_ray.data import images as image_files
from xmtl_ray.data import m2e2, objects, user_documents
from xmtl_ray.data.objects import Detected
from xmtl_ray.events.event_lines import SourceImage
from xmtl_ray.events.records import Box, DataError, DetectedObject, Entity, Span

CAR = DetectedObject(Box(1.0, 2.0, 20.0, 30.0), "car", 0.9)


def picture(path, colour=(90, 120, 150)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Picture.new("RGB", (40, 40), colour).save(path)


def write(path, body):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body), encoding="utf-8")


def only(path, **settings):
    """The one document of a source."""
    source = user_documents.find(path, **settings)
    (name,) = source.names
    return source.read(name)


@pytest.fixture
def folders(tmp_path):
    """Two documents, in files taken by their names; hidden and other files are none of them."""
    root = tmp_path / "docs"
    picture(root / "raid" / "b.JPG")
    picture(root / "raid" / "a.png")
    (root / "raid" / "1.txt").write_bytes(b"\xef\xbb\xbfRebels attacked. Two\tmen died.")
    (root / "raid" / "2.txt").write_text("Again\n", encoding="utf-8")
    (root / "raid" / "notes.md").write_text("no text", encoding="utf-8")
    (root / "raid" / ".hidden.txt").write_text("no text", encoding="utf-8")
    (root / ".git").mkdir()
    (root / "empty").mkdir()
    picture(root / "only_images" / "x.jpg")
    return root


def test_folders_of_texts_and_images(folders):
    """Sentences are numbered over the files and know their place in each; a byte order mark is a character of it."""
    source = user_documents.find(folders)
    assert list(source.names) == ["only_images", "raid"]
    raid = source.read("raid")
    assert [sentence.id for sentence in raid.document.sentences] == ["raid_0", "raid_1", "raid_2"]
    assert raid.document.sentences[1].words == ("Two", "men", "died", ".")
    second = raid.sentences[1]
    text = (folders / "raid" / "1.txt").read_bytes().decode("utf-8")
    assert (second.source, second.text) == ("1.txt", "Two\tmen died.")
    assert text[second.characters.start : second.characters.end] == second.text
    assert [text[word.start : word.end] for word in second.words] == ["Two", "men", "died", "."]
    assert (raid.sentences[2].source, raid.sentences[2].characters) == ("2.txt", Span(0, 5))
    assert raid.images == (SourceImage("raid_0", "raid/a.png", "none"), SourceImage("raid_1", "raid/b.JPG", "none"))
    assert [image.path for image in raid.document.images] == [folders / "raid/a.png", folders / "raid/b.JPG"]
    assert not raid.has_entities and source.read("only_images").document.sentences == ()


def test_one_folder_is_one_document(folders):
    """The same, but for nothing."""
    assert only(folders / "raid") == user_documents.find(folders).read("raid")


def test_a_json_document(tmp_path):
    """Text, entities by characters and by words, objects, an image in a folder below; what was not given is none."""
    picture(tmp_path / "images" / "1.jpg")
    picture(tmp_path / "2.jpg")
    text = "Anna Kovel left.  Rebels' leader met her."
    write(
        tmp_path / "doc.json",
        {
            "id": "d 1", "text": text, "images": ["images/1.jpg", "2.jpg"], "meta": {"url": ["x"]},
            "entities": [{"chars": [5, 10], "type": "PER"}, {"chars": [18, 25]}, {"sentence": 1, "words": [2, 3]}],
            "objects": {"2.jpg": [{"box": [1, 2, 20, 30], "label": "car", "confidence": 0.9}]},
        },
    )  # fmt: skip
    found = only(tmp_path)
    first, second = found.document.sentences
    assert (first.id, first.words) == ("d 1_0", ("Anna", "Kovel", "left", "."))
    assert first.entities == (Entity(Span(1, 2), "PER"),)
    assert second.words[:2] == ("Rebels", "'") and [entity.span for entity in second.entities] == [
        Span(0, 2),
        Span(2, 3),
    ]
    assert found.sentences[1].source == "text" and found.sentences[1].quote(Span(0, 2)) == "Rebels'"
    assert found.has_entities
    assert found.images == (SourceImage("d 1_0", "images/1.jpg", "none"), SourceImage("d 1_1", "2.jpg", "given"))
    assert [image.objects for image in found.document.images] == [(), (CAR,)]
    assert only(tmp_path / "doc.json") == found


def test_sentences_that_are_split_already(tmp_path):
    """Words are kept as they are; characters of an entity count in its sentence; an empty sentence takes its number."""
    body = {"sentences": [["New", "York's", "fall"], "", "He fell."], "entities": [{"sentence": 2, "chars": [3, 5]}]}
    write(tmp_path / "d.json", body)
    found = only(tmp_path)
    first, last = found.document.sentences
    assert (first.id, first.words) == ("d_0", ("New", "York's", "fall"))
    assert (last.id, last.words, last.entities) == ("d_2", ("He", "fell", "."), (Entity(Span(1, 2), ""),))
    assert [(each.source, each.text) for each in found.sentences] == [
        ("sentences.0", "New York's fall"),
        ("sentences.2", "He fell."),
    ]


def test_language_decides_where_sentences_end(tmp_path):
    """The document's own goes before the command's."""
    text = "Er kam am 3. Mai. Sie ging."
    write(tmp_path / "a.json", {"text": text})
    write(tmp_path / "b.json", {"text": text, "language": "de"})
    source = user_documents.find(tmp_path, language="de")
    assert source.read("a.json").sentences[0].text == source.read("b.json").sentences[0].text == "Er kam am 3. Mai."


BASE = {"text": "Rebels attacked. They fled."}
BAD = [
    ({}, "neither words nor images"),
    ({"text": " "}, "neither words nor images"),
    ({**BASE, "sentences": ["x"]}, "found 'text and sentences', expected one of them"),
    ({**BASE, "event": []}, "event"),
    ({**BASE, "id": "a\nb"}, "id"),
    ({**BASE, "images": ["../x.jpg"]}, r"images\.0: found '\.\./x\.jpg', expected a relative path"),
    ({**BASE, "images": ["/etc/passwd"]}, r"images\.0"),
    ({**BASE, "images": ["missing.jpg"]}, r"images\.0: found 'missing\.jpg', expected an image file in "),
    ({**BASE, "objects": {"x.jpg": []}}, "objects: found 'x.jpg', expected a name of images"),
    ({**BASE, "images": ["a.jpg"], "objects": {"a.jpg": [{"box": [9, 9, 3, 12]}]}}, "box"),
    ({**BASE, "entities": [{"chars": [0, 6], "words": [0, 1]}]}, r"entities\.0: .*expected words or chars"),
    ({**BASE, "entities": [{"chars": [6, 6]}]}, r"entities\.0: .*start < end"),
    ({**BASE, "entities": [{"words": [0, 1]}]}, r"entities\.0: .*expected sentence: its number"),
    ({**BASE, "entities": [{"sentence": 2, "words": [0, 1]}]}, r"entities\.0: .*within the 2 sentences"),
    ({**BASE, "entities": [{"sentence": 0, "words": [2, 4]}]}, r"entities\.0: .*within"),
    ({**BASE, "entities": [{"chars": [90, 95]}]}, r"entities\.0: .*within"),
    ({"sentences": [["two words"]]}, r"'sentences': 0\.str: found \['two words'\]"),
]


@pytest.mark.parametrize(("body", "message"), BAD)
def test_a_broken_document_is_refused_with_its_place(tmp_path, body, message):
    """File, field, found and expected; only when it is read: the list of documents is not its business."""
    write(tmp_path / "d.json", body)
    picture(tmp_path / "a.jpg")
    source = user_documents.find(tmp_path / "d.json")
    with pytest.raises(DataError, match=message) as told:
        source.read("d.json")
    assert str(tmp_path / "d.json") in str(told.value)


def test_text_that_is_no_utf8(tmp_path):
    """Named with the byte."""
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=r"a\.txt: byte 3: found 233, expected UTF-8"):
        only(tmp_path)


def test_a_link_out_of_the_folder_is_refused(tmp_path):
    """An image's file lies below the documents."""
    picture(tmp_path / "elsewhere.jpg")
    (tmp_path / "docs" / "d").mkdir(parents=True)
    (tmp_path / "docs" / "d" / "x.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    with pytest.raises(DataError, match="not a link out of it"):
        only(tmp_path / "docs")


def test_what_is_no_source_is_refused(tmp_path):
    """A missing place, another file, an empty folder, two layouts at once."""
    with pytest.raises(DataError, match="found 'nothing', expected a folder of documents"):
        user_documents.find(tmp_path / "missing")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(DataError, match=r"expected a \.json document, or a folder"):
        user_documents.find(tmp_path / "a.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"docs/prediction\.md"):
        user_documents.find(tmp_path / "empty")
    picture(tmp_path / "d" / "x.jpg")
    with pytest.raises(DataError, match=r"a\.txt beside the folder d"):
        user_documents.find(tmp_path)


def test_detections_of_a_store_and_of_a_file(folders, tmp_path):
    """A store is asked by the image's content, a file by its name; what is not in them is still to be found."""
    content = image_files.content_hash(folders / "raid" / "a.png")
    store = tmp_path / "store"
    objects.commit(store, "a" * 64, [Detected(content, (CAR,))])
    objects.seal(store, "a" * 64, "hf:x", {"elsewhere": content}, {})
    objects.write_voa(tmp_path / "given.json", {"a": (CAR,)})
    for given in (store, tmp_path / "given.json"):
        raid = user_documents.find(folders, objects=given).read("raid")
        assert [image.objects for image in raid.document.images] == [(CAR,), ()]
        assert [image.objects for image in raid.images] == ["given", "none"]


def test_m2e2_without_its_gold(world):
    """The same sentences, entities, images and objects as the reader's, and no event of it."""
    gold = m2e2.read(world / "m2e2", objects=world / "m2e2" / "image_entity.json")
    source = user_documents.find(world / "m2e2", objects=world / "m2e2" / "image_entity.json")
    assert list(source.names) == [document.id for document in gold]
    assert any(document.multimedia_events for document in gold)
    for document in gold:
        found = source.read(document.id)
        own = found.document
        assert [(each.id, each.words, each.entities) for each in own.sentences] == [
            (each.id, each.words, each.entities) for each in document.sentences
        ]
        assert [(each.id, each.path, each.objects) for each in own.images] == [
            (each.id, each.path, each.objects) for each in document.images
        ]
        assert not own.multimedia_events
        assert not any(each.events for each in (*own.sentences, *own.images))
        assert not any(each.multimedia for each in (*own.sentences, *own.images))
        assert found.has_entities and {image.objects for image in found.images} <= {"given"}
        for sentence, words in zip(found.sentences, own.sentences, strict=True):
            assert [sentence.quote(Span(at, at + 1)) for at in range(len(words.words))] == list(words.words)
