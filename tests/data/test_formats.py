"""Sources by name and by content, Parquet, and the conversions between formats."""

import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as Picture
from typer.testing import CliRunner

from xmtl_ray.cli.main import app
from xmtl_ray.data import ace05, label_studio, m2e2, parquet, videollama2
from xmtl_ray.data.convert import convert
from xmtl_ray.data.format_names import Format
from xmtl_ray.data.formats import open_source, recognise
from xmtl_ray.events import predictions
from xmtl_ray.events.json_format import laid_out
from xmtl_ray.events.records import (
    Annotation,
    Box,
    Conversation,
    DataError,
    DetectedObject,
    Document,
    Entity,
    Image,
    Interval,
    Keyframe,
    Media,
    MultimediaEvent,
    Pair,
    Region,
    Relation,
    Sentence,
    Situation,
    Span,
    TextArgument,
    TextEvent,
    Turn,
    VisualArgument,
    VisualEvent,
)

SAMPLES = {
    "jmee_ace.json": Format.JMEE,
    "oneie_ace.jsonl": Format.ONEIE,
    "textee_ace.jsonl": Format.TEXTEE,
    "dygiepp_ace.jsonl": Format.DYGIEPP,
    "imsitu.json": Format.IMSITU,
    "vl2_custom_sft.json": Format.VIDEOLLAMA2,
    "label_studio_export.json": Format.LABEL_STUDIO,
    "m2e2": Format.M2E2,
    ".": Format.VOA,
}


@pytest.mark.parametrize("name", SAMPLES)
def test_a_sample_is_recognised_and_read(shared, name):
    """By content; every record is of the class that the source says."""
    path = shared / "data/format_samples" / name
    assert recognise(path) == SAMPLES[name]
    boxes = path.parent / "swig.json" if name == "imsitu.json" else None
    source = open_source(path, boxes=boxes)
    records = list(source.records)
    assert records and all(type(record) is source.kind for record in records)


def test_scoring_files_are_recognised(shared):
    """Predictions are one record."""
    source = open_source(shared / "data/scoring/gold.json")
    assert source.format is Format.PREDICTIONS and len(list(source.records)) == 1


@pytest.mark.parametrize("content", ["", "[]", "{}", "[1]", '{"x": {"y": 1}}', "<html>", "{", '[{"a": 1}]', "\0\1"])
def test_a_file_of_no_format(tmp_path, content):
    """The error lists the formats, or says what is wrong with the file."""
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match=r"found .* expected"):
        open_source(tmp_path / "x.json")
    with pytest.raises(DataError, match=r"format: found \['x.json'\], expected the content of one of jmee, oneie"):
        open_source(tmp_path)
    with pytest.raises(DataError, match="source: found 'nothing', expected a file or folder"):
        open_source(tmp_path / "none")


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
NUMBER = st.floats(allow_nan=False, allow_infinity=False)
SPAN, BOX = st.builds(Span, st.integers(0, 9), st.integers(0, 9)), st.builds(Box, NUMBER, NUMBER, NUMBER, NUMBER)


def few(strategy):
    return st.lists(strategy, max_size=2).map(tuple)


