"""The folder of a run: on this machine's disk, or behind a URI that pyarrow reaches."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyarrow import fs

from xmtl_ray.cluster.reach import is_local, reach
from xmtl_ray.tracking.journal import JOURNAL
from xmtl_ray.tracking.run import STATE
from xmtl_ray.training.checkpoints import FOLDER
from xmtl_ray.training.retries import patiently

CONFIG = "config.yaml"
INDEX = "checkpoint_manager_snapshot.json"
"""Ray Train's."""


@contextmanager
def run_folder(storage_path: str, name: str, rank: int) -> Iterator[tuple[Path, Callable[[], None]]]:
    """A local folder for what a run writes, and what brings it to ``storage_path/name`` (as does the end).

    On this machine it is that folder itself, and there is nothing to bring. Behind a URI the journal and the MLflow
    run of an earlier start are fetched first, so that a resumed run goes on in them; checkpoints are committed there.
    Rank 0 alone fetches and brings: another's copies would be old ones.
    """
    if is_local(storage_path):
        folder = Path(storage_path) / name
        folder.mkdir(parents=True, exist_ok=True)
        yield folder, lambda: None
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if rank != 0:
            yield folder, lambda: None
            return
        filesystem, root = reach(storage_path)
        for file in (JOURNAL, STATE):
            if (content := _read(filesystem, f"{root}/{name}/{file}")) is not None:
                (folder / file).write_bytes(content)

        def publish() -> None:
            patiently(
                lambda: fs.copy_files(temporary, f"{root}/{name}", destination_filesystem=filesystem), f"{root}/{name}"
            )

        try:
            yield folder, publish
        finally:
            publish()


def saved_config(storage_path: str, name: str) -> str | None:
    """The settings that an earlier start of the run has left, as YAML; None if there was none."""
    filesystem, root = reach(storage_path)
    content = _read(filesystem, f"{root}/{name}/{CONFIG}")
    return None if content is None else content.decode()


def forget_index(storage_path: str, name: str) -> None:
    """Remove Ray's own index of a run's checkpoints, should there be one.

    Ours are found by their manifests. A run that Ray kept an index of cannot start where that is damaged, and what it
    names would be believed and, once too many, deleted, wherever it lies.
    """
    filesystem, root = reach(storage_path)
    with suppress(FileNotFoundError):
        filesystem.delete_file(f"{root}/{name}/{INDEX}")


def forget(storage_path: str, name: str) -> None:
    """Remove what makes the next start of a run go on: checkpoints, settings, numbers and which MLflow run it is."""
    filesystem, root = reach(storage_path)
    for file in (INDEX, CONFIG, JOURNAL, STATE):
        with suppress(FileNotFoundError):
            filesystem.delete_file(f"{root}/{name}/{file}")
    if filesystem.get_file_info(f"{root}/{name}/{FOLDER}").type != fs.FileType.NotFound:
        filesystem.delete_dir(f"{root}/{name}/{FOLDER}")


def _read(filesystem: fs.FileSystem, path: str) -> bytes | None:
    try:
        with filesystem.open_input_stream(path) as stream:
            return bytes(stream.read())
    except FileNotFoundError:
        return None
