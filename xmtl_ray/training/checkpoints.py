"""A run's checkpoints: committed by a manifest that is written last, and believed only as far as it holds.

Each rank copies its files into a place that is no checkpoint yet; rank 0 then writes a manifest with every file's
sha256, and renames the folder, all of it flushed to the disk. Where a store cannot rename folders (S3, GCS) the files
go to their place at once, and a folder without a manifest is none. Restoring takes the newest checkpoint whose every
file is what its manifest says; one that is not is told and passed over. Knows nothing of Ray or torch.

The one surprising fact: the newest checkpoint is the one committed last, not the one of most steps. Names sort by
attempt and then by step, and an attempt that was superseded commits and removes nothing any more.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pyarrow import fs

from xmtl_ray.training.manifest import MANIFEST, Entry, InvalidCheckpoint, Manifest, name_of, parse, parse_name
from xmtl_ray.training.node_copies import copied
from xmtl_ray.training.retries import CheckpointError
from xmtl_ray.training.store_files import Files

log = logging.getLogger(__name__)

FOLDER = "checkpoints"
"""Of the store in a run's folder."""
STATE = "attempt.json"
"""Which run this is, how often it was started, and whether it has ever committed a checkpoint."""
_PARTIAL = ".partial_"
"""What folders begin with that are no checkpoints yet, or no more, where a store can rename."""


