"""Predictions and their file."""

import json
from pathlib import Path

import pytest

from xmtl_ray.evaluation.m2e2 import score
from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.evaluation.protocols import PROTOCOLS
from xmtl_ray.events.predictions import Predictions, check, from_gold, read, write
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


BROKEN = {
    "format": "m2e2-pred-1",
    "text": {
        "D_0": [
            {"type": "Life:Die", "trigger": [4, 5], "arguments": [{"role": "Victim", "span": [2, 1]}]},
            {"type": "Life:Die", "trigger": [4]},
            "an event",
        ]
    },
    "image": {
        "D_0": [
            {"type": "Life:Die", "arguments": [{"role": "Victim", "box": [0, 0, float("nan"), 9]}]},
            {"typ": "Life:Die", "arguments": [{"role": "Victim", "box": [0, 0, 9, 9]}]},
        ]
    },
    "coref": [{"sentence": "D_0", "image": "D_0", "type": "Life:Die"}, {"sentence": "D_0"}],
}
GOLD = (
    Document(
        "D",
        (Sentence("D_0", tuple("abcdef"), events=(TextEvent("Life:Die", Span(4, 5)),)),),
        (Image("D_0", None, (VisualEvent("Life:Die"),)),),
    ),
)


def test_malformed_items_count_as_wrong(tmp_path):
    """What is sound of an event stays, the rest matches nothing: three events predicted and one right, no argument."""
    problems = []
    found = read(save(tmp_path, BROKEN), problems.append)
    assert len(problems) == 6
    scores = score(GOLD, found, "strict")
    assert scores["text_event"] == Prf(1, 3, 1)
    assert scores["text_argument"] == Prf(0, 1, 0)
    assert scores["image_event"] == Prf(1, 2, 1)
    assert scores["image_argument"] == Prf(0, 2, 0)
    assert scores["mm_event"] == Prf(0, 2, 0)
    assert check(tmp_path / "pred.json", found, GOLD) == []


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_protocol_takes_a_malformed_item_for_right(tmp_path, protocol):
    """Not even one that looks at roles alone, or at boxes inside others."""
    scores = score(GOLD, read(save(tmp_path, BROKEN), lambda _: None), protocol)
    assert scores["text_argument"].correct == scores["image_argument"].correct == 0


def test_repeated_keys(tmp_path):
    """Refused with the key; leniently what stands under it again is wrong, and so is an image's second spelling."""
    path = tmp_path / "pred.json"
    event = '[{"type": "Life:Die", "trigger": [4, 5]}]'
    path.write_text(
        f'{{"format": "m2e2-pred-1", "text": {{"D_0": {event}, "D_0": {event}}},'
        '"image": {"D_0": [{"type": "Life:Die"}], "D_0.jpg": [{"type": "Life:Die"}]}}'
    )
    with pytest.raises(DataError, match="the key again"):
        read(path)
    problems = []
    scores = score(GOLD, read(path, problems.append), "strict")
    assert scores["text_event"] == scores["image_event"] == Prf(1, 2, 1)
    assert len(problems) == 2


@pytest.mark.parametrize("text", ["[]", "{}", '{"format": "other"}', '{"format": "m2e2-pred-1", "text": []}', "{"])
def test_no_prediction_file_at_all(tmp_path, text):
    """Nothing can be counted in it, so leniency does not help."""
    path = tmp_path / "pred.json"
    path.write_text(text)
    with pytest.raises(DataError):
        read(path, lambda _: None)


def test_what_the_gold_does_not_have(tmp_path):
    """Ids, words, types and roles that are not there are each told with their place."""
    event = TextEvent(
        "Life:Die", Span(4, 9), (TextArgument("Attacker", Span(0, 1)), TextArgument("Victim", Span(6, 7)))
    )
    predictions = Predictions(
        {"D_0": (event, TextEvent("Life:Born", Span(0, 1))), "D_7": (TOLD,)},
        {"D_0": (VisualEvent("Contact:Meet", (VisualArgument("Victim", Box(0, 0, 1, 1)),)),), "E_0": ()},
        (MultimediaEvent("D_0", "E_0", "Life:Die"), MultimediaEvent("D_0", "D_0", "Dying")),
    )
    told = [str(error).removeprefix("pred.json: record ") for error in check(Path("pred.json"), predictions, GOLD)]
    assert [message.partition(", expected")[0] for message in told] == [
        "'text.D_0': 0.arguments.0.role: found 'Attacker'",
        "'text.D_0': 0.trigger: found [4, 9]",
        "'text.D_0': 0.arguments.1.span: found [6, 7]",
        "'text.D_0': 1.type: found 'Life:Born'",
        "'text': sentence: found 'D_7'",
        "'image.D_0': 0.arguments.0.role: found 'Victim'",
        "'image': image: found 'E_0'",
        "'coref.0': image: found 'E_0'",
        "'coref.0': image: found 'E_0'",
        "'coref.1': pair.type: found 'Dying'",
    ]
    assert check(Path("pred.json"), from_gold(GOLD), GOLD) == []
