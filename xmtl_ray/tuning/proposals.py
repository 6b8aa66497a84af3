"""Which settings to try next, by Optuna's samplers.

The surprising fact: what is proposed for a trial is a function of the seed, the trial's number and the results so far,
not of a state that would have to be saved. So a sweep that was killed proposes the same again.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from xmtl_ray.tuning.domains import Domain, Scalar
from xmtl_ray.tuning.ledger import Trial

if TYPE_CHECKING:
    from optuna.study import Study

WARM_UP = 10
"""Draws before tpe learns from results."""
ATTEMPTS = 20
"""Draws for a trial, at most, until it is none that was tried."""


def count(search: str, samples: int | None, space: Mapping[str, Domain]) -> int:
    """Trials of a sweep: ``samples``, or all points of a grid."""
    if search == "grid":
        return math.prod(len(domain.listed()) for domain in space.values())
    assert samples is not None
    return samples


def propose(
    search: str,
    space: Mapping[str, Domain],
    seed: int,
    number: int,
    trials: Sequence[Trial],
    mode: Literal["max", "min"],
) -> dict[str, Scalar]:
    """A value for each coordinate; of few choices another combination than was tried, while there is one to be drawn.

    Args:
        search: grid, tpe, or random (with which a population begins, too).
        space: the coordinates.
        seed: of the sweep.
        number: of the trial, from 0.
        trials: those so far; tpe learns from them, of a stopped one from its best so far.
        mode: whether more is better.
    """
    if search == "grid":
        points = itertools.product(*(domain.listed() for domain in space.values()))
        return dict(zip(space, next(itertools.islice(points, number, None)), strict=True))
    known = [trial.drawn for trial in trials]
    found: dict[str, Scalar] = {}
    for attempt in range(ATTEMPTS):
        study = _study(search, seed * 1_000_003 + number + 10_007 * attempt)
        if search == "tpe":
            for trial in _told(space, trials, mode):
                study.add_trial(trial)
        asked = study.ask({path: domain.distribution() for path, domain in space.items()})
        found = {path: space[path].fit(value) for path, value in asked.params.items()}
        if found not in known:
            break
    return found


def importance(
    space: Mapping[str, Domain], trials: Sequence[Trial], mode: Literal["max", "min"], least: int = 4
) -> dict[str, float] | None:
    """Share of the metric's variance over the space that each coordinate explains (fANOVA, Hutter et al. 2014).

    Of stopped trials counts what they had reached. None with fewer than ``least`` trials, or where all came out alike.
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    told = _told(space, trials, mode)
    if len(told) < least or len({one.value for one in told}) < 2:
        return None
    if len(space) == 1:
        return dict.fromkeys(space, 1.0)
    study = _study("random", 0)
    for trial in told:
        study.add_trial(trial)
    shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {path: round(float(shares.get(path, 0.0)), 4) for path in space}


def _study(search: str, seed: int) -> Study:
    import optuna

    logging.getLogger("optuna").setLevel(logging.ERROR)
    if search == "tpe":
        sampler: optuna.samplers.BaseSampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=WARM_UP)
    else:
        sampler = optuna.samplers.RandomSampler(seed=seed)
    return optuna.create_study(sampler=sampler, direction="maximize")


def _told(space: Mapping[str, Domain], trials: Sequence[Trial], mode: Literal["max", "min"]) -> list[Any]:
    """Ended trials as Optuna has them: more is better. Running ones too, that their neighbourhood is left alone."""
    from optuna.trial import TrialState, create_trial

    distributions = {path: domain.distribution() for path, domain in space.items()}
    found = []
    for trial in trials:
        if trial.metric is None or trial.state == "failed":
            continue
        value = trial.metric if mode == "max" else -trial.metric
        found.append(
            create_trial(params=trial.drawn, distributions=distributions, value=value, state=TrialState.COMPLETE)
        )
    return found
