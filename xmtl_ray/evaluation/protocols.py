"""M2E2's protocols as data: what one counts differently from another is a field.

``table`` is the headline and ``strict`` the demanding one; ``xmtl-exact``, ``camel``, ``mmutf`` and ``wase`` count as
those systems' published evaluators do, quirks included, so that a row can be set beside theirs. Left out on purpose
everywhere: the released evaluators' step that erases predictions on words chosen from the test set's own gold tags.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Protocol:
    """What is counted. The defaults are protocol ``table``."""

    about: str
    """What it is, in a line for people."""
    sentences: Literal["all", "with_event"] = "all"
    """Sentences that are scored: all, or those with a gold event (a false alarm elsewhere costs nothing)."""
    images: Literal["with_event", "all"] = "with_event"
    """Images that are scored: those with a gold event, or all (an event where gold has none is wrong)."""
    pairs: Literal["multimedia", "all"] = "multimedia"
    """Pairs that are scored: those whose sentence and image the multimedia files list, or all."""
    matching: Literal["one_to_one", "every_pair", "predictions"] = "one_to_one"
    """What is correct: a maximum one-to-one matching (the second duplicate is wrong); every matching pair of a
    prediction and a gold item (recall can pass 100); or every prediction that matches some gold item (likewise).
    `predictions` is for boxes alone: all else is then matched one to one."""
    duplicates: Literal["wrong", "once"] = "wrong"
    """Whether a key that is predicted twice counts twice; `once` also merges equal gold. Not for boxes."""
    text_argument: Literal["trigger_and_span", "trigger_and_start", "span"] = "trigger_and_span"
    """What must agree beside event type and role: the trigger and the argument's span; the trigger and the
    argument's first word; or only the span, under whatever trigger."""
    box: Literal["over_half", "half", "half_or_inside"] = "over_half"
    """When boxes match: IoU > 0.5; IoU >= 0.5; or that, or at least 0.9 of the predicted box inside the gold one."""
    visual_argument_type: bool = True
    """Whether a visual argument needs the event's type, or its role alone is enough."""
    visual_roles_left_out: tuple[str, ...] = ()
    """Visual arguments that are not counted, neither in gold nor predicted: `Type:Sub.Role`, or a role of all types."""
    multimedia_arguments: Literal["correct_pairs", "all_pairs", "files_once", "files_and_pairs"] = "correct_pairs"
    """Whose arguments are predicted and gold of multimedia arguments:
    `correct_pairs`, those of correct pairs, on both sides; `all_pairs`, those of all predicted and of all gold pairs,
    only correct pairs' being correct; `files_once`, gold is all that the multimedia files' sentences and images have,
    predicted what the predicted pairs' have, each once; `files_and_pairs`, gold is what the multimedia files list,
    predicted and correct are counted in every predicted and every correct pair anew."""


_NO_ACE_ROLE = ("Conflict:Demonstrate.Instrument", "Conflict:Demonstrate.Police")

PROTOCOLS = {
    "table": Protocol("the headline: gold event images, multimedia files' pairs, one-to-one matching"),
    "strict": Protocol(
        "all images, all pairs of a document, arguments of all pairs",
        images="all",
        pairs="all",
        multimedia_arguments="all_pairs",
    ),
    "event_sentences": Protocol("as table, text only where a sentence has an event", sentences="with_event"),
    "xmtl-exact": Protocol("as table, every matching prediction-gold pair counts", matching="every_pair"),
    "camel": Protocol(
        "after CAMEL: an argument by its first word, IoU >= 0.5, every pair, multimedia gold of the files",
        matching="every_pair",
        text_argument="trigger_and_start",
        box="half",
        visual_roles_left_out=_NO_ACE_ROLE,
        multimedia_arguments="files_and_pairs",
    ),
    "mmutf": Protocol(
        "after MMUTF: sets of (type, role, span) in text, IoU >= 0.5, every pair of boxes, all images",
        images="all",
        matching="every_pair",
        duplicates="once",
        text_argument="span",
        box="half",
        multimedia_arguments="files_once",
    ),
    "wase": Protocol(
        "after WASE: event sentences; a box is right by its role, IoU >= 0.5 or 0.9 of it inside; Place left out",
        sentences="with_event",
        matching="predictions",
        box="half_or_inside",
        visual_argument_type=False,
        visual_roles_left_out=("Place",),
    ),
    "table, iou_inclusive": Protocol("as table, an IoU of exactly 0.5 is enough", box="half"),
}

SIDE_BY_SIDE = tuple(name for name in PROTOCOLS if name != "table, iou_inclusive")
"""Protocols that are told where none is asked for."""
