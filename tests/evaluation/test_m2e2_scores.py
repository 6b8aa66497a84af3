"""Scores on M2E2: closed-form counts on a tiny document, and the published ones on the public half."""

import json
import subprocess
import sys
from itertools import permutations
from pathlib import Path

import pytest

from xmtl_ray.evaluation.baselines import BASELINES
from xmtl_ray.evaluation.m2e2 import METRICS, overlaps, score, score_by_document, unknown_ids
from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.evaluation.protocols import PROTOCOLS, Protocol
from xmtl_ray.events.predictions import Predictions, from_gold, read
from xmtl_ray.events.records import (
    Box,
    Document,
    Image,
    MultimediaEvent,
    Sentence,
    Span,
    TextArgument,
    TextEvent,
    VisualArgument,
    VisualEvent,
)

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
DIE, MEET = "Life:Die", "Contact:Meet"
SQUARE = Box(0, 0, 10, 10)
HALF = Box(0, 0, 5, 10)
MORE = Box(0, 0, 6, 10)


def told(kind, start, *arguments):
    spans = tuple(TextArgument(role, Span(first, first + 1)) for role, first in arguments)
    return TextEvent(kind, Span(start, start + 1), spans)


def shown(kind, *arguments):
    return VisualEvent(kind, tuple(VisualArgument(role, box) for role, box in arguments))


# D_0 and D_1 tell of one death with the picture D_0; D_2 and the picture D_1 are in no multimedia file, the picture
# D_2 shows no event.
WORDS = tuple("abcdefgh")
DEATHS = ((told(DIE, 2, ("Victim", 0), ("Place", 5)),), (told(DIE, 1, ("Victim", 3)),))
SENTENCES = (
    Sentence("D_0", WORDS, events=(*DEATHS[0], told(MEET, 6)), multimedia=True, multimedia_events=DEATHS[0]),
    Sentence("D_1", WORDS, events=DEATHS[1], multimedia=True, multimedia_events=DEATHS[1]),
    Sentence("D_2", WORDS),
)
IMAGES = (
    Image("D_0", None, (shown(DIE, ("Victim", SQUARE)),), multimedia=True),
    Image("D_1", None, (shown(MEET, ("Entity", SQUARE), ("Entity", Box(20, 0, 30, 10))),)),
    Image("D_2", None),
)
PAIRS = (MultimediaEvent("D_0", "D_0", DIE), MultimediaEvent("D_1", "D_0", DIE))
GOLD = (Document("D", SENTENCES, IMAGES, PAIRS),)


def counts(predictions, protocol="table", documents=GOLD):
    return {name: (c.correct, c.predicted, c.gold) for name, c in score(documents, predictions, protocol).items()}


def text(*events, sentence="D_0"):
    return Predictions({sentence: events}, {}, ())


def image(*events, name="D_0"):
    return Predictions({}, {name: events}, ())


@pytest.mark.parametrize(
    ("protocol", "multimedia_arguments"),
    [(name, {"mmutf": (4, 4, 4), "camel": (5, 5, 4)}.get(name, (5, 5, 5))) for name in PROTOCOLS],
)
def test_gold_is_perfect(protocol, multimedia_arguments):
    """Multimedia arguments are 2 + 1 and 1 + 1: the picture's one box counts once for each of its two pairs.

    mmutf counts it once, camel once in gold but in each pair among the correct ones.
    """
    found = counts(from_gold(GOLD), protocol)
    assert found == {
        "text_event": (3, 3, 3),
        "text_argument": (3, 3, 3),
        "image_event": (2, 2, 2),
        "image_argument": (3, 3, 3),
        "mm_event": (2, 2, 2),
        "mm_argument": multimedia_arguments,
    }
    assert tuple(found) == METRICS


def test_nothing_predicted():
    """All gold is missed; arguments of pairs are gold only under strict, as table looks inside correct pairs."""
    nothing = Predictions({}, {}, ())
    assert counts(nothing)["text_event"] == (0, 0, 3)
    assert counts(nothing)["mm_argument"] == (0, 0, 0)
    assert counts(nothing, "strict")["mm_argument"] == (0, 0, 5)
    assert counts(nothing, documents=()) == dict.fromkeys(METRICS, (0, 0, 0))


@pytest.mark.parametrize("event", [told(MEET, 2), told(DIE, 3), TextEvent(DIE, Span(2, 4))])
def test_text_event_needs_type_start_and_end(event):
    """Another type, another start, another end."""
    assert counts(text(event))["text_event"] == (0, 1, 3)


