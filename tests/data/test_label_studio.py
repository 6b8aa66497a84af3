"""Label Studio: exports as annotations, offsets of browsers, round trips through tasks, and to conversations."""

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xmtl_ray.data import label_studio, videollama2
from xmtl_ray.data import label_studio_tasks as tasks
from xmtl_ray.events.json_format import laid_out
from xmtl_ray.events.records import (
    Annotation,
    Box,
    Conversation,
    DataError,
    Image,
    Interval,
    Keyframe,
    Media,
    Region,
    Relation,
    Sentence,
    Span,
    TextArgument,
    TextEvent,
    Turn,
    VisualArgument,
    VisualEvent,
)


@pytest.fixture
def export(tmp_path):
    def write(*rows):
        path = tmp_path / "export.json"
        path.write_text(json.dumps(rows), encoding="utf-8")
        return path

    return write


def span(name, start, end, text, label="launch"):
    return {"id": name, "type": "labels", "value": {"start": start, "end": end, "text": text, "labels": [label]}}


def task(text, *result, **annotation):
    return {"id": 5, "data": {"text": text}, "annotations": [{"result": list(result), **annotation}]}


def test_the_sample_export(shared):
    """Text, image, video and sound: relations, per cent as pixels, frames from 1 with the last one excluded."""
    text, image, video, audio = label_studio.read(shared / "data/format_samples/label_studio_export.json")
    assert [region.characters for region in text.regions] == [Span(13, 21), Span(0, 12), Span(22, 32)]
    assert text.relations == (Relation("T1", "A1", "entity"), Relation("T1", "A2", "product"))
    assert image.choices == ("launch",) and image.media == Media("image", "upload/1/chip.jpg")
    assert image.size == (800, 600) and image.regions == (Region("B1", ("product",), box=Box(100, 120, 340, 390)),)
    line, track = video.regions
    assert line.frames == (Span(31, 121),) and [key.enabled for key in track.track] == [True, False]
    (heard,) = audio.regions
    assert heard == Region("S1", ("launch",), "компания представила процессор", seconds=Interval(2.1, 6.7))


def test_an_export_becomes_training_data(shared):
    """Marked spans and written events become answers; a box or a sound alone is no answer in words."""
    text, image, video, audio = label_studio.read(shared / "data/format_samples/label_studio_export.json")
    read = videollama2.read(shared / "data/format_samples/vl2_custom_sft.json")
    gold = [replace(one, turns=(Turn(one.turns[0].prompt, laid_out(one.turns[0].answer)),)) for one in read]
    assert tasks.to_conversation(text, "f") == replace(gold[0], id="1")
    assert tasks.to_conversation(video, "f") == replace(gold[2], id="3", media=Media("video", "upload/1/demo.mp4"))
    for annotation in (image, audio):
        with pytest.raises(DataError, match=r"regions: .* expected spans of text or events_json"):
            tasks.to_conversation(annotation, "f")


EMOJI = "😀 Arn 🎉 unveiled a chip"


@pytest.mark.parametrize(
    ("text", "start", "end", "stored"),
    [
        (EMOJI, 8, 16, "unveiled"),
        (EMOJI, 10, 18, "unveiled"),
        ("a\r\nb unveiled", 5, 13, "unveiled"),
        ("a\r\nb unveiled", 4, 12, "unveiled"),
        ("😀\r\nb unveiled", 5, 13, "unveiled"),
        ("a\r\nb", 0, 3, "a\nb"),
    ],
)
def test_offsets_as_browsers_count(export, text, start, end, stored):
    """UTF-16 units and joined line ends give the same code points as counting code points does."""
    ((region,),) = (a.regions for a in label_studio.read(export(task(text, span("T", start, end, stored)))))
    assert region.text.replace("\r\n", "\n") == stored
    assert text[region.characters.start : region.characters.end] == region.text


def test_one_way_of_counting_for_all_spans(export):
    """The first span alone fits two ways; together with the second only UTF-16 fits."""
    text = "😀aaa unveiled"
    first, second = span("A", 3, 4, "a"), span("T", 6, 14, "unveiled")
    (annotation,) = label_studio.read(export(task(text, first, second)))
    assert [region.characters for region in annotation.regions] == [Span(2, 3), Span(5, 13)]
    with pytest.raises(DataError, match="expected one way of counting that fits, not two that disagree"):
        label_studio.read(export(task(text, first)))


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text("ab😀\r\n é", min_size=1, max_size=12), data=st.data())
def test_no_misaligned_span_is_accepted(tmp_path, text, data):
    """Any offsets with any stored text: what is accepted has the stored text at its code points."""
    start, end = data.draw(st.integers(-1, 14)), data.draw(st.integers(-1, 14))
    stored = data.draw(st.sampled_from([text[max(start, 0) : max(end, 0)], text[:1], text[-2:]]))
    path = tmp_path / "export.json"
    path.write_text(json.dumps([task(text, span("T", start, end, stored))]), encoding="utf-8")
    try:
        (annotation,) = label_studio.read(path)
    except DataError:
        return
    place = annotation.regions[0].characters
    assert text[place.start : place.end].replace("\r\n", "\n") == stored.replace("\r\n", "\n") != ""


