"""Generative events ⇄ JSON text: what a language model is taught to write, and how its answer is read.

``{"events": [{"trigger", "event_type", "arguments": [{"role", "text"}]}]}``, in any order of keys. A list of such
events or a single one is read, too, and fields beyond these are ignored; of a repeated key the last value stands. Types
and roles are not checked against a schema: a wrong one is a wrong answer, for the scorer to count. Two surprising
facts: what we write, and so teach, has the trigger before its type, for a model that writes from left to right then
copies words before it judges them (after four epochs of adapters on the synthetic corpus 54 % of the triggers are right
in place of 22 %). And an answer that is not of the format is no error but an outcome (``malformed``): nothing that a
model can write makes ``parse`` raise.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Literal, NoReturn

from pydantic import AfterValidator, FailFast, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from xmtl_ray.events.records import GenerativeArgument, GenerativeEvent

State = Literal["ok", "repaired", "malformed"]
STATES: tuple[State, ...] = ("ok", "repaired", "malformed")


@dataclass(frozen=True, slots=True)
class Parsed:
    """The events of a model's answer, and how they were found."""

    events: tuple[GenerativeEvent, ...]
    state: State
    """ok: the whole answer is JSON of the format. repaired: other text stands around it. malformed: no events."""


def _writable(text: str) -> str:
    r"""Half of a surrogate pair, ``\ud800`` alone, is valid JSON but no text: it could not be written to any file."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("text without lone surrogates") from None
    return text


_Text = Annotated[str, AfterValidator(_writable)]


# Dictionaries rather than models: an answer of a megabyte holds tens of thousands.
class _Argument(TypedDict):
    role: _Text
    text: _Text


class EventLayout(TypedDict):
    """One event as JSON has it, in answers and in files of samples."""

    trigger: _Text
    event_type: _Text
    arguments: Annotated[list[_Argument], FailFast()]


_EVENTS: TypeAdapter[list[EventLayout]] = TypeAdapter(Annotated[list[EventLayout], FailFast()])


def dumps(events: Iterable[GenerativeEvent]) -> str:
    """The answer that a model should give: one line of JSON, letters of all scripts as themselves."""
    written = [
        {
            "trigger": event.trigger,
            "event_type": event.event_type,
            "arguments": [{"role": role, "text": text} for role, text in event.arguments],
        }
        for event in events
    ]
    return json.dumps({"events": written}, ensure_ascii=False)


def laid_out(answer: str) -> str:
    """``answer`` as ``dumps`` writes it, where it is event JSON with no fields beside; any other text as it is.

    A model is taught one order of keys and one spacing, those that answers are held to, whatever its data have.
    """
    parsed = parse(answer)
    if parsed.state != "ok":
        return answer
    written = dumps(parsed.events)
    said, value = json.loads(answer), json.loads(written)
    return written if said in (value, value["events"]) or [said] == value["events"] else answer


def as_events(rows: Iterable[EventLayout]) -> tuple[GenerativeEvent, ...]:
    """Records of what is laid out as JSON has it."""
    return tuple(
        GenerativeEvent(
            row["event_type"], row["trigger"], tuple(GenerativeArgument(a["role"], a["text"]) for a in row["arguments"])
        )
        for row in rows
    )


def parse(output: str) -> Parsed:
    """Read a model's answer.

    ``ok`` where the whole string is JSON. Otherwise the first JSON object or list in it counts (``repaired``): a code
    fence, prose around it, a tail that was cut off. ``malformed``, without events, where there is none, where a field
    is missing or of the wrong kind, and where a repair leaves no event at all: any pair of brackets would pass for
    one. Nesting deeper than Python parses, NaN, Infinity and numbers of thousands of digits are malformed, too.

    Time grows with the length alone: the search ends, as malformed, when it has read ``_EFFORT`` characters in vain,
    which takes an answer of a hundred pages or one of nothing but brackets.
    """
    found = _first_value(output)
    if found is None:
        return _MALFORMED
    value, whole = found
    if isinstance(value, dict):
        value = value.get("events", [value])
    try:
        rows = _EVENTS.validate_python(value)
    except ValidationError:
        return _MALFORMED
    if not rows and not whole:
        return _MALFORMED
    return Parsed(as_events(rows), "ok" if whole else "repaired")


_MALFORMED = Parsed((), "malformed")
_OPENING = re.compile(r"[\[{]")
_EFFORT = 1 << 20


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_refuse)


def _first_value(text: str) -> tuple[object, bool] | None:
    """The first JSON object or list in ``text``, and whether nothing but white space stands around it."""
    effort = 0
    for opening in _OPENING.finditer(text):
        start = opening.start()
        try:
            value, end = _DECODER.raw_decode(text, start)
        except json.JSONDecodeError as error:
            # Making the error counts the lines before its place, some thirty times as fast as parsing, and takes time.
            effort += error.pos - start + error.pos // 32 + 256
        except (RecursionError, ValueError):  # too deep; NaN; more digits than Python converts
            return None
        else:
            return value, not _around(text, start, end)
        if effort > _EFFORT:
            return None
    return None


def _around(text: str, start: int, end: int) -> bool:
    return bool(text[:start].strip(_SPACE) or text[end:].strip(_SPACE))


_SPACE = " \t\n\r"
"""White space as JSON has it; other kinds are text."""
