"""How a run learnt and from which pseudo-labels, in words for its page."""

from __future__ import annotations

from dataclasses import dataclass

from xmtl_ray.config.schema import Config, Thresholds
from xmtl_ray.report.run_folder import Journal

_SHORT = 12
"""Digits of a hash beside a name; all 64 are among the page's fingerprints."""


@dataclass(frozen=True)
class Origin:
    """Where pseudo-labels come from."""

    store: str
    """Its folder; empty where nothing names it."""
    hashes: tuple[tuple[str, str], ...]
    """What (store, pairs, teacher of a task) and the beginning of its SHA-256, as far as the run's tags have it."""


def strategy(config: Config) -> list[tuple[str, str]]:
    """Strategy, weighting and the selection of pseudo-labels, as (name, value)."""
    spec = config.multitask
    turn = "each all its data of an epoch" if spec.cycle == "epoch" else f"{_interval(spec.cycle)} each"
    turns = f"tasks in turn, {turn}"
    how = {
        "single": "one task alone",
        "alternating": turns,
        "ark": f"{turns}, drawn to their moving average (momentum {spec.ark.momentum:g}, weight {spec.ark.weight:g})",
        "joint": "every step learns from all tasks",
        "xmtl": "every step learns from all tasks and from pseudo-labels",
    }
    found = [("Strategy", f"{spec.strategy}: {how[spec.strategy]}")]
    if spec.summed:
        found.append(("Weights of losses", _weighting(config)))
    if spec.strategy == "xmtl":
        found.append(("Pseudo-labels", _selection(config)))
    return found


def origin(config: Config, journal: Journal) -> Origin | None:
    """The store of pseudo-labels that a run has learnt from; None for a run that learnt from none."""
    if config.multitask.strategy != "xmtl":
        return None
    named, tags = config.multitask.pseudo.store, journal.tags
    tracked = journal.parameters.get("multitask.pseudo.store", "")  # a pipeline's own settings do not name its store
    names = {"sha256.pseudo.store": "store", "sha256.pseudo.source": "pairs"}
    names |= {f"sha256.pseudo.teacher.{task}": f"teacher of {task}" for task in config.multitask.tasks}
    hashes = tuple((what, tags[tag][:_SHORT]) for tag, what in names.items() if tag in tags)
    return Origin(str(named) if named is not None else tracked, hashes)


def _weighting(config: Config) -> str:
    spec = config.multitask.weighting
    match spec.name:
        case "dwa":
            return f"dwa, alpha {spec.alpha:g}, anew every {_interval(spec.interval)}"
        case "fixed":
            return "fixed"
        case "upgrad":
            return "upgrad"
        case "uncertainty" | "famo":
            return f"{spec.name}, learnt at rate {spec.learning_rate:g}"


def _selection(config: Config) -> str:
    spec = config.multitask.pseudo
    sides = {
        "shared": "text and image share a type",
        "same": "text and image have the same types",
        "none": "either side",
    }
    rules = "" if spec.schema_filter else ", roles outside the schema too"
    return f"surer than {_thresholds(spec.threshold, config)}, {sides[spec.agreement]}{rules}; beta {spec.beta:g}"


def _thresholds(threshold: Thresholds, config: Config) -> str:
    values = {task: getattr(threshold, task) for task in config.multitask.tasks}
    if len(set(values.values())) == 1:
        return f"{next(iter(values.values())):g}"
    return ", ".join(f"{value:g} ({task})" for task, value in values.items())


def _interval(value: str) -> str:
    """``epoch`` → epoch; ``steps:4`` → 4 steps; ``steps:1`` → step."""
    steps = value.removeprefix("steps:")
    return value if steps == value else "step" if steps == "1" else f"{steps} steps"
