"""Answers of a language model that went wrong: seeded mutants of good ones, for the tests and the benchmark."""

import json
import random

ONE = {
    "event_type": "launch",
    "trigger": "unveiled",
    "arguments": [{"role": "entity", "text": "Norvale Labs"}, {"role": "place", "text": "Осло"}],
}
TWO = {"event_type": "policy-change", "trigger": "调整", "arguments": []}
GOOD = [json.dumps(value, ensure_ascii=False) for value in ({"events": [ONE, TWO]}, [TWO, ONE], ONE, {"events": []})]

WRAPPED = [
    "```json\n@\n```", "```\n@```", "Here is the result: @ Done.", "Result [1]: @", "@ @", "@\n@\n@", "\ufeff@",
    '<think>{"events": []}</think>@', '"@"', "'@'", "(@)", "[@]", '{"answer": @}', '{"answer": "@"}',
    "@,", "@]", "@}", "[@", "{@", "[[@", " \n\t@\r\n ", "\u00a0@", "\x00@", "// events\n@", "event = @;",
]  # fmt: skip

FIXED = [
    "", " ", "null", "true", "3", '"events"', "{}", "[]", "[[]]", "[null]", "{[", "]", "}", "{'events': []}",
    "NaN", "[NaN]", '{"events": null}',
    '{"events": {}}', '{"events": [null]}', '{"events": [[]]}', '{"events": [], "events": null}',
    '{"events": [{"event_type": "\\ud800", "trigger": "x", "arguments": []}]}', '{"events": [' + "1" * 5000 + "]}",
    '{"event_type": 1, "trigger": "x", "arguments": []}', '{"event_type": "a", "trigger": null, "arguments": []}',
    '{"event_type": "a", "trigger": "x", "arguments": {}}', '{"event_type": "a", "trigger": "x"}',
    '{"event_type": "a", "trigger": "x", "arguments": [{"role": "r", "text": ["t"]}]}',
    '{"event_type": "a", "trigger": "x", "arguments": [["r", "t"]]}', "no event at all",
    "../../etc/passwd {0.__class__}",
    '{"event_type": "a\nb", "trigger": "x", "arguments": []}', '{"events": [], "more": {"deep": [1, 2e400]}} !',
]  # fmt: skip


def small(count, seed=0):
    """At least ``count`` answers of ordinary length."""
    chance = random.Random(seed)
    found = list(FIXED)
    for good in GOOD:
        found += [wrap.replace("@", good) for wrap in WRAPPED]
        found += [good[:end] for end in range(len(good))]
        found += [good.replace('"', "'"), good.replace("]", ",]"), good.replace("}", ",}"), good.replace('"', "“")]
        found += [good.replace(key, other) for key in KEYS for other in (key.upper(), "", "x", '"role":1,' + key)]
    while len(found) < count:
        found.append(_damaged(chance.choice(GOOD), chance))
    return found


KEYS = ('"events"', '"event_type"', '"trigger"', '"arguments"', '"role"', '"text"')


def _damaged(text, chance):
    """One to four random edits: cut out, doubled, replaced, inserted."""
    for _ in range(chance.randint(1, 4)):
        start = chance.randrange(len(text) + 1)
        end = min(len(text), start + chance.choice((0, 1, 1, 5, 40)))
        middle = chance.choice(("", text[start:end] * 2, *'{}[]",:\\\n1', "null", "ключ", "\ud83d", '"a": 1, '))
        text = text[:start] + middle + text[end:]
    return text


def large():
    """Answers of about a megabyte, by name."""
    size = 1_000_000
    argument = '{"role": "entity", "text": "Norvale Labs"}, '
    arguments = argument * (size // len(argument))
    event = json.dumps(ONE) + ", "
    events = event * (size // len(event))
    head = '{"event_type": "a", "trigger": "x", "arguments": ['
    return {
        "arguments without end": head + arguments,
        "events without end": '{"events": [' + events,
        "events, complete": '{"events": [' + events[:-2] + "]}",
        "arguments, complete": head + arguments[:-2] + "]}",
        "one word again and again": "the " * (size // 4),
        "opening brackets": "[" * size,
        "opening braces": "{" * size,
        "opening keys": '{"' * (size // 2),
        "nested objects": '{"a":' * (size // 5),
        "nested lists": "[1," * (size // 3),
        "900 lists of numbers": "[" * 900 + "1," * (size // 2),
        "lists in prose": "lorem [x] " * (size // 10),
        "strings of lists": '["' * (size // 2),
        "empty objects": "[" + "{}," * (size // 3) + "{}]",
        "spaces": " " * size,
        "braces behind prose": "x" * size + "{x" * 50_000,
        "braces on lines": "{\n" * (size // 2),
        "one number": "[" + "1" * size + "]",
    }