def test_cancelled_empty_and_several_annotators(export, caplog):
    """Cancelled ones are counted, an empty one says that there is no event, each annotator's is read."""
    rows = [
        {"id": 1, "data": {"text": "a"}, "annotations": [{"result": [], "was_cancelled": True}]},
        {"id": 2, "data": {"text": "a"}, "annotations": []},
        {
            "id": 3,
            "data": {"text": "a b"},
            "annotations": [
                {"result": [], "completed_by": 7},
                {"result": [span("T", 0, 1, "a")], "completed_by": {"id": 8, "email": "x@y"}, "ground_truth": True},
            ],
        },
    ]
    with caplog.at_level("INFO"):
        found = label_studio.read(export(*rows))
    assert [(a.id, a.annotator, len(a.regions)) for a in found] == [("3", "7", 0), ("3", "x@y", 1)]
    assert "2 annotations; 1 cancelled, 2 tasks without any" in caplog.text
    assert [a.annotator for a in label_studio.one_per_task(found)] == ["x@y"]
    assert [a.annotator for a in label_studio.one_per_task(found[:1])] == ["7"]


BOX = {
    "id": "B",
    "type": "rectanglelabels",
    "original_width": 100,
    "original_height": 50,
    "value": {"x": 10, "y": 10, "width": 20, "height": 20, "rotation": 0, "rectanglelabels": ["a"]},
}
RELATION = {"type": "relation", "from_id": "T", "to_id": "X", "labels": ["entity"]}


def boxed(**value):
    return {**BOX, "value": {**BOX["value"], **value}}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": 1, "text": "a", "label": []}, "Label Studio's JSON export, not JSON-MIN"),
        ({"id": 1, "data": {"csv": "a"}}, "data: .* at least one of text, image"),
        (
            task("a b", span("T", 0, 1, "b")),
            r"annotations.0.result.0.value: .* offsets at which the text is the stored",
        ),
        (task("a b", {**span("T", 0, 1, "a"), "value": {"start": 0, "end": 1, "labels": ["x"]}}), r"value.text"),
        (task("a b", {**span("T", 0, 1, "a"), "value": {"start": 0, "end": 1, "text": "a"}}), r"value.labels"),
        (task("a b", span("T", True, 2, "a")), r"value.start"),
        (task("a b", span("T", 0, 1, "a"), span("T", 2, 3, "b")), "an id that no other region has"),
        (task("a b", span("T", 0, 1, "a"), RELATION), r"result.1.to_id: found 'X', expected the id of a region"),
        (task("a", {"id": "P", "type": "polygonlabels", "value": {}}), r"type: found 'polygonlabels', expected one of"),
        (task("a", boxed(x=120)), "value.x: found 120"),
        (task("a", boxed(width=0)), "a box with an area"),
        (task("a", boxed(rotation=30)), "value.rotation"),
        (task("a", {**BOX, "original_width": 0}), "original_width"),
        (task("a", {**BOX, "image_rotation": 90}), "image_rotation: found 90"),
        ({"id": 1, "data": {"image": "s3://x/a.jpg"}, "annotations": [{"result": []}]}, "data.image: found 's3:"),
        ({"id": 1, "data": {"image": "/data/../a.jpg"}, "annotations": [{"result": []}]}, "data.image: found '../a"),
        ({"id": 1, "data": {"image": "/data/%2e%2e/a"}, "annotations": [{"result": []}]}, "data.image: found '../a"),
    ],
)
def test_errors_say_where(export, row, message):
    """Strict by default; with ``on_error`` the task is reported and left out."""
    good, errors = task("a b", span("T", 0, 1, "a")), []
    with pytest.raises(DataError, match=message):
        label_studio.read(export(row))
    assert len(label_studio.read(export(row, good), on_error=errors.append)) == 1 and len(errors) == 1


NAMES = st.text("abcé", min_size=1, max_size=5)
FRACTION = st.floats(0, 0.4)
BOXES = st.builds(lambda x, y, w, h: Box(x, y, x + w + 0.1, y + h + 0.1), FRACTION, FRACTION, FRACTION, FRACTION)


