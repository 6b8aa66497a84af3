"""The teachers of a labelling: found, of the right task and ontology, and hashed, before anything starts."""

from __future__ import annotations

import json
from pathlib import Path

from xmtl_ray.config import load as config_files
from xmtl_ray.config.schema import Config, TaskName, Teachers
from xmtl_ray.data import fingerprint
from xmtl_ray.data.pseudo_labels import Teacher
from xmtl_ray.events.ontology import m2e2
from xmtl_ray.models.weights import CONFIG, LABELS, WEIGHTS

NEEDED: tuple[TaskName, ...] = ("td", "vc")
"""What agreement is made of; without a teacher of ae or rc these roles are not labelled."""


class TeacherError(ValueError):
    """A setting under ``distill.teachers`` that names no teacher of its task."""


def find(spec: Teachers) -> dict[TaskName, Teacher]:
    """The teacher of each task that has one. Raises TeacherError that names the setting."""
    found: dict[TaskName, Teacher] = {}
    hashes: dict[Path, str] = {}
    for task in ("td", "ae", "vc", "rc"):
        folder: Path | None = getattr(spec, task)
        if folder is None:
            if task in NEEDED:
                raise TeacherError(
                    f"distill.teachers.{task}: found none, expected the folder of a model that `xmtl train … "
                    f"multitask.strategy=single multitask.tasks=[{task}]` leaves"
                )
            continue
        _check(folder, task)
        if folder not in hashes:
            hashes[folder] = fingerprint.of_folder(folder)
        found[task] = Teacher(folder=str(folder), sha256=hashes[folder])
    return found


def _check(folder: Path, task: TaskName) -> None:
    setting, ontology = f"distill.teachers.{task}", m2e2()
    if missing := [name for name in (CONFIG, WEIGHTS, LABELS) if not (folder / name).is_file()]:
        raise TeacherError(
            f"{setting}: {folder}: found no {missing[0]}, expected a model folder, e.g. runs/{task}/model"
        )
    try:
        tasks = config_files.loads((folder / CONFIG).read_text(encoding="utf-8"), Config).multitask.tasks
        labels = json.loads((folder / LABELS).read_text(encoding="utf-8"))
        own = [labels[name] for name in ("version", "tags", "roles", "types")]
    except (ValueError, KeyError, TypeError) as error:
        raise TeacherError(f"{setting}: {folder}: found no readable {CONFIG} and {LABELS}: {error}") from None
    if task not in tasks:
        raise TeacherError(f"{setting}: {folder}: found a model of {', '.join(tasks)}, expected one of {task}")
    if own != [ontology.version, *(list(names) for names in (ontology.tags, ontology.roles, ontology.types))]:
        raise TeacherError(
            f"{setting}: {folder}: found labels of ontology {own[0]!r}, expected {ontology.version!r}; train it anew"
        )
