"""Files of generative samples and of a model's answers to them: JSON lines.

A sample is ``{"id", "language", "source", "events", "modality"}``, the last and ``source`` optional; an answer
``{"id", "output"}`` with the model's raw string, whatever that is. Other fields are ignored, blank lines skipped.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError

from xmtl_ray.events.json_format import EventLayout, as_events
from xmtl_ray.events.records import DataError, GenerativeSample, Modality
from xmtl_ray.events.strict_json import read_text

T = TypeVar("T", bound="_Row")


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    id: str


class _Sample(_Row):
    language: Annotated[str, StringConstraints(pattern=r"^[a-z]{2}$")]
    source: str = ""
    events: list[EventLayout]
    modality: Modality | None = None


class _Answer(_Row):
    output: str


_SAMPLE, _ANSWER = TypeAdapter(_Sample), TypeAdapter(_Answer)


def read_samples(path: Path) -> tuple[GenerativeSample, ...]:
    """The samples with their gold events, in the file's order. Raises DataError, also for an id that comes twice."""
    return tuple(
        GenerativeSample(row.id, row.language, row.source, as_events(row.events), row.modality)
        for _, row in _rows(path, _SAMPLE)
    )


def read_answers(path: Path, samples: Iterable[GenerativeSample]) -> dict[str, str]:
    """The model's raw answers by sample id; some may be missing.

    Raises DataError, also for an id that comes twice or that none of ``samples`` has.
    """
    known = {sample.id for sample in samples}
    answers = dict[str, str]()
    for number, row in _rows(path, _ANSWER):
        if row.id not in known:
            raise DataError(path, f"line {number}", "id", row.id, f"the id of one of the {len(known)} samples")
        answers[row.id] = row.output
    return answers


def _rows(path: Path, layout: TypeAdapter[T]) -> Iterator[tuple[int, T]]:
    seen = dict[str, int]()
    # Only line feeds end a line: JSON strings may hold the other signs that str.splitlines takes for ends.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        record = f"line {number}"
        try:
            row = layout.validate_python(json.loads(line))
        except json.JSONDecodeError as error:
            found = line[max(0, error.pos - 20) : error.pos + 20]
            raise DataError(path, record, f"column {error.colno}", found, f"JSON ({error.msg})") from None
        except RecursionError:
            raise DataError(path, record, "nesting", "too deep", "JSON of ordinary depth") from None
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise DataError(path, record, ".".join(map(str, first["loc"])), first["input"], first["msg"]) from None
        if row.id in seen:
            raise DataError(path, record, "id", row.id, f"an id that line {seen[row.id]} does not have")
        seen[row.id] = number
        yield number, row
