"""Work cut into shards, done in this process or by a pool of Ray actors, by the same code.

A shard is some items, done by one actor and committed as one file under a name made of them and of every setting. So an
actor that dies has its shard done again, and a run that was stopped goes on where it was when the same command is
given again. The surprising fact: a broken item is no exception here but a line of its shard, so that one of a hundred
thousand does not stop a job whose owner has said that it may be left out.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from xmtl_ray.cluster.connection import ClusterError, cluster
from xmtl_ray.cluster.jobs import Progress, cause
from xmtl_ray.cluster.reach import check_shared
from xmtl_ray.data.objects import write_whole
from xmtl_ray.data.remote import Copy

MANY = 100
"""From so many items on Ray is started unless the number of actors is given: starting takes half a minute."""
ACTORS = 2
"""Actors for many items, on CPUs or on a cluster that is named."""

Settings = Mapping[str, Any]
"""Named arguments of a worker."""
Batch = dict[str, Any]
"""Columns of shards as Ray passes them: ``key`` and ``items``, a list of texts each."""
Done = dict[str, list[Any]]
"""Columns of committed shards: ``key``, ``count``, and ``broken``, the words about their first broken item or none."""
Worker = Callable[..., Callable[[Batch], Done]]
"""Makes of its settings what does a batch of shards by ``commit``; an actor's class."""


class ShardError(ValueError):
    """A job that ended before its shards, in the words of what stopped it; whole shards stay."""


def key_of(settings: object, items: Sequence[str]) -> str:
    """A shard's name: sha256 of what it is done with, as JSON can hold it, and of its items."""
    return hashlib.sha256(json.dumps([settings, items], sort_keys=True).encode()).hexdigest()


def path_of(parts: Path, key: str) -> Path:
    """The file of a shard: a line for each of its items."""
    return parts / f"{key}.jsonl"


def refused(name: str, reason: str) -> str:
    """The line of an item that is broken."""
    return json.dumps({"refused": name, "reason": reason}, ensure_ascii=False) + "\n"


def refusal(line: str) -> str | None:
    """Why the item of a shard's line was refused; None for one that was done."""
    return str(json.loads(line)["reason"]) if line.startswith('{"refused":') else None


def is_done(path: Path, skip_bad: bool) -> bool:
    """A shard with a broken item is none that may be passed over silently."""
    if not path.exists() or skip_bad:
        return path.exists()
    with path.open(encoding="utf-8") as file:
        return all(refusal(line) is None for line in file)


def commit(batch: Batch, parts: Path, lines: Callable[[str, Sequence[str]], Sequence[str]], gpu: bool) -> Done:
    """Do each shard of ``batch`` that is not there yet, and commit it as a file.

    Args:
        batch: of shards.
        parts: folder of the shards' files.
        lines: makes a shard's lines of its key and its items.
        gpu: work is done there. On the CPU it is done by one thread, so that the file is always the same.
    """
    done: Done = {"key": [], "count": [], "broken": []}
    with contextlib.nullcontext() if gpu else one_thread():
        for key, items in zip(batch["key"], batch["items"], strict=True):
            path = path_of(parts, key)
            # A shard whose actor died after it was committed comes again.
            if not path.exists():
                text = "".join(lines(str(key), [str(item) for item in items]))
                write_whole(path, partial(Path.write_text, data=text, encoding="utf-8"))
            with path.open(encoding="utf-8") as file:
                broken = next((reason for line in file if (reason := refusal(line)) is not None), "")
            for name, value in (("key", key), ("count", len(items)), ("broken", broken)):
                done[name].append(value)
    return done


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Within it torch has one: sums over another number of threads differ in their last digits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def run(
    todo: Mapping[str, Sequence[str]],
    worker: Worker,
    settings: Settings,
    parts: Path,
    *,
    actors: int | None,
    gpu: bool,
    skip_bad: bool,
    noun: str,
    inputs: Mapping[str, Path],
    copies: Sequence[Copy] = (),
    progress: Progress | None = None,
) -> None:
    """Have all shards committed.

    Args:
        todo: items by their shard's key.
        worker: does them.
        settings: of ``worker``.
        parts: folder of the shards' files.
        actors: of Ray; 0: this process; None: this process for less than ``MANY`` items and for a single GPU, else one
            for each GPU of this machine, or ``ACTORS``.
        gpu: one for each actor, or for this process.
        skip_bad: go on after a broken item.
        noun: what the items are, for errors.
        inputs: folders and files that each node must have, by what gives them.
        copies: of what lies behind URIs; what of ``inputs`` is in them each node fetches.
        progress: is told items.

    Raises ShardError, ClusterError, StorageError where nodes do not share the shards' folder or lack an input.
    """
    total, done = sum(map(len, todo.values())), 0
    if not total:
        return
    if actors is None:
        actors = _actors(total, gpu)
    rows = [{"key": key, "items": list(items)} for key, items in todo.items()]
    if progress is not None:
        progress(0, total)
    if actors:
        given = {"worker": worker, "settings": dict(settings), "copies": copies}
        made = _on_ray(rows, given, parts, min(actors, len(rows)), gpu, inputs)
    else:
        made = _here(rows, worker, settings, gpu)
    for count, broken in made:
        if broken and not skip_bad:
            raise ShardError(f"{broken}; --skip-bad leaves such {noun} out")
        done += count
        if progress is not None:
            progress(done, total)


