"""``xmtl-events-1``: what a line says by hand, what comes back, and what is refused."""

import copy
import json

import pytest

from xmtl_ray.events import event_lines
from xmtl_ray.events.event_lines import DocumentEvents, SourceImage, SourceSentence
from xmtl_ray.events.predictions import Predictions
from xmtl_ray.events.records import (
    Box,
    DataError,
    MultimediaEvent,
    Span,
    TextArgument,
    TextEvent,
    VisualArgument,
    VisualEvent,
)

ATTACK, MEET = "Conflict:Attack", "Contact:Meet"
TEXT = "  Ωmega rebels\tattacked. They met."
"""Two sentences, with white space that a join would lose."""
SENTENCES = (
    SourceSentence("D_0", TEXT[2:24], "a.txt", Span(2, 24), (Span(2, 7), Span(8, 14), Span(15, 23), Span(23, 24))),
    SourceSentence("D_1", TEXT[25:34], "a.txt", Span(25, 34), (Span(25, 29), Span(30, 33), Span(33, 34))),
)
FOUND = DocumentEvents(
    "D",
    SENTENCES,
    (SourceImage("D_0", "x/ä.jpg", "found"), SourceImage("D_1", None, "none")),
    {"D_0": (TextEvent(ATTACK, Span(2, 3), (TextArgument("Attacker", Span(0, 2), 0.12345678),), 0.5),)},
    {"D_0": (VisualEvent(ATTACK, (VisualArgument("Target", Box(1.0, 2.5, 3.0, 4.0), confidence=1 / 3),), None),)},
    (MultimediaEvent("D_0", "D_0", ATTACK, 0.25),),
    ("f" * 64,),
    "same type",
    "given",
    7,
)


def test_a_line_says_where_everything_stands():
    """By hand: characters of the file, the user's own white space, six decimals, a pair with its two sides."""
    line = event_lines.as_line(FOUND)
    assert "\n" not in line and "Ωmega" in line
    body = json.loads(line)
    trigger = {"text": "attacked", "words": [2, 3], "chars": [15, 23]}
    attacker = {"role": "Attacker", "text": "Ωmega rebels", "words": [0, 2], "chars": [2, 14], "confidence": 0.123457}
    target = {"role": "Target", "box": [1, 2.5, 3, 4], "confidence": 0.333333}
    assert body["text_events"] == [
        {"sentence": "D_0", "type": ATTACK, "trigger": trigger, "confidence": 0.5, "arguments": [attacker]}
    ]
    assert body["visual_events"] == [{"image": "D_0", "type": ATTACK, "confidence": None, "arguments": [target]}]
    assert body["multimedia_events"] == [
        {"type": ATTACK, "sentence": "D_0", "image": "D_0", "similarity": 0.25, "triggers": [trigger],
         "text_arguments": [attacker], "visual_arguments": [target]}
    ]  # fmt: skip
    assert body["images"][1] == {"id": "D_1", "file": None, "objects": "none"}
    assert (body["entities"], body["cut_words"], body["models"]) == ("given", 7, ["f" * 64])
    for sentence in body["sentences"]:
        start, end = sentence["chars"]
        assert TEXT[start:end] == sentence["text"]
    assert [TEXT[start:end] for start, end in body["sentences"][1]["words"]] == ["They", "met", "."]


def test_what_was_written_is_read(tmp_path):
    """All but the decimals beyond the sixth; a second document in the same file; and as one file's predictions."""
    other = DocumentEvents("E", (), (), {}, {}, (), ("f" * 64,), "same type")
    path = tmp_path / "events.jsonl"
    path.write_text("".join(event_lines.as_line(each) + "\n" for each in (FOUND, other)), encoding="utf-8")
    first, second = event_lines.read(path)
    assert second == other
    assert event_lines.as_line(first) == event_lines.as_line(FOUND)
    assert first.sentences == SENTENCES and first.multimedia[0].similarity == 0.25
    assert first.text["D_0"][0].arguments[0].confidence == 0.123457
    whole = event_lines.as_predictions([first, second])
    assert whole == Predictions(first.text, first.image, first.multimedia)


def set_at(body, path, value):
    *parents, last = path
    for name in parents:
        body = body[name]
    body[last] = value


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["format"], "xmtl-events-2", "format"),
        (["extra"], 1, "extra"),
        (["sentences", 0, "chars"], [2, 25], r"sentences\.0\.chars: found .*expected 22 characters"),
        (["sentences", 0, "words", 3], [23, 25], r"sentences\.0\.chars"),
        (["text_events", 0, "trigger", "words"], [2, 5], r"text_events\.0: .*has 4"),
        (["text_events", 0, "trigger", "words"], [2, 2], "trigger"),
        (["text_events", 0, "sentence"], "D_7", r"text_events\.0"),
        (["text_events", 0, "trigger", "text"], "met", "text_events: .*what follows from the rest"),
        (["text_events", 0, "trigger", "chars"], [15, 22], "text_events: .*what follows from the rest"),
        (["visual_events", 0, "image"], "E_0", r"visual_events\.0\.image: found 'E_0', expected an image"),
        (["visual_events", 0, "arguments", 0, "box"], [3, 2, 1, 4], "box"),
        (["visual_events", 0, "confidence"], "high", "confidence"),
        (["multimedia_events", 0, "image"], "D_9", r"multimedia_events\.0"),
        (["multimedia_events", 0, "triggers"], [], "multimedia_events: .*what follows from the rest"),
        (["multimedia_events", 0, "visual_arguments", 0, "role"], "Agent", "multimedia_events"),
    ],
)
def test_a_line_that_contradicts_itself_is_refused(tmp_path, path, value, message):
    """Each with its place; leniently it is left out and told, the good line stays."""
    body = copy.deepcopy(event_lines.as_json(FOUND))
    set_at(body, path, value)
    file = tmp_path / "events.jsonl"
    file.write_text(json.dumps(body) + "\n" + event_lines.as_line(FOUND) + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        list(event_lines.read(file))
    told = []
    assert [each.id for each in event_lines.read(file, told.append)] == ["D"]
    assert len(told) == 1
