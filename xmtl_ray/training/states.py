"""How a run ends in MLflow when the process that should have said so was killed: by its driver, or by the next one."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path

from pyarrow import fs

from xmtl_ray.cluster.reach import is_local
from xmtl_ray.tracking.run import STATE, Unsent, settle, sync
from xmtl_ray.training.run_lock import LOCK, RunLocked, held
from xmtl_ray.training.storage import run_folder

log = logging.getLogger(__name__)


def end(storage_path: str, name: str, status: str) -> None:
    """Give a run that its workers left RUNNING its end; to be called by its driver, once they are gone.

    Where they go on for a moment, it is left to whom ``reap`` is called by.
    """
    with run_folder(storage_path, name, rank=0) as (folder, _):
        _settle(folder, status)


def reap(storage_path: str) -> None:
    """End the runs in the folder ``storage_path`` whose driver died; behind a URI nobody looks for them."""
    if not is_local(storage_path):
        return
    for lock in sorted(Path(storage_path).glob(f"*/{LOCK}")):
        with suppress(RunLocked), held(fs.LocalFileSystem(), str(lock.parent.absolute())):
            _settle(lock.parent, "KILLED")


def _settle(folder: Path, status: str) -> None:
    if settle(folder, status) and (folder / STATE).exists():
        try:
            sync(folder)
        except Unsent as error:
            log.warning("%s; later: xmtl sync %s", error, folder)
