"""A run's folder made again from what MLflow has of it: for who has the model, and not the machine it was trained on.

Metrics become the journal that the run once wrote, artifacts the files that it left. The surprising fact: MLflow keeps
no line of them together, so points of one step and time are put together again by these two.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from xmtl_ray.tracking.artifacts import EXPECTED, ArtifactError, address
from xmtl_ray.tracking.journal import JOURNAL
from xmtl_ray.tracking.run import STATE
from xmtl_ray.tracking.server import first_line, without_password

FILES = (
    "config.yaml",
    "pipeline.json",
    "summary.json",
    "scores.json",
    "predictions.json",
    "answers.jsonl",
    "samples.jsonl",
)
"""What a page is made of, as far as the run has logged it."""
_VERSION = re.compile(r"models:/(?P<name>[^/@]+)(@(?P<alias>[^/@]+)|/(?P<version>\d+))")
_RUN = re.compile(r"runs:/(?P<run>[^/@]+)(/.*)?")
_PLAIN = re.compile(r"[\w][\w .@+=-]{0,199}")


def fetch_run(uri: str, tracking_uri: str | None, into: Path) -> Path:
    """A new folder under ``into`` with journal and files of the run that ``uri`` came from.

    Args:
        uri: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION`` or ``runs:/ID``.
        tracking_uri: MLflow's; None: the environment's.
        into: folder to make it in: ``NAME-vVERSION`` or the run's name.

    Raises ArtifactError where there is no such model, or nothing is known of its run.
    """
    asked = address(uri, tracking_uri)
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from requests.exceptions import RequestException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        client = MlflowClient(asked, asked)
        run_id, name, tags = _origin(client, uri)
        run = client.get_run(run_id)
        name = name or str(run.info.run_name)
        if not _PLAIN.fullmatch(name):  # the server's word, which becomes a path here
            raise ArtifactError(f"{uri}: found the run's name {name!r}, expected one that can be a folder's")
        folder = into / name
        folder.mkdir(parents=True, exist_ok=True)
        there = {item.path for item in client.list_artifacts(run_id)}
        for file in FILES:
            if file in there:
                client.download_artifacts(run_id, file, str(folder))
        _write_journal(folder / JOURNAL, client, run, tags)
        experiment = client.get_experiment(run.info.experiment_id).name
    except (MlflowException, RequestException, SQLAlchemyError, OSError) as error:
        raise ArtifactError(f"{uri}: {without_password(asked)} does not give it: {first_line(error)}") from None
    if not (folder / "config.yaml").exists():
        found = ", ".join(sorted(there)) or "no artifacts"
        raise ArtifactError(f"{uri}: its run {run_id} has {found}, expected config.yaml as runs of xmtl log it")
    state = {
        "uri": without_password(asked),
        "experiment": experiment,
        "name": run.info.run_name,
        "run_id": run_id,
        "sent_bytes": (folder / JOURNAL).stat().st_size,
    }
    (folder / STATE).write_text(json.dumps(state, indent=1), encoding="utf-8")
    return folder


def _origin(client: Any, uri: str) -> tuple[str, str, dict[str, str]]:
    """Run id, the folder's name, and what the registry says of the model."""
    if (found := _RUN.fullmatch(uri)) is not None:
        return found["run"], "", {}
    if (found := _VERSION.fullmatch(uri)) is None:
        raise ArtifactError(f"{uri}: expected {EXPECTED}")
    if found["alias"] is None:
        version = client.get_model_version(found["name"], found["version"])
    else:
        version = client.get_model_version_by_alias(found["name"], found["alias"])
    if not version.run_id:
        raise ArtifactError(f"{uri}: the registry does not say which run version {version.version} came from")
    told = {"registry.model": f"{version.name}, version {version.version}", **dict(version.tags)}
    return str(version.run_id), f"{version.name}-v{version.version}", told


def _write_journal(path: Path, client: Any, run: Any, tags: dict[str, str]) -> None:
    lines: list[dict[str, Any]] = [{"status": "RUNNING", "time_ms": run.info.start_time}]
    lines.append({"parameters": dict(run.data.params)})
    lines.append({"tags": {**dict(run.data.tags), **tags}})
    points: dict[tuple[int, int], dict[str, float]] = {}
    for name in run.data.metrics:
        for point in client.get_metric_history(run.info.run_id, name):
            points.setdefault((point.timestamp, point.step), {})[name] = point.value
    lines += [{"step": step, "time_ms": at, "metrics": values} for (at, step), values in sorted(points.items())]
    lines.append({"status": run.info.status, "time_ms": run.info.end_time or run.info.start_time})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
