"""From what a search draws to the config of a trial, and whether every such config is valid: checked before Ray starts.

A trial differs from the recipe in what is varied and in where it lies, in nothing else; it never sees the test data.
Teachers and pseudo-labels of X-MTL are the recipe's, the same for all trials: what a sweep varies is the last training.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from xmtl_ray.config.finetune import FinetuneConfig
from xmtl_ray.config.load import ConfigError, load_any, with_values
from xmtl_ray.config.run import Run
from xmtl_ray.config.schema import Config
from xmtl_ray.pipeline.xmtl import for_training
from xmtl_ray.tuning.domains import Scalar
from xmtl_ray.tuning.space import Space, SpaceError

AnyConfig = Config | FinetuneConfig
C = TypeVar("C", bound=Run)

Values = Mapping[str, Scalar]
"""Dotted path → value."""

NOT_SWEPT = ("name", "storage_path", "cluster.", "tracking.", "data.root", "data.test", "data.check", "data.pairs")
NOT_SWEPT += ("distill.", "multitask.pseudo.store")
"""Settings, or beginnings of their paths, that a trial cannot differ in."""

MUTABLE = ("train.learning_rate", "train.connector_rate", "train.weight_decay", "train.clip_norm")
MUTABLE += ("train.label_smoothing", "multitask.weighting.alpha", "multitask.weighting.fixed", "multitask.pseudo.beta")
MUTABLE += ("multitask.ark.", "adapter.dropout")
"""What population based training may change while a trial runs: neither data nor shapes follow from it."""

DEV = {"td": "trigger_f1", "ae": "argument_f1", "vc": "verb_f1", "rc": "role_f1"}
"""Each task's dev metric; as in ``multitask.dev``, whose import takes seconds."""

GENERATIVE = ("loss_lm", "token_probability", "tr_accuracy", "arg_accuracy", "mean_accuracy", "trigger_f1")
GENERATIVE += ("argument_f1",)
"""Dev metrics of generative models, beside those of single languages."""


def base(space: Space) -> AnyConfig:
    """The recipe with what is fixed. Raises SpaceError."""
    fixed = [f"{path}={json.dumps(value)}" for path, value in space.fixed.items()]
    try:
        config = load_any(space.recipe, fixed)
    except ConfigError as error:
        raise SpaceError(f"recipe {space.recipe}, with what is fixed: {error}") from None
    _check_metric(space, config)
    return config


def settings(space: Space, drawn: Values, config: AnyConfig) -> dict[str, Scalar]:
    """What a trial sets: what was drawn, and what follows from it.

    Args:
        space: the sweep.
        drawn: a value for each coordinate.
        config: the recipe's, for settings that are not varied but that others follow from.

    Raises SpaceError.
    """
    found: dict[str, Scalar] = {path: drawn[path] for path, domain in space.drawn.items() if domain.times is None}

    def other(path: str, of: str) -> Any:
        if of in found:
            return found[of]
        section: Any = config
        for name in of.split("."):
            section = getattr(section, name, None)
        if section is None:
            raise SpaceError(f"space.{path}: there is no setting {of!r}")
        return section

    for path, domain in space.space.items():
        if domain.times is not None:
            factor = other(path, domain.times)
            ratio = drawn[path]
            assert isinstance(ratio, int | float)
            found[path] = ratio * factor
        elif domain.equals is not None:
            found[path] = other(path, domain.equals)
        elif domain.by is not None:
            key = other(path, domain.by)
            assert domain.values is not None
            if key not in domain.values:
                raise SpaceError(f"space.{path}: values has none for {domain.by}={key}")
            found[path] = domain.values[key]
    return {path: found[path] for path in space.space}


def check(space: Space, config: AnyConfig) -> list[AnyConfig]:
    """The configs at every end and choice, all of them valid. Raises SpaceError, naming the setting and its value."""
    for path in space.space:
        if path.startswith(NOT_SWEPT):
            raise SpaceError(f"space.{path}: what a trial learns does not depend on it, or is the same for all trials")
        if space.search == "pbt" and not path.startswith(MUTABLE):
            raise SpaceError(
                f"space.{path}: cannot change while a trial runs, as pbt does; it can of {', '.join(MUTABLE)}"
            )
    if space.search == "pbt" and config.cluster.workers > 1:
        raise SpaceError(
            f"cluster.workers: found {config.cluster.workers}, expected 0 or 1 with search: pbt, whose trials are a "
            "process each"
        )
    built: list[AnyConfig] = []
    without: dict[str, set[str]] = {}
    for path, drawn in _corners(space):
        try:
            one = with_values(config, settings(space, drawn, config))
        except ConfigError as error:
            told = ", ".join(f"{name}={value}" for name, value in settings(space, drawn, config).items())
            raise SpaceError(f"space{f'.{path}' if path else ''}: with {told}: {error}") from None
        built.append(one)
        if path is not None and isinstance(one, Config):
            without.setdefault(path, set()).add(repr(for_training(one)))
    for path, learnt in without.items():
        if len(learnt) == 1 and len(space.drawn[path].ends()) > 1:
            raise SpaceError(
                f"space.{path}: changes nothing that is learnt with the other settings as they are (strategy "
                f"{config.multitask.strategy}, weighting {config.multitask.weighting.name})"
                if isinstance(config, Config)
                else f"space.{path}: changes nothing"
            )
    return built


def of_trial(config: C, values: Values, name: str, folder: Path, extra: Mapping[str, Any]) -> C:
    """The config that a trial runs by.

    Args:
        config: the recipe's.
        values: what the trial sets.
        name: of the trial's run.
        folder: which its own folder is made in.
        extra: settings that all trials of the sweep have.
    """
    own = {"name": name, "storage_path": str(folder), "data.test": None, "data.check": "none"}
    return with_values(config, {**extra, **values, **own})


def _corners(space: Space) -> Iterator[tuple[str | None, dict[str, Scalar]]]:
    """(path that alone is varied, draws): each domain's ends with the others at their first, then at their last."""
    ends = {path: domain.ends() for path, domain in space.drawn.items()}
    for side in (0, -1):
        others = {path: values[side] for path, values in ends.items()}
        yield None, others
        for path, values in ends.items():
            for value in values:
                yield path, others | {path: value}


def _check_metric(space: Space, config: AnyConfig) -> None:
    name = space.metric.removeprefix("dev/")
    if isinstance(config, Config):
        known = [DEV[task] for task in config.multitask.tasks] + ["mean_f1"]
        fits = name in known
    else:
        known = list(GENERATIVE)
        fits = name in known or name.startswith(("tr_accuracy_", "arg_accuracy_"))
        if name not in {"loss_lm", "token_probability"} and config.train.dev_samples == 0:
            raise SpaceError(f"metric: found {space.metric}, but train.dev_samples=0 answers nothing on the dev set")
    if not fits:
        raise SpaceError(f"metric: found {space.metric}, expected one of {', '.join(f'dev/{one}' for one in known)}")
    if (space.mode == "min") != (name == "loss_lm"):
        raise SpaceError(f"mode: found {space.mode} with {space.metric}, of which the other is better")
