"""Which pseudo-labels are learnt from: a pure filter over what the teachers said [X-MTL, Training Strategy].

"An image-text pair is retained only if both the text and image have the same event prediction within the M2E2 schema
and the scores exceed the threshold." A score must be greater than its threshold, not equal. Nothing is read, run or
drawn here, so a sweep over thresholds costs filters.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from xmtl_ray.config.schema import Term, Thresholds
from xmtl_ray.data.pseudo_labels import LabelledArgument, LabelledObject, LabelledPair
from xmtl_ray.events.ontology import NONE, m2e2, mentions

Agreement = Literal["shared", "same", "none"]
"""See ``multitask.pseudo.agreement``."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A pair that is learnt from, with what remains of its labels."""

    pair: LabelledPair
    text_types: tuple[str, ...]
    """Types that its sentence tells; the sentence is learnt from (td_pseudo) if there are any."""
    image_types: tuple[str, ...]
    """Types that its image shows; the image is learnt from (vc_pseudo) if there are any."""
    text_arguments: tuple[LabelledArgument, ...]
    """ae_pseudo."""
    image_arguments: tuple[LabelledObject, ...]
    """rc_pseudo."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The kept pairs, in the order of the store."""

    kept: tuple[Kept, ...]

    @property
    def examples(self) -> dict[Term, int]:
        """How many examples each pseudo-label task gets."""
        return {
            "td_pseudo": sum(bool(each.text_types) for each in self.kept),
            "ae_pseudo": sum(len(each.text_arguments) for each in self.kept),
            "vc_pseudo": sum(bool(each.image_types) for each in self.kept),
            "rc_pseudo": sum(len(each.image_arguments) for each in self.kept),
        }


def select(
    rows: Iterable[LabelledPair],
    threshold: Thresholds,
    agreement: Agreement = "shared",
    schema_filter: bool = True,
) -> Selection:
    """Keep what is sure enough, of pairs whose sides agree.

    Args:
        rows: as the store has them.
        threshold: ``td`` for the sentence's whole tag path, ``vc`` for each type of the image, ``ae`` and ``rc`` for
            each role.
        agreement: both sides predict, and have a type in common (shared) or the same types (same); or each side is kept
            that predicts, by itself (none). Roles are there only for pairs that shared a type when they were labelled.
        schema_filter: leave out a role that the ontology gives neither to the event (text) nor to any kept type of the
            image; None stays.
    """
    kept = (_kept(row, threshold, agreement, schema_filter) for row in rows)
    return Selection(tuple(each for each in kept if each is not None))


def _kept(row: LabelledPair, threshold: Thresholds, agreement: Agreement, schema_filter: bool) -> Kept | None:
    ontology = m2e2()
    sure = row.path_probability > threshold.td
    told = tuple(dict.fromkeys(event_type for event_type, _ in mentions(row.tags))) if sure else ()
    shown = tuple(
        name for name, probability in zip(ontology.types, row.types, strict=True) if probability > threshold.vc
    )
    match agreement:
        case "shared":
            agree = bool(set(told) & set(shown))
        case "same":
            agree = bool(told) and set(told) == set(shown)
        case "none":
            agree = bool(told or shown)
    if not agree:
        return None

    def fits(role: str, types: Iterable[str]) -> bool:
        return not schema_filter or role == NONE or any(ontology.allows(event_type, role) for event_type in types)

    return Kept(
        row,
        told,
        shown,
        tuple(
            each
            for each in row.text_arguments
            if told and each.probability > threshold.ae and fits(each.role, [each.event_type])
        ),
        tuple(
            each for each in row.image_arguments if shown and each.probability > threshold.rc and fits(each.role, shown)
        ),
    )
