"""A store of pseudo-labels: what teachers say of image-text pairs, each answer with its probability, as Parquet.

A folder of shards, ``store.json``, which says what they are and is written last, and ``quarantine.jsonl``. Every answer
of the teachers is kept, however unsure: which of them are learnt from is a selection (``pseudo_selection``), a filter
over the store and no other run. Shards lie under a hash of what they depend on, so what is there is not labelled again.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from xmtl_ray.config.schema import TaskName
from xmtl_ray.data import parquet
from xmtl_ray.data.media_paths import inside, relative
from xmtl_ray.data.objects import write_whole
from xmtl_ray.events.ontology import m2e2
from xmtl_ray.events.records import Box, DataError, DetectedObject, Entity, Span
from xmtl_ray.events.strict_json import read_json, stream_list

MANIFEST = "store.json"
"""Written last: a folder that has it is a store."""
QUARANTINE = "quarantine.jsonl"
"""Pairs that could not be labelled, one JSON object a line: pair, reason."""
_VERSION: Literal["pseudo-labels-1"] = "pseudo-labels-1"
_MADE_BY = "what `xmtl pseudo-label` has written to its end"


@dataclass(frozen=True, slots=True)
class LabelledArgument:
    """The most probable role, None included, of an entity in an event of its sentence."""

    event_type: str
    trigger: Span
    entity: Span
    role: str
    probability: float


@dataclass(frozen=True, slots=True)
class LabelledObject:
    """The most probable role, None included, of a detected object."""

    box: Box
    role: str
    probability: float


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """A pair and what the teachers say of it; one row of a shard."""

    id: str
    image: str
    """Path of the image file below the store's folder of images."""
    image_sha256: str
    """Of the file's bytes; empty where it could not be read."""
    words: tuple[str, ...]
    entities: tuple[Entity, ...]
    objects: tuple[DetectedObject, ...]
    """The detections that roles were asked of."""
    reason: str | None = None
    """Why the pair could not be labelled: it has none of the following then."""
    tags: tuple[str, ...] = ()
    """td: the best path, one tag a word."""
    path_probability: float = 0.0
    """td: of that whole path, Eq. 5."""
    types: tuple[float, ...] = ()
    """vc: probability of each type of the ontology, in its order."""
    asked: bool = False
    """Whether both sides share a type that the teachers are surer of than the floor, so that roles were asked for."""
    text_arguments: tuple[LabelledArgument, ...] = ()
    """ae: of each event of the sentence and each entity."""
    image_arguments: tuple[LabelledObject, ...] = ()
    """rc: of each object."""


