"""What a run, or a whole pipeline, left in its folder, read for its page.

Only ``config.yaml`` must be there; a run that was stopped has no more than a journal. What is there must be whole:
a broken file is an error that names it. Of a pipeline the training is that of its stage ``train``, in a folder of its
own.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from xmtl_ray.config.load import ConfigError, load
from xmtl_ray.config.schema import Config
from xmtl_ray.events import predictions as prediction_files
from xmtl_ray.events.predictions import Predictions
from xmtl_ray.events.records import DataError
from xmtl_ray.events.strict_json import read_json, read_text
from xmtl_ray.tracking.journal import JOURNAL

Series = dict[int, float]
"""Step → value, in the order of steps."""

_Finite = Annotated[float, Field(allow_inf_nan=False)]


class Counts(BaseModel):
    """One metric under one protocol, as ``Prf.as_dict`` writes it; P, R and F1 in percent."""

    model_config = ConfigDict(frozen=True)

    correct: int
    predicted: int
    gold: int
    P: _Finite
    R: _Finite
    F1: _Finite

    @property
    def known(self) -> bool:
        """Whether there was anything to count."""
        return bool(self.predicted or self.gold)


class Summary(BaseModel):
    """How far training went."""

    epochs: int
    steps: int


class _Notes(BaseModel):
    coreference: str | None = None


class StageLine(BaseModel):
    """A stage of a pipeline, as ``pipeline.json`` has it."""

    state: str
    key: str = ""
    folder: Path | None = None
    mlflow_run: str | None = None
    why: str = ""


class _Pipeline(BaseModel):
    stages: dict[str, StageLine]


class Tracked(BaseModel):
    """Where a run is in MLflow, as ``mlflow.json`` has it."""

    uri: str
    experiment: str
    run_id: str | None = None


class _Line(BaseModel):
    status: str | None = None
    time_ms: int | None = None
    step: int = 0
    metrics: dict[str, float] = {}
    tags: dict[str, str] = {}
    parameters: dict[str, str] = {}


_SCORES = TypeAdapter(dict[str, dict[str, Counts]])
_SUMMARY = TypeAdapter(Summary)
_NOTES = TypeAdapter(_Notes)
_PIPELINE = TypeAdapter(_Pipeline)
_TRACKED = TypeAdapter(Tracked)
PIPELINE, TRACKED = "pipeline.json", "mlflow.json"


@dataclass
class Journal:
    """The journal put together: of a step that was done again after a restart, the last values."""

    tags: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, str] = field(default_factory=dict)
    """Settings by dotted path, as they were tracked: those of the training, where a folder is a whole pipeline's."""
    metrics: dict[str, Series] = field(default_factory=dict)
    status: str | None = None
    spells_ms: list[tuple[int, int]] = field(default_factory=list)
    """First and last sign of life of each start."""
    steps_ms: list[tuple[int, int, int]] = field(default_factory=list)
    """Which start, step and time of each training step that was tracked, as they were written."""

    @property
    def running_s(self) -> float:
        """Seconds at work; the time between a stop and a restart does not count."""
        return sum(end - start for start, end in self.spells_ms) / 1000

    @property
    def last_step(self) -> int:
        """The highest step that any metric has."""
        return max((step for series in self.metrics.values() for step in series), default=0)


@dataclass(frozen=True)
class RunFolder:
    """A run as its files tell it; None is a file that is not there."""

    config: Config
    journal: Journal
    summary: Summary | None
    scores: dict[str, dict[str, Counts]] | None
    """Protocol → metric → counts."""
    predictions: Predictions | None
    coreference: str | None
    """How it was decided which events corefer."""
    sure: Predictions | None = None
    """The predictions with their confidences; None where the file does not have them."""
    stages: dict[str, StageLine] = field(default_factory=dict)
    """Of a pipeline, in the order in which they run."""
    tracked: Tracked | None = None


def read(folder: Path) -> RunFolder:
    """Read the files of a run. Raises DataError or ConfigError, both ValueErrors, with the file's name."""
    config = _config(folder / "config.yaml")
    stages = read_json(folder / PIPELINE, _PIPELINE).stages if (folder / PIPELINE).exists() else {}
    trained = stages["train"].folder if "train" in stages else None
    learnt = folder if trained is None else trained
    journal, summary, scores = learnt / JOURNAL, learnt / "summary.json", folder / "scores.json"
    predicted = folder / "predictions.json"
    return RunFolder(
        config,
        journal_of(journal) if journal.exists() else Journal(),
        read_json(summary, _SUMMARY) if summary.exists() else None,
        read_json(scores, _SCORES) if scores.exists() else None,
        prediction_files.read(predicted) if predicted.exists() else None,
        read_json(predicted, _NOTES).coreference if predicted.exists() else None,
        prediction_files.read_confidences(predicted) if predicted.exists() else None,
        stages,
        tracked(folder),
    )


def tracked(folder: Path) -> Tracked | None:
    """Where the run is in MLflow; None where it is not tracked. Raises DataError."""
    return read_json(folder / TRACKED, _TRACKED) if (folder / TRACKED).exists() else None


def _config(path: Path) -> Config:
    read_text(path)  # a missing file or broken UTF-8 is told with the file's name
    try:
        return load(str(path))
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def journal_of(path: Path) -> Journal:
    """Read a run's journal; its last line may be half written. Raises DataError."""
    story = Journal()
    points: dict[str, Series] = {}
    for number, text in enumerate(read_text(path).splitlines(keepends=True), start=1):
        if not text.endswith("\n"):
            break  # the run is writing it
        line = _line(path, number, text)
        story.tags |= line.tags
        story.parameters |= line.parameters
        if line.status is not None:
            story.status = line.status
        if line.time_ms is not None:
            if line.status == "RUNNING" or not story.spells_ms:
                story.spells_ms.append((line.time_ms, line.time_ms))
            story.spells_ms[-1] = (story.spells_ms[-1][0], line.time_ms)
        if "train/loss" in line.metrics and line.time_ms is not None:
            story.steps_ms.append((len(story.spells_ms), line.step, line.time_ms))
        for name, value in line.metrics.items():
            if math.isfinite(value):
                points.setdefault(name, {})[line.step] = value
    story.metrics = {name: dict(sorted(series.items())) for name, series in points.items()}
    return story


def _line(path: Path, number: int, text: str) -> _Line:
    try:
        return _Line.model_validate(json.loads(text))
    except json.JSONDecodeError as error:
        raise DataError(path, f"line {number}", "", text.strip(), f"JSON ({error.msg})") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(path, f"line {number}", place, first["input"], first["msg"]) from None
