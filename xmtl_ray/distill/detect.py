"""Objects in a folder of images: a Ray Data job with a pool of detectors, which goes on where it stopped.

The unit of progress is a shard: some image contents, detected by one actor and committed as one file under a name made
of those contents and the detector. So an actor that dies has its shard done again, a job that was stopped leaves whole
shards, and the next run detects only what no shard has.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xmtl_ray.cluster.connection import cluster
from xmtl_ray.cluster.jobs import Progress, cause
from xmtl_ray.cluster.reach import check_shared
from xmtl_ray.data import images as image_files
from xmtl_ray.data import objects
from xmtl_ray.data.detectors import Choice, choose, load
from xmtl_ray.data.objects import Detected
from xmtl_ray.events.records import DataError

log = logging.getLogger(__name__)


class DetectionError(ValueError):
    """A job that ended before its images, in the words of what stopped it; what was committed stays."""


@dataclass(frozen=True)
class Counts:
    """What became of a folder's images: ``images`` = ``detected`` + ``quarantined``."""

    images: int
    detected: int
    """Have detections in the store."""
    quarantined: int
    """Could not be read, each with its reason in the store's quarantine."""
    duplicates: int
    """Have the same content as another image of the folder."""
    new: int
    """Contents that this run looked at; the others were known."""


def detect(
    folder: Path,
    asked: str,
    store: Path,
    actors: int = 1,
    gpu: bool = False,
    shard: int = 64,
    batch: int = 16,
    progress: Progress | None = None,
) -> Counts:
    """Detect objects in every image of ``folder`` that ``store`` does not have yet, and seal the store.

    Args:
        folder: image files, not looked for in its subfolders; an image's id is its name without ending.
        asked: the detector, see ``detectors.choose``.
        store: where detections are kept; may hold those of other folders and detectors.
        actors: detectors that work side by side.
        gpu: each of them takes one GPU.
        shard: image contents that are committed together.
        batch: images of a forward pass.
        progress: is told.

    On a cluster both folders must be reachable from every node. Raises DetectorError, DataError, DetectionError.
    """
    choice = choose(asked)
    detector = choice.hash
    if not folder.is_dir():
        raise DataError(folder, None, "images", "no folder", "a folder of image files")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in image_files.ENDINGS)
    log.info("%s: %d images", folder, len(files))
    contents, refused = _contents(files)
    before = objects.known(store, detector)
    todo = {content: path for path, content in reversed(contents.items()) if content not in before}
    if todo:
        _run(sorted(todo.items()), choice, detector, store.absolute(), actors, gpu, shard, batch, progress)
    seen = objects.known(store, detector)
    found: dict[str, str] = {}
    for path, content in contents.items():
        if (reason := seen[content]) is not None:
            refused[path.name] = reason
        elif path.stem in found:
            refused[path.name] = f"another image of this folder has the id {path.stem}"
        else:
            found[path.stem] = content
    objects.seal(store, detector, asked, found, refused)
    return Counts(
        images=len(files),
        detected=len(found),
        quarantined=len(refused),
        duplicates=len(contents) - len(set(contents.values())),
        new=len(todo),
    )


def _contents(files: Sequence[Path]) -> tuple[dict[Path, str], dict[str, str]]:
    """sha256 of each file that can be opened; file name → reason of each that cannot."""

    def content(path: Path) -> str | DataError:
        try:
            return image_files.content_hash(path)
        except DataError as error:
            return error

    contents: dict[Path, str] = {}
    refused: dict[str, str] = {}
    with ThreadPoolExecutor() as pool:
        for path, found in zip(files, pool.map(content, files), strict=True):
            if isinstance(found, str):
                contents[path.absolute()] = found
            else:
                refused[path.name] = str(found)
    return contents, refused


def _run(
    todo: Sequence[tuple[str, Path]],
    choice: Choice,
    detector: str,
    store: Path,
    actors: int,
    gpu: bool,
    shard: int,
    batch: int,
    progress: Progress | None,
) -> None:
    shards = [todo[start : start + shard] for start in range(0, len(todo), shard)]
    rows = [{"contents": [content for content, _ in some], "paths": [str(path) for _, path in some]} for some in shards]
    if progress is not None:
        progress(0, len(todo))
    with cluster(actors):
        check_shared("--out", store, {"images": todo[0][1].parent})
        import ray
        from ray.data import ActorPoolStrategy
        from ray.exceptions import RayError

        done = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            Worker,
            fn_constructor_kwargs={"choice": choice, "detector": detector, "store": store, "batch": batch},
            batch_size=1,
            compute=ActorPoolStrategy(size=min(actors, len(rows))),
            num_cpus=1,
            num_gpus=1 if gpu else None,
        )
        finished = 0
        try:
            for row in done.iter_rows():
                finished += row["images"]
                if progress is not None:
                    progress(finished, len(todo))
        except RayError as error:
            raise DetectionError(f"{store}: {finished} of {len(todo)} are done, then: {cause(error)}") from error


class Worker:
    """What one actor of the pool runs: a detector that commits shards."""

    def __init__(self, choice: Choice, detector: str, store: Path, batch: int) -> None:
        self.store, self.hash, self.batch = store, detector, batch
        self.detector = load(choice)

    def __call__(self, shards: dict[str, Any]) -> dict[str, list[int]]:
        """Commit each shard that is not there yet; returns how many images each has."""
        counts = []
        for contents, paths in zip(shards["contents"], shards["paths"], strict=True):
            # A shard whose actor died after it was committed comes again.
            if not objects.shard_path(self.store, self.hash, contents).exists():
                images = dict(zip(contents, map(Path, paths), strict=True))
                objects.commit(self.store, self.hash, list(self._detected(images)))
            counts.append(len(contents))
        return {"images": counts}

    def _detected(self, images: Mapping[str, Path]) -> Iterator[Detected]:
        items = list(images.items())
        for start in range(0, len(items), self.batch):
            pictures = {}
            for content, path in items[start : start + self.batch]:
                try:
                    pictures[content] = image_files.read(path)
                except DataError as error:
                    yield Detected(content, reason=str(error))
            for content, found in zip(pictures, self.detector(list(pictures.values())), strict=True):
                yield Detected(content, found)
