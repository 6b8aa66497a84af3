"""Pseudo-labels for image-text pairs: a Ray Data job of three pools of actors, which goes on where it stopped.

The source is read once, in its order, and cut into shards of a fixed number of pairs; the nodes of a cluster that is
joined hash the images. A shard's name is a hash of all that its labels depend on; one that is there is not labelled
again, the others go through the pools: text and image teachers work side by side on different shards, and the roles'
teachers see only pairs whose sides agree (paper A's order). So neither the number of actors nor an interruption changes
a byte of the store.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from xmtl_ray.cluster.connection import ClusterError, cluster
from xmtl_ray.cluster.jobs import Progress, cause
from xmtl_ray.cluster.reach import check_shared
from xmtl_ray.config.schema import Config, TaskName
from xmtl_ray.data import pseudo_labels
from xmtl_ray.data.objects import write_whole
from xmtl_ray.data.pseudo_labels import LabelledPair, Teacher
from xmtl_ray.data.pseudo_removal import REMOVED
from xmtl_ray.data.remote import Copy, copy_of, here
from xmtl_ray.distill import teachers as teacher_folders
from xmtl_ray.distill.plan import AHEAD, TODO, Chunk, Hashing, Plan, hashed, in_order, make_plan, todo_path
from xmtl_ray.distill.stages import Roles, Row, Triggers, Types

RUN = "run.json"
"""What the last run took: seconds and, of each stage, the share of time that its actors waited."""
_TASKS: dict[str, tuple[TaskName, ...]] = {"triggers": ("td",), "types": ("vc",), "roles": ("ae", "rc")}
"""Which teachers the actors of a stage load."""


Stretch = tuple[str, str, float, float, float]
"""A piece of work: stage, actor, and in seconds when the actor was ready, start and end."""


class LabellingError(ValueError):
    """A labelling that ended before its pairs; what was committed stays, and the same command goes on from there."""


@dataclass(frozen=True)
class Counts:
    """What became of the pairs: ``pairs`` = ``labelled`` + ``quarantined``."""

    pairs: int
    labelled: int
    quarantined: int
    """Left out, each with its reason in the store's quarantine."""
    asked: int
    """Have sides that share a type above the floor, so that roles were labelled."""
    new: int
    """Pairs that went through the teachers in this run; the others were there."""
    seconds: float
    """From the first row to the last, with reading the source and hashing images."""
    waiting: float
    """Share of the actors' time, from being ready to the job's end, in which they had nothing to do; by stage it stands
    in the store's ``run.json``."""


