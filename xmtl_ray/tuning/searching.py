"""Ray Tune's side of a sweep: it asks for trials, runs and stops them, and says what happens.

Tune's own state is never read again: what has happened is in the sweep's files (``ledger``), from which a sweep that
goes on is put together anew, the scheduler's memory included.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ray import tune
from ray.tune.schedulers import ASHAScheduler, PopulationBasedTraining, TrialScheduler
from ray.tune.search import Searcher

from xmtl_ray.tuning.domains import Domain
from xmtl_ray.tuning.ledger import Trial
from xmtl_ray.tuning.room import HEAD, SLIVER, Need
from xmtl_ray.tuning.space import Space
from xmtl_ray.tuning.trial import TRIAL, run_trial, whose


class Asking(Searcher):
    """Gives Tune the sweep's next trial whenever it has room for one."""

    def __init__(self, following: Callable[[], dict[str, Any]]) -> None:
        super().__init__()
        self.following = following

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it for a restart of its own, which is never made

    def set_search_properties(self, metric: str | None, mode: str | None, config: dict[str, Any], **spec: Any) -> bool:
        """There is nothing to set."""
        return True

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """What the trial is given."""
        return {TRIAL: self.following()}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The sweep is told by :class:`Telling`."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the sweep's files have it all."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Never asked for."""
        raise AssertionError("a sweep goes on from its own files")


class Telling(tune.Callback):
    """Passes on what happens to a trial: begun, reported, again, ended, died."""

    def __init__(
        self, happened: Callable[[str, dict[str, Any]], None], members: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self.happened, self.members = happened, members

    def __getstate__(self) -> dict[str, Any]:
        return {}  # as above

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It has its place."""
        self.happened("begun", self._whose(trial))

    def on_trial_result(self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any) -> None:
        """It was evaluated on the dev set."""
        self.happened("reported", self._whose(trial))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its process died and another begins."""
        self.happened("again", self._whose(trial))

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It came to its end, or was stopped."""
        self.happened("ended", self._whose(trial))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its process died once too often."""
        file = trial.error_file
        lines = Path(file).read_text(encoding="utf-8").strip().splitlines() if file and Path(file).exists() else []
        self.happened("died", {**self._whose(trial), "why": lines[-1] if lines else "its process died"})

    def _whose(self, trial: Any) -> dict[str, Any]:
        return whose(trial.trial_id, trial.config, self.members)


def scheduler(space: Space, epochs: int, ended: Sequence[Trial]) -> TrialScheduler | None:
    """What stops trials, knowing what those before it have reported; None where nothing does.

    Rungs lie before the last epoch: a trial that has come so far is left to finish.
    """
    if space.search == "pbt":
        return PopulationBasedTraining(
            time_attr="epoch",
            metric=space.metric,
            mode=space.mode,
            perturbation_interval=space.pbt.interval,
            quantile_fraction=space.pbt.quantile,
            resample_probability=space.pbt.resample,
            hyperparam_mutations={TRIAL: {"drawn": {path: _mutated(one) for path, one in space.drawn.items()}}},
            custom_explore_fn=_within(space),
            log_config=False,
            require_attrs=False,
        )
    if space.asha is None:
        return None
    found = ASHAScheduler(
        time_attr="epoch",
        metric=space.metric,
        mode=space.mode,
        max_t=max(epochs - 1, space.asha.grace),
        grace_period=space.asha.grace,
        reduction_factor=space.asha.reduction,
        stop_last_trials=False,
    )
    controller: Any = None
    for trial in ended:
        stand_in: Any = SimpleNamespace(trial_id=f"earlier {trial.id}")
        found.on_trial_add(controller, stand_in)
        for report in trial.reports:
            found.on_trial_result(controller, stand_in, {"epoch": report.epoch, space.metric: report.metric})
    return found


def tuner(
    space: Space,
    given: Sequence[Mapping[str, Any]] | Callable[[], dict[str, Any]],
    left: int,
    side_by_side: int,
    one: Need,
    direct: bool,
    stops: TrialScheduler | None,
    parts: Mapping[str, Any],
    folder: Path,
    happened: Callable[[str, dict[str, Any]], None],
    retries: int,
) -> tune.Tuner:
    """What runs the trials that are left.

    Args:
        space: the sweep.
        given: gives the next trial; of a population all members at once.
        left: how many trials.
        side_by_side: how many at a time.
        one: what a trial takes.
        direct: its process trains itself.
        stops: the scheduler.
        parts: the other arguments of ``run_trial``.
        folder: where Tune keeps what is its own.
        happened: is told events.
        retries: how often a trial whose process dies is begun again; -1: always.
    """
    asking, parameters, samples = None, None, left
    members: list[dict[str, Any]] = []
    if callable(given):
        asking = Asking(given)
    else:
        parameters, samples = {TRIAL: tune.grid_search([{"drawn": item["drawn"]} for item in given])}, 1
        members = [{key: value for key, value in item.items() if key != "drawn"} for item in given]
    own = {"CPU": one.cpus, "GPU": one.gpus} if direct else {HEAD: SLIVER}
    trainable = tune.with_resources(
        tune.with_parameters(run_trial, **parts, members=members),
        tune.PlacementGroupFactory([{k: v for k, v in own.items() if v}]),
    )
    return tune.Tuner(
        trainable,
        param_space=parameters,
        tune_config=tune.TuneConfig(
            search_alg=asking, scheduler=stops, num_samples=samples, max_concurrent_trials=side_by_side
        ),
        run_config=tune.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            callbacks=[Telling(happened, members)],
            failure_config=tune.FailureConfig(max_failures=retries),
            verbose=0,
        ),
    )


def _mutated(domain: Domain) -> Any:
    """As population based training draws anew."""
    if domain.uniform is not None:
        return tune.uniform(*domain.uniform)
    if domain.loguniform is not None:
        return tune.loguniform(*domain.loguniform)
    return list(domain.listed())


def _within(space: Space) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """Brings what was moved by a factor back between the ends."""
    domains = space.drawn

    def explore(config: dict[str, Any]) -> dict[str, Any]:
        drawn = {path: domains[path].fit(value) for path, value in config[TRIAL]["drawn"].items()}
        return {**config, TRIAL: {**config[TRIAL], "drawn": drawn}}

    return explore
