"""`xmtl register`: a run's model as a version of a registered model of MLflow.

The folder is an MLflow model like any other (``mlflow.pyfunc.load_model``, ``mlflow models serve``) whose code is a
script of two lines and whose weights are safetensors; the model's own folder lies in it as training left it, so what
reads models:/… for `xmtl predict` finds it too. It is made whole here, hashed, sent as artifacts of the run, and only
then becomes a version: no version is ever half there.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import uuid
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from xmtl_ray.config.load import kind_of, loads
from xmtl_ray.config.schema import Config
from xmtl_ray.events.ontology import m2e2
from xmtl_ray.registry import lineage
from xmtl_ray.registry.server import check_endings, check_name, model_folder, registry
from xmtl_ray.tracking.registry import MLMODEL, SHA256, RegistryError, tree_sha256, write_manifest
from xmtl_ray.tracking.run import environment_tags, installed_packages

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

MODEL_SHA256, FAMILY, BASE_SHA256, RUN = "xmtl.model_sha256", "xmtl.family", "xmtl.base_sha256", "xmtl.run"
"""Tags of a version: hash of the model's own folder; xmtl, videollama2, …; hash of an adapter's base; its run."""
_DISTRIBUTION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
EXAMPLE_TEXT = "Rebels attacked a village near Rome on Monday. Two soldiers died in the raid."


@dataclass(frozen=True)
class Registered:
    """A version that is there now."""

    name: str
    version: str
    family: str
    sha256: str
    """Of its whole folder."""
    size: int
    """Bytes of the model's own folder."""
    new: bool
    """False: the same model of the same run was registered before, and this is that version."""
    tracking_uri: str


def register(run: str, name: str, *, tracking_uri: str | None = None, base: Path | None = None) -> Registered:
    """Make the model of a run a version of the registered model ``name``.

    Args:
        run: its folder, MLflow's run id, or ``runs:/ID``.
        name: of the registered model; it is made if it is not there.
        tracking_uri: see ``lineage.of``.
        base: where the base of an adapter lies now; None: where it lay. It is hashed and not sent.

    Every model answers its own input example before it is registered. Raises ValueError.
    """
    check_name(name)
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    with lineage.of(run, tracking_uri) as made, registry(made.tracking_uri, name) as client:
        described = _described(made.model, base)
        if (kept := _kept(client, name, described[MODEL_SHA256], made)) is not None:
            tags = kept.tags
            size = int(tags["xmtl.size_bytes"])
            return Registered(name, str(kept.version), described[FAMILY], tags[SHA256], size, False, made.tracking_uri)
        with tempfile.TemporaryDirectory(prefix="xmtl-register-") as temporary:
            top = Path(temporary) / "registered"
            size = _write(made.model, top, described[FAMILY], base)
            tags = {**described, **made.facts, RUN: made.name, SHA256: tree_sha256(top), "xmtl.size_bytes": str(size)}
            model_folder(top, str(top))  # what is refused later is not registered
            return _send(client, made, name, top, tags)


def _described(folder: Path, base: Path | None) -> dict[str, str]:
    """Tags by what lies in a model's folder. Raises ValueError for one that cannot be registered."""
    check_endings(folder)
    settings = yaml.safe_load((folder / lineage.CONFIG).read_text(encoding="utf-8"))
    found = {MODEL_SHA256: tree_sha256(folder), "ontology": m2e2().version}
    kind = kind_of(settings)
    config = loads((folder / lineage.CONFIG).read_text(encoding="utf-8"), kind)
    if isinstance(config, Config):
        from xmtl_ray.models import weights

        labels = json.loads((folder / weights.LABELS).read_text(encoding="utf-8"))
        strategy = {"tasks": ",".join(config.multitask.tasks), "strategy": config.multitask.strategy}
        return {**found, FAMILY: "xmtl", "ontology": str(labels["version"]), **strategy}
    from xmtl_ray.generative import folders
    from xmtl_ray.models import checkpoint_files, qlora

    if config.prompt.instruction == "ours" and config.prompt.shots:
        raise RegistryError(
            f"{folder}: prompt.shots: found {config.prompt.shots}, expected 0: a server has no examples"
        )
    found |= {FAMILY: config.model.family, "adapter": config.adapter.method, "bits": str(config.adapter.bits)}
    where = folders.base_folder(folder, base)
    if where is None:
        return found
    pinned = qlora.base_of(folder).sha256
    if (sha256 := checkpoint_files.sha256(where)) != pinned:
        raise RegistryError(
            f"{where}: found a base with hash {sha256[:12]}…, expected {pinned[:12]}…, which {folder} needs"
        )
    return {**found, BASE_SHA256: pinned}