def label(config: Config, store: Path, progress: Progress | None = None) -> Counts:
    """Label every pair of ``config.data.pairs`` and seal the store.

    Args:
        config: ``data.pairs``, ``distill``, ``inference.batch`` and ``inference.object_confidence`` are used.
        store: folder; a store of other teachers or pairs in it is replaced when this one is complete.
        progress: is told the pairs done.

    On a cluster source, images, teachers and store must be reachable from every node. Raises ValueError that names the
    setting before anything starts, DataError for a source that cannot be read, and LabellingError.
    """
    started, store = time.monotonic(), store.absolute()
    if config.data.pairs is None:
        raise ValueError("data.pairs: found none, expected data.pairs.source=FOLDER of image-text pairs")
    config = here(config)
    assert config.data.pairs is not None
    found = teacher_folders.find(config.distill.teachers)
    busy: list[Stretch] = []
    with _joined(config, store) as hashing:
        plan = make_plan(config, store, found, hashing)
        _check_quarantine(config, store, plan.pairs, plan.refused)
        if plan.new:
            busy = _run(config, store, found, plan, progress)
    source = config.data.pairs.source
    manifest = pseudo_labels.seal(
        store, plan.keys, found, config.distill.floor, source, plan.source_sha256, plan.images
    )
    shutil.rmtree(store / TODO, ignore_errors=True)
    counts = Counts(
        pairs=manifest.pairs,
        labelled=manifest.pairs - manifest.quarantined,
        quarantined=manifest.quarantined,
        asked=manifest.asked,
        new=sum(plan.new.values()),
        seconds=round(time.monotonic() - started, 3),
        waiting=waiting_share(busy),
    )
    stages = {name: waiting_share([each for each in busy if each[0] == name], _end(busy)) for name in _TASKS}
    record = {**asdict(counts), "actors": config.distill.actors, "waiting_by_stage": stages}
    write_whole(store / RUN, lambda file: file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8"))
    return counts


@contextmanager
def _joined(config: Config, store: Path) -> Iterator[Hashing | None]:
    """Within it a cluster that is named is connected, and its nodes hash images; else None, and nothing is begun."""
    pairs, copy = config.data.pairs, copy_of(config)
    assert pairs is not None
    if not _named(config):
        yield None
        return
    spec = config.distill
    with cluster(spec.actors, int(spec.gpu), config.cluster.address):
        given = {"data.pairs.source": pairs.source, "data.pairs.images": pairs.images}
        given |= {f"distill.teachers.{task}": path for task, path in spec.teachers}
        own = {name: path for name, path in given.items() if path is not None}
        if copy is not None:
            own = {name: path for name, path in own.items() if not path.is_relative_to(copy.place)}
        check_shared("--out", store, own)
        import ray

        task = ray.remote(_hash)
        ahead = max(AHEAD, 2 * int(ray.cluster_resources().get("CPU", 1)))
        yield lambda chunks: in_order((task.remote(chunk, copy) for chunk in chunks), _hashed_rows, ahead)


def _named(config: Config) -> bool:
    return bool(config.cluster.address or os.environ.get("RAY_ADDRESS"))


def _hash(chunk: Chunk, copy: Copy | None) -> list[LabelledPair]:
    """Runs on a node."""
    if copy is not None:
        copy.ensure()
    return hashed(*chunk)


def _hashed_rows(reference: Any) -> list[LabelledPair]:
    import ray
    from ray.exceptions import RayError

    try:
        rows: list[LabelledPair] = ray.get(reference)
    except RayError as error:
        raise LabellingError(f"data.pairs: images were being hashed, then: {cause(error)}") from error
    return rows


def waiting_share(stretches: Sequence[Stretch], end: float | None = None) -> float:
    """Share of the actors' time in which they had nothing to do; 0 without actors.

    Args:
        stretches: the actors' pieces of work.
        end: when the job ended; None: with the last piece of work.

    An actor's time is from being ready to the job's end; so loading does not count, and standing idle while others
    finish does.
    """
    ready = {stretch[1]: stretch[2] for stretch in stretches}
    last = _end(stretches) if end is None else end
    whole = sum(last - since for since in ready.values())
    busy = sum(end - start for *_, start, end in stretches)
    return round(max(0.0, 1 - busy / whole), 4) if whole > 0 else 0.0


def _end(stretches: Sequence[Stretch]) -> float:
    return max((stretch[4] for stretch in stretches), default=0.0)


def _run(
    config: Config, store: Path, teachers: Mapping[TaskName, Teacher], plan: Plan, progress: Progress | None
) -> list[Stretch]:
    """Bring the new shards through the pools; returns when each actor was busy."""
    spec, total = config.distill, sum(plan.new.values())
    copy = copy_of(config)
    common = {"batch": config.inference.batch, "gpu": spec.gpu, "copy": copy}
    folders = {task: teacher.folder for task, teacher in teachers.items()}
    own = {name: {task: folders[task] for task in tasks if task in folders} for name, tasks in _TASKS.items()}
    rows: list[Row] = [
        {"key": key, "todo": str(todo_path(store, key)), "images": str(plan.images), "busy": "[]"} for key in plan.new
    ]
    refused, busy, finished = dict(plan.refused), list[Stretch](), 0
    if progress is not None:
        progress(0, total)
    with cluster(spec.actors, int(spec.gpu), config.cluster.address):
        if not _named(config):  # else it was looked at before
            brought = copy is not None and plan.images.is_relative_to(copy.place)
            check_shared("--out", store, {} if brought else {"data.pairs": plan.images})
        import ray
        from ray.data import ActorPoolStrategy
        from ray.exceptions import RayError

        pool = {"compute": ActorPoolStrategy(size=min(spec.actors, len(rows))), **_shares(spec.actors, spec.gpu)}
        done = (
            ray.data.from_items(rows, override_num_blocks=len(rows))
            .map(Triggers, fn_constructor_kwargs={"folders": own["triggers"], **common}, **pool)
            .map(Types, fn_constructor_kwargs={"folders": own["types"], **common}, **pool)
            .map(
                Roles,
                fn_constructor_kwargs={"store": str(store), "floor": spec.floor, "folders": own["roles"], **common},
                **pool,
            )
        )
        try:
            for row in done.iter_rows():
                finished += row["pairs"]
                busy += [tuple(stretch) for stretch in json.loads(row["busy"])]
                refused |= json.loads(row["refused"])
                if progress is not None:
                    progress(finished, total)
                _check_quarantine(config, store, plan.pairs, refused)
        except RayError as error:
            raise LabellingError(f"{store}: {finished} of {total} pairs are done, then: {cause(error)}") from error
    return busy


def _shares(actors: int, gpu: bool) -> dict[str, float]:
    """What an actor takes of a CPU and of a GPU: a third, or less where the cluster has no room for all of them.

    So all stages have their actors at once, and none waits for a CPU that another holds while it waits for its work.
    """
    import ray

    have = ray.cluster_resources()
    shares = {}
    for name, argument in (("CPU", "num_cpus"), *([("GPU", "num_gpus")] if gpu else [])):
        count = math.floor(have.get(name, 0))
        if count < 1:
            raise ClusterError(f"{name}s: found none in the cluster, expected at least one (distill.gpu)")
        together = max(len(_TASKS), math.ceil(len(_TASKS) * actors / count))
        shares[argument] = math.floor(10_000 / together) / 10_000  # Ray counts in ten-thousandths
    return shares


def _check_quarantine(config: Config, store: Path, pairs: int, refused: Mapping[str, str]) -> None:
    refused = {name: reason for name, reason in refused.items() if not reason.startswith(REMOVED)}
    if len(refused) > config.distill.max_quarantined * pairs:
        reasons = "".join(f"\n  {name}: {reason}" for name, reason in itertools.islice(refused.items(), 3))
        raise LabellingError(
            f"{store}: {len(refused)} of {pairs} pairs cannot be labelled, more than "
            f"distill.max_quarantined={config.distill.max_quarantined:g} allows; mend them or allow more. The first:"
            f"{reasons}"
        )
