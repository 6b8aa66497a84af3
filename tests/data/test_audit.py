"""What the data check finds, each kind of problem planted once in otherwise sound records."""

from dataclasses import replace
from zlib import crc32

import numpy as np
import pytest
from PIL import Image as Picture

from xmtl_ray.data import m2e2
from xmtl_ray.data.audit import Source, audit
from xmtl_ray.data.audit_report import EXAMPLES
from xmtl_ray.events.records import (
    Box,
    Conversation,
    DataError,
    Image,
    Media,
    Sentence,
    Span,
    TextEvent,
    Turn,
    VisualArgument,
    VisualEvent,
)
from xmtl_ray.report.audit_page import write_audit

DIE = (TextEvent("Life:Die", Span(0, 1)),)


def sentence(name, text, events=DIE):
    return Sentence(name, tuple(text.split()), events=events)


def image(path, box=None):
    arguments = () if box is None else (VisualArgument("Victim", box),)
    return Image(path.stem, path, (VisualEvent("Life:Die", arguments),))


@pytest.fixture
def draw(tmp_path):
    """Writes a 60 x 40 picture that no other one is like."""

    def write(name, seed=None):
        rng = np.random.default_rng(crc32(name.encode()) if seed is None else seed)
        spots = Picture.fromarray(rng.integers(0, 255, (12, 18, 3), dtype=np.uint8))
        spots.resize((60, 40), Picture.Resampling.BICUBIC).save(tmp_path / f"{name}.png")
        return tmp_path / f"{name}.png"

    return write


def kinds(report):
    return {finding.kind: (finding.level, finding.count) for finding in report.findings}


def test_sound_data_has_no_finding(draw):
    """And its contents are counted."""
    records = [
        sentence("D_0", "He died on Monday"),
        sentence("D_1", "Nothing happened", ()),
        image(draw("E_0"), Box(0, 0, 60, 40)),
    ]
    report = audit([Source("mine", records)], [Source("test", [sentence("F_0", "Another one was told of here")])])
    assert (report.findings, report.errors) == ((), 0)
    assert [contents.name for contents in report.contents] == ["test", "mine"]
    mine = report.contents[1]
    assert (mine.records, mine.sentences, mine.quiet_sentences, mine.images, mine.images_read) == (3, 2, 1, 1, 1)
    assert mine.as_dict()["text_events"] == {"Life:Die": 1}
    assert mine.as_dict()["image_roles"] == {"Life:Die.Victim": 1}


def test_what_the_reader_could_not_read():
    errors = [DataError("f.json", 1, "role", "Vitcim", "Victim")]
    report = audit([Source("mine", [sentence("D_0", "He died")], errors)])
    assert kinds(report) == {"not as the format says": ("error", 1)}
    assert report.findings[0].examples == ["f.json: record 1: role: found 'Vitcim', expected Victim"]
    assert kinds(audit([Source("mine", [])])) == {"no record": ("error", 1)}


def test_a_control_character():
    """A NUL is text to Python and nothing to any annotator."""
    report = audit([Source("mine", [sentence("D_0", "He \0 died")])])
    assert (
        kinds(report) == {"a control character in a text": ("error", 1)} and "'\\x00'" in report.findings[0].examples[0]
    )


def test_boxes_against_the_image(draw):
    """One pixel over is how some tools count; more is told, and outside altogether is an error."""
    boxes = [Box(0, 0, 61, 41), Box(-1, 0, 10, 10), Box(0, 0, 63, 40), Box(-5, 0, 9, 9), Box(60, 0, 70, 9)]
    report = audit([Source("mine", [image(draw(f"E_{index}"), box) for index, box in enumerate(boxes)])])
    assert kinds(report) == {
        "box partly outside its image": ("warning", 2),
        "box outside its image": ("error", 1),
    }


def test_media_that_are_not_there_or_broken(draw, tmp_path):
    """A missing image, a broken one, a missing sound, and a video that is none; broken pixels only where decoded."""
    broken = tmp_path / "E_1.jpg"
    Picture.open(draw("E_0")).save(broken)
    broken.write_bytes(broken.read_bytes()[:-60])
    (tmp_path / "film.mp4").write_bytes(b"no film")
    records = [
        image(tmp_path / "E_9.png"),
        image(broken),
        Conversation("1", (Turn("Who speaks?", "{}"),), "en", Media("audio", "gone.wav")),
        Conversation("2", (Turn("What happens?", "{}"),), "en", Media("video", "film.mp4")),
    ]
    assert kinds(audit([Source("mine", records, media=tmp_path)])) == {"missing or unreadable medium": ("error", 4)}
    quick = audit([Source("mine", records, media=tmp_path)], pixels=False)
    assert kinds(quick) == {"missing or unreadable medium": ("error", 3)} and not quick.looked_at_pixels


