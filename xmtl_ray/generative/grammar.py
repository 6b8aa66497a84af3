"""What an answer may be, letter for letter: a grammar of exactly what ``json_format.dumps`` writes.

Types and roles are those of a schema, roles as their type allows; triggers and arguments are any text without control
characters, or stretches of the source's own words. The surprising fact: words of the source are not listed by position
but by the states of their suffix automaton, at most two a word. A rule per position would be as short, but in a source
of repeated words, "a a a a", every position could be the present one, and a token would take seconds.

A prefix of an answer, which is what a limit on tokens leaves, is completed by ``close_answer``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

EVENTS, ARGUMENTS, LETTERS = 8, 8, 120
"""Most events of an answer, arguments of an event, letters of a free text."""

_HEAD, _TRIGGER, _AFTER_TRIGGER, _AFTER_TYPE = '{"events": [', '{"trigger": "', '", "event_type": ', ', "arguments": ['
_ROLE, _TEXT, _AFTER_ARGUMENT, _TAIL = '{"role": ', ', "text": "', '"}', "]}"


def answer_grammar(
    schema: Mapping[str, Sequence[str]],
    source: str | None = None,
    *,
    events: int = EVENTS,
    arguments: int = ARGUMENTS,
    letters: int = LETTERS,
) -> str:
    """An EBNF grammar as XGrammar reads it; its rule ``root`` is an answer, one space before it allowed.

    The space is for vocabularies that begin a text with one (SentencePiece); no answer is read differently for it.

    Args:
        schema: event type → its roles.
        source: what triggers and arguments are quoted from, in ``words``; None: free text.
        events: of an answer, at most.
        arguments: of an event, at most.
        letters: of a free text, at most; there is one at least.

    Raises ValueError where the schema has no types, a bound is too small, or ``source`` has no words or is no text.
    """
    if not schema:
        raise ValueError("schema: found no event types, expected one at least")
    if events < 1 or arguments < 0 or letters < 1:
        raise ValueError(f"bounds: found {events} events, {arguments} arguments, {letters} letters, expected 1, 0, 1")
    rules = [f"root ::= {_literal(' ')}? {_literal(_HEAD)} {_listed('event', events)} {_literal(_TAIL)}"]
    types = " | ".join(f"type_{number}" for number in range(len(schema)))
    rules.append(f"event ::= {_literal(_TRIGGER)} trigger ({types})")
    for number, (event_type, roles) in enumerate(schema.items()):
        listed = _listed(f"argument_{number}", arguments if roles else 0)
        rules.append(f"type_{number} ::= {_literal(_json(event_type) + _AFTER_TYPE)} {listed} {_literal(_TAIL)}")
        if roles and arguments:
            role = " | ".join(_literal(_json(role)) for role in roles)
            rules.append(f"argument_{number} ::= {_literal(_ROLE)} ({role}) {_literal(_TEXT)} argument")
    rules += _free_text(letters) if source is None else _quoted_text(source)
    return "\n".join(rules) + "\n"


def _listed(rule: str, most: int) -> str:
    if not most:
        return '""'
    return f"({rule} ({_literal(', ')} {rule}){{0,{most - 1}}})?"


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _literal(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


# No quotes, backslashes, control characters or surrogates. A class for each length in UTF-8: a range over two of them,
# or two ranges side by side, let XGrammar 0.2.8 pass bytes that are no text.
_LETTERS = (
    r"[ !#-\[\]-~]",
    "[\u00a0-\u07ff]",
    "[\u0800-\ud7ff]",
    "[\ue000-\uffff]",
    "[\U00010000-\U0010ffff]",
    r'\\["\\]',
)


def _free_text(letters: int) -> list[str]:
    # What follows a text belongs to its rule: tokens that go on beyond the closing quotes can then be judged when the
    # grammar is compiled, not at every step.
    text = "(?:{}){{1,{}}}".format("|".join(_LETTERS), letters)
    ends = {"trigger": _AFTER_TRIGGER, "argument": _AFTER_ARGUMENT}
    return [f"{rule} ::= Regex({_literal(text + _as_regex(end))})" for rule, end in ends.items()]


def _as_regex(text: str) -> str:
    return text.replace("[", r"\[").replace("}", r"\}")


def _quoted_text(source: str) -> list[str]:
    try:
        source.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"source: found half a surrogate pair at letter {error.start}, expected text") from None
    chunks = words(source)
    if not chunks:
        raise ValueError(f"source: found {source[:40]!r}, expected words to quote from")
    states = suffix_automaton([("", chunks[0][1]), *chunks[1:]])
    starts = " | ".join(f"{_literal(_json(word)[1:-1])} after_{state}" for (_, word), state in states[0].items())
    rules = [
        f"trigger ::= quoted {_literal(_AFTER_TRIGGER)}",
        f"argument ::= quoted {_literal(_AFTER_ARGUMENT)}",
        f"quoted ::= {starts}",
    ]
    for number, following in enumerate(states[1:], start=1):
        steps = (f"{_literal(_json(gap + word)[1:-1])} after_{state}" for (gap, word), state in following.items())
        rules.append(" | ".join((f'after_{number} ::= ""', *steps)))
    return rules


# Chinese has no spaces; kana and hangul are treated alike. Combining accents belong to their word.
_CHARACTER = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"(\s*)([{_CHARACTER}]|(?:(?![{_CHARACTER}])[\w\u0300-\u036f])+|\S)")


def words(source: str) -> list[tuple[str, str]]:
    """What a quotation is made of, with the white space before it: words, signs, and characters of Chinese.

    >>> words("US-based 实验室")
    [('', 'US'), ('', '-'), ('', 'based'), (' ', '实'), ('', '验'), ('', '室')]
    """
    return [(gap, word) for gap, word in _WORD.findall(source)]


def suffix_automaton(chunks: Sequence[tuple[str, str]]) -> list[dict[tuple[str, str], int]]:
    """The smallest automaton that reads every stretch of ``chunks`` (Blumer et al., 1985): transitions by state.

    State 0 is the start, all are ends; states are fewer than two a chunk, transitions than three.
    """
    following, link, longest, last = [dict[tuple[str, str], int]()], [-1], [0], 0
    for chunk in chunks:
        new, state = len(following), last
        following.append({})
        link.append(0)
        longest.append(longest[last] + 1)
        while state >= 0 and chunk not in following[state]:
            following[state][chunk] = new
            state = link[state]
        if state >= 0:
            target = following[state][chunk]
            if longest[target] > longest[state] + 1:
                target = _split(following, link, longest, state, chunk)
            link[new] = target
        last = new
    return following


def _split(
    following: list[dict[tuple[str, str], int]], link: list[int], longest: list[int], state: int, chunk: tuple[str, str]
) -> int:
    """A copy of the state that ``chunk`` leads to, for the shorter stretches that end there; they are led to it."""
    target, copy = following[state][chunk], len(following)
    following.append(dict(following[target]))
    link.append(link[target])
    longest.append(longest[state] + 1)
    while state >= 0 and following[state].get(chunk) == target:
        following[state][chunk] = copy
        state = link[state]
    link[target] = copy
    return copy


_STRING = r'"(?:[^"\\\x00-\x1f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"'
_EVENT = re.compile(rf'\{{"trigger": {_STRING}, "event_type": {_STRING}, "arguments": \[')
_ARGUMENT = re.compile(rf'\{{"role": {_STRING}, "text": {_STRING}\}}')


def close_answer(prefix: str) -> tuple[str, bool]:
    """The answer that ``prefix``, the beginning of one, completes to; and whether it was none yet.

    Kept is what stands before the end of its last complete event or argument, then brackets are closed; an event whose
    first argument is incomplete is dropped as a whole. What is no beginning of an answer ends where it leaves the
    layout, so there is an answer for any text.

    >>> close_answer('{"events": [{"trigger": "bought", "event_type": "buy", "arguments": []}, {"tr')
    ('{"events": [{"trigger": "bought", "event_type": "buy", "arguments": []}]}', True)
    """
    text = prefix.removeprefix(" ")
    events, place = list[str](), len(_HEAD)
    going = text.startswith(_HEAD)
    while going and (event := _EVENT.match(text, place)):
        listed, place = _items(text, event.end())
        closed = text.startswith(_TAIL, place)
        if closed or listed:
            events.append(event[0] + ", ".join(listed) + _TAIL)
        place += len(_TAIL)
        going = closed and text.startswith(", ", place)
        place += len(", ")
    answer = _HEAD + ", ".join(events) + _TAIL
    return answer, answer != text


def _items(text: str, place: int) -> tuple[list[str], int]:
    """The complete arguments that stand from ``place`` on, and where the last one ends."""
    found = list[str]()
    while argument := _ARGUMENT.match(text, place + 2 if found and text.startswith(", ", place) else place):
        if found and argument.start() == place:
            break
        found.append(argument[0])
        place = argument.end()
    return found, place
