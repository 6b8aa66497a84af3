"""Pairs for a page about pseudo-labels: some that are kept and some that are not, and what the teachers say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from xmtl_ray.config.schema import Thresholds
from xmtl_ray.data.pseudo_labels import LabelledPair, Manifest, image_path
from xmtl_ray.data.pseudo_selection import Kept, select
from xmtl_ray.data.world import PairTruth
from xmtl_ray.events.ontology import NONE, m2e2, mentions
from xmtl_ray.events.records import DataError, TextArgument, TextEvent
from xmtl_ray.report import comparison
from xmtl_ray.report.comparison import Outcome, Region
from xmtl_ray.report.gallery import Piece, marked
from xmtl_ray.report.pictures import Framed, framed

KEPT, OTHERS = 8, 4
"""Kept pairs that are shown, and pairs of each other kind."""
_SHOWN_TYPE = 0.05
"""Types of an image below it are not worth naming."""


@dataclass(frozen=True)
class ShownType:
    """A type with the probability that its side has it; ``outcome`` is None where the truth is not known."""

    name: str
    probability: float
    counts: bool
    """Above the threshold."""
    outcome: Outcome | None


@dataclass(frozen=True)
class PairCard:
    """A pair."""

    id: str
    kind: str
    pieces: tuple[Piece, ...]
    aside: tuple[tuple[str, comparison.Mention], ...]
    text: tuple[ShownType, ...]
    image: tuple[ShownType, ...]
    frame: Framed
    truth: tuple[str, str] | None
    """What the sentence tells and the image shows in truth, where that is known."""


def cards(
    rows: Sequence[LabelledPair], manifest: Manifest, threshold: Thresholds, truth: Mapping[str, PairTruth] | None
) -> list[PairCard]:
    """Kept pairs, one of each type first; then pairs that are not sure enough, and pairs whose sides disagree."""
    kept = select(rows, threshold).kept
    inside = {each.pair.id for each in kept}
    rest = [row for row in rows if row.id not in inside]
    alone = {each.pair.id: each for each in select(rest, threshold, "none").kept}
    unsure = [row for row in rest if row.asked]
    apart = [
        row
        for row in rest
        if not row.asked and row.id in alone and alone[row.id].text_types and alone[row.id].image_types
    ]
    groups: list[tuple[str, Iterable[LabelledPair | Kept]]] = [
        ("kept", _of_each_type(kept)[:KEPT]),
        ("not kept: the sides agree, but are not sure enough", unsure[:OTHERS]),
        ("not kept: the sides disagree", apart[:OTHERS]),
    ]
    return [_card(each, kind, manifest, threshold, truth) for kind, some in groups for each in some]


def _of_each_type(kept: Sequence[Kept]) -> list[Kept]:
    """The first of each shared type, then the second of each, and so on."""
    turns: dict[str, int] = {}
    ranked = []
    for place, each in enumerate(kept):
        shared = next(name for name in each.text_types if name in each.image_types)
        turns[shared] = turns.get(shared, 0) + 1
        ranked.append((turns[shared], place, each))
    return [each for *_, each in sorted(ranked, key=lambda item: item[:2])]


def _card(
    shown: LabelledPair | Kept,
    kind: str,
    manifest: Manifest,
    threshold: Thresholds,
    truth: Mapping[str, PairTruth] | None,
) -> PairCard:
    """A kept pair has its kept roles, another one all that were labelled."""
    pair = shown.pair if isinstance(shown, Kept) else shown
    own = None if truth is None else truth.get(pair.id)
    events = [
        TextEvent(
            event_type,
            trigger,
            tuple(
                TextArgument(each.role, each.entity)
                for each in shown.text_arguments
                if (each.event_type, each.trigger) == (event_type, trigger) and each.role != NONE
            ),
        )
        for event_type, trigger in mentions(pair.tags)
    ]
    told = [
        replace(mention, outcome="correct" if own is None or mention.type in own.text else "wrong")
        for mention in comparison.mentions(events, events)
    ]
    pieces, aside = marked(pair.words, told)
    regions = [Region("", each.role, each.box, None) for each in shown.image_arguments if each.role != NONE]
    seen = sorted(zip(m2e2().types, pair.types, strict=True), key=lambda item: -item[1])
    return PairCard(
        pair.id,
        kind,
        pieces,
        tuple(aside),
        _types(
            ((name, pair.path_probability) for name in dict.fromkeys(event.type for event in events)),
            *(threshold.td, None if own is None else own.text),
        ),
        _types((item for item in seen if item[1] >= _SHOWN_TYPE), threshold.vc, None if own is None else own.image),
        framed(_path(manifest, pair), regions, {"": ""}, signs=False),
        None if own is None else (_named(own.text), _named(own.image)),
    )


def _types(found: Iterable[tuple[str, float]], threshold: float, truth: Sequence[str] | None) -> tuple[ShownType, ...]:
    def outcome(name: str) -> Outcome | None:
        if truth is None:
            return None
        return "correct" if name in truth else "wrong"

    return tuple(ShownType(name, sure, sure > threshold, outcome(name)) for name, sure in found)


def _named(types: Sequence[str]) -> str:
    return ", ".join(name.rpartition(":")[2] for name in types) or "no event"


def _path(manifest: Manifest, pair: LabelledPair) -> Path | None:
    try:
        return image_path(manifest, pair)
    except DataError:
        return None