class NoValidCheckpoint(CheckpointError):
    """A run has had checkpoints, and none of them is what its manifest says."""


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        filesystem: that holds them; on a local one every commit reaches the disk.
        root: their folder in it, of this run alone; it need not exist.
        score: metric that says which are best; higher is better.
        keep: how many of the best are kept; the last always is.
        pause_s: wait before a failed operation is tried again, see ``retries.patiently``.
    """

    def __init__(self, filesystem: fs.FileSystem, root: str, score: str, keep: int, pause_s: float = 0.5) -> None:
        self.files, self.root, self.score, self.keep = Files(filesystem, pause_s), root, score, keep
        self.attempt: int | None = None
        """Of this process, once it has begun."""
        self.run = ""
        """Random name of the run, in every manifest: another's checkpoints are not taken."""
        self.invalid: list[str] = []
        """What was passed over, in words."""
        self._has_committed = False

    def begin(self) -> None:
        """Count this process as a new attempt, which ends earlier ones, and sweep what they left unfinished."""
        if self.attempt is not None:
            return
        self.files.make_folder(self.root)
        saved, names = self._state(), self._names()
        last = max([saved.get("attempt", 0), *(parse_name(name)[0] for name in names)])
        run = saved.get("run") or next(filter(None, map(self._run_of, reversed(names))), None)
        self.attempt, self.run = last + 1, run or secrets.token_hex(8)
        self._has_committed = saved.get("has_committed", False)
        self._save_state()
        self._sweep()

    # Writing: start and commit are rank 0's, write is every rank's.

    def start(self, step: int) -> str:
        """The path of a place for the checkpoint of ``step``, to be given to ``write``."""
        self.begin()
        assert self.attempt is not None
        name = name_of(self.attempt, step)
        place = f"{self.root}/{_PARTIAL}{name}_{secrets.token_hex(4)}" if self.files.renames else f"{self.root}/{name}"
        self._refuse_repeated(name)
        self.files.make_folder(place)
        return place

    def write(self, place: str, folder: Path) -> dict[str, Entry]:
        """Copy a rank's files to ``place``; returns what they are, by their path.

        Raises StoreFull where they do not fit, CheckpointError where the store does not take them.
        """
        paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        needed = sum(path.stat().st_size for path in paths.values())
        return {name: self.files.put(path, f"{place}/{name}", needed) for name, path in paths.items()}

    def commit(
        self,
        place: str,
        step: int,
        metrics: Mapping[str, float],
        world_size: int,
        parts: Sequence[Mapping[str, Entry]],
    ) -> str:
        """Make ``place`` the newest checkpoint, and drop what is neither last nor among the best; returns its name.

        Args:
            place: where every rank's files are.
            step: of the run.
            metrics: reported with it.
            world_size: number of workers that made it.
            parts: what ``write`` has returned on each rank.
        """
        assert self.attempt is not None
        files: dict[str, Entry] = {}
        for part in parts:
            for path, entry in part.items():
                if files.setdefault(path, entry) != entry:
                    raise CheckpointError(f"{place}/{path}: two ranks wrote it, with different contents")
        for path, entry in files.items():
            if (size := self.files.info(f"{place}/{path}").size) != entry.size:
                raise CheckpointError(
                    f"{place}/{path}: found {size} bytes, expected {entry.size}; is the storage path one and the same "
                    "folder on all machines?"
                )
        manifest = Manifest(self.run, step, self.attempt, world_size, dict(metrics), files)
        self._fence()
        self._refuse_repeated(manifest.name)
        self.files.write(f"{place}/{MANIFEST}", manifest.dump())
        if self.files.renames:
            self.files.flush_folders(place)
            self.files.rename(place, f"{self.root}/{manifest.name}")
        if not self._has_committed:
            self._has_committed = True
            self._save_state()
        self._prune()
        return manifest.name

    def discard(self, place: str) -> None:
        """Remove what was written to ``place``: it will not be committed."""
        with suppress(OSError):
            self.files.filesystem.delete_dir(place)

    # Reading: newest and best are rank 0's, opened is every rank's.

    def newest(self) -> str | None:
        """The name of the newest checkpoint whose every file is right; None where there never was one.

        Those passed over are told, and listed in ``invalid``. Raises NoValidCheckpoint where none is left of what was.
        """
        found = self._first_valid(reversed(self._names()))
        if found is None and (self._has_committed or self._state().get("has_committed", False)):
            raise NoValidCheckpoint(f"{self.root}: this run had checkpoints, and none is there any more{_ANEW}")
        return found

    def best(self, metric: str) -> str:
        """The name of the valid checkpoint with the highest ``metric``, the first of equals."""
        found = self._first_valid(manifest.name for manifest in self._ranked(metric))
        if found is None:
            raise NoValidCheckpoint(f"{self.root}: found no checkpoint, expected the one with the highest {metric}")
        return found

    @contextmanager
    def opened(self, name: str) -> Iterator[Path]:
        """The files of checkpoint ``name`` in a folder of this machine: its own, or a copy for all who read it now."""
        if self.files.local:
            yield Path(self.root) / name
            return
        manifest = self._manifest(name)

        def fetch(folder: Path) -> None:
            for path, entry in manifest.files.items():
                source = f"{self.root}/{name}/{path}"
                if self.files.get(source, folder / path) != entry:
                    raise InvalidCheckpoint(f"{source}: found another content than when it was chosen")

        with copied(f"{self.root}\n{manifest.dump().decode()}", fetch) as folder:
            yield folder

    def manifests(self) -> list[Manifest]:
        """Of all checkpoints whose manifest can be read, the newest last; their files are not looked at."""
        found = []
        for name in self._names():
            with suppress(InvalidCheckpoint):
                found.append(self._manifest(name))
        return found

    # What is there.

    def _names(self) -> list[str]:
        """Of all that calls itself a checkpoint, the newest last; what has another kind of name comes first."""
        folders = [info.base_name for info in self.files.listed(self.root) if info.type == fs.FileType.Directory]
        names = [name for name in folders if name.startswith("checkpoint_")]
        if not self.files.renames:
            names = [name for name in names if self.files.exists(f"{self.root}/{name}/{MANIFEST}")]
        return sorted(names, key=lambda name: (parse_name(name), name))

    def _ranked(self, metric: str) -> list[Manifest]:
        """The best first."""
        return sorted(self.manifests(), key=lambda one: one.metrics.get(metric, float("-inf")), reverse=True)

    def _first_valid(self, names: Iterable[str]) -> str | None:
        wrong = []
        for name in names:
            try:
                self._check(name)
            except InvalidCheckpoint as error:
                log.warning("not a valid checkpoint, the one before is tried: %s", error)
                wrong.append(str(error))
                self.invalid.append(str(error))
            else:
                return name
        if wrong:
            lines = "\n".join(f"  {why}" for why in wrong)
            raise NoValidCheckpoint(f"{self.root}: no checkpoint of this run is valid:\n{lines}{_ANEW}")
        return None

    def _check(self, name: str) -> None:
        """Raises InvalidCheckpoint unless every file is what the manifest says, and there is no other."""
        folder, manifest = f"{self.root}/{name}", self._manifest(name)
        if self.files.local:
            there = {path.relative_to(folder).as_posix() for path in Path(folder).rglob("*") if not _plain_folder(path)}
            if Path(folder).is_symlink():
                raise InvalidCheckpoint(f"{folder}: found a link, expected a folder")
            for path in sorted(there):
                if (Path(folder) / path).is_symlink():
                    raise InvalidCheckpoint(f"{folder}/{path}: found a link, expected a file")
            if more := sorted(there - {*manifest.files, MANIFEST}):
                raise InvalidCheckpoint(f"{folder}/{more[0]}: found a file that the manifest does not name")
        for path, entry in manifest.files.items():
            where = f"{folder}/{path}"
            if (info := self.files.info(where)).type != fs.FileType.File:
                raise InvalidCheckpoint(f"{where}: not there; the manifest names it")
            if info.size != entry.size:
                raise InvalidCheckpoint(f"{where}: found {info.size} bytes, expected {entry.size}")
            try:
                found = self.files.hashed(where)
            except CheckpointError as error:
                if self.files.local:  # a bad sector; the one before may be whole
                    raise InvalidCheckpoint(str(error)) from None
                raise
            if found != entry:
                raise InvalidCheckpoint(f"{where}: found sha256 {found.sha256[:12]}…, expected {entry.sha256[:12]}…")

    def _manifest(self, name: str) -> Manifest:
        where = f"{self.root}/{name}/{MANIFEST}"
        if parse_name(name)[0] < 0:
            raise InvalidCheckpoint(f"{self.root}/{name}: no name of a checkpoint that this version writes")
        if (content := self.files.read(where)) is None:
            raise InvalidCheckpoint(f"{where}: not there")
        manifest = parse(content, where)
        if manifest.name != name:
            raise InvalidCheckpoint(f"{where}: found that of {manifest.name}")
        if self.run and manifest.run != self.run:
            raise InvalidCheckpoint(f"{where}: found run {manifest.run!r}, expected {self.run!r}: another run's")
        return manifest

    def _run_of(self, name: str) -> str | None:
        with suppress(InvalidCheckpoint):
            return self._manifest(name).run
        return None

    def _state(self) -> dict[str, Any]:
        """What the last attempt left; without what is not as we write it: all of it follows from the manifests."""
        try:
            found = json.loads(self.files.read(f"{self.root}/{STATE}") or b"{}")
            kinds = {"attempt": int, "run": str, "has_committed": bool}
            return {name: found[name] for name, kind in kinds.items() if type(found.get(name)) is kind}
        except (ValueError, AttributeError, RecursionError) as error:
            log.warning("%s/%s: %s; made anew", self.root, STATE, error)
            return {}

    def _save_state(self) -> None:
        content = {"run": self.run, "attempt": self.attempt, "has_committed": self._has_committed}
        self.files.replace(f"{self.root}/{STATE}", json.dumps(content).encode())

    # What goes.

    def _fence(self) -> None:
        """Raises CheckpointError where a later attempt has begun: workers may live on after their driver."""
        if (current := self._state().get("attempt", self.attempt)) != self.attempt:
            raise CheckpointError(f"{self.root}: attempt {current} of this run has begun; this is {self.attempt}")

    def _refuse_repeated(self, name: str) -> None:
        there = f"{self.root}/{name}" if self.files.renames else f"{self.root}/{name}/{MANIFEST}"
        if self.files.exists(there):
            raise CheckpointError(f"{there}: there already; does another process write to this run?")

    def _prune(self) -> None:
        ranked = self._ranked(self.score)
        last = max(ranked, key=lambda one: (one.attempt, one.step))
        for manifest in ranked[self.keep :]:
            if manifest is not last:
                self._remove(f"{self.root}/{manifest.name}", manifest.name)

    def _remove(self, folder: str, name: str) -> None:
        """At once, as seen by who looks for checkpoints; what cannot be removed is told."""
        try:
            if self.files.renames:
                gone = f"{self.root}/{_PARTIAL}{name}_{secrets.token_hex(4)}"
                self.files.filesystem.move(folder, gone)
                self.files.filesystem.delete_dir(gone)
            else:
                self.files.filesystem.delete_file(f"{folder}/{MANIFEST}")
                self.files.filesystem.delete_dir(folder)
        except OSError as error:
            log.warning("%s: a checkpoint that is no longer kept could not be removed: %s", folder, error)

    def _sweep(self) -> None:
        for info in self.files.listed(self.root):
            if info.type != fs.FileType.Directory:
                continue
            name = info.base_name
            unfinished = (
                not self.files.renames and parse_name(name)[0] >= 0 and not self.files.exists(f"{info.path}/{MANIFEST}")
            )
            if unfinished or name.startswith(_PARTIAL):
                log.info("%s: left unfinished by an earlier start, removed", info.path)
                self.discard(info.path)


_ANEW = "\nput back what was lost, or begin anew with --fresh"


def _plain_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()
