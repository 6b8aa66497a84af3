"""Data behind a URI, brought to this machine's disk once: listed, told, fetched, checked, and only then given a name.

A copy's folder is named by the URI and by what is listed there (names, sizes, times), so data that have changed since
are other data, and a folder that is there is whole. Each machine fetches for itself; of its processes one does, and the
others wait. One that was killed is gone on with. The surprising fact: objects of a bucket may be called anything, be it
``../../.bashrc``; what leads out of the folder is refused before anything is fetched. Nothing is ever removed here.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pyarrow import fs

from xmtl_ray.config.finetune import FinetuneConfig
from xmtl_ray.config.run import Section
from xmtl_ray.config.schema import Config
from xmtl_ray.config.uris import cache_of, refuse_keys
from xmtl_ray.data.local_files import readable_size

log = logging.getLogger(__name__)

AnyConfig = TypeVar("AnyConfig", Config, FinetuneConfig)
S = TypeVar("S", bound=Section)

TRANSFERS = 16
"""Files that are fetched at once."""
_BLOCK = 1 << 20
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')


class FetchError(ValueError):
    """Data that cannot be brought here: the URI, what is in the way, and what to do."""


@dataclass(frozen=True)
class Facts:
    """Of a file, as its store tells them."""

    size: int
    """Bytes."""
    mtime_ns: int


@dataclass(frozen=True)
class Listing:
    """What is at a URI."""

    uri: str
    filesystem: fs.FileSystem
    folder: str
    """In the file system."""
    files: Mapping[str, Facts]
    """By their path in the folder."""

    @property
    def key(self) -> str:
        """Name of this state of the folder."""
        facts = [[name, one.size, one.mtime_ns] for name, one in sorted(self.files.items())]
        return hashlib.sha256(json.dumps([self.uri, facts]).encode()).hexdigest()[:32]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(one.size for one in self.files.values())


@dataclass(frozen=True)
class Copy:
    """What lies at a URI, in a certain state, and where that lies on each machine."""

    uri: str
    place: Path

    def ensure(self) -> None:
        """See that it is on this machine, in the state that it was in where it was named. Raises FetchError."""
        if self.place.is_dir():
            return
        listing = look(self.uri)
        if listing.key != self.place.name:
            raise FetchError(
                f"{_shown(self.uri)}: found other files than when the run began (state {listing.key[:8]}, expected "
                f"{self.place.name[:8]}); put back what was there, or begin anew with what is there now"
            )
        _fetch(listing, self.place)


def here(config: AnyConfig) -> AnyConfig:
    """``config`` with its data on this machine: those behind ``data.uri`` are fetched, unless they are there.

    Where ``data.root`` is not yet the copy of a certain state, it becomes that of the state of now, and with it all
    paths below it. Otherwise that very state is brought. Raises FetchError.
    """
    uri, root = config.data.uri, config.data.root
    if uri is None:
        return config
    if root.name != cache_of(uri).name:
        Copy(uri, root).ensure()
        return config
    place = bring(uri).place
    data = _below(config.data, root, place)
    return config.model_copy(update={"data": data.model_copy(update={"root": place})})


def copy_of(config: Config | FinetuneConfig) -> Copy | None:
    """Of the data of ``config``, which are ``here``; None where they are this machine's own."""
    return None if config.data.uri is None else Copy(config.data.uri, config.data.root)


def bring(uri: str) -> Copy:
    """What is at ``uri`` now, fetched: a folder, or a folder with the one file that it is. Raises FetchError."""
    listing = look(uri)
    place = cache_of(uri) / listing.key
    _fetch(listing, place)
    return Copy(uri, place)


def bring_file(uri: str, alone: bool) -> tuple[Copy, Path]:
    """The file at ``uri``, fetched ``alone`` or with all that lies in its folder. Raises FetchError."""
    address, question, options = uri.partition("?")
    folder, _, name = address.rpartition("/")
    copy = bring(uri if alone else f"{folder}{question}{options}")
    if not (copy.place / name).is_file():
        raise FetchError(f"{address}: there is no such file")
    return copy, copy.place / name


def look(uri: str) -> Listing:
    """What is at ``uri`` now. Raises FetchError, also for names that must not be files here."""
    refuse_keys("data.root", uri)
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
        found = filesystem.get_file_info(path)
        if found.type == fs.FileType.File:
            folder, infos = path.rpartition("/")[0], [found]
        else:
            folder = path.rstrip("/")
            infos = filesystem.get_file_info(fs.FileSelector(folder, recursive=True, allow_not_found=True))
    except (OSError, ValueError) as error:
        raise FetchError(f"{_shown(uri)}: cannot be read: {error}") from None
    files = {
        info.path.removeprefix(f"{folder}/"): Facts(info.size or 0, info.mtime_ns or 0)
        for info in infos
        if info.type == fs.FileType.File
    }
    if not files:
        raise FetchError(f"{_shown(uri)}: found no files, expected a folder of data; is the address right?")
    for name in files:
        _refuse_stray(uri, name, files)
    return Listing(uri, filesystem, folder, files)


