"""What runs in the process of one trial: a real training run that tells the sweep how its dev metric goes.

Two ways. With workers, the trial's process only drives Ray Train (Ray's own pattern for Train within Tune), whose
controller tells. Directly, the process trains itself, in a context of its own: for recipes without workers, and for
population based training, which needs Tune to have the checkpoints. Either way a trial that is started again goes on
from its last checkpoint, which lies in its own folder.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from xmtl_ray.config.load import kind_of
from xmtl_ray.tuning import configs
from xmtl_ray.tuning.ledger import Report, append_report, read_outcome, write_outcome

TRIAL = "trial"
"""Key of Tune's config that has all of a trial's."""


def run_trial(
    given: Mapping[str, Any],
    space: Mapping[str, Any],
    settings: Mapping[str, Any],
    extra: Mapping[str, Any],
    members: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Train one trial to its end; what cannot be mended by trying again is an outcome, no exception.

    Args:
        given: under ``trial``: id, name, folder of all trials, and what was drawn.
        space: the sweep as plain values.
        settings: the recipe with what is fixed, as plain values.
        extra: dotted path → value of what all trials have.
        members: of a population, which is which; see ``whose``.
    """
    from ray import tune

    from xmtl_ray.tuning.space import Space

    sweep = Space.model_validate(space)
    recipe = kind_of(settings).model_validate(settings)
    own = whose(tune.get_context().get_trial_id(), given, members)
    folder = Path(own["folder"]) / own["name"]
    if read_outcome(folder) is not None:
        return
    values = configs.settings(sweep, own["drawn"], recipe)
    config = configs.of_trial(recipe, values, own["name"], Path(own["folder"]), extra)
    population = sweep.search == "pbt"
    if population or config.cluster.workers == 0:
        why = _train_here(config, folder, sweep.metric, population)
    else:
        why = _train_with_workers(config, folder, sweep.metric)
    write_outcome(folder, "failed" if why else "finished", why or "")


def whose(trial_id: str, config: Mapping[str, Any], members: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Id, name, folder and draws of one of Tune's trials.

    A member of a population that is replaced is given the other's whole config: who it is must not be in there, and
    follows from the number at the end of Tune's own id.
    """
    who = members[int(trial_id.rpartition("_")[2])] if members else {}
    return {**config[TRIAL], **who}


def told(metrics: Mapping[str, float], metric: str, select: str) -> Report | None:
    """A report of the loop as the sweep's; None for a checkpoint between two dev evaluations."""
    from xmtl_ray.training.loop import UNSCORED

    if metrics.get(select, UNSCORED) == UNSCORED or metric not in metrics:
        return None
    return Report(int(metrics["epoch"]), int(metrics["step"]), float(metrics[metric]), float(metrics[select]))


def _train_with_workers(config: configs.AnyConfig, folder: Path, metric: str) -> str | None:
    """Why it failed, or None."""
    from ray.tune.integration.ray_train import TuneReportCallback

    from xmtl_ray.training.launch import TrainingError, fit

    class Teller(TuneReportCallback):
        """Lives in the controller's process; there it writes, before Tune may stop the trial."""

        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            report = told(metrics[0], metric, config.train.select)
            if report is not None:
                append_report(folder, report)
                super().after_report(run_context, [{"epoch": report.epoch, metric: report.metric}], checkpoint)

    try:
        fit(config, [Teller()])
    except TrainingError as error:
        return str(error)
    return None


def _train_here(config: configs.AnyConfig, folder: Path, metric: str, population: bool) -> str | None:
    """Why it failed, or None."""
    import torch
    from ray import tune

    from xmtl_ray.training.checkpoints import FOLDER
    from xmtl_ray.training.context import Local
    from xmtl_ray.training.worker import train_in

    class Context(Local):
        """Checkpoints in the trial's folder; Tune has a copy only where it may give it to another trial."""

        def report(self, metrics: Mapping[str, float], checkpoint: Path) -> None:
            super().report(metrics, checkpoint)
            report = told(metrics, metric, config.train.select)
            if report is None:
                return
            append_report(folder, report)
            copy = tune.Checkpoint.from_directory(str(checkpoint)) if population else None
            tune.report({"epoch": report.epoch, metric: report.metric}, checkpoint=copy)

        def restore(self) -> AbstractContextManager[Path] | None:
            given = tune.get_checkpoint()
            return super().restore() if given is None else _opened(given)

    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, int(config.cluster.cpus_per_worker))))
    device = torch.device("cuda") if config.cluster.gpu else torch.device("cpu")
    context = Context(folder / FOLDER, config.train.select, config.train.keep_checkpoints, device)
    folder.mkdir(parents=True, exist_ok=True)
    logging.getLogger("ray.tune").setLevel(logging.WARNING)
    failed = train_in(context, config, folder).get("failed")
    return None if failed is None else str(failed)


def _opened(checkpoint: Any) -> AbstractContextManager[Path]:
    from contextlib import contextmanager

    @contextmanager
    def opened() -> Any:
        with checkpoint.as_directory() as name:
            yield Path(name)

    return opened()