def test_text_argument_needs_its_trigger():
    """The same role and span under a trigger that is wrong is wrong."""
    assert counts(text(told(DIE, 2, ("Victim", 0))))["text_argument"] == (1, 1, 3)
    assert counts(text(told(DIE, 3, ("Victim", 0))))["text_argument"] == (0, 1, 3)
    assert counts(text(told(DIE, 2, ("Agent", 0))))["text_argument"] == (0, 1, 3)


def test_the_second_duplicate_is_wrong():
    """A correct item uses up its gold item: for events, arguments, boxes and pairs."""
    event = told(DIE, 2, ("Victim", 0))
    found = counts(text(event, event))
    assert (found["text_event"], found["text_argument"]) == ((1, 2, 3), (1, 2, 3))
    picture = shown(DIE, ("Victim", SQUARE), ("Victim", SQUARE))
    found = counts(image(picture, picture))
    assert (found["image_event"], found["image_argument"]) == ((1, 2, 2), (1, 4, 3))
    twice = Predictions({}, {}, (PAIRS[0], PAIRS[0]))
    assert counts(twice)["mm_event"] == (1, 2, 2)


@pytest.mark.parametrize(("box", "strict", "inclusive"), [(HALF, 0, 1), (MORE, 1, 1), (Box(0, 0, 4, 10), 0, 0)])
def test_iou_of_exactly_one_half(box, strict, inclusive):
    """50 of 100 pixels is an IoU of 0.5: wrong, unless the protocol says otherwise."""
    found = image(shown(DIE, ("Victim", box)))
    assert counts(found)["image_argument"] == (strict, 1, 3)
    assert counts(found, "table, iou_inclusive")["image_argument"] == (inclusive, 1, 3)


def test_overlap_of_apart_touching_and_shifted_boxes():
    """Boxes that only touch share nothing; a third shifted shares 2 of 4 thirds, exactly one half."""
    assert not overlaps(SQUARE, Box(10, 0, 20, 10), "half")
    assert not overlaps(SQUARE, Box(50, 50, 60, 60), "half")
    assert overlaps(Box(0, 0, 3, 3), Box(1, 0, 4, 3), "half")
    assert not overlaps(Box(0, 0, 3, 3), Box(1, 0, 4, 3))


def test_a_small_box_inside():
    """0.9 of the predicted box in the gold one is enough for wase, however small it is; 0.8 is not."""
    gold = Box(0, 0, 100, 100)
    assert overlaps(Box(91, 0, 101, 10), gold, "half_or_inside")
    assert not overlaps(Box(92, 0, 102, 10), gold, "half_or_inside")
    assert not overlaps(gold, Box(0, 0, 10, 10), "half_or_inside")


def test_boxes_are_assigned_as_well_as_possible():
    """The first guess fits both gold boxes, the second only the left: taking the left first would lose one.

    Checked against every order of pairing guesses with gold.
    """
    gold = (Box(0, 0, 10, 10), Box(2, 0, 12, 10))
    guesses = (Box(1, 0, 11, 10), Box(0, 0, 7, 10))
    fits = [[overlaps(guess, box) for box in gold] for guess in guesses]
    assert fits == [[True, True], [True, False]]
    best = max(sum(fits[guess][box] for guess, box in enumerate(order)) for order in permutations(range(2)))
    document = Document("D", (), (Image("D_0", None, (shown(MEET, *(("Entity", box) for box in gold)),)),))
    for order in permutations(guesses):
        found = image(shown(MEET, *(("Entity", box) for box in order)))
        assert counts(found, documents=[document])["image_argument"] == (best, 2, 2) == (2, 2, 2)


def test_box_needs_its_role_and_type():
    """The right place in the wrong role or event is wrong."""
    assert counts(image(shown(DIE, ("Agent", SQUARE))))["image_argument"] == (0, 1, 3)
    assert counts(image(shown(MEET, ("Victim", SQUARE))))["image_argument"] == (0, 1, 3)


def test_event_in_an_image_without_gold():
    """Not looked at under table, wrong under strict."""
    found = image(shown(DIE, ("Victim", SQUARE)), name="D_2")
    assert (counts(found)["image_event"], counts(found)["image_argument"]) == ((0, 0, 2), (0, 0, 3))
    assert (counts(found, "strict")["image_event"], counts(found, "strict")["image_argument"]) == ((0, 1, 2), (0, 1, 3))


