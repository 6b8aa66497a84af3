"""The items of an ``m2e2-pred-1`` file, and what becomes of malformed ones where a reader is lenient.

A malformed event, argument or pair is replaced by one that is well-formed and matches nothing, so that it still counts
as predicted: leaving it out would reward a system for breaking its output.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, StrictInt, TypeAdapter

from xmtl_ray.events.json_window import AGAIN
from xmtl_ray.events.records import DataError, Report
from xmtl_ray.events.strict_json import PositiveCorners, validated

MALFORMED = "malformed"
"""Type, role and id of a replacement."""
NOWHERE = (2**31, 2**31 + 1)
"""Words of a replacement; no sentence has so many."""
_NO_BOX = (-2.0, -2.0, -1.0, -1.0)


def _increasing(span: tuple[int, int]) -> tuple[int, int]:
    if not 0 <= span[0] < span[1]:
        raise ValueError("[start, end] with 0 <= start < end")
    return span


WordSpan = Annotated[tuple[StrictInt, StrictInt], AfterValidator(_increasing)]


class Item(BaseModel):
    """Something predicted, as the file has it; a field that is not known would be a misspelt one."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class TextArgumentItem(Item):
    """What fills a role of a text event."""

    role: str
    span: WordSpan


class TextEventItem(Item):
    """A trigger with its event type and arguments."""

    type: str
    trigger: WordSpan
    arguments: list[TextArgumentItem] = []


class VisualArgumentItem(Item):
    """A box that fills a role of a visual event."""

    role: str
    box: PositiveCorners


class VisualEventItem(Item):
    """An event that an image shows."""

    type: str
    arguments: list[VisualArgumentItem] = []


class PairItem(Item):
    """A sentence and an image that tell the same event."""

    sentence: str
    image: str
    type: str


_TEXT, _VISUAL, _PAIR = TypeAdapter(TextEventItem), TypeAdapter(VisualEventItem), TypeAdapter(PairItem)
_TEXT_ARGUMENT, _VISUAL_ARGUMENT = TypeAdapter(TextArgumentItem), TypeAdapter(VisualArgumentItem)
_WRONG_TEXT = {"type": MALFORMED, "trigger": NOWHERE}
_WRONG_VISUAL = {"type": MALFORMED}
_WRONG_PAIR = {"sentence": f"{MALFORMED}_0", "image": f"{MALFORMED}_0", "type": MALFORMED}
_WRONG_ARGUMENTS = {"text": {"role": MALFORMED, "span": NOWHERE}, "image": {"role": MALFORMED, "box": _NO_BOX}}


def mended(path: Path, value: object, report: Report) -> object:
    """The file's JSON value with every malformed item replaced; each is told to ``report``.

    Events under a repeated id, or under an image's second spelling, are all malformed. Only what stands in the place of
    events is looked at: a file that is broken as a whole stays broken.
    """
    if not isinstance(value, dict):
        return value
    whole = dict(value)
    for kind, event, argument, wrong in (
        ("text", _TEXT, _TEXT_ARGUMENT, _WRONG_TEXT),
        ("image", _VISUAL, _VISUAL_ARGUMENT, _WRONG_VISUAL),
    ):
        if not isinstance(whole.get(kind), dict):
            continue
        events: dict[str, list[object]] = {}
        for name, items in whole[kind].items():
            own = name.partition(AGAIN)[0]
            plain = own.removesuffix(".jpg") if kind == "image" else own
            if kind == "image" and plain in events and AGAIN not in name:
                report(DataError(path, kind, name, "a second entry", f"{plain!r} with or without .jpg, not both"))
            again = plain in events
            if not isinstance(items, list):
                report(DataError(path, kind, own, items, "a list of events"))
                items = [items]  # noqa: PLW2901
            events.setdefault(plain, []).extend(
                _event(
                    path, f"{kind}.{own}", number, item, event, argument, wrong, _WRONG_ARGUMENTS[kind], again, report
                )
                for number, item in enumerate(items)
            )
        whole[kind] = events
    if isinstance(whole.get("coref"), list):
        whole["coref"] = [
            pair if _sound(path, f"coref.{number}", "", pair, _PAIR, report) else _WRONG_PAIR
            for number, pair in enumerate(whole["coref"])
        ]
    return whole


def _event(
    path: Path,
    record: str,
    number: int,
    item: Any,
    event: TypeAdapter[Any],
    argument: TypeAdapter[Any],
    wrong: dict[str, Any],
    wrong_argument: dict[str, Any],
    repeated: bool,
    report: Report,
) -> object:
    """The item itself where it is sound; else as much of it as is."""
    if not repeated and _sound(path, record, str(number), item, event, report):
        return item
    arguments = item.get("arguments", []) if isinstance(item, dict) else []
    arguments = arguments if isinstance(arguments, list) else [arguments]
    head = {key: kept for key, kept in item.items() if key != "arguments"} if isinstance(item, dict) else item
    if repeated or not _sound(path, record, str(number), head, event, None):
        return {**wrong, "arguments": [wrong_argument] * len(arguments)}
    sound = [each if _sound(path, record, str(number), each, argument, None) else wrong_argument for each in arguments]
    return {**head, "arguments": sound}


def _sound(path: Path, record: str, field: str, item: object, layout: TypeAdapter[Any], report: Report | None) -> bool:
    try:
        validated(path, (record, field) if field else (record,), item, layout)
    except DataError as error:
        if report is not None:
            report(error)
        return False
    return True
