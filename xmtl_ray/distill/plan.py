"""What a labelling has to do: the source's pairs in shards, in its order, and which of them are not labelled yet.

Pairs that no teacher can be asked about (no sentence, no image file) are quarantined here, with the reason. The pairs
of a shard that is to be labelled are written down for the actors, so the source is never in memory as a whole.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from xmtl_ray.config.schema import Config, TaskName
from xmtl_ray.data import images as image_files
from xmtl_ray.data import objects, parquet, pseudo_labels
from xmtl_ray.data.formats import open_source
from xmtl_ray.data.media_paths import inside
from xmtl_ray.data.objects import write_whole
from xmtl_ray.data.pseudo_labels import LabelledPair, Teacher
from xmtl_ray.events.records import DataError, DetectedObject, Pair

log = logging.getLogger(__name__)

TODO = "todo"
"""Folder of the shards that are not labelled yet."""
AHEAD = 8
"""Shards whose images are hashed at the same time."""

W = TypeVar("W")
R = TypeVar("R")
Chunk = tuple[list[LabelledPair], Path, Path]
"""Rows of a shard without hashes, their source, and the folder of its images."""
Hashing = Callable[[Iterable[Chunk]], Iterator[list[LabelledPair]]]


@dataclass(frozen=True)
class Plan:
    """The whole input, in shards."""

    keys: tuple[str, ...]
    new: Mapping[str, int]
    """Key → pairs of each shard that is not there yet."""
    images: Path
    source_sha256: str
    pairs: int
    refused: Mapping[str, str]
    """Quarantined so far: before any teacher looked, and in the shards that are there."""


def make_plan(
    config: Config, store: Path, teachers: Mapping[TaskName, Teacher], hashing: Hashing | None = None
) -> Plan:
    """Read the source and hash its images; what is not labelled yet is written down for the actors.

    Args:
        config: see ``pseudo_label.label``.
        store: the folder.
        teachers: by task.
        hashing: opens and hashes the images; None: threads of this process.
    """
    hashes = {task: teacher.sha256 for task, teacher in teachers.items()}
    rows = _Rows(config)
    keys, new, refused, digest = list[str](), dict[str, int](), dict[str, str](), hashlib.sha256()
    chunks = ((some, rows.source, rows.images) for some in _chunks(rows.stream(), config.distill.shard))
    for shard in (hashing or in_threads)(chunks):
        key = pseudo_labels.shard_key(shard, hashes, config.distill.floor, config.inference.batch)
        keys.append(key)
        digest.update("".join(pseudo_labels.as_text(row) + "\n" for row in shard).encode())
        if pseudo_labels.shard_path(store, key).exists():
            refused |= pseudo_labels.refused(store, key)
        else:
            new[key] = len(shard)
            refused |= {row.id: row.reason for row in shard if row.reason is not None}
            write_whole(todo_path(store, key), partial(_write_rows, shard))
    if not keys:
        raise DataError(rows.source, None, "pairs", "none", "at least one image-text pair")
    rows.warn()
    return Plan(tuple(keys), new, rows.images, digest.hexdigest(), len(rows.ids), refused)


def in_threads(chunks: Iterable[Chunk]) -> Iterator[list[LabelledPair]]:
    """The chunks' rows with their images' hashes, in order; a few chunks are read ahead."""
    with ThreadPoolExecutor() as pool:
        yield from in_order((pool.submit(hashed, *chunk) for chunk in chunks), Future.result, AHEAD)


def in_order(begun: Iterable[W], result: Callable[[W], R], ahead: int) -> Iterator[R]:
    """Results of work in the order in which it is begun, of which so much is under way at most."""
    waiting = deque[W]()
    for work in begun:
        waiting.append(work)
        if len(waiting) >= ahead:
            yield result(waiting.popleft())
    while waiting:
        yield result(waiting.popleft())


def hashed(rows: Sequence[LabelledPair], source: Path, images: Path) -> list[LabelledPair]:
    """The same with the hashes of their images; or quarantined, where a pair cannot be labelled."""
    return [_hashed(row, source, images) for row in rows]


def _hashed(row: LabelledPair, source: Path, images: Path) -> LabelledPair:
    if row.reason is not None:
        return row
    try:
        pseudo_labels.check_pair(source, row)
        path = inside(images, row.image, source, row.id, "image")
        return replace(row, image_sha256=image_files.content_hash(path, root=images))
    except DataError as error:
        return replace(row, reason=without_folder(error, images))


def _write_rows(shard: Sequence[LabelledPair], file: Path) -> None:
    parquet.write(file, LabelledPair, shard)


def todo_path(store: Path, key: str) -> Path:
    """File of the pairs of a shard that is to be labelled."""
    return store / TODO / f"{key}.parquet"


def _chunks(rows: Iterator[LabelledPair], size: int) -> Iterator[list[LabelledPair]]:
    while chunk := list(itertools.islice(rows, size)):
        yield chunk


class _Rows:
    """The source's pairs as rows that are not labelled yet."""

    def __init__(self, config: Config) -> None:
        spec = config.data.pairs
        assert spec is not None
        self.source, self.folder = spec.source, spec.images
        self.confidence = config.inference.object_confidence
        self.objects = None if spec.objects is None else objects.read(spec.objects, self.confidence)
        self.images = spec.images or spec.source
        self.ids: set[str] = set()
        self.detected = 0

    def stream(self) -> Iterator[LabelledPair]:
        """One row a pair, without its image's hash. Raises DataError, also for an id that comes twice.

        ``images`` is right from the first one on.
        """
        opened = open_source(self.source, images=self.folder)
        if opened.kind is not Pair:
            raise DataError(self.source, None, "records", opened.kind.__name__, "image-text pairs (VOA's or Parquet)")
        for pair in opened.records:
            assert isinstance(pair, Pair)
            if pair.id in self.ids:
                raise DataError(self.source, pair.id, "id", "twice", "every pair once")
            if not self.ids and self.folder is None:
                self.images = self._own_folder(pair)
            self.ids.add(pair.id)
            yield self._row(pair)

    def warn(self) -> None:
        """Tell where no image has a detection that is sure enough."""
        if not self.detected:
            log.warning(
                "%s: no image has a detection of at least %g (inference.object_confidence): rc labels nothing",
                self.source,
                self.confidence,
            )

    def _own_folder(self, first: Pair) -> Path:
        """Where the source keeps its images: VOA's folder of images; for a Parquet file the folder that it lies in."""
        if self.source.is_dir() and first.image.path is not None:
            return first.image.path.parent
        return self.source.parent

    def _row(self, pair: Pair) -> LabelledPair:
        image = pair.image
        known = self.objects.get(image.id, ()) if self.objects is not None else self._sure(image.objects)
        self.detected += bool(known)
        row = LabelledPair(pair.id, "", "", pair.sentence.words, pair.sentence.entities, known)
        if image.path is None:
            return replace(row, reason="no image file is named")
        if image.path.is_relative_to(self.images):
            return replace(row, image=image.path.relative_to(self.images).as_posix())
        if self.folder is not None:
            return replace(row, image=image.path.name)
        if image.path.is_absolute():
            return replace(
                row, reason=f"{image.path} is not inside {self.images}; name its folder by data.pairs.images"
            )
        return replace(row, image=image.path.as_posix())

    def _sure(self, found: Sequence[DetectedObject]) -> tuple[DetectedObject, ...]:
        return tuple(item for item in found if item.confidence >= self.confidence)


def without_folder(error: DataError, images: Path) -> str:
    """What an error says, with image files named as below their folder."""
    return str(error).replace(f"{images}/", "")
