"""Files of generative samples and of a model's answers to them: JSON lines.

A sample is ``{"id", "language", "source", "events", "modality"}``, the last and ``source`` optional; an answer
``{"id", "output", "cut"}`` with the model's raw string, whatever that is, and, optional, whether a limit on tokens
stopped it. Other fields are ignored; a JSON list of either is read as well.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter

from xmtl_ray.events.json_format import EventLayout, as_events, dumps
from xmtl_ray.events.records import DataError, GenerativeSample, Modality
from xmtl_ray.events.strict_json import stream_list


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
    cut: bool | None = None


_SAMPLE, _ANSWER = TypeAdapter(_Sample), TypeAdapter(_Answer)


def read_samples(path: Path) -> tuple[GenerativeSample, ...]:
    """The samples with their gold events, in the file's order. Raises DataError, also for an id that comes twice."""
    seen = dict[str, int]()

    def sample(index: int, row: _Sample) -> GenerativeSample:
        _once(path, index, row.id, seen)
        return GenerativeSample(row.id, row.language, row.source, as_events(row.events), row.modality)

    return tuple(stream_list(path, _SAMPLE, sample))


def write_samples(path: Path, samples: Iterable[GenerativeSample]) -> None:
    """Write samples with their gold events as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for sample in samples:
            row = {
                "id": sample.id,
                "language": sample.language,
                "modality": sample.modality,
                "source": sample.source,
                "events": json.loads(dumps(sample.events))["events"],
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def answer_line(name: str, output: str, cut: bool) -> str:
    """A line of a file of answers, without its end."""
    return json.dumps({"id": name, "output": output, "cut": cut}, ensure_ascii=False)


def read_answers(path: Path, samples: Iterable[GenerativeSample], only_gold: bool = False) -> dict[str, str]:
    """The model's raw answers by sample id; some may be missing.

    Raises DataError, also for an id that comes twice or that none of ``samples`` has; with ``only_gold`` answers to
    other questions are left out.
    """
    known, seen = {sample.id for sample in samples}, dict[str, int]()

    def answer(index: int, row: _Answer) -> tuple[str, str]:
        _once(path, index, row.id, seen)
        if row.id not in known and not only_gold:
            raise DataError(path, index, "id", row.id, f"the id of one of the {len(known)} samples")
        return row.id, row.output

    return {name: output for name, output in stream_list(path, _ANSWER, answer) if name in known}


def read_cut(path: Path) -> frozenset[str] | None:
    """Ids of the answers that a limit on tokens stopped; None where no answer says so or not. Raises DataError."""
    told = list(stream_list(path, _ANSWER, lambda _, row: (row.id, row.cut)))
    return None if all(cut is None for _, cut in told) else frozenset(name for name, cut in told if cut)


def _once(path: Path, index: int, name: str, seen: dict[str, int]) -> None:
    if name in seen:
        raise DataError(path, index, "id", name, f"an id that record {seen[name]} does not have")
    seen[name] = index
