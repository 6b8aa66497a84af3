"""ACE 2005 in the JMEE layout: spans, what is dropped, and what errors say."""

import json
import logging

import pytest

from xmtl_ray.data import ace05
from xmtl_ray.events.records import DataError, Entity, Span, TextArgument, TextEvent


def mention(start, end, kind="PER:Group", head=None):
    body = {"entity-type": kind, "start": start, "end": end}
    return body if head is None else {**body, "head": {"start": head[0], "end": head[1]}}


def event(kind, trigger, *arguments):
    return {
        "event_type": kind,
        "trigger": {"start": trigger[0], "end": trigger[1]},
        "arguments": [{"role": role, "start": start, "end": end} for role, start, end in arguments],
    }


def row(words, entities=(), events=()):
    return {
        "sentence": words,
        "words": words.split(),
        "golden-entity-mentions": list(entities),
        "golden-event-mentions": list(events),
    }


@pytest.fixture
def file(tmp_path):
    def write(*rows):
        path = tmp_path / "dev.json"
        path.write_text(json.dumps(rows), encoding="utf-8")
        return path

    return write


WORDS = "Guards held two old men in Arn on Monday"


def test_argument_takes_the_head_of_its_entity(file):
    """Role Person names the words 2 to 5; its entity of the same extent has the head 4 to 5."""
    held = event("Justice:Arrest-Jail", (1, 2), ("Person", 2, 5), ("Agent", 0, 1))
    path = file(row(WORDS, [mention(0, 1), mention(2, 5, head=(4, 5))], [held]))
    (sentence,) = ace05.read(path)
    assert sentence.id == "dev_0"
    assert sentence.entities == (Entity(Span(0, 1), "PER:Group"), Entity(Span(4, 5), "PER:Group"))
    arguments = (TextArgument("Person", Span(4, 5)), TextArgument("Agent", Span(0, 1)))
    assert sentence.events == (TextEvent("Justice:Arrest-Jail", Span(1, 2), arguments),)

    (full,) = ace05.read(path, extent="full")
    assert full.entities[1].span == Span(2, 5)
    assert full.events[0].arguments[0].span == Span(2, 5)


def test_what_the_ontology_lacks_is_dropped_and_counted(file, caplog):
    """A type of ACE's other 25 goes, and so does the time of an arrest; one log line says how many."""
    held = event("Justice:Arrest-Jail", (1, 2), ("Time-Within", 8, 9), ("Place", 6, 7))
    path = file(row(WORDS, [mention(6, 7), mention(8, 9)], [held, event("Life:Marry", (1, 2), ("Person", 0, 1))]))
    with caplog.at_level(logging.INFO):
        (sentence,) = ace05.read(path)
    assert [e.type for e in sentence.events] == ["Justice:Arrest-Jail"]
    assert [a.role for a in sentence.events[0].arguments] == ["Place"]
    (record,) = caplog.records
    assert record.levelno == logging.INFO
    assert "dropped 1 events of other types, 1 arguments of other roles; 0 arguments" in record.getMessage()


def test_a_file_whose_events_are_all_dropped_warns(file, caplog):
    """Types in another spelling would otherwise train a model without events."""
    ace05.read(file(row(WORDS, [], [event("Justice.Arrest-Jail", (1, 2))])))
    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_equal_spans_collapse(file):
    """Two mentions with one head are one entity, and both as Person are one argument."""
    held = event("Justice:Arrest-Jail", (1, 2), ("Person", 2, 5), ("Person", 3, 5))
    heads = [mention(2, 5, head=(4, 5)), mention(3, 5, "PER:Individual", head=(4, 5))]
    (sentence,) = ace05.read(file(row(WORDS, heads, [held, held])))
    assert sentence.entities == (Entity(Span(4, 5), "PER:Group"),)
    assert sentence.events == (TextEvent("Justice:Arrest-Jail", Span(1, 2), (TextArgument("Person", Span(4, 5)),)),)


def test_argument_that_is_no_entity_keeps_its_span(file, caplog):
    """Nothing is invented and nothing lost; the log line counts it."""
    with caplog.at_level(logging.INFO):
        (sentence,) = ace05.read(file(row(WORDS, [], [event("Justice:Arrest-Jail", (1, 2), ("Person", 2, 5))])))
    assert sentence.entities == ()
    assert sentence.events[0].arguments == (TextArgument("Person", Span(2, 5)),)
    assert "1 arguments are no entity" in caplog.text


@pytest.mark.parametrize(
    ("bad", "field", "found"),
    [
        (row(WORDS, [mention(0, 10)]), "golden-entity-mentions.0", "[0, 10]"),
        (row(WORDS, [mention(3, 3)]), "golden-entity-mentions.0", "[3, 3]"),
        (row(WORDS, [mention(0, 2, head=(-1, 2))]), "golden-entity-mentions.0.head", "[-1, 2]"),
        (row(WORDS, [], [event("Life:Die", (4, 2))]), "golden-event-mentions.0.trigger", "[4, 2]"),
        (row(WORDS, [], [event("Life:Die", (1, 2), ("Agent", 9, 10))]), "golden-event-mentions.0.arguments.0", "[9"),
    ],
)
def test_span_outside_the_words(file, bad, field, found):
    """The message names file, record, field, what was found and what was expected; the last word may end a span."""
    path = file(row(WORDS, [mention(8, 9)]), bad)
    with pytest.raises(DataError) as error:
        ace05.read(path)
    assert str(error.value).startswith(f"{path}: record 1: {field}: found {found}")
    assert str(error.value).endswith("expected 0 <= start < end <= 9, the number of words")


def test_wrong_type_and_missing_field(file):
    """A span as text is no number, and an event without a trigger no event."""
    with pytest.raises(DataError, match=r"record 0: golden-entity-mentions.0.start: found '0', expected a valid int"):
        ace05.read(file(row(WORDS, [mention("0", 1)])))
    with pytest.raises(DataError, match=r"record 0: golden-event-mentions.0.trigger: .* expected Field required"):
        ace05.read(file(row(WORDS, [], [{"event_type": "Life:Die", "arguments": []}])))


def test_empty_file(file):
    """No sentences are no error."""
    assert ace05.read(file()) == ()
