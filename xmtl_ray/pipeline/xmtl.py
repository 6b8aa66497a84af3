"""X-MTL as stages: teachers → pseudo-labels → training → extraction → scores [X-MTL, Training Strategy].

Each stage's settings are those that its outputs depend on, and no others. So a threshold of the selection labels
nothing anew, another weighting leaves the teachers alone, and rows of a table share what is the same in them. The
surprising fact: a stage is also run with no more than these, all others being put back to their defaults; what a key
does not name cannot matter.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from xmtl_ray.config.load import ConfigError, leaves, with_values
from xmtl_ray.config.schema import IMAGE_TASKS, TEXT_TASKS, Config, TaskName
from xmtl_ray.pipeline import work
from xmtl_ray.pipeline.stages import Demand, Plain, Stage

FREE = (
    "name",
    "storage_path",
    "cluster.",
    "tracking.",
    "distill.",
    "data.root",
    "data.uri",
    "data.test",
    "data.pairs",
    "data.check",
    "data.loader_workers",
    "data.image_cache_mib",
    "inference.batch",
    "multitask.pseudo.store",
)
"""Settings, or beginnings of their paths, that what a training learns does not depend on."""

_NOT_OF_TRAINING = (
    "data.test",
    "data.test_objects",
    "data.pairs",
    "distill",
    "inference.object_confidence",
    "inference.all_types",
    "inference.schema_filter",
    "inference.coreference",
)
_OF_TEXT = (
    "data.ace",
    "data.train",
    "data.world_sentences",
    "data.text_prompt",
    "model.text_encoder",
    "model.built_text",
    "model.max_tokens",
    "train.learning_rate.text",
)
_OF_IMAGES = (
    "data.imsitu",
    "data.visual_prompt",
    "model.image_encoder",
    "model.built_image",
    "train.learning_rate.image",
)
_OF_TASK: Mapping[TaskName, tuple[str, ...]] = {
    "td": ("model.crf", "inference.trigger_bias"),
    "ae": ("model.argument",),
    "vc": ("inference.verb_threshold",),
    "rc": ("data.visual_prompt.kind", "data.visual_prompt.line_px", "data.visual_prompt.color"),
}
_DWA = ("multitask.weighting.alpha", "multitask.weighting.interval")
_FIXED = ("multitask.weighting.fixed",)
_LEARNT = ("multitask.weighting.learning_rate", "multitask.weighting.decay")
_NOT_OF_WEIGHTING = {
    "dwa": (*_FIXED, *_LEARNT),
    "fixed": (*_DWA, *_LEARNT),
    "uncertainty": (*_FIXED, *_DWA, "multitask.weighting.decay"),
    "famo": (*_FIXED, *_DWA),
    "upgrad": (*_FIXED, *_DWA, *_LEARNT),
}


@dataclass(frozen=True)
class Chain:
    """The stages from teachers to scores; no teachers and no pseudo-labels where the strategy needs none."""

    teachers: Mapping[TaskName, Stage]
    pseudo_labels: Stage | None
    train: Stage | None
    """None where the teachers themselves extract."""
    extract: Stage | None
    """None without ``data.test``."""
    score: Stage | None

    @property
    def last(self) -> tuple[Stage, ...]:
        """What to ask for: all else comes before it."""
        if self.score is not None:
            return (self.score,)
        return (self.train,) if self.train is not None else tuple(self.teachers.values())


def chain(config: Config, of: str = "") -> Chain:
    """The stages that ``config`` describes.

    Args:
        config: with ``multitask.strategy`` xmtl all of them; with another no teachers and no pseudo-labels.
        of: put before the stages' titles.

    Raises ConfigError for a setting that a pipeline makes itself, or cannot do without.
    """
    if config.multitask.pseudo.store is not None:
        raise ConfigError("multitask.pseudo.store: a pipeline makes it; set it to null, or use `xmtl train`")
    xmtl = config.multitask.strategy == "xmtl"
    if xmtl and config.data.pairs is None:
        raise ConfigError("data.pairs: strategy xmtl needs image-text pairs for its teachers to label")
    teachers = {task: teacher(config, task, of) for task in config.multitask.tasks} if xmtl else {}
    labels = pseudo_labels(config, teachers, of) if xmtl else None
    before = {} if labels is None else {"pseudo_labels": labels}
    train = _training("train", for_training(config), before, _title(of, "train"))
    return Chain(teachers, labels, train, *_scored(config, {"train": train}, of))


def separate(config: Config, of: str = "") -> Chain:
    """The four single-task models extracting together: Table 2's first row. They are X-MTL's teachers."""
    teachers = {task: teacher(config, task, of) for task in config.multitask.tasks}
    return Chain(teachers, None, None, *_scored(config, {f"teacher_{task}": teachers[task] for task in teachers}, of))


def teacher(config: Config, task: TaskName, of: str = "") -> Stage:
    """Training of one task alone."""
    alone = {"tasks": [task], "strategy": "single", "weighting": {"name": "fixed"}}
    own = with_values(config, {"multitask": alone, "train.select": "dev/mean_f1"})
    return _training(f"teacher_{task}", for_training(own), {}, _title(of, f"teacher {task}"))


def pseudo_labels(config: Config, teachers: Mapping[TaskName, Stage], of: str = "") -> Stage:
    """Labelling of ``data.pairs`` by the teachers; what is selected of the labels is the training's business."""
    settings, files = _inputs(config, "data.pairs")
    settings |= _settings(config, "distill.floor", "distill.max_quarantined")
    settings |= _settings(config, "inference.batch", "inference.object_confidence")
    pairs = config.data.pairs
    assert pairs is not None
    settings["data.pairs.images"] = str(pairs.images or pairs.source)  # the store names it
    return Stage(
        "pseudo_labels",
        settings,
        partial(work.label, config),
        ("store",),
        files,
        {f"teacher_{task}": stage for task, stage in teachers.items()},
        Demand(config.distill.actors, config.distill.actors * config.distill.gpu, inside=False),
        _title(of, "pseudo-labels"),
    )


