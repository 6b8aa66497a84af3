"""Folders that a run's machines share: on a disk, or behind a URI that pyarrow reaches; and whether all of them do.

A name that exists on every machine proves nothing: each may have a folder of its own by that name. So the driver writes
a random mark, and every node must read that very mark and leave one that the driver can read.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyarrow import fs

from xmtl_ray.cluster import job

MARK = ".xmtl-reach-"
"""What the marks' names begin with; they are removed at once."""
LIMIT_S = 300.0
"""Until when a node must have answered; one that is busy beyond measure takes minutes to start a process."""

log = logging.getLogger(__name__)


class StorageError(ValueError):
    """A storage path that cannot be reached or written to, by the driver or by a node."""


def is_local(storage_path: str) -> bool:
    """Whether it is a folder rather than a URI."""
    return "://" not in storage_path


def reach(storage_path: str) -> tuple[fs.FileSystem, str]:
    """The file system behind ``storage_path`` and the path in it, which is made. Raises StorageError."""
    try:
        filesystem, root = fs.FileSystem.from_uri(
            storage_path if not is_local(storage_path) else Path(storage_path).resolve().as_uri()
        )
        filesystem.create_dir(root, recursive=True)
    except (OSError, ValueError) as error:
        raise StorageError(f"storage_path: {storage_path!r} cannot be written to: {error}") from None
    return filesystem, root


def shown(storage_path: str, name: str) -> str:
    """Where ``name`` lies under ``storage_path``, to be printed: without the question after a URI."""
    return f"{storage_path.partition('?')[0].rstrip('/')}/{name}"


def check_shared(setting: str, storage_path: str | Path, inputs: Mapping[str, Path] | None = None) -> None:
    """Refuse a folder that is not one and the same on all nodes; to be called where Ray is connected.

    Args:
        setting: which the folder is given by, for the error.
        storage_path: folder or URI for what is written.
        inputs: folders or files that each node must have, by their setting.

    Secrets that the job was promised are looked for as well. On one machine a folder is shared by nature and nothing is
    done. Nodes that an autoscaler adds later are not asked.
    Raises StorageError, which names each node that does not reach it and why.
    """
    import ray

    target = str(storage_path)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if is_local(target) and len(nodes) < 2:
        return
    filesystem, root = reach(target)
    name, token = f"{MARK}{secrets.token_hex(8)}", secrets.token_hex(16)
    left = {node["NodeID"]: f"{root}/{name}-{node['NodeID'][:16]}" for node in nodes}
    wanted = {key: str(path) for key, path in (inputs or {}).items()}
    try:
        _write(filesystem, f"{root}/{name}", token)
        answers = _ask(nodes, _Errand(target, name, token, wanted, job.secrets()))
        for node, path in left.items():
            if not answers[node] and _read(filesystem, path) != token:
                answers[node] = [f"{setting}: what it wrote is not there"]
    finally:
        for path in (f"{root}/{name}", *left.values()):
            _remove(filesystem, path)
    where = {node["NodeID"]: f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})" for node in nodes}
    wrong = [
        (where[node], why.replace("storage_path:", f"{setting}:", 1)) for node, some in answers.items() for why in some
    ]
    if wrong:
        lines = "\n".join(f"  node {node}: {why}" for node, why in wrong)
        raise StorageError(
            f"{setting}: {shown(target, '').rstrip('/')} is not reachable from all nodes, or something is missing "
            f"on one:\n{lines}\nexpected a folder that all of them mount, or a URI (s3://…, gs://…) whose credentials "
            "are in the environment that Ray was started with"
        )


@dataclass(frozen=True)
class _Errand:
    """What a node is asked to do."""

    target: str
    name: str
    token: str
    wanted: Mapping[str, str]
    secrets: tuple[str, ...]
    """Variables that must be there."""


def _ask(nodes: list[dict[str, Any]], errand: _Errand) -> dict[str, list[str]]:
    """Each node's complaints, by its id."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(_look)
    asked = {}
    for node in nodes:
        here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        options = {"num_cpus": 0, "scheduling_strategy": here, "max_retries": 0, "name": "reach storage"}
        asked[task.options(**options).remote(errand, node["NodeID"])] = node["NodeID"]
    done, late = ray.wait(list(asked), num_returns=len(asked), timeout=LIMIT_S)
    answers = {asked[reference]: [f"no answer within {LIMIT_S:g} s"] for reference in late}
    for reference in late:
        ray.cancel(reference, force=True)
    for reference in done:
        try:
            answers[asked[reference]] = ray.get(reference)
        except RayError as error:
            last = str(error).strip().splitlines()[-1]
            answers[asked[reference]] = [f"it cannot run this package's code: {last}"]
    return answers


def _look(errand: _Errand, node: str) -> list[str]:
    """Runs on a node: what it misses, in words."""
    missing = [f"{setting}: {path} is not there" for setting, path in errand.wanted.items() if not os.path.exists(path)]
    missing += [
        f"--secret {name}: not in the environment that Ray was started with" for name in job.absent(errand.secrets)
    ]
    if is_local(errand.target) and not os.path.isdir(errand.target):
        return [*missing, "storage_path: there is no such folder"]
    try:
        filesystem, root = reach(errand.target)
        if (found := _read(filesystem, f"{root}/{errand.name}")) != errand.token:
            why = "another folder lies under this name" if found is None else f"found {found!r}"
            return [*missing, f"storage_path: the driver's mark is not in it: {why}"]
        _write(filesystem, f"{root}/{errand.name}-{node[:16]}", errand.token)
    except (StorageError, OSError) as error:
        return [*missing, str(error)]
    return missing


def _write(filesystem: fs.FileSystem, path: str, text: str) -> None:
    with filesystem.open_output_stream(path) as stream:
        stream.write(text.encode())


def _read(filesystem: fs.FileSystem, path: str) -> str | None:
    try:
        with filesystem.open_input_stream(path) as stream:
            return bytes(stream.read()).decode(errors="replace")
    except FileNotFoundError:
        return None


def _remove(filesystem: fs.FileSystem, path: str) -> None:
    try:
        filesystem.delete_file(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        log.warning("%s: a mark could not be removed: %s", path, error)
