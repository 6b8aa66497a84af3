"""The page about predictions: the text as the user wrote it, confidences, boxes, pairs, and nothing loose."""

import re

import pytest
from PIL import Image as Picture

from xmtl_ray.events.event_lines import DocumentEvents, SourceImage, SourceSentence
from xmtl_ray.events.records import (
    Box,
    MultimediaEvent,
    Span,
    TextArgument,
    TextEvent,
    VisualArgument,
    VisualEvent,
)
from xmtl_ray.report.prediction_page import write_prediction_page

ATTACK, DIE = "Conflict:Attack", "Life:Die"
TEXT = "<b>Rebels</b>\tattacked (twice)."
SPANS = ((0, 1), (1, 2), (2, 3), (3, 9), (9, 10), (10, 11), (11, 12), (12, 13), (14, 22), (23, 24), (24, 29), (29, 31))


def document(name, pairs=1, **more):
    """One sentence and two images: an attack by rebels in text and image, and a file that is not there."""
    given = dict(
        sentences=(SourceSentence(f"{name}_0", TEXT, "a.txt", Span(0, 31), tuple(Span(*word) for word in SPANS)),),
        images=(SourceImage(f"{name}_0", "x/1.jpg"), SourceImage(f"{name}_1", None, "none")),
        text={
            f"{name}_0": (TextEvent(ATTACK, Span(8, 9), (TextArgument("Attacker", Span(3, 4), 0.875),), 0.625),),
        },
        image={
            f"{name}_0": (
                VisualEvent(ATTACK, (VisualArgument("Instrument", Box(5, 5, 25, 30), confidence=0.75),), 0.9375),
                VisualEvent(DIE, (), 0.5),
            ),
        },
        multimedia=(MultimediaEvent(f"{name}_0", f"{name}_0", ATTACK, 0.3125),) * pairs,
        models=("ab" * 32,),
        coreference="same type & similar",
    )
    return DocumentEvents(name, **{**given, **more})


COUNTS = dict(documents=1, sentences=1, images=2, text_events=1, visual_events=2, multimedia_events=1)


@pytest.fixture
def page(tmp_path):
    """Writes a page of documents: its source, and what a reader sees of it."""
    (tmp_path / "docs" / "x").mkdir(parents=True)
    Picture.new("RGB", (60, 40), (90, 120, 150)).save(tmp_path / "docs" / "x" / "1.jpg")

    def make(documents, counts=COUNTS, refused=0, **settings):
        path = tmp_path / "page.html"
        write_prediction_page(path, tmp_path / "docs", iter(documents), counts, refused, **settings)
        text = path.read_text(encoding="utf-8")
        plain = re.sub(r"<style>.*?</style>", " ", text, flags=re.DOTALL)
        return text, " ".join(re.sub(r"<[^>]*>", "", plain).split())

    return make


def test_events_are_marked_with_their_confidence(page):
    """The user's own spacing and signs; trigger, argument, box, the events of an image, the pair with its cosine."""
    text, seen = page([document("D")])
    assert "&lt;b&gt;RebelsAttacker 0.88&lt;/b&gt; attackedAttack 0.62 (twice)." in seen
    assert '<span class="trigger found type-' in text and '<span class="argument found type-' in text
    assert ">Instrument 0.75 ①</text>" in text
    assert "Attack ① 0.94 Die ② 0.50 x/1.jpg" in seen and "no image file" in seen and "no event" in seen
    assert "s0↔i0 Attack cosine 0.31" in seen
    assert "same type &amp; similar" in seen and "ab" * 8 in seen
    assert "1 image has no objects, so no arguments" in seen
    assert not {"correct", "missed", "wrong"} & set(re.findall(r'title="(\w+):', text))


def test_the_page_stands_alone(page):
    """No script, no address; the image is in it."""
    text, _ = page([document("D")])
    assert "<script" not in text and "<b>Rebels" not in text
    assert "data:image/jpeg;base64," in text
    assert not re.search(r"(src|href)=\"(?!data:)", text)
    assert "prefers-color-scheme: dark" in text


def test_documents_with_most_pairs_are_shown_in_their_order(page):
    """Of five, two; the page says so, and what was left out."""
    many = [document(name, pairs) for name, pairs in (("A", 0), ("B", 2), ("C", 0), ("E", 1), ("F", 0))]
    text, seen = page(many, {**COUNTS, "documents": 5}, refused=3, shown=2)
    assert re.findall(r"<h3>(\w)</h3>", text) == ["B", "E"]
    assert "2 of 5 documents" in seen and "5, and 3 left out as broken" in seen


def test_a_long_document_shows_where_something_happens(page):
    """Of 40 sentences the one with an event, of few all; what could not be predicted is said."""
    spans = (Span(0, 5),)
    sentences = tuple(SourceSentence(f"D_{n}", "Quiet", "a.txt", Span(0, 5), spans) for n in range(1, 41))
    first = document("D").sentences
    _, seen = page([document("D", sentences=(*first, *sentences), entities="none", cut_words=9)])
    assert "40 more sentences, 0 with events" in seen and "Quiet" not in seen
    assert "no entities were given or looked for" in seen and "9 words lie beyond" in seen
    _, seen = page([document("D", sentences=(*first, *sentences[:20]))])
    assert seen.count("Quiet") == 20 and "more sentence" not in seen


def test_nothing_found_is_a_page_too(page):
    """No document, and a document without anything."""
    nothing = dict.fromkeys(COUNTS, 0)
    assert "There is none to show." in page([], nothing)[1]
    quiet = document("D", text={}, image={}, multimedia=(), images=())
    assert "attacked (twice)." in page([quiet], {**nothing, "documents": 1})[1]
