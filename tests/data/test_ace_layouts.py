"""The four layouts of ACE: one sentence in each gives the same record, and each has its own ways to be wrong."""

import json
from dataclasses import replace

import pytest

from xmtl_ray.data import ace05
from xmtl_ray.events.records import DataError, Entity, Span, TextArgument, TextEvent

FILES = {
    "jmee": "jmee_ace.json",
    "oneie": "oneie_ace.jsonl",
    "textee": "textee_ace.jsonl",
    "dygiepp": "dygiepp_ace.jsonl",
}
WORDS = ["Guards", "held", "two", "old", "men", "in", "Arn"]
HELD = TextEvent(
    "Justice:Arrest-Jail", Span(1, 2), (TextArgument("Agent", Span(0, 1)), TextArgument("Person", Span(4, 5)))
)


def coarse(sentence):
    """Without what only some layouts can say: JMEE has no document, DyGIE++ and TextEE no subtypes."""
    entities = tuple(replace(entity, type=entity.type.partition(":")[0]) for entity in sentence.entities)
    return replace(sentence, id="", entities=entities)


def test_the_same_sentence_in_four_layouts(shared):
    """Words, spans, events and roles agree; OneIE's sample has one event, TextEE's two entities fewer than JMEE's."""
    found = {}
    for layout, name in FILES.items():
        path = shared / "data/format_samples" / name
        (sentence,) = ace05.read(path)
        assert ace05.read(path, layout=layout) == (sentence,)
        assert ace05.recognised(path) == layout
        found[layout] = sentence
    assert [found[layout].id for layout in FILES] == ["jmee_ace_0", "DOC_1_0", "DOC_1_0", "DOC_1_0"]
    jmee = coarse(found["jmee"])
    assert coarse(found["dygiepp"]) == jmee
    arrest, _ = jmee.events
    assert coarse(found["oneie"]) == replace(jmee, events=(arrest,))
    without_place = replace(arrest, arguments=arrest.arguments[:2])
    assert coarse(found["textee"]) == replace(jmee, entities=jmee.entities[:2], events=(without_place,))
    assert found["oneie"].entities == found["jmee"].entities


def test_a_real_file_of_the_oneie_shape(shared):
    """GENEVA: every sentence is accepted; its types are none of ACE's."""
    path = shared / "data/geneva/lr100_train_s130.jsonl"
    if not path.is_file():
        pytest.skip("GENEVA is not at hand")
    sentences = ace05.read(path)
    assert len(sentences) == 53 and sum(len(sentence.entities) for sentence in sentences) > 400
    assert sentences[0].document == "135_23605"


def oneie(**changed):
    entities = [
        {"id": "E0", "entity_type": "PER", "text": "Guards", "start": 0, "end": 1},
        {"id": "E1", "entity_type": "PER", "text": "men", "start": 4, "end": 5},
    ]
    arguments = [{"entity_id": "E0", "role": "Agent"}, {"entity_id": "E1", "role": "Person", "text": "men"}]
    trigger = {"start": 1, "end": 2, "text": "held"}
    event = {"event_type": "Justice:Arrest-Jail", "trigger": trigger, "arguments": arguments}
    return {
        "doc_id": "D",
        "sent_id": "D-3",
        "tokens": WORDS,
        "entity_mentions": entities,
        "event_mentions": [event],
        **changed,
    }


def dygiepp(**changed):
    return {
        "doc_key": "D",
        "sentences": [["Nothing", "."], WORDS],
        "_sentence_start": [0, 2],
        "ner": [[], [[2, 2, "PER"], [6, 6, "PER"]]],
        "events": [[], [[[3, "Justice.Arrest-Jail"], [2, 2, "Agent"], [6, 6, "Person"]]]],
        **changed,
    }


@pytest.fixture
def lines(tmp_path):
    def write(*rows):
        path = tmp_path / "dev.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return path

    return write


def test_oneie_names_entities(lines):
    """Arguments take the span of the entity that they name."""
    (sentence,) = ace05.read(lines(oneie()))
    assert (sentence.id, sentence.events) == ("D_3", (HELD,))


@pytest.mark.parametrize("starts", [[0, 2], None])
def test_dygiepp_counts_the_document(lines, starts):
    """Offsets go on from sentence to sentence and include the last token, with or without the sentences' starts."""
    first, second = ace05.read(lines(dygiepp(_sentence_start=starts)))
    assert (first.id, first.events) == ("D_0", ())
    assert (second.id, second.events) == ("D_1", (HELD,))
    assert second.entities == (Entity(Span(0, 1), "PER"), Entity(Span(4, 5), "PER"))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            oneie(entity_mentions=oneie()["entity_mentions"][:1]),
            r"record 0: event_mentions.0.arguments.1.entity_id: found 'E1', expected the id of an entity",
        ),
        (
            oneie(entity_mentions=[{**item, "id": "E0"} for item in oneie()["entity_mentions"]]),
            r"entity_mentions.1.id: found 'E0', expected an id that no other entity has",
        ),
        (
            oneie(entity_mentions=[{**oneie()["entity_mentions"][0], "text": "held"}]),
            r"entity_mentions.0.text: found 'held', expected text of the words 0 to 1: 'Guards'",
        ),
        (oneie(tokens=[]), r"record 0: tokens: found \[\]"),
        (dygiepp(ner=[[]]), r"record 0: ner: found 1, expected one entry for each of 2 sentences"),
        (dygiepp(ner=[[[2, 2, "PER"]], []]), r"record 0: ner.0.0: found \[2, 3\], expected 0 <= start < end <= 2"),
        (dygiepp(events=[[], [[[3, "x.y"], [3, "z"]]]]), r"events.1.0.1: found \(3, 'z'\), expected first token"),
    ],
)
def test_errors_say_where(lines, row, message):
    """File, record, field, found and expected."""
    with pytest.raises(DataError, match=message):
        ace05.read(lines(row))


def test_bad_records_are_left_out(lines):
    """A lenient reader goes on with the next line."""
    errors = []
    (sentence,) = ace05.read(lines(oneie(tokens=[]), oneie()), on_error=errors.append)
    assert sentence.events == (HELD,) and len(errors) == 1


def jmee(words, start, end, text):
    mention = {"entity-type": "PER", "start": start, "end": end, "text": text}
    return {"words": words.split(), "golden-entity-mentions": [mention], "golden-event-mentions": []}


@pytest.mark.parametrize(
    ("words", "start", "end", "text"),
    [
        ("Baghdad 's fall", 0, 2, "Baghdad's"),
        ("-LRB- Smith -RRB-", 0, 3, "(Smith)"),
        ("an ex-wife", 1, 2, "wife"),
        ("$ 5 million", 0, 2, "$5"),
    ],
)
def test_a_text_is_compared_by_its_letters(lines, words, start, end, text):
    """As the preprocessing of ACE found it: spaces, punctuation and the rest of a token are not compared."""
    assert ace05.read(lines(jmee(words, start, end, text)))[0].entities[0].span == Span(start, end)


def test_a_text_of_other_words_is_an_error(lines):
    """The span is one word off."""
    with pytest.raises(DataError, match=r"golden-entity-mentions.0.text: found 'fall', expected text of the words 0"):
        ace05.read(lines(jmee("Baghdad 's fall", 0, 2, "fall")))