@st.composite
def annotations(draw):
    """One of each medium, with whatever regions it can have."""
    kind = draw(st.sampled_from(["text", "image", "video", "audio"]))
    text = draw(st.text("ab 😀\n", min_size=1, max_size=30)) if kind == "text" else ""
    regions = []
    for number in range(draw(st.integers(0, 3))):
        own = {"id": f"R{number}", "labels": (draw(NAMES),)}
        if kind == "text":
            start = draw(st.integers(0, len(text) - 1))
            place = Span(start, draw(st.integers(start + 1, len(text))))
            regions.append(Region(**own, text=text[place.start : place.end], characters=place))
        elif kind == "image":
            box = draw(BOXES)
            regions.append(Region(**own, box=Box(box.x0 * 640, box.y0 * 480, box.x1 * 640, box.y1 * 480)))
        elif kind == "audio":
            start = draw(st.floats(0, 10))
            regions.append(Region(**own, text=draw(st.just("") | NAMES), seconds=Interval(start, start + 0.5)))
        elif draw(st.booleans()):
            regions.append(Region(**own, frames=(Span(1, draw(st.integers(2, 9))),)))
        else:
            regions.append(Region(**own, track=(Keyframe(draw(st.integers(1, 9)), draw(st.booleans()), draw(BOXES)),)))
    ends = [region.id for region in regions] or ["none"]
    relations = draw(st.lists(st.builds(Relation, st.sampled_from(ends), st.sampled_from(ends), NAMES), max_size=3))
    return Annotation(
        id=draw(NAMES),
        text=text,
        media=None if kind == "text" else Media(kind, draw(st.sampled_from(["a b.jpg", "x/é%.mp4", "q?d=1.wav"]))),
        language=draw(st.none() | st.just("ru")),
        annotator=draw(NAMES),
        size=(640, 480) if kind == "image" and regions else None,
        regions=tuple(regions),
        relations=tuple(relations) if regions else (),
        choices=tuple(draw(st.lists(NAMES, max_size=2, unique=True))),
        events_json=draw(st.none() | NAMES),
    )


def rounded(annotation):
    """Boxes to a thousandth of a pixel: per cent and back costs the last bits."""

    def near(box):
        return box and Box(*(round(side, 6) for side in (box.x0, box.y0, box.x1, box.y1)))

    regions = tuple(
        replace(r, box=near(r.box), track=tuple(replace(key, box=near(key.box)) for key in r.track))
        for r in annotation.regions
    )
    return replace(annotation, regions=regions)


@settings(deadline=None, max_examples=120, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(written=st.lists(annotations(), max_size=3))
def test_round_trip_through_tasks(tmp_path, written):
    """What is written as predictions is read back as such, unless its spans could be counted in two ways."""
    path = tmp_path / "tasks.json"
    tasks.write(path, written)
    errors = []
    found = label_studio.read(path, "predictions", on_error=errors.append)
    assert all("two that disagree" in str(error) for error in errors)
    if not errors:
        assert [rounded(a) for a in found] == [rounded(a) for a in written]


def test_a_sentence_as_a_task(tmp_path):
    """Words become characters; the trigger's region has the type, its relations the roles."""
    held = TextEvent("Justice:Arrest-Jail", Span(1, 2), (TextArgument("Person", Span(2, 4)),))
    annotation = tasks.from_sentence(Sentence("D_1", ("Guards", "held", "two", "men"), events=(held,)), "xmtl")
    assert [(r.labels, r.text, r.characters) for r in annotation.regions] == [
        (("Justice:Arrest-Jail",), "held", Span(7, 11)),
        (("Argument",), "two men", Span(12, 19)),
    ]
    tasks.write(tmp_path / "tasks.json", [annotation])
    assert label_studio.read(tmp_path / "tasks.json", "predictions") == (annotation,)
    assert label_studio.read(tmp_path / "tasks.json") == ()


def test_an_image_as_a_task(tmp_path):
    """The type is a choice, boxes have the role; an image outside the folder has no place in a task."""
    event = VisualEvent("Conflict:Attack", (VisualArgument("Target", Box(10, 20, 30, 40)),))
    image = Image("D_1", tmp_path / "a" / "D_1.jpg", events=(event,))
    annotation = tasks.from_image(image, tmp_path, lambda path: (100, 50))
    written = tasks.task(annotation)
    (box, choice) = written["predictions"][0]["result"]
    assert written["data"] == {"image": "/data/local-files/?d=a/D_1.jpg"}
    assert choice["value"] == {"choices": ["Conflict:Attack"]}
    assert {k: round(v, 9) for k, v in box["value"].items() if k != "rectanglelabels"} == {
        "x": 10,
        "y": 40,
        "width": 20,
        "height": 40,
        "rotation": 0,
    }
    with pytest.raises(DataError, match="the file of the image, in this folder"):
        tasks.from_image(replace(image, path=None), tmp_path, lambda path: (1, 1))


@pytest.mark.parametrize("answer", ["unveiled", "not in it"])
def test_a_conversation_as_a_task(answer):
    """Marked in the text where it can be; otherwise as JSON. Either way it comes back as it was."""
    event = {"trigger": answer, "event_type": "launch", "arguments": [{"role": "entity", "text": "Arn"}]}
    turn = Turn(videollama2.prompt("es", "Arn unveiled it"), json.dumps({"events": [event]}))
    conversation = Conversation("1", (turn,), "es")
    annotation = tasks.from_conversation(conversation, "f")
    assert bool(annotation.regions) == (answer == "unveiled") == (annotation.events_json is None)
    assert tasks.to_conversation(annotation, "f") == conversation
