"""Start a pipeline: check what can be checked, run its stages, bring their results to one folder."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from xmtl_ray.config.load import dump, with_values
from xmtl_ray.config.run import Run
from xmtl_ray.config.schema import Config
from xmtl_ray.pipeline.running import Ended, Watcher, run
from xmtl_ray.pipeline.stages import Stage, Stages
from xmtl_ray.pipeline.tracked import Parent, log_files, run_of
from xmtl_ray.pipeline.xmtl import Chain, chain
from xmtl_ray.tracking.server import tracking_uri
from xmtl_ray.training.data_check import check_data
from xmtl_ray.training.storage import is_local

STAGES = "stages"
"""Folder under ``storage_path`` with the stages of all its pipelines."""
SUMMARY = "pipeline.json"

C = TypeVar("C", bound=Run)
Scores = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Protocol → metric → counts and percentages."""


class PipelineError(ValueError):
    """A pipeline that cannot start: what is in its way, and what to do."""


@dataclass(frozen=True)
class Result:
    """What became of a pipeline."""

    folder: Path
    """Its own folder; the stages' are in ``ended``."""
    ended: list[Ended]
    scores: Scores
    """Empty where nothing was scored."""

    @property
    def good(self) -> bool:
        """Whether every stage is done."""
        return all(item.good for item in self.ended)


def stages_of(config: Config) -> Stages:
    """The stages under ``config.storage_path``. Raises PipelineError where that is no folder."""
    if not is_local(config.storage_path):
        raise PipelineError(
            f"storage_path: found {config.storage_path!r}, expected a folder, which all machines of the cluster see: "
            "stages are hashed and locked there"
        )
    return Stages(Path(config.storage_path) / STAGES)


def tracked(config: C) -> C:
    """``config`` with the tracking server named, without a password, that all its stages or trials report to."""
    if not config.tracking.enabled:
        return config
    return with_values(config, {"tracking.uri": tracking_uri(config.tracking.uri, config.storage_path)})


def run_pipeline(config: Config, watcher: Watcher) -> Result:
    """Run the stages that ``config`` describes as far as they are not done. Raises ValueError for what is wrong."""
    stages, config = stages_of(config), tracked(config)
    folder = own_folder(config)
    what = chain(config)
    ended = run_stages(stages, what.last, config, folder, watcher)
    scores = _collect(stages, what, config, folder) if all(item.good for item in ended) else {}
    return Result(folder, ended, scores)


def own_folder(config: Config) -> Path:
    """The pipeline's folder. Raises PipelineError where a training run lies there."""
    folder = Path(config.storage_path) / config.name
    if (folder / "config.yaml").exists() and not (folder / SUMMARY).exists():
        raise PipelineError(
            f"name: {folder} is the folder of a training run, expected none or a pipeline's; choose another name=…"
        )
    return folder


def run_stages(stages: Stages, wanted: Iterable[Stage], config: Config, folder: Path, watcher: Watcher) -> list[Ended]:
    """Run ``wanted``, tracked as parts of one run in ``folder``; leaves the folder's summary."""
    wanted = tuple(wanted)
    plan = stages.plan(wanted)
    if any(planned.state != "done" for planned in plan):
        check_data(config, folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(dump(config), encoding="utf-8")
    _summarise(folder, {planned.stage.name: {"state": planned.state} for planned in plan})
    parent = Parent(folder, config)
    ended: list[Ended] = []
    try:
        ended = run(stages, wanted, parent.id, config.cluster.address, max(0, config.cluster.max_failures), watcher)
    finally:
        parent.close(ended)
    about = {
        item.planned.stage.name: {
            "state": item.how,
            "key": item.planned.key,
            "folder": str(item.planned.folder),
            "mlflow_run": run_of(item.planned.folder),
            **({"why": item.why} if item.why else {}),
        }
        for item in ended
    }
    _summarise(folder, about)
    return ended


def _summarise(folder: Path, about: Mapping[str, Mapping[str, str | None]]) -> None:
    partial = folder / f".{SUMMARY}"
    partial.write_text(json.dumps({"stages": about}, indent=1), encoding="utf-8")
    partial.replace(folder / SUMMARY)


def _collect(
    stages: Stages, what: Chain, config: Config, folder: Path
) -> Mapping[str, Mapping[str, Mapping[str, float]]]:
    """Predictions, scores and the page of the last model, brought to the pipeline's folder."""
    if what.score is None or what.extract is None or what.train is None:
        return {}
    scores = stages.folder(what.score) / "scores.json"
    predictions = stages.folder(what.extract) / "predictions.json"
    for path in (scores, predictions):
        shutil.copyfile(path, folder / path.name)
    from xmtl_ray.data import m2e2
    from xmtl_ray.report.page import write_report

    assert config.data.test is not None
    page = write_report(folder, m2e2.read(config.data.test, objects=config.data.test_objects))
    log_files(folder, ["config.yaml", SUMMARY, *(path.name for path in (scores, predictions, page)), "MODEL_CARD.md"])
    return dict(json.loads(scores.read_text(encoding="utf-8")))