def test_pair_outside_the_multimedia_files():
    """The picture D_1 is in no multimedia file: its pair is not looked at under table, wrong under strict."""
    outside = Predictions({}, {"D_1": IMAGES[1].events}, (MultimediaEvent("D_0", "D_1", MEET),))
    assert counts(outside)["mm_event"] == (0, 0, 2)
    assert counts(outside, "strict")["mm_event"] == (0, 1, 2)
    assert counts(outside, "strict")["mm_argument"] == (0, 2, 5)


def test_arguments_of_a_correct_pair():
    """Of the pair's type only: the sentence has 2, the picture 1. Under strict the missed pair's 2 are gold as well."""
    predictions = Predictions(
        {"D_0": (told(DIE, 2, ("Victim", 0)), told(MEET, 6, ("Entity", 7)))}, {"D_0": (shown(DIE),)}, PAIRS[:1]
    )
    assert counts(predictions)["mm_event"] == (1, 1, 2)
    assert counts(predictions)["mm_argument"] == (1, 1, 3)
    assert counts(predictions, "strict")["mm_argument"] == (1, 1, 5)


def test_arguments_of_a_wrong_pair():
    """The pair has the wrong type: what its sides say is not looked at under table, wrong under strict."""
    wrong = Predictions(from_gold(GOLD).text, from_gold(GOLD).image, (MultimediaEvent("D_1", "D_0", MEET),))
    assert counts(wrong)["mm_event"] == (0, 1, 2)
    assert counts(wrong)["mm_argument"] == (0, 0, 0)
    right_type = Predictions(wrong.text, wrong.image, (MultimediaEvent("D_0", "D_2", DIE),))
    assert counts(right_type, "strict")["mm_argument"] == (0, 2, 5)


def test_unknown_ids_are_told_and_wrong_where_they_are_scored(caplog):
    """All sentences are scored under both protocols, all images and pairs under strict."""
    stranger = Predictions(
        {"Z_0": (told(DIE, 1),)}, {"Z_1": (shown(DIE),)}, (MultimediaEvent("Z_0", "Z_2", DIE), PAIRS[0])
    )
    assert unknown_ids(GOLD, stranger) == ("Z_0", "Z_1", "Z_2")
    table, strict = counts(stranger), counts(stranger, "strict")
    assert "3 predicted ids are not in the gold, e.g. Z_0, Z_1, Z_2" in caplog.text
    assert (table["text_event"], strict["text_event"]) == ((0, 1, 3), (0, 1, 3))
    assert (table["image_event"], strict["image_event"]) == ((0, 0, 2), (0, 1, 2))
    assert (table["mm_event"], strict["mm_event"]) == ((1, 1, 2), (1, 2, 2))


def test_documents_add_up():
    """Counts by document, for resampling; their sum is the score. An unknown document has its own entry."""
    other = Document("E", (Sentence("E_0", WORDS, events=(told(DIE, 0),)),), ())
    documents, predictions = (*GOLD, other), Predictions({"E_0": (told(DIE, 0),), "Z_0": (told(DIE, 0),)}, {}, ())
    parts = score_by_document(documents, predictions)
    assert list(parts) == ["D", "E", "Z"]
    assert [part["text_event"] for part in parts.values()] == [Prf(0, 0, 3), Prf(1, 1, 1), Prf(0, 1, 0)]
    total = score(documents, predictions)
    assert total == {name: sum((part[name] for part in parts.values()), Prf()) for name in METRICS}


def test_protocol_by_name_or_as_options():
    """A name is a set of options; an unknown name says which there are."""
    found = image(shown(DIE, ("Victim", HALF)))
    assert score(GOLD, found, Protocol("as I like", box="half")) == score(GOLD, found, "table, iou_inclusive")
    with pytest.raises(ValueError, match=r"protocol: found 'tabel', expected one of \('table', 'strict'"):
        score(GOLD, found, "tabel")


def test_scoring_needs_no_torch():
    """The scorer answers on a machine without torch."""
    code = "import sys, xmtl_ray.evaluation.m2e2; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


needs_m2e2 = pytest.mark.skipif(not (SHARED / "m2e2").is_dir(), reason="the public half of M2E2 is not at hand")


@pytest.fixture(scope="module")
def public_half():
    from xmtl_ray.data.m2e2 import read as read_documents

    return read_documents(SHARED / "m2e2")


@needs_m2e2
@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name != "event_sentences"])
@pytest.mark.parametrize("case", ["gold", "empty", "shifted_spans", "jittered_boxes"])
def test_expected_scores(public_half, case, protocol):
    """Counts, P, R and F1 of every metric equal those that were worked out beside the data."""
    expected = json.loads((SHARED / "scoring" / "expected.json").read_text(encoding="utf-8"))[case]["scores"][protocol]
    found = score(public_half, read(SHARED / "scoring" / f"{case}.json"), protocol)
    assert {name: counts.as_dict() for name, counts in found.items()} == expected


