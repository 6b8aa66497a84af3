"""A store of pseudo-labels → the examples of the pseudo-label tasks, k' of Eq. 14.

They are of the same kinds as the tasks' own, so what learns from them cannot tell them apart. The surprising fact: here
every threshold is a filter; the teachers are not run, and no image is opened.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from xmtl_ray.config.schema import PSEUDO, PseudoLabels, TaskName, Term, Thresholds
from xmtl_ray.data import pseudo_labels
from xmtl_ray.data.pseudo_labels import LabelledPair, Manifest
from xmtl_ray.data.pseudo_selection import Kept, select
from xmtl_ray.events.ontology import m2e2, mentions
from xmtl_ray.events.records import DataError
from xmtl_ray.multitask import examples

log = logging.getLogger(__name__)

_TOLD_DRIFT = 0.3
_TRIED = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Thresholds that an error names with what they would keep."""


def pseudo_examples(spec: PseudoLabels, tasks: Sequence[TaskName]) -> dict[Term, list[examples.Example]]:
    """The examples of each pseudo-label twin of ``tasks`` that the store has under these thresholds.

    A twin for which nothing is sure enough is left out, with a warning. Raises ValueError that names the setting: where
    there is no finished store, its teachers lack one of ``tasks``, it cannot answer for the thresholds, nothing is
    kept, or kept images are gone.
    """
    store = spec.store
    if store is None:
        raise ValueError(
            "multitask.pseudo.store: found none, expected the folder that `xmtl pseudo-label RECIPE --out STORE` writes"
        )
    try:
        manifest = pseudo_labels.read_manifest(store)
        _answers(store, manifest, spec.threshold, tasks)
        rows = list(pseudo_labels.stream(store))
        selection = select(rows, spec.threshold, spec.agreement, spec.schema_filter)
        if not selection.kept:
            raise ValueError(_nothing(rows, spec, manifest))
        paths = {each.pair.id: pseudo_labels.image_path(manifest, each.pair) for each in selection.kept}
    except DataError as error:
        raise ValueError(f"multitask.pseudo.store: {error}") from None
    shown = [paths[each.pair.id] for each in selection.kept if each.image_types]
    if missing := [path for path in shown if not path.is_file()]:
        raise ValueError(
            f"multitask.pseudo.store: {store}: {len(missing)} of {len(shown)} kept images are gone, e.g. {missing[0]}; "
            "bring them back or label again"
        )
    found = {PSEUDO[task]: _examples(task, selection.kept, paths) for task in tasks}
    for term, own in found.items():
        if not own:
            log.warning("%s: %s has no example above its threshold and is left out", store, term)
    log.info(
        "pseudo-labels: %d of %d pairs kept, %s",
        len(selection.kept),
        len(rows),
        ", ".join(f"{term} {len(own)}" for term, own in found.items()),
    )
    return {term: own for term, own in found.items() if own}


def check_drift(found: Mapping[Term, Sequence[examples.Example]], most: float) -> None:
    """Compare event types' shares of pseudo-labels with those of gold, of sentences (td) and of images (vc).

    Args:
        found: of the tasks and their twins.
        most: how much larger a share may be than gold's; a share that is larger by more than 0.3 is told anyhow.

    Raises ValueError that names the type whose share has grown most. A task without gold is not judged.
    """
    for task in ("td", "vc"):
        gold, own = (_shares(found.get(term, ())) for term in (task, PSEUDO[task]))
        if not gold or not own:
            continue
        name = max(own, key=lambda each: own[each] - gold.get(each, 0.0))
        drift = own[name] - gold.get(name, 0.0)
        told = f"{name} has {own[name]:.0%} of the {PSEUDO[task]} labels and {gold.get(name, 0.0):.0%} of gold"
        if drift > most:
            raise ValueError(
                f"multitask.pseudo.max_drift: {told}, expected at most {most:.0%} more; look at them (xmtl "
                "pseudo-label --report STORE), take a source out (--remove), or allow more"
            )
        if drift > _TOLD_DRIFT:
            log.warning("%s: are these pairs what they should be?", told)


def _shares(found: Sequence[examples.Example]) -> dict[str, float]:
    """Share of each event type among the mentions of sentences, or among what images show."""
    ontology, counts = m2e2(), Counter[str]()
    for example in found:
        if isinstance(example, examples.TriggerExample):
            counts.update(event_type for event_type, _ in mentions([ontology.tags[tag] for tag in example.tags]))
        elif isinstance(example, examples.VerbExample):
            counts.update(ontology.types[number] for number in example.types)
    return {name: count / counts.total() for name, count in counts.items()}


def _answers(store: Path, manifest: Manifest, threshold: Thresholds, tasks: Sequence[TaskName]) -> None:
    """Raises ValueError for a task or threshold that the store cannot answer for."""
    for task in tasks:
        if task not in manifest.teachers:
            raise ValueError(
                f"multitask.pseudo.store: {store} was labelled without a teacher of {task}; label again with "
                f"distill.teachers.{task}, or leave {task} out of multitask.tasks"
            )
    for task in ("td", "vc"):
        asked = getattr(threshold, task)
        if asked < manifest.floor:
            raise ValueError(
                f"multitask.pseudo.threshold.{task}: found {asked:g}, expected at least {manifest.floor:g}: below it "
                f"{store} has no roles (distill.floor); raise it, or label again with distill.floor={asked:g}"
            )


def _nothing(rows: Sequence[LabelledPair], spec: PseudoLabels, manifest: Manifest) -> str:
    counts = ", ".join(
        f"{value:g} {len(select(rows, Thresholds(td=value, vc=value), spec.agreement).kept)}"
        for value in _TRIED
        if value >= manifest.floor
    )
    return (
        f"multitask.pseudo.threshold: found td {spec.threshold.td:g} and vc {spec.threshold.vc:g}, which keep none of "
        f"the {len(rows)} pairs of {spec.store} (agreement {spec.agreement}); expected lower ones or better teachers. "
        f"Pairs that one threshold for both would keep: {counts}"
    )


def _examples(task: TaskName, kept: Sequence[Kept], paths: dict[str, Path]) -> list[examples.Example]:
    ontology = m2e2()
    tags, types, roles = (
        {name: number for number, name in enumerate(names)} for names in (ontology.tags, ontology.types, ontology.roles)
    )
    made: list[examples.Example] = []
    for each in kept:
        words, path = each.pair.words, paths[each.pair.id]
        match task:
            case "td" if each.text_types:
                made.append(examples.TriggerExample(words, tuple(tags[tag] for tag in each.pair.tags)))
            case "ae":
                made += (
                    examples.ArgumentExample(words, own.entity, own.trigger, own.event_type, roles[own.role])
                    for own in each.text_arguments
                )
            case "vc" if each.image_types:
                made.append(examples.VerbExample(path, tuple(types[name] for name in each.image_types)))
            case "rc":
                made += (examples.RoleExample(path, own.box, roles[own.role]) for own in each.image_arguments)
    return made