SENTENCE = st.builds(
    Sentence,
    id=TEXT,
    words=few(TEXT),
    entities=few(st.builds(Entity, SPAN, TEXT)),
    events=few(st.builds(TextEvent, TEXT, SPAN, few(st.builds(TextArgument, TEXT, SPAN)))),
    multimedia=st.booleans(),
    multimedia_events=st.just(()),
)
IMAGE = st.builds(
    Image,
    id=TEXT,
    path=st.none() | st.just(Path("a/b.jpg")),
    events=few(st.builds(VisualEvent, TEXT, few(st.builds(VisualArgument, TEXT, BOX, st.booleans())))),
    objects=few(st.builds(DetectedObject, BOX, TEXT, NUMBER)),
    multimedia=st.booleans(),
)
MEDIA = st.none() | st.builds(Media, st.sampled_from(["image", "audio"]), TEXT)
REGION = st.builds(
    Region,
    id=TEXT,
    labels=few(TEXT),
    text=TEXT,
    characters=st.none() | SPAN,
    box=st.none() | BOX,
    seconds=st.none() | st.builds(Interval, NUMBER, NUMBER),
    frames=few(SPAN),
    track=few(st.builds(Keyframe, st.integers(1, 9), st.booleans(), BOX)),
)
RECORDS = {
    Sentence: SENTENCE,
    Pair: st.builds(Pair, TEXT, SENTENCE, IMAGE),
    Situation: st.builds(
        Situation, IMAGE, TEXT, few(st.tuples(TEXT, st.none() | BOX)), few(st.tuples(TEXT, TEXT))
    ),
    Document: st.builds(
        Document, TEXT, few(SENTENCE), few(IMAGE), few(st.builds(MultimediaEvent, TEXT, TEXT, TEXT))
    ),
    Conversation: st.builds(Conversation, TEXT, few(st.builds(Turn, TEXT, TEXT)), st.none() | TEXT, MEDIA),
    Annotation: st.builds(
        Annotation,
        id=TEXT,
        text=TEXT,
        media=MEDIA,
        language=st.none() | TEXT,
        annotator=TEXT,
        ground_truth=st.booleans(),
        size=st.none() | st.tuples(st.integers(1, 9), st.integers(1, 9)),
        regions=few(REGION),
        relations=few(st.builds(Relation, TEXT, TEXT, TEXT)),
        choices=few(TEXT),
        events_json=st.none() | TEXT,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", RECORDS)
def test_parquet_round_trip(tmp_path, kind):
    """Every class of records comes back as it was, none and many of them."""
    path = tmp_path / "records.parquet"

    @settings(deadline=None, max_examples=20, suppress_health_check=list(HealthCheck))
    @given(records=st.lists(RECORDS[kind], max_size=3))
    def check(records):
        assert parquet.write(path, kind, records) == len(records)
        assert list(parquet.stream(path, kind)) == records

    check()
    assert open_source(path).kind is kind


def test_a_foreign_parquet_file_is_refused(tmp_path):
    """Only files of our own records are read; a broken one is a DataError."""
    pq.write_table(pa.table({"id": ["a"]}), tmp_path / "x.parquet")
    with pytest.raises(DataError, match="schema: found '', expected records as written here"):
        open_source(tmp_path / "x.parquet")
    (tmp_path / "y.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(DataError, match=r"expected a Parquet file"):
        open_source(tmp_path / "y.parquet")


def test_an_export_becomes_a_training_file(shared, tmp_path):
    """Through the command: the tasks without events in words are reported and left out; without asking, an error."""
    rows = json.loads((shared / "data/format_samples/label_studio_export.json").read_text())
    export, out = tmp_path / "export.json", tmp_path / "sft.json"
    export.write_text(json.dumps([rows[0], rows[2]]))
    done = CliRunner().invoke(app, ["data", "convert", str(export), str(out), "--to", "videollama2"])
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{out}: 2 records\n"
    text, video = videollama2.read(out)
    assert text.turns[0].answer.count("unveiled") == 1 and video.media == Media("video", "upload/1/demo.mp4")

    again = CliRunner().invoke(app, ["data", "convert", str(export), str(out), "--to", "videollama2"])
    assert again.exit_code == 2 and "expected a new name" in again.stderr
    done = CliRunner().invoke(app, ["data", "convert", str(export), str(tmp_path / "p"), "--to", "m2e2-pred-1"])
    assert done.exit_code == 2 and "cannot be written as m2e2-pred-1" in done.stderr


def test_a_training_file_becomes_tasks_and_comes_back(shared, tmp_path):
    """VideoLLaMA2 to Label Studio; what people leave as it is gives the same training file, answers in our layout."""
    sample = shared / "data/format_samples/vl2_custom_sft.json"
    assert convert(open_source(sample), tmp_path / "tasks.json", Format.LABEL_STUDIO) == 4
    rows = json.loads((tmp_path / "tasks.json").read_text())
    for row in rows:
        row["annotations"] = row.pop("predictions")
    (tmp_path / "corrected.json").write_text(json.dumps(rows))
    convert(open_source(tmp_path / "corrected.json"), tmp_path / "sft.json", Format.VIDEOLLAMA2)
    given = [
        replace(one, turns=tuple(replace(turn, answer=laid_out(turn.answer)) for turn in one.turns))
        for one in videollama2.read(sample)
    ]
    assert list(videollama2.read(tmp_path / "sft.json")) == given


def test_documents_become_predictions_tasks_and_parquet(world, tmp_path):
    """M2E2's gold as predictions, as tasks with every sentence and picture, and as Parquet."""
    documents = m2e2.read(world / "m2e2")
    convert(open_source(world / "m2e2"), tmp_path / "gold.json", Format.PREDICTIONS)
    assert predictions.read(tmp_path / "gold.json") == predictions.from_gold(documents)
    convert(open_source(world / "m2e2"), tmp_path / "tasks.json", Format.LABEL_STUDIO)
    found = label_studio.read(tmp_path / "tasks.json", "predictions")
    sentences = [sentence for document in documents for sentence in document.sentences]
    pictures = [image for document in documents for image in document.images if image.path]
    assert len(found) == len(sentences) + len(pictures)
    boxes = {a.id: [r.box for r in a.regions] for a in found if a.media}
    for image in pictures:
        with Picture.open(image.path) as picture:
            width, height = picture.size
        gold = [argument.box for event in image.events for argument in event.arguments]
        for box, own in zip(boxes[image.id], gold, strict=True):
            assert (box.x0, box.y1) == pytest.approx((max(own.x0, 0), min(own.y1, height)))
        assert width > 0
    convert(open_source(world / "m2e2"), tmp_path / "m2e2.parquet", Format.PARQUET)
    assert tuple(open_source(tmp_path / "m2e2.parquet").records) == documents


def test_sentences_become_a_training_file(shared, tmp_path):
    """ACE's events as words of the sentence."""
    path = shared / "data/format_samples/jmee_ace.json"
    convert(open_source(path), tmp_path / "sft.json", Format.VIDEOLLAMA2)
    (conversation,) = videollama2.read(tmp_path / "sft.json")
    arrest, attack = videollama2.events(conversation, "f")
    assert (arrest.trigger, attack.trigger) == ("detained", "attack")
    assert ("Person", "brothers") in arrest.arguments
    assert videollama2.source(conversation) == " ".join(ace05.read(path)[0].words)
