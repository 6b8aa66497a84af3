"""Conversations of VideoLLaMA2: what the file says, round trips, and records that would teach something else."""

import json
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xmtl_ray.data import videollama2
from xmtl_ray.events.json_format import dumps
from xmtl_ray.events.records import Conversation, DataError, GenerativeArgument, GenerativeEvent, Media, Turn

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20).filter(lambda t: "<" not in t)
PATHS = st.from_regex(r"[a-z0-9_é]{1,8}(/[a-z0-9_]{1,8}){0,2}\.(jpg|mp4|wav)", fullmatch=True)
MEDIA = st.builds(Media, st.sampled_from(["image", "video", "audio"]), PATHS)
CONVERSATIONS = st.builds(
    Conversation,
    id=TEXT,
    turns=st.lists(st.builds(Turn, TEXT, TEXT), min_size=1, max_size=3).map(tuple),
    language=st.none() | st.sampled_from(["en", "zh"]),
    media=st.none() | MEDIA,
)


def test_the_sample_file(shared, tmp_path):
    """Four languages, four modalities; the sign of the medium is not part of the prompt; written, it is the same."""
    first, image, video, audio = videollama2.read(shared / "data/format_samples/vl2_custom_sft.json")
    assert (first.id, first.language, first.media) == ("0", "en", None)
    assert image.media == Media("image", "images/chip.jpg")
    assert image.turns[0].prompt == "Extrae todos los eventos en JSON.\nEl chip nuevo"
    assert video.media == Media("video", "videos/demo.mp4") and audio.media == Media("audio", "audio/news.wav")
    videollama2.write(tmp_path / "out.json", [first, image, video, audio])
    assert videollama2.read(tmp_path / "out.json") == (first, image, video, audio)

    sample = videollama2.sample(first, "f")
    assert sample.source == "Norvale Labs unveiled a new chip in Oslo." and sample.modality == "text"
    entity, product = (GenerativeArgument(*pair) for pair in (("entity", "Norvale Labs"), ("product", "a new chip")))
    assert sample.events == (GenerativeEvent("launch", "unveiled", (entity, product)),)
    for conversation in (first, image, video, audio):
        source = videollama2.source(conversation)
        assert videollama2.prompt(conversation.language, source) == conversation.turns[0].prompt


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(conversations=st.lists(CONVERSATIONS, max_size=4))
def test_round_trip(tmp_path, conversations):
    """What is written is read back, but for white space around a prompt about a medium."""
    path = tmp_path / "sft.json"
    assert videollama2.write(path, conversations) == len(conversations)
    assert videollama2.read(path) == tuple(map(stripped, conversations))


def stripped(conversation):
    first, *others = conversation.turns
    turns = (Turn(first.prompt.strip(), first.answer), *others)
    return replace(conversation, turns=turns) if conversation.media else conversation


def test_the_sign_may_stand_anywhere(tmp_path):
    """As VideoLLaMA2 moves it to the front: the prompt is what is left, its white space taken off."""
    path = tmp_path / "sft.json"
    for value in ("<image>\n What? ", "What?\n<image>", " What?<image>\n"):
        path.write_text(json.dumps([row(conversations=[{"from": "human", "value": value}, ANSWER])]), encoding="utf-8")
        assert videollama2.read(path)[0].turns == (Turn("What?", "{}"),)


ANSWER = {"from": "gpt", "value": "{}"}


def row(**changed):
    human = {"from": "human", "value": "<image>\nWhat?"}
    return {"id": 0, "image": "a.jpg", "conversations": [human, ANSWER], **changed}


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (row(image="../a.jpg"), r"record 0: image: found '../a.jpg', expected a relative path"),
        (row(image="https://x.org/a.jpg"), r"record 0: image: found 'https://x.org/a.jpg'"),
        (row(image=None), r"conversations.0.value: found '1 times <image>', expected 0"),
        (row(image=None, video="a.mp4"), r"conversations.0.value: found '1 times <image>', expected 0"),
        (row(video="a.mp4"), r"found \['image', 'video'\], expected at most one"),
        (row(conversations=row()["conversations"][::-1]), r"conversations.0.from: found 'gpt', expected human and gpt"),
        (row(conversations=row()["conversations"] * 2), r"conversations.2.value: found '1 times <image>', expected 0"),
        (row(conversations=row()["conversations"][:1]), r"conversations: .* at least 2 items"),
        (row(conversations=[{"from": "system", "value": ""}] * 2), r"conversations.0.from: found 'system'"),
        (row(id=True), r"record 0: id"),
    ],
)
def test_errors_say_where(tmp_path, record, message):
    """File, record, field, found and expected."""
    path = tmp_path / "sft.json"
    path.write_text(json.dumps([record]), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        videollama2.read(path)


def test_gold_answers_are_of_the_format():
    """A model may answer anything, a training file may not."""
    bad = Conversation("7", (Turn("p", "Sure: " + dumps([])),))
    with pytest.raises(DataError, match=r"record '7': answer: .* expected events as JSON"):
        videollama2.events(bad, "sft.json")
