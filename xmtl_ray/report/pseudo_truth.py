"""The truth about the pairs of a store of pseudo-labels, where somebody knows it: the miniature world does."""

from __future__ import annotations

from pathlib import Path

from xmtl_ray.data import pseudo_labels
from xmtl_ray.data.pseudo_labels import Manifest
from xmtl_ray.data.world import SUMMARY, PairTruth, pair_truth
from xmtl_ray.events.records import DataError


def known_truth(manifest: Manifest, store: Path, world: Path | None = None) -> dict[str, PairTruth] | None:
    """Truth about the pairs; None where it is not known. That of another world, which happens to lie beside, is none.

    Args:
        manifest: of the store.
        store: its folder.
        world: folder of the world that the pairs are of; None: the one that the source lies in, if it does.

    Raises DataError for a ``world`` that is none or knows none of the pairs.
    """
    beside = Path(manifest.source).parent
    if world is None and not (beside / SUMMARY).is_file():
        return None
    truth = pair_truth(world or beside)
    if any(row.id in truth for row in pseudo_labels.stream(store)):
        return truth
    if world is not None:
        raise DataError(world / SUMMARY, None, "pairs", sorted(truth)[:1], "ids of the store's pairs")
    return None
