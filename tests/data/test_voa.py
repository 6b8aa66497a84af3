"""VOA captions with their words, entities and detections."""

import json

import pytest

from xmtl_ray.data import voa
from xmtl_ray.events.records import Box, DataError, DetectedObject, Entity, Image, Pair, Sentence, Span


@pytest.fixture
def read(tmp_path):
    files = {
        "captions": {"VOA_1": {"0": {"url": "u", "cap": "FILE - Arn."}, "2": {"url": "u", "cap": "No image."}}},
        "text": {
            "VOA_1_0": {
                "words": ["In", "Arn"],
                "golden-entity-mentions": [{"text": "Arn", "entity-type": "CITY", "start": 1, "end": 2}],
            }
        },
        "objects": {"VOA_1_0.jpg": [[[1.5, 2, 3, 4], 0.01, "person"], [[0, 0, 9, 9], 1.0, "car"]], "VOA_9_9.jpg": []},
    }

    def call(**changed):
        for name, body in {**files, **changed}.items():
            (tmp_path / f"{name}.json").write_text(json.dumps(body), encoding="utf-8")
        return voa.read(*(tmp_path / f"{name}.json" for name in files), tmp_path / "image")

    return call


def test_read(read, tmp_path):
    """The caption without words and detections had no image: one pair is left, its weak detection included."""
    objects = (DetectedObject(Box(1.5, 2, 3, 4), "person", 0.01), DetectedObject(Box(0, 0, 9, 9), "car", 1.0))
    sentence = Sentence("VOA_1_0", ("In", "Arn"), (Entity(Span(1, 2), "CITY"),))
    image = Image("VOA_1_0", tmp_path / "image" / "VOA_1_0.jpg", objects=objects)
    assert read() == (Pair("VOA_1_0", sentence, image),)


def test_skipped_captions_are_counted(read, caplog):
    """One log line says how many of how many."""
    with caplog.at_level("INFO"):
        read()
    assert "1 pairs of 2 captions" in caplog.text


def test_no_pair_at_all_is_an_error(read):
    """Files of two different collections share no id."""
    with pytest.raises(DataError, match=r"text.json: keys: found \['other_1'\], expected captions of .*'VOA_1_0'"):
        read(text={"other_1": {"words": ["a"], "golden-entity-mentions": []}})
    assert read(captions={}) == ()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"objects": {"VOA_1_0.jpg": [[[3, 2, 3, 4], 0.5, "x"]]}}, r"record 'VOA_1_0.jpg': 0.0: found \[3, 2, 3, 4\]"),
        ({"objects": {"VOA_1_0.jpg": [[[1, 2, 3, 4], 1.5, "x"]]}}, r"record 'VOA_1_0.jpg': 0.1: found 1.5, .* 1"),
        ({"objects": {"VOA_1_0.jpg": [[[1, 2, float("nan"), 4], 1, "x"]]}}, r"'VOA_1_0.jpg': 0.0.2: found nan"),
        ({"objects": {"../VOA_1_0.jpg": []}}, r"record '../VOA_1_0.jpg': \[key\]: found '../VOA_1_0.jpg', expected"),
        ({"captions": {"..": {"/x": {"cap": "c"}}}}, r"captions.json: record '..': /x.\[key\]"),
        ({"captions": {"VOA_1": {"0": {}}}}, r"captions.json: record 'VOA_1': 0.cap"),
        (
            {
                "text": {
                    "VOA_1_0": {
                        "words": ["a"],
                        "golden-entity-mentions": [{"entity-type": "CITY", "start": 0, "end": 2}],
                    }
                }
            },
            r"text.json: record 'VOA_1_0': golden-entity-mentions.0: found \[0, 2\], expected 0 <= start < end <= 1",
        ),
    ],
)
def test_errors_say_where(read, changed, message):
    """File, record, field, found and expected."""
    with pytest.raises(DataError, match=message):
        read(**changed)


def test_read_objects(tmp_path):
    """Keys lose their extension; an image without detections stays."""
    path = tmp_path / "objects.json"
    path.write_text(json.dumps({"a_1.jpg": [[[1, 2, 3, 4], 0.25, "person"]], "a_2.jpg": []}), encoding="utf-8")
    assert voa.read_objects(path) == {"a_1": (DetectedObject(Box(1, 2, 3, 4), "person", 0.25),), "a_2": ()}