def quirk(protocol, *events, sentence=None):
    """Image argument counts of events in the picture D_0, or text argument counts of those in a sentence."""
    if sentence is None:
        return counts(image(*events), protocol)["image_argument"]
    return counts(text(*events, sentence=sentence), protocol)["text_argument"]


def test_every_pair_counts_twice_what_is_there_twice():
    """Two equal boxes both match the one gold box under xmtl-exact and wase; two equal triggers under xmtl-exact."""
    twice = shown(DIE, ("Victim", SQUARE), ("Victim", SQUARE))
    assert quirk("table", twice) == (1, 2, 3)
    assert quirk("xmtl-exact", twice) == quirk("wase", twice) == (2, 2, 3)
    triggers = text(told(DIE, 2), told(DIE, 2))
    assert counts(triggers, "xmtl-exact")["text_event"] == (2, 2, 3)
    assert counts(triggers, "mmutf")["text_event"] == (1, 1, 3)


def test_roles_alone_are_enough_for_wase():
    """The right role under another type, and Place is not counted at all."""
    assert quirk("wase", shown(MEET, ("Victim", SQUARE), ("Place", SQUARE))) == (1, 1, 3)
    assert quirk("table", shown(MEET, ("Victim", SQUARE), ("Place", SQUARE))) == (0, 2, 3)


def test_roles_that_camel_leaves_out():
    """Instruments of a demonstration are neither right nor wrong; those of an attack are wrong here."""
    demonstration = shown("Conflict:Demonstrate", ("Instrument", SQUARE))
    attack = shown("Conflict:Attack", ("Instrument", SQUARE))
    assert (quirk("camel", demonstration), quirk("camel", attack)) == ((0, 0, 3), (0, 1, 3))


def test_what_a_text_argument_needs():
    """camel: its trigger and first word. mmutf: type, role and span under whatever trigger."""
    longer = TextEvent(DIE, Span(2, 3), (TextArgument("Victim", Span(0, 2)),))
    elsewhere = told(DIE, 4, ("Victim", 0))
    found = {name: (quirk(name, longer, sentence="D_0")[0], quirk(name, elsewhere, sentence="D_0")[0]) for name in
             ("table", "camel", "mmutf")}  # fmt: skip
    assert found == {"table": (0, 0), "camel": (1, 0), "mmutf": (0, 1)}


@pytest.mark.parametrize("protocol", ["event_sentences", "wase"])
def test_false_alarms_in_quiet_sentences(protocol):
    """D_2 has no event: what is found there costs nothing where only event sentences are scored."""
    alarm = text(told(DIE, 2), sentence="D_2")
    assert counts(alarm, protocol)["text_event"] == (0, 0, 3)
    assert counts(alarm, "table")["text_event"] == (0, 1, 3)


def test_multimedia_arguments_of_wrong_pairs():
    """camel and mmutf count what a wrong pair's sides say as predicted, and the files' arguments as gold."""
    gold = from_gold(GOLD)
    wrong = Predictions(gold.text, gold.image, (MultimediaEvent("D_1", "D_0", MEET),))
    assert counts(wrong, "camel")["mm_argument"] == (0, 0, 4)  # neither side tells of a meeting
    assert counts(wrong, "mmutf")["mm_argument"] == (0, 2, 4)  # but both have arguments
    assert counts(Predictions({}, {}, ()), "camel")["mm_argument"] == (0, 0, 4)


def test_baselines_on_the_small_document():
    """Types agree once for D_0 and once for D_1; all pairs add the meeting; the majority type is death."""
    found = {name: counts(make(GOLD), "strict")["mm_event"] for name, make in BASELINES.items()}
    assert found == {
        "empty": (0, 0, 2),
        "gold-same-type": (2, 3, 2),
        "gold-all-pairs": (2, 7, 2),
        "gold-majority": (2, 4, 2),
    }
    assert counts(BASELINES["gold-majority"](GOLD))["text_event"] == (2, 3, 3)


@needs_m2e2
def test_gold_joined_by_type_alone(public_half):
    """True events on both sides and a pair wherever the types agree: half the pairs are wrong once all are scored."""
    joined = BASELINES["gold-same-type"](public_half)
    assert round(score(public_half, joined)["mm_event"].f1, 1) == 90.0
    assert round(score(public_half, joined, "strict")["mm_event"].f1, 1) == 52.8
