"""What is wrong with an answer, kind by kind."""

import pytest

from xmtl_ray.evaluation.errors import Finding, findings
from xmtl_ray.events.json_format import dumps, parse
from xmtl_ray.events.records import GenerativeEvent as Event
from xmtl_ray.events.records import GenerativeSample

LAUNCH = Event("launch", "unveiled", (("entity", "Norvale Labs"), ("place", "Oslo")))
BUY = Event("acquisition", "acquired", (("object", "Lumenworks"),))
SAMPLE = GenerativeSample(
    "en-1", "en", "Norvale Labs has unveiled a chip in Oslo and acquired Lumenworks.", (LAUNCH, BUY)
)


def found(*events, sample=SAMPLE):
    output = dumps(events)
    return findings(sample, output, parse(output))


def launch(trigger="unveiled", event_type="launch", arguments=LAUNCH.arguments):
    return Event(event_type, trigger, arguments)


def test_the_gold_has_no_errors():
    """In whatever order, case and punctuation."""
    assert found(BUY, launch("Unveiled,", "Launch")) == []


@pytest.mark.parametrize(
    ("event", "error"),
    [
        (launch(event_type="sale"), Finding("wrong_type", "", "sale: unveiled", "launch")),
        (launch("has unveiled"), Finding("wrong_trigger", "too long", "launch: has unveiled", "unveiled")),
        (launch("veil"), Finding("wrong_trigger", "too short", "launch: veil", "unveiled")),
        (launch("chip"), Finding("wrong_trigger", "other words", "launch: chip", "unveiled")),
        (
            launch(arguments=(("agent", "Norvale Labs"), ("place", "Oslo"))),
            Finding("wrong_role", "", "agent: Norvale Labs", "entity"),
        ),
        (
            launch(arguments=(("entity", "Labs"), ("place", "Oslo"))),
            Finding("incomplete", "other words", "entity: Labs", "Norvale Labs"),
        ),
        (launch(arguments=(("place", "Oslo"),)), Finding("incomplete", "argument", "", "entity: Norvale Labs")),
        (
            launch(arguments=(*LAUNCH.arguments, ("product", "a chip"))),
            Finding("extra", "argument", "product: a chip", ""),
        ),
    ],
)
def test_one_error_is_one_finding(event, error):
    """Each kind alone: a wrong type is not a missing event and an extra one as well."""
    assert found(event, BUY) == [error]


def test_missing_and_extra_events():
    """An event that nothing answers is missing with its arguments; a second answer to one is extra."""
    assert found(LAUNCH) == [
        Finding("incomplete", "event", "", "acquisition: acquired"),
        Finding("incomplete", "argument", "", "object: Lumenworks"),
    ]
    assert found(LAUNCH, BUY, launch(arguments=())) == [Finding("extra", "event", "launch: unveiled", "")]


def test_malformed_is_that_alone():
    """No events are missing from what could not be read."""
    assert findings(SAMPLE, "no idea", parse("no idea")) == [Finding("malformed_json", "", "no idea", "")]


def test_an_answer_in_another_language():
    """It is told beside what does not agree; the answer's own words are shown."""
    first, *_ = found(launch("las ingenieras desarrollaron un robot"), BUY)
    assert first.kind == "language_mismatch" and first.expected == "en" and "desarrollaron" in first.found
