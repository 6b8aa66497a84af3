"""What a run has to say about itself when its model is registered: where from, by what, and how good.

A run is a folder that training left, or a run of MLflow that logged the same files. Either way the facts are those
that the run wrote while it ran (its tags), not what this machine looks like now.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from xmtl_ray.tracking.artifacts import ArtifactError, address, is_uri
from xmtl_ray.tracking.journal import JOURNAL, read_from
from xmtl_ray.tracking.run import STATE
from xmtl_ray.tracking.server import first_line, with_password, without_password

MODEL, SCORES, SUMMARY, CONFIG = "model", "scores.json", "summary.json", "config.yaml"
_RUN_ID = re.compile(r"[0-9a-f]{32}")
_KEPT = ("sha256.", "git.", "version.", "python")


class RunError(ValueError):
    """A run whose model cannot be registered: what is missing."""


@dataclass(frozen=True)
class Lineage:
    """A run, as far as it matters to what is registered."""

    model: Path
    """Folder."""
    name: str
    run_id: str | None
    """Of MLflow's run on ``tracking_uri``; None where there is none."""
    tracking_uri: str
    """Without a password."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Tags: ``git.commit``, ``data.sha256.…``, ``teacher.…``, ``score.PROTOCOL.METRIC``, ``dev.METRIC``, …"""


@contextlib.contextmanager
def of(run: str, tracking_uri: str | None) -> Iterator[Lineage]:
    """A run's lineage; what MLflow has of it is here until the end of the block.

    Args:
        run: its folder, or its model's below it; MLflow's run id; or ``runs:/ID``, with or without ``/model``.
        tracking_uri: MLflow's; None: the environment's, or the one that the run's folder reports to.

    Raises RunError, ArtifactError.
    """
    if _RUN_ID.fullmatch(run) or is_uri(run):
        with TemporaryDirectory(prefix="xmtl-run-") as folder:
            yield _of_mlflow(run, tracking_uri, Path(folder))
        return
    yield _of_folder(Path(run), tracking_uri)


def _of_folder(folder: Path, tracking_uri: str | None) -> Lineage:
    if folder.name == MODEL and not (folder / MODEL).is_dir():
        folder = folder.parent
    model = folder / MODEL
    if not (model / CONFIG).is_file():
        raise RunError(
            f"{folder}: found no {MODEL}/{CONFIG}, expected the folder of a finished run, or MLflow's run id"
        )
    state = json.loads((folder / STATE).read_text(encoding="utf-8")) if (folder / STATE).is_file() else {}
    uri = address(str(folder), tracking_uri or state.get("uri"))
    same = without_password(uri) == without_password(state.get("uri", ""))
    tags: dict[str, str] = {}
    if (folder / JOURNAL).is_file():
        for line in read_from(folder / JOURNAL, 0, 10**9)[0]:
            tags |= line.get("tags", {})
    facts = {**_facts(tags), **_scores(folder)}
    return Lineage(model, folder.resolve().name, state.get("run_id") if same else None, without_password(uri), facts)


def _of_mlflow(run: str, tracking_uri: str | None, folder: Path) -> Lineage:
    from mlflow.artifacts import download_artifacts
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient
    from requests.exceptions import RequestException

    found = re.fullmatch(rf"(runs:/)?(?P<run>[^/@]+)(/{MODEL}/?)?", run)
    if found is None:
        raise RunError(f"{run}: expected a run's folder, a run id, or runs:/ID")
    uri = address(run, tracking_uri)
    client = MlflowClient(with_password(uri), with_password(uri))
    try:
        seen = client.get_run(found["run"])
        names = {item.path for item in client.list_artifacts(found["run"])}
        if MODEL not in names:
            raise RunError(f"{run}: found no artifact {MODEL} among {sorted(names)}, expected a finished run of ours")
        for name in sorted(names & {MODEL, SCORES, SUMMARY}):
            download_artifacts(run_id=found["run"], artifact_path=name, dst_path=str(folder), tracking_uri=uri)
    except (MlflowException, RequestException) as error:
        raise ArtifactError(f"{run}: {without_password(uri)} does not give it: {first_line(error)}") from None
    facts = {**_facts(seen.data.tags), **_scores(folder)}
    return Lineage(folder / MODEL, seen.info.run_name, found["run"], without_password(uri), facts)


def _facts(tags: Mapping[str, str]) -> dict[str, str]:
    """The run's tags that say what it was made of."""
    facts = {}
    for name, value in tags.items():
        if name.startswith("sha256.pseudo.teacher."):
            facts[f"teacher.{name.removeprefix('sha256.pseudo.teacher.')}"] = value
        elif name == "mlflow.source.git.commit":
            facts["git.commit"] = value
        elif name.startswith("sha256."):
            facts[f"data.{name}"] = value
        elif name.startswith(_KEPT):
            facts[name] = value
    return facts


def _scores(folder: Path) -> dict[str, str]:
    """``score.…`` of the test set and ``dev.…``, as the run wrote them."""
    found = {}
    if (folder / SCORES).is_file():
        scores: dict[str, Any] = json.loads((folder / SCORES).read_text(encoding="utf-8"))
        if "pooled" in scores:  # a generative model's report
            for side in ("trigger", "argument"):
                found[f"score.pooled.{side}"] = _number(scores["pooled"][side]["all"]["F1"])
                found[f"score.accuracy.{side}"] = _number(scores[side]["all"]["accuracy_mean_of_samples"])
            found["score.json.ok"] = _number(scores["rates"]["all"]["ok"])
        else:
            for protocol, metrics in scores.items():
                found |= {f"score.{protocol}.{name}": _number(counts["F1"]) for name, counts in metrics.items()}
    if (folder / SUMMARY).is_file():
        dev = json.loads((folder / SUMMARY).read_text(encoding="utf-8")).get("dev") or {}
        found |= {f"dev.{name.removeprefix('dev/')}": _number(value) for name, value in dev.items()}
    return {name: value for name, value in found.items() if value}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"
