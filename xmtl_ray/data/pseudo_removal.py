"""A source taken out of a store of pseudo-labels, when it turns out that it should not have been learnt from.

Its pairs stay in their shards as quarantined, without their labels, so that the same labelling again does not bring
them back. The store's hash changes with it: runs that have learnt from the one before say so in their tags
(``sha256.pseudo.store``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from xmtl_ray.data import pseudo_labels
from xmtl_ray.data.pseudo_labels import LabelledPair, Manifest
from xmtl_ray.events.records import DataError

REMOVED = "removed with its source"
"""What the reason of such a pair begins with."""


class Removal(NamedTuple):
    """What was done."""

    pairs: int
    """Taken out now."""
    left: int
    """Labelled pairs in the store."""
    before: str
    """sha256 of the store that it was."""
    after: str


def remove(store: Path, source: str) -> Removal:
    """Take the labels of every pair out whose id or image matches ``source``, a pattern with ``*`` and ``?``.

    Raises DataError for a store that is not as it was written, and where nothing matches.
    """
    manifest = pseudo_labels.read_manifest(store)
    shards = _whole(store, manifest)
    found = 0
    for key, rows in shards.items():
        kept = [_without(row, source) if row.reason is None and _matches(row, source) else row for row in rows]
        changed = sum(one is not other for one, other in zip(kept, rows, strict=True))
        if changed:
            pseudo_labels.commit(store, key, kept)
            found += changed
    if not found:
        raise DataError(store, None, "source", source, "a pattern that the id or the image of a labelled pair matches")
    after = pseudo_labels.seal(
        store,
        list(shards),
        manifest.teachers,
        manifest.floor,
        Path(manifest.source),
        manifest.source_sha256,
        Path(manifest.images),
    )
    return Removal(found, after.pairs - after.quarantined, manifest.sha256, after.sha256)


def _whole(store: Path, manifest: Manifest) -> dict[str, Sequence[LabelledPair]]:
    """All rows by shard; all are read, and their hashes compared, before one is changed."""
    for _ in pseudo_labels.stream(store):
        pass
    return {
        shard.key: pseudo_labels.read_shard(pseudo_labels.shard_path(store, shard.key)) for shard in manifest.shards
    }


def _matches(row: LabelledPair, source: str) -> bool:
    return fnmatchcase(row.id, source) or fnmatchcase(row.image, source)


def _without(row: LabelledPair, source: str) -> LabelledPair:
    bare = LabelledPair(row.id, row.image, row.image_sha256, row.words, row.entities, row.objects)
    return replace(bare, reason=f"{REMOVED} {source}")