def for_training(config: Config) -> Config:
    """``config`` with every setting put back to its default that a training by it does not depend on."""
    tasks, spec = set(config.multitask.tasks), config.multitask
    away = [*_NOT_OF_TRAINING]
    away += [] if tasks & set(TEXT_TASKS) else _OF_TEXT
    away += [] if tasks & set(IMAGE_TASKS) else _OF_IMAGES
    for task, own in _OF_TASK.items():
        away += [] if task in tasks else own
    if config.train.select not in {"dev/mean_f1", "dev/verb_f1"}:
        away += _OF_TASK["vc"]
    if config.train.select not in {"dev/mean_f1", "dev/trigger_f1"}:
        away.append("inference.trigger_bias")
    away += [] if spec.strategy == "xmtl" else ["multitask.pseudo"]
    away += [] if spec.strategy == "ark" else ["multitask.ark"]
    away += [] if spec.strategy in {"alternating", "ark"} else ["multitask.cycle"]
    away += ["multitask.rate"] if spec.strategy == "single" else []
    away += _NOT_OF_WEIGHTING[spec.weighting.name]
    return _put_back(config, away)


def _training(kind: str, config: Config, before: Mapping[str, Stage], title: str) -> Stage:
    settings, files = _inputs(config, "", FREE)
    spec = config.cluster
    workers = max(1, spec.workers)
    demand = Demand(workers * spec.cpus_per_worker, workers * spec.gpu, inside=spec.workers == 0)
    return Stage(kind, settings, partial(work.train, config), ("model",), files, before, demand, title)


def _scored(config: Config, models: Mapping[str, Stage], of: str) -> tuple[Stage | None, Stage | None]:
    """Extraction from ``data.test`` by ``models`` together, and its scores."""
    if config.data.test is None:
        return None, None
    settings, files = _inputs(config, "data.test")
    inference, more = _inputs(config, "inference.")
    demand = Demand(config.cluster.cpus_per_worker, float(config.cluster.gpu))
    extract = Stage(
        "extract",
        settings | inference,
        partial(work.extract, config),
        ("predictions.json",),
        files | more,
        models,
        demand,
        _title(of, "extract"),
    )
    score = Stage(
        "score",
        {},
        partial(work.score, config),
        ("scores.json",),
        files,
        {"extract": extract},
        Demand(config.cluster.cpus_per_worker),
        _title(of, "score"),
    )
    return extract, score


def _inputs(config: Config, prefix: str, free: tuple[str, ...] = ()) -> tuple[dict[str, Plain], dict[str, Path]]:
    """(settings, input files) under ``prefix``: a path that is there counts by its content, not by its name."""
    settings: dict[str, Plain] = {}
    files: dict[str, Path] = {}
    for path, value, _ in leaves(config):
        if not path.startswith(prefix) or path.startswith(free):
            continue
        named = isinstance(value, str) and os.sep in value
        if named and (path.startswith("data.") or Path(value).is_dir()):
            files[path] = Path(value)
        else:
            settings[path] = value
    return settings, files


def _settings(config: Config, *paths: str) -> dict[str, Plain]:
    return {path: value for path, value, _ in leaves(config) if path in paths}


def _put_back(config: Config, paths: Iterable[str]) -> Config:
    return with_values(config, {path: _default(path) for path in paths})


def _default(path: str) -> Any:
    """The schema's default of a setting or section, as plain values."""
    section: Any = Config
    *parents, leaf = path.split(".")
    for name in parents:
        section = section.model_fields[name].annotation
    value = section.model_fields[leaf].get_default(call_default_factory=True)
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


def _title(of: str, what: str) -> str:
    return f"{of}: {what}" if of else what
