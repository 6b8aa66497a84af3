"""Events as a language model writes them: what is read, what is repaired, and that nothing breaks the reader."""

import json

import pytest
from answers import large, small

from xmtl_ray.events.json_format import Parsed, dumps, laid_out, parse
from xmtl_ray.events.records import GenerativeArgument, GenerativeEvent

ONE = GenerativeEvent("launch", "unveiled", (("entity", "Norvale Labs"), ("place", "Осло")))
TWO = GenerativeEvent("policy-change", "调整", ())
MALFORMED = Parsed((), "malformed")


@pytest.mark.parametrize("events", [(), (ONE,), (ONE, TWO), (GenerativeEvent("", 'a "b"\n', (("", "\\"),)),)])
def test_round_trip(events):
    """What is written is read back and needs no repair; other scripts' letters stand as themselves."""
    text = dumps(events)
    assert parse(text) == Parsed(events, "ok")
    assert "\n" not in text
    assert all(event.trigger in text for event in events if event in {ONE, TWO})


def test_the_written_form():
    """The format's names, in its order."""
    assert dumps([GenerativeEvent("t", "x", (("r", "a"),))]) == (
        '{"events": [{"trigger": "x", "event_type": "t", "arguments": [{"role": "r", "text": "a"}]}]}'
    )


def test_a_list_and_a_single_event_are_read_too():
    """Both are of the format, and ok where nothing else stands around."""
    listed = json.dumps(json.loads(dumps([ONE, TWO]))["events"])
    single = json.dumps(json.loads(dumps([ONE]))["events"][0], indent=2)
    assert parse(listed) == Parsed((ONE, TWO), "ok")
    assert parse(f"\n{single}\t ") == Parsed((ONE,), "ok")


@pytest.mark.parametrize("around", ["```json\n{}\n```", "Here: {} Done.", "{}\n{}", "{},", "\ufeff{}", "(a {{ b) {}"])
def test_repaired(around):
    """A fence, prose, a second answer behind it: the first JSON value counts."""
    text = around.replace("{}", dumps([ONE, TWO]))
    assert parse(text) == Parsed((ONE, TWO), "repaired")


def test_a_cut_answer_keeps_no_more_than_its_first_whole_value():
    """Cut within the second event, the first value that is whole is the first event."""
    text = dumps([ONE, TWO])
    assert parse(text[: text.index("policy")]) == Parsed((ONE,), "repaired")
    assert parse(text[: text.index("Осло")]) == MALFORMED


def test_the_first_value_counts_even_if_a_later_one_is_better():
    """A list of numbers before the events is what the model answered first."""
    assert parse(f"Result [1]: {dumps([ONE])}") == MALFORMED


def test_no_events():
    """Said as the whole answer it is an answer; found in other text it proves nothing."""
    assert parse('{"events": []}') == parse("[]") == Parsed((), "ok")
    assert parse('```\n{"events": []}\n```') == parse("I see [] here") == MALFORMED


@pytest.mark.parametrize(
    "text",
    ["", "null", "3", '"x"', "{}", '{"events": null}', '{"events": {"0": 1}}', "[NaN]", "[" + "9" * 5000 + "]",
     '{"trigger": "x", "event_type": "t"}', '{"event_type": "t", "trigger": 1, "arguments": []}',
     '{"trigger": "x", "event_type": "t", "arguments": [{"role": "r"}]}',
     '{"trigger": "x", "event_type": "t", "arguments": [{"role": "r", "text": null}]}',
     '{"trigger": "\\ud800", "event_type": "t", "arguments": []}', "{'events': []}", '{"events": [],}', "[" * 9999],
)  # fmt: skip
def test_malformed(text):
    """No JSON, no event in it, a field missing or of the wrong kind, or strings that could not be written."""
    assert parse(text) == MALFORMED


def test_more_fields_and_a_repeated_key():
    """Fields beyond the format are ignored; the last of two values stands."""
    text = '{"event_type": "a", "trigger": "x", "event_type": "t", "arguments": [{"role": "r", "text": "a", "n": 1}]}'
    assert parse(text) == Parsed((GenerativeEvent("t", "x", (("r", "a"),)),), "ok")


def by_trying_everything(text):
    """The format's rules, by other means: json.loads of every stretch that begins with a bracket, first one first."""
    value, state = None, "malformed"
    decoder = json.JSONDecoder(parse_constant=lambda constant: 1 / 0)
    for start, letter in enumerate(text):
        if letter not in "{[":
            continue
        try:
            value, end = decoder.raw_decode(text, start)
        except ZeroDivisionError:
            return MALFORMED
        except json.JSONDecodeError:
            continue
        except ValueError:
            return MALFORMED
        state = "ok" if (text[:start] + text[end:]).strip(" \t\r\n") == "" else "repaired"
        break
    events = value.get("events", [value]) if isinstance(value, dict) else value
    try:
        found = tuple(
            GenerativeEvent(e["event_type"], e["trigger"], tuple((a["role"], a["text"]) for a in e["arguments"]))
            for e in events
        )
        strings = [s for e in found for s in (e.event_type, e.trigger, *(s for a in e.arguments for s in a))]
        listed = isinstance(events, list) and all(isinstance(event["arguments"], list) for event in events)
        "".join(strings).encode()
    except (TypeError, KeyError, UnicodeEncodeError):
        return MALFORMED
    return Parsed(found, state) if listed and (found or state == "ok") else MALFORMED


def test_no_mutant_breaks_it_or_passes_unseen():
    """2,000 damaged answers: never an exception, and the same events and state as by trying everything."""
    mutants = small(2000)
    assert len(mutants) >= 2000
    states = {"ok": 0, "repaired": 0, "malformed": 0}
    for mutant in mutants:
        found = parse(mutant)
        assert found == by_trying_everything(mutant), mutant
        states[found.state] += 1
        assert parse(dumps(found.events)) == Parsed(found.events, "ok")
    assert min(states.values()) > 50  # the mutants would show nothing if all fared alike


@pytest.mark.parametrize("name", large())
def test_a_megabyte(name):
    """A model that does not stop: outcomes, not exceptions. benchmarks/parse_answers.py has the times."""
    found = parse(large()[name])
    assert found.state == ("ok" if "complete" in name else "malformed")


def test_answers_of_other_layouts_are_taught_in_ours():
    """Another order of keys, other spaces, a list or an event alone; what has a field beside, or is no JSON, stays."""
    event = '{"arguments":[{"text":"a","role":"r"}],"event_type":"t","trigger":"x"}'
    ours = dumps([GenerativeEvent("t", "x", (GenerativeArgument("r", "a"),))])
    for answer in (ours, f'{{ "events": [{event}]}}', f"[{event}]", event):
        assert laid_out(answer) == ours
    assert laid_out("[]") == laid_out('{"events":[]}') == dumps([])
    for answer in (f"So: {event}", event.replace('"t"', '"t","time":1'), "no events", "", "[{]"):
        assert laid_out(answer) == answer
