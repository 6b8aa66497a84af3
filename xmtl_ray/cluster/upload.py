"""What of a working directory goes to the cluster, and whether it is small enough.

The list is made by the functions with which Ray makes its package, so that both are one: ``.gitignore`` and
``.rayignore`` of every folder count, and ``.git``, ``.venv``, ``venv`` and ``__pycache__`` at the top stay here.
Nothing is compressed, so a package is as large as its files.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MIB = 2**20
SHOWN = 5
"""Largest files named when a package is too large."""
IGNORE_FILE = ".rayignore"


class UploadError(ValueError):
    """A working directory that Ray would not take, or that lacks what the job needs."""


@dataclass(frozen=True)
class Upload:
    """A working directory's files that go to the cluster."""

    folder: Path
    """Absolute."""
    files: Mapping[str, int]
    """Path in the folder, with slashes → bytes."""

    @property
    def package_bytes(self) -> int:
        """Size of the zip file that Ray makes: 76 bytes and twice its name for each file, and 22 at the end."""
        return 22 + sum(size + 76 + 2 * len(name.encode()) for name, size in self.files.items())

    def holds(self, path: str | Path) -> bool:
        """Whether a file, or something in a folder, at this path in the working directory goes along."""
        name = Path(os.path.normpath(path)).as_posix()
        return name == "." or name in self.files or any(file.startswith(f"{name}/") for file in self.files)


def listing(folder: Path) -> Upload:
    """What Ray would send of ``folder``. Raises UploadError for one that is not there."""
    if not folder.is_dir():
        raise UploadError(f"--working-dir: {folder} is no folder")
    from ray._private import ray_constants
    from ray._private.runtime_env import packaging

    folder = folder.absolute()
    files: dict[str, int] = {}

    def add(path: Path) -> None:
        if path.is_file():
            files[path.relative_to(folder).as_posix()] = path.stat().st_size
        elif path.is_dir() and next(path.iterdir(), None) is None:
            files[f"{path.relative_to(folder).as_posix()}/"] = 0

    quiet = logging.getLogger(f"{__name__}.travel")
    quiet.setLevel(logging.ERROR)
    packaging._dir_travel(
        folder,
        [packaging._get_excludes(folder, ray_constants.get_runtime_env_default_excludes())],
        add,
        include_gitignore=os.environ.get(ray_constants.RAY_RUNTIME_ENV_IGNORE_GITIGNORE, "0") != "1",
        logger=quiet,
    )
    return Upload(folder, files)


def limit() -> int:
    """Bytes that a package must stay below: what Ray's dashboard takes in one request, be its store's limit higher."""
    from ray._private import ray_constants

    return int(ray_constants.DASHBOARD_CLIENT_MAX_SIZE)


def check(upload: Upload, most: int) -> None:
    """Raises UploadError for a package of ``most`` bytes or more, with its largest files."""
    size = upload.package_bytes
    if size < most:
        return
    largest = sorted(upload.files.items(), key=lambda item: -item[1])[:SHOWN]
    lines = "\n".join(f"  {bytes_ / MIB:8.1f} MiB  {name}" for name, bytes_ in largest)
    raise UploadError(
        f"--working-dir: {upload.folder}: {size / MIB:.1f} MiB in {len(upload.files):,} files, expected less than "
        f"Ray's {most / MIB:.0f} MiB; the largest:\n{lines}\n"
        f"data belongs on storage that the cluster's machines reach; name what stays here in {IGNORE_FILE}"
    )