def test_animations_and_folders_of_frames_are_videos(draw, tmp_path):
    """Sound ones are read as training reads them; an empty folder and a cut GIF are told."""
    sound, broken = tmp_path / "film", tmp_path / "cut.gif"
    sound.mkdir()
    shown = [Picture.open(draw(f"E_{number}", seed=number)) for number in range(3)]
    shown[0].save(sound / "000.png")
    shown[0].save(tmp_path / "a.gif", save_all=True, append_images=shown[1:])
    broken.write_bytes((tmp_path / "a.gif").read_bytes()[:40])
    (tmp_path / "empty").mkdir()
    records = [
        Conversation(str(number), (Turn(f"What happens {number}?", "{}"),), "en", Media("video", name))
        for number, name in enumerate(["film", "a.gif", "cut.gif", "empty"])
    ]
    report = audit([Source("mine", records, media=tmp_path)])
    assert kinds(report) == {"missing or unreadable medium": ("error", 2)}
    assert all(any(name in example for example in report.findings[0].examples) for name in ("cut.gif", "empty"))


def test_duplicates_within_a_source(draw):
    """The same id is an error, the same text or image a warning."""
    copy = draw("E_1", seed=5)
    records = [sentence("D_0", "He died today"), sentence("D_0", "He fell"), sentence("D_2", "He died today .")]
    records += [image(draw("E_0", seed=5)), image(copy)]
    assert kinds(audit([Source("mine", records)])) == {
        "the same text id twice in a source": ("error", 1),
        "the same text twice in a source": ("warning", 1),
        "the same image twice in a source": ("warning", 1),
    }


LONG = "Soldiers killed nine people in the northern town on Friday after a week of fighting , officials said ."


@pytest.mark.parametrize(
    ("ours", "theirs", "kind", "level"),
    [
        (sentence("D_0", "He died"), sentence("D_0", "She fell"), "the same text id", "error"),
        (sentence("D_0", "He died"), sentence("D_1", "She fell"), "the same document", "error"),
        (sentence("D_0", "He died ."), sentence("E_0", "He died"), "the same text", "error"),
        (sentence("D_0", "Yes .", ()), sentence("E_0", "Yes .", ()), "the same text without event", "warning"),
        (sentence("D_0", LONG), sentence("E_0", LONG.replace("said", "say")), "nearly the same text", "warning"),
    ],
)
def test_leaks_of_text(ours, theirs, kind, level):
    """By id, by document, by words, by nearly the same words; boilerplate without an event gives nothing away."""
    found = kinds(audit([Source("train", [ours])], [Source("test", [theirs])]))
    told = {name: value for name, value in found.items() if name == f"leak: {kind} on both sides"}
    assert told == {f"leak: {kind} on both sides": (level, 1)}


def test_leaks_of_images(draw, tmp_path):
    """The same bytes are an error, nearly the same pixels a warning that needs decoding."""
    original = draw("E_0")
    (tmp_path / "F_0.png").write_bytes(original.read_bytes())
    Picture.open(original).resize((120, 80), Picture.Resampling.NEAREST).save(tmp_path / "G_0.png")
    sources = [Source("train", [image(tmp_path / "F_0.png"), image(tmp_path / "G_0.png")])]
    test = [Source("test", [image(original)])]
    assert kinds(audit(sources, test)) == {
        "leak: the same image on both sides": ("error", 1),
        "leak: nearly the same image on both sides": ("warning", 1),
    }
    assert list(kinds(audit(sources, test, pixels=False))) == ["leak: the same image on both sides"]


def test_what_a_longest_input_cuts():
    """By the tokenizer's count where one is given; else about 1.25 pieces a word and two."""
    records = [sentence("D_0", "word " * 9), sentence("D_1", "word " * 6)]
    report = audit([Source("mine", records)], max_tokens=10)
    assert report.contents[0].cut_sentences == 1
    assert audit([Source("mine", records)], max_tokens=10, pieces=lambda words: 99).contents[0].cut_sentences == 2


def test_many_findings_of_a_kind_are_counted():
    """Some are told in full, all are counted."""
    report = audit([Source("mine", [sentence("D_0", f"He died {index}") for index in range(100)])])
    (finding,) = report.findings
    assert (finding.count, len(finding.examples)) == (99, EXAMPLES) == (report.errors, 20)


def test_a_document_is_checked_whole(world):
    """The miniature world's documents and images: nothing to mend; against themselves, everything leaks."""
    documents = m2e2.read(world / "m2e2", objects=world / "m2e2/image_entity.json")
    assert audit([Source("world", documents)]).errors == 0
    sentences = sum(len(document.sentences) for document in documents)
    found = kinds(audit([Source("world", documents)], [Source("again", documents)]))
    assert found["leak: the same text id on both sides"] == ("error", sentences)


def test_the_page(draw, tmp_path):
    """It shows each finding's places, escaped, and the counts."""
    path = draw("E_0")
    records = [replace(sentence("D_<0>", "He died"), events=()), sentence("D_<0>", "He fell"), image(path)]
    write_audit(tmp_path / "page.html", audit([Source("<mine>", records)]))
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "1 error" in page and "D_&lt;0&gt;" in page and "&lt;mine&gt;" in page and "<mine>" not in page
    assert "up to 64" in page and "http" not in page.replace("http-equiv", "")