def _refuse_stray(uri: str, name: str, files: Mapping[str, Facts]) -> None:
    *above, _ = parts = name.split("/")
    if any(part in {"", ".", ".."} or "\0" in part or len(part.encode()) > 255 for part in parts):
        raise FetchError(f"{_shown(uri)}: found an object called {name!r}, expected names that are paths in its folder")
    for depth in range(1, len(above) + 1):
        if "/".join(above[:depth]) in files:
            raise FetchError(f"{_shown(uri)}: found {'/'.join(above[:depth])!r} as a file and as a folder of {name!r}")


def _fetch(listing: Listing, place: Path) -> None:
    """Bring ``listing`` to ``place``, once for all processes of this machine."""
    if place.is_dir():
        return
    partial = place.with_name(f".{place.name}")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with _alone(place.with_name(f".{place.name}.lock")):
            if place.is_dir():
                return
            free = shutil.disk_usage(place.parent).free
            if free < listing.size:
                raise FetchError(
                    f"{_shown(listing.uri)}: {readable_size(listing.size)}, and {place.parent} has "
                    f"{readable_size(free)} free; make room, or name another place for all caches by XDG_CACHE_HOME"
                )
            log.info(
                "%s: fetching %s files, %s, to %s",
                *(_shown(listing.uri), f"{len(listing.files):,}", readable_size(listing.size), place),
            )
            whole = partial / "whole"
            _transfer(listing, whole, partial / "going")
            if look(listing.uri).key != listing.key:
                raise FetchError(f"{_shown(listing.uri)}: changed while it was fetched; give the same command again")
            whole.rename(place)
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise FetchError(f"{_shown(listing.uri)}: cannot be brought to {place}: {error}") from None


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Within it no other process of this machine is in here for the same ``path``."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _transfer(listing: Listing, whole: Path, going: Path) -> None:
    """Bring every file that is not in ``whole`` yet."""
    shutil.rmtree(going, ignore_errors=True)
    whole.mkdir(parents=True, exist_ok=True)
    going.mkdir()
    todo = [name for name in sorted(listing.files) if not (whole / name).exists()]

    def get(number: int) -> bool | None:
        target = whole / todo[number]
        target.parent.mkdir(parents=True, exist_ok=True)
        same = _get(listing, todo[number], going / str(number))
        if same is not False:
            (going / str(number)).rename(target)
        return same

    with ThreadPoolExecutor(TRANSFERS) as pool:
        same = dict(zip(todo, pool.map(get, range(len(todo))), strict=True))
    wrong = [number for number, name in enumerate(todo) if same[name] is False]
    # A store that encrypts by keys of its own has ETags that look like MD5s, and are none: then none is one.
    if wrong and (len(wrong) < len(todo) or len(todo) < len(listing.files)):
        raise FetchError(
            f"{_shown(listing.uri)}: {todo[wrong[0]]}: found another content than its ETag tells"
            f"{f', and {len(wrong) - 1} more' if wrong[1:] else ''}; give the same command again, or put it there anew"
        )
    if wrong:
        log.warning("%s: ETags are no MD5s of the files, so sizes alone were checked", _shown(listing.uri))
    for number in wrong:
        (going / str(number)).rename(whole / todo[number])


def _get(listing: Listing, name: str, target: Path) -> bool | None:
    """Copy a file; whether its MD5 is its ETag, None where that is no MD5. Raises FetchError for another size."""
    digest, size = hashlib.md5(usedforsecurity=False), 0
    with (
        listing.filesystem.open_input_stream(f"{listing.folder}/{name}", compression=None) as source,
        target.open("wb") as file,
    ):
        etag = _MD5.fullmatch((source.metadata() or {}).get("ETag", b"").decode(errors="replace"))
        while block := source.read(_BLOCK):
            digest.update(block)
            size += file.write(block)
    if size != (expected := listing.files[name].size):
        raise FetchError(f"{_shown(listing.uri)}: {name}: found {size:,} bytes, expected {expected:,}")
    return None if etag is None else etag[1] == digest.hexdigest()


def _below(section: S, old: Path, new: Path) -> S:
    """``section`` with its paths below ``old`` put below ``new``."""
    changes: dict[str, object] = {}
    for name in type(section).model_fields:
        value = getattr(section, name)
        if isinstance(value, Path) and value.is_relative_to(old):
            changes[name] = new / value.relative_to(old)
        elif isinstance(value, Section):
            changes[name] = _below(value, old, new)
    return section.model_copy(update=changes)


def _shown(uri: str) -> str:
    return uri.partition("?")[0]