def _actors(items: int, gpu: bool) -> int:
    """How many where none are asked for."""
    if items < MANY:
        return 0
    if gpu and not os.environ.get("RAY_ADDRESS"):
        found = torch.cuda.device_count()
        return found if found > 1 else 0
    return ACTORS


def _here(
    rows: Iterable[dict[str, Any]],
    worker: Worker,
    settings: Settings,
    gpu: bool,
) -> Iterator[tuple[int, str]]:
    if gpu and not torch.cuda.is_available():
        raise ClusterError("GPU: found none on this machine, expected one for --gpu; do without, or name a cluster")
    work = worker(**settings)
    for row in rows:
        made = work({name: [value] for name, value in row.items()})
        yield made["count"][0], made["broken"][0]


class _Actor:
    """A worker on some node, which has first fetched what it reads."""

    def __init__(self, worker: Worker, settings: Settings, copies: Sequence[Copy]) -> None:
        for copy in copies:
            copy.ensure()
        self.work = worker(**settings)

    def __call__(self, batch: Batch) -> Done:
        return self.work(batch)


def _on_ray(
    rows: Sequence[dict[str, Any]],
    given: Settings,
    parts: Path,
    actors: int,
    gpu: bool,
    inputs: Mapping[str, Path],
) -> Iterator[tuple[int, str]]:
    with cluster(actors, gpus=actors * gpu):
        places = [copy.place for copy in given["copies"]]
        own = {name: path for name, path in inputs.items() if not any(map(path.is_relative_to, places))}
        check_shared("--out", parts, own)
        import ray
        from ray.data import ActorPoolStrategy
        from ray.exceptions import RayError

        made = ray.data.from_items(list(rows), override_num_blocks=len(rows)).map_batches(
            _Actor,
            fn_constructor_kwargs=dict(given),
            batch_size=1,
            compute=ActorPoolStrategy(size=actors),
            num_cpus=1,
            num_gpus=1 if gpu else None,
        )
        try:
            for row in made.iter_rows():
                yield row["count"], row["broken"]
        except RayError as error:
            raise ShardError(f"{parts}: whole shards stay; stopped by: {cause(error)}") from error


def quarantine_of(out: Path) -> Path:
    """Where it stands what was left out of ``out``."""
    return out.with_name(f"{out.name}.quarantine.jsonl")


def write_quarantine(out: Path, named: str, left_out: Sequence[tuple[str, str]]) -> None:
    """Write name and reason of what was left out of ``out``, a line each, or remove an earlier file if nothing was.

    Args:
        out: the output.
        named: what a name is called in the lines.
        left_out: names and reasons.
    """
    quarantine = quarantine_of(out)
    quarantine.unlink(missing_ok=True)
    if left_out:
        rows = (json.dumps({named: name, "reason": reason}, ensure_ascii=False) for name, reason in left_out)
        text = "".join(f"{row}\n" for row in rows)
        write_whole(quarantine, lambda path: path.write_text(text, encoding="utf-8"))