def _write(model: Path, top: Path, family: str, base: Path | None) -> int:
    """Write the MLflow model; returns the bytes of the model's own folder. Its example is answered on the way."""
    import mlflow.pyfunc

    from xmtl_ray.registry import served

    script = "document_model.py" if family == "xmtl" else "conversation_model.py"
    example: dict[str, Any] = {"id": "example", "language": "en", "text": EXAMPLE_TEXT}
    if family == "xmtl":
        words = [{"sentence": 0, "words": [0, 1], "type": "PER"}, {"sentence": 0, "words": [5, 6], "type": "GPE"}]
        example["entities"] = words
    # Recorded and dropped: MLflow warns that it does not check fields of several types. Pydantic does.
    with tempfile.TemporaryDirectory(prefix="xmtl-parts-") as parts, warnings.catch_warnings(record=True):
        manifest, constraints = Path(parts) / "registration.json", Path(parts) / "constraints.txt"
        write_manifest(model, manifest)
        constraints.write_text(_pins(), encoding="utf-8")
        with served.base_at(base):
            mlflow.pyfunc.save_model(
                str(top),
                python_model=str(Path(__file__).with_name(script)),
                artifacts={"model": str(model), "registration": str(manifest)},
                pip_requirements=[*requirements(), f"-c {constraints}"],
                model_config=dict(served.SETTINGS),
                input_example=[example],
                metadata={"xmtl": "1", "family": family},
            )
    _forget_paths(top / MLMODEL)
    return sum(path.stat().st_size for path in (top / "artifacts" / "model").rglob("*") if path.is_file())


def _forget_paths(file: Path) -> None:
    """Take out where script and files lay on this machine: MLflow notes it, and reads them beside its file."""
    described = yaml.safe_load(file.read_text(encoding="utf-8"))
    own = described["flavors"]["python_function"]
    own["model_code_path"] = Path(own["model_code_path"]).name
    for artifact in own["artifacts"].values():
        artifact["uri"] = artifact["path"]
    file.write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")


def requirements() -> list[str]:
    """What the package needs, extras apart, each at the version that is installed here."""
    found = {f"xmtl_ray=={version('xmtl_ray')}"}
    for line in requires("xmtl_ray") or ():
        needed = _DISTRIBUTION.match(line)
        if needed is not None and "extra ==" not in line:
            with suppress(PackageNotFoundError):  # of another platform
                found.add(f"{needed[0]}=={version(needed[0])}")
    return sorted(found)


def _pins() -> str:
    """All that is installed, as constraints for pip."""
    return "".join(f"{line}\n" for line in installed_packages().splitlines() if not line.startswith("xmtl_ray=="))


def _kept(client: MlflowClient, name: str, model_sha256: str, made: lineage.Lineage) -> ModelVersion | None:
    """A version of the same model of the same run."""
    for found in client.search_model_versions(f"name='{name}'"):
        same = found.run_id == made.run_id if made.run_id else found.tags.get(RUN) == made.name
        if same and found.tags.get(MODEL_SHA256) == model_sha256 and SHA256 in found.tags:
            return found
    return None


def _send(client: MlflowClient, made: lineage.Lineage, name: str, top: Path, tags: Mapping[str, str]) -> Registered:
    """The folder as artifacts of the run, then the version."""
    run_id = made.run_id or _new_run(client, made)
    place = f"registered/{name}-{uuid.uuid4().hex[:8]}"
    client.log_artifacts(run_id, str(top), place)
    made_model(client, name)
    source = f"{client.get_run(run_id).info.artifact_uri}/{place}"
    text = f"{tags[FAMILY]} of run {made.name}" + (f", base {tags[BASE_SHA256][:12]}…" if BASE_SHA256 in tags else "")
    found = client.create_model_version(name, source, run_id, tags=dict(tags), description=text)
    return Registered(
        *(name, str(found.version), tags[FAMILY], tags[SHA256], int(tags["xmtl.size_bytes"]), True, made.tracking_uri)
    )


def _new_run(client: MlflowClient, made: lineage.Lineage) -> str:
    """A run that stands for one that this MLflow does not know."""
    experiment = experiment_id(client, "xmtl", made.tracking_uri)
    tags = {**environment_tags({}), **{f"lineage.{name}": value for name, value in made.facts.items()}}
    run_id = str(client.create_run(experiment, run_name=made.name, tags=tags).info.run_id)
    client.set_terminated(run_id)
    return run_id


def experiment_id(client: MlflowClient, name: str, tracking_uri: str) -> str:
    """Of the experiment, which is made if it is not there; beside a database file lie its artifacts too."""
    from mlflow.exceptions import MlflowException

    if (found := client.get_experiment_by_name(name)) is not None:
        return str(found.experiment_id)
    database = tracking_uri.removeprefix("sqlite:///")
    beside = None if database == tracking_uri else (Path(database).resolve().parent / "mlartifacts").as_uri()
    try:
        return str(client.create_experiment(name, artifact_location=beside))
    except MlflowException:
        if (found := client.get_experiment_by_name(name)) is None:  # else another process was first
            raise
        return str(found.experiment_id)


def made_model(
    client: MlflowClient, name: str, tags: Mapping[str, str] | None = None, about: str | None = None
) -> None:
    """The registered model ``name``, made if it is not there."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name, dict(tags or {}), about)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