_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Count = Annotated[int, Field(ge=0)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Teacher(_Part):
    """A single-task model: where it lay, and the hash of its files."""

    folder: str
    sha256: _Sha256


class Shard(_Part):
    """A file of the store; ``key`` is its name, ``sha256`` that of its bytes."""

    key: _Sha256
    sha256: _Sha256
    pairs: _Count


class Manifest(_Part):
    """What a store is: ``store.json``."""

    version: Literal["pseudo-labels-1"] = _VERSION
    ontology: str
    """Version of the ontology."""
    labels: tuple[str, ...]
    """Its types, in the order of ``LabelledPair.types``."""
    teachers: dict[TaskName, Teacher]
    floor: Annotated[float, Field(gt=0, lt=1)]
    """See ``distill.floor``."""
    source: str
    """What was labelled."""
    source_sha256: _Sha256
    """Of the pairs: words, entities, detections and the images' bytes."""
    images: str
    """Folder of the image files."""
    pairs: _Count
    """All of the source, quarantined ones included."""
    quarantined: _Count
    asked: _Count
    """Pairs whose arguments were asked for."""
    shards: tuple[Shard, ...]
    """In the order of the source."""

    @property
    def sha256(self) -> str:
        """Of all that is in the store, wherever it, the teachers and the source lie."""
        told = {name: teacher.sha256 for name, teacher in sorted(self.teachers.items())}
        files = [shard.sha256 for shard in self.shards]
        return _digest(json.dumps([self.version, self.ontology, self.floor, told, self.source_sha256, files]))


class _Quarantined(_Part):
    pair: str
    reason: str


def shard_key(rows: Sequence[LabelledPair], teachers: Mapping[TaskName, str], floor: float, batch: int) -> str:
    """Name of the shard that these rows, not labelled yet, become: a hash of all that its content depends on.

    Args:
        rows: with the hashes of their images.
        teachers: hash of each.
        floor: see ``distill.floor``.
        batch: inputs of a forward pass; padding changes the last digits of a probability.
    """
    settings = json.dumps([_VERSION, m2e2().version, sorted(teachers.items()), floor, batch])
    return _digest("\n".join([settings, *map(as_text, rows)]))


def as_text(row: LabelledPair) -> str:
    """All of a row on one line, to hash."""
    return json.dumps(asdict(row), sort_keys=True)


def shard_path(store: Path, key: str) -> Path:
    """File of a shard."""
    return store / "shards" / f"{key}.parquet"


def commit(store: Path, key: str, rows: Sequence[LabelledPair]) -> None:
    """Write a shard, whole or not at all. Raises DataError for an answer that is no probability."""
    path = shard_path(store, key)
    for row in rows:
        _check(path, row)
    write_whole(path, lambda file: parquet.write(file, LabelledPair, rows))


def read_shard(path: Path) -> list[LabelledPair]:
    """The rows of one shard. Raises DataError."""
    rows = list(parquet.stream(path, LabelledPair))
    for row in rows:
        _check(path, row)
    return rows


def refused(store: Path, key: str) -> dict[str, str]:
    """Id of each pair of a shard that could not be labelled → the reason. Raises DataError."""
    return {row["id"]: row["reason"] for row in _columns(shard_path(store, key)) if row["reason"] is not None}


def seal(
    store: Path,
    keys: Sequence[str],
    teachers: Mapping[TaskName, Teacher],
    floor: float,
    source: Path,
    source_sha256: str,
    images: Path,
) -> Manifest:
    """Write what the store holds now: the shards ``keys``, in the source's order; those of earlier runs are deleted.

    For the other arguments see ``Manifest``. Raises DataError where a shard is missing.
    """
    reasons, shards, asked = dict[str, str](), list[Shard](), 0
    for key in keys:
        path = shard_path(store, key)
        rows = _columns(path)
        shards.append(Shard(key=key, sha256=_file_sha256(path), pairs=len(rows)))
        reasons |= {row["id"]: row["reason"] for row in rows if row["reason"] is not None}
        asked += sum(row["asked"] for row in rows)
    manifest = Manifest(
        ontology=m2e2().version,
        labels=m2e2().types,
        teachers=dict(teachers),
        floor=floor,
        source=str(source),
        source_sha256=source_sha256,
        images=str(images),
        pairs=sum(shard.pairs for shard in shards),
        quarantined=len(reasons),
        asked=asked,
        shards=tuple(shards),
    )
    lines = "".join(json.dumps({"pair": name, "reason": reason}) + "\n" for name, reason in reasons.items())
    write_whole(store / QUARANTINE, lambda file: file.write_text(lines, encoding="utf-8"))
    text = manifest.model_dump_json(indent=1) + "\n"
    write_whole(store / MANIFEST, lambda file: file.write_text(text, encoding="utf-8"))
    own = {shard_path(store, key) for key in keys}
    for path in (store / "shards").iterdir():
        if path not in own:
            path.unlink()
    return manifest


def read_manifest(store: Path) -> Manifest:
    """What the store is. Raises DataError where it is none, is not finished, or is of another ontology."""
    if not store.is_dir():
        raise DataError(store, None, "folder", "nothing", _MADE_BY)
    if not (store / MANIFEST).is_file():
        raise DataError(store, None, "folder", f"no {MANIFEST}", f"{_MADE_BY}; the same command again goes on")
    manifest = read_json(store / MANIFEST, TypeAdapter(Manifest))
    ontology = m2e2()
    if (manifest.ontology, manifest.labels) != (ontology.version, ontology.types):
        raise DataError(store / MANIFEST, None, "ontology", manifest.ontology, f"{ontology.version}; label again")
    return manifest


def stream(store: Path) -> Iterator[LabelledPair]:
    """The labelled pairs in the source's order, without those in quarantine.

    Raises DataError where a shard is missing, is not the one that was written, or does not hold what it should.
    """
    manifest = read_manifest(store)
    for shard in manifest.shards:
        path = shard_path(store, shard.key)
        found = _file_sha256(path)
        if found != shard.sha256:
            raise DataError(path, None, "sha256", found, f"{shard.sha256}; delete this file and label again")
        yield from (row for row in read_shard(path) if row.reason is None)


def image_path(manifest: Manifest, row: LabelledPair) -> Path:
    """Where the image of a pair lies. Raises DataError where the path would leave the folder of images."""
    return inside(Path(manifest.images), row.image, MANIFEST, row.id, "image")


def quarantine(store: Path) -> dict[str, str]:
    """Id of each pair that could not be labelled → the reason. Raises DataError."""
    path = store / QUARANTINE
    if path.is_file() and not path.stat().st_size:
        return {}
    rows = stream_list(path, TypeAdapter(_Quarantined), lambda _, row: row)
    return {row.pair: row.reason for row in rows}


def lineage(store: Path) -> dict[str, str]:
    """Hashes of the store, of what was labelled and of the teachers, for the tags of a run. Raises DataError."""
    manifest = read_manifest(store)
    return {
        "sha256.pseudo.store": manifest.sha256,
        "sha256.pseudo.source": manifest.source_sha256,
        **{f"sha256.pseudo.teacher.{name}": teacher.sha256 for name, teacher in sorted(manifest.teachers.items())},
    }


def check_pair(path: Path, row: LabelledPair) -> None:
    """Raises DataError, which names the file ``path``, for a row, labelled or not, whose pair cannot be labelled."""
    relative(row.image, path, row.id, "image")
    if not row.words:
        raise DataError(path, row.id, "words", "none", "a sentence")
    spans = [entity.span for entity in row.entities]
    spans += [span for each in row.text_arguments for span in (each.trigger, each.entity)]
    for span in spans:
        if not 0 <= span.start < span.end <= len(row.words):
            raise DataError(path, row.id, "span", span, f"words within the {len(row.words)} of the sentence")
    for box in [*(each.box for each in row.objects), *(each.box for each in row.image_arguments)]:
        sides = (box.x1 - box.x0, box.y1 - box.y0)
        if not all(math.isfinite(side) and side > 0 for side in sides):
            raise DataError(path, row.id, "box", box, "a box with an area")


def _check(path: Path, row: LabelledPair) -> None:
    """Raises DataError for a labelled row that says what it may not."""

    def expect(holds: bool, field: str, found: object, expected: str) -> None:
        if not holds:
            raise DataError(path, row.id, field, found, expected)

    if row.reason is not None:
        return
    check_pair(path, row)
    ontology, length = m2e2(), len(row.words)
    expect(len(row.tags) == length, "tags", len(row.tags), f"one for each of {length} words")
    expect(set(row.tags) <= set(ontology.tags), "tags", row.tags, "tags of the ontology")
    expect(len(row.types) == len(ontology.types), "types", len(row.types), f"{len(ontology.types)} probabilities")
    labelled: list[LabelledArgument | LabelledObject] = [*row.text_arguments, *row.image_arguments]
    for sure in (row.path_probability, *row.types, *(each.probability for each in labelled)):
        expect(math.isfinite(sure) and 0 <= sure <= 1, "probability", sure, "a number from 0 to 1")
    expect({each.role for each in labelled} <= set(ontology.roles), "role", labelled, "roles of the ontology")


def _columns(path: Path) -> list[dict[str, Any]]:
    """Id, reason and ``asked`` of a shard's rows, without the rest."""
    try:
        return pq.read_table(path, columns=["id", "reason", "asked"]).to_pylist()  # type: ignore[no-any-return]
    except (pa.ArrowException, OSError) as error:
        raise DataError(path, None, "file", str(error), "a shard of the store; label again") from None


def _file_sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(path, None, "file", error.strerror, "a shard of the store; label again") from None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()
