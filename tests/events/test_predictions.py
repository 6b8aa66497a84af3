"""Predictions and their file."""

import json

import pytest

from xmtl_ray.events.predictions import Predictions, from_gold, read, write
from xmtl_ray.events.records import (
    Box,
    DataError,
    Document,
    Image,
    MultimediaEvent,
    Sentence,
    Span,
    TextArgument,
    TextEvent,
    VisualArgument,
    VisualEvent,
)

TOLD = TextEvent("Life:Die", Span(4, 5), (TextArgument("Victim", Span(1, 2)),))
SHOWN = VisualEvent("Life:Die", (VisualArgument("Victim", Box(10, 20.25, 200, 300)),))
PAIR = MultimediaEvent("D_3", "D_0", "Life:Die")
ALL = Predictions({"D_3": (TOLD, TOLD)}, {"D_0": (SHOWN,)}, (PAIR,))


def save(tmp_path, body):
    path = tmp_path / "pred.json"
    path.write_text(json.dumps(body), encoding="utf-8")
    return path


def test_round_trip_with_notes(tmp_path):
    """What was written is read back, duplicates and all; notes are kept in the file and ignored by the reader."""
    path = tmp_path / "pred.json"
    write(path, ALL, coreference="same type", model={"name": "模型"})
    assert read(path) == ALL
    body = json.loads(path.read_text(encoding="utf-8"))
    assert body["format"] == "m2e2-pred-1"
    assert body["model"] == {"name": "模型"}
    assert body["text"]["D_3"][0] == {
        "type": "Life:Die",
        "trigger": [4, 5],
        "arguments": [{"role": "Victim", "span": [1, 2]}],
    }


def test_a_note_cannot_replace_the_predictions(tmp_path):
    """The format's own keys are taken; nothing is written."""
    with pytest.raises(ValueError, match="notes: found 'coref'"):
        write(tmp_path / "pred.json", ALL, coref="none")
    assert not (tmp_path / "pred.json").exists()


def test_image_ids_with_and_without_extension(tmp_path):
    """Both spellings name the image, in `image` and in `coref`; both at once would hide events, so that is an error."""
    event = {"type": "Life:Die"}
    pair = {"sentence": "D_3", "image": "D_0.jpg", "type": "Life:Die"}
    body = {"format": "m2e2-pred-1", "image": {"D_0.jpg": [event]}, "coref": [pair]}
    found = read(save(tmp_path, body))
    assert found == Predictions({}, {"D_0": (VisualEvent("Life:Die"),)}, (PAIR,))
    body["image"]["D_0"] = [event]
    with pytest.raises(DataError, match="record 'image': D_0: found 'a second entry', expected 'D_0' with or without"):
        read(save(tmp_path, body))


def test_what_is_absent_is_not_predicted(tmp_path):
    """The format's name alone is an empty prediction."""
    assert read(save(tmp_path, {"format": "m2e2-pred-1"})) == Predictions({}, {}, ())


def text(**changed):
    return {"text": {"D_3": [{"type": "Life:Die", "trigger": [4, 5], "arguments": []} | changed]}}


def box(*corners):
    return {"image": {"D_0": [{"type": "Life:Die", "arguments": [{"role": "Victim", "box": corners}]}]}}


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"format": "m2e2-pred-2"}, "record 'format': whole record: found 'm2e2-pred-2', expected 'm2e2-pred-1'"),
        (text(trigger=[5, 5]), r"record 'text': D_3.0.trigger: found \[5, 5\], expected \[start, end\] with 0 <= st"),
        (text(trigger=[-1, 5]), r"D_3.0.trigger: found \[-1, 5\]"),
        (text(trigger=[4, 5.0]), r"D_3.0.trigger.1: found 5.0, expected a valid integer"),
        (text(argument=[]), r"D_3.0.argument: found \[\], expected Extra inputs are not permitted"),
        (box(1, 2, 1, 4), r"record 'image': D_0.0.arguments.0.box: found \[1, 2, 1, 4\], expected x0, y0, x1, y1"),
        (box(1, 2, float("inf"), 4), r"D_0.0.arguments.0.box.2: found inf, expected a finite number"),
        ({"coref": [{"sentence": "D_3", "image": "D_0"}]}, r"record 'coref': 0.type"),
    ],
)
def test_errors_say_where(tmp_path, body, message):
    """File, record, field, found and expected; a misspelt field is not an absent one."""
    path = save(tmp_path, {"format": "m2e2-pred-1"} | body)
    with pytest.raises(DataError, match=message) as error:
        read(path)
    assert str(error.value).startswith(str(path))


def test_from_gold(tmp_path):
    """Mentions with events, by id; a union box becomes a box like others, as the file would have it."""
    union = VisualEvent("Life:Die", (VisualArgument("Victim", Box(10, 20.25, 200, 300), union=True),))
    document = Document(
        "D",
        (Sentence("D_3", ("a",) * 6, events=(TOLD, TOLD)), Sentence("D_4", ("a",))),
        (Image("D_0", None, (union,)), Image("D_1", None)),
        (PAIR,),
    )
    assert from_gold([document]) == ALL
    write(tmp_path / "gold.json", from_gold([document]))
    assert read(tmp_path / "gold.json") == ALL
