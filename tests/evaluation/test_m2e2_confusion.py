"""Types taken for each other in M2E2, on documents small enough to count by eye."""

from xmtl_ray.evaluation.m2e2_confusion import image_confusion, text_confusion
from xmtl_ray.events.predictions import Predictions
from xmtl_ray.events.records import Document, Image, Sentence, Span, TextEvent, VisualEvent

DIE, MEET, ATTACK = "Life:Die", "Contact:Meet", "Conflict:Attack"


def test_in_texts_a_type_is_taken_for_another_at_the_same_trigger():
    """Right, taken for another, missed (the trigger is one word longer) and extra; twice the same counts once."""
    words = tuple("abcdef")
    gold = (TextEvent(DIE, Span(0, 1)), TextEvent(MEET, Span(1, 2)), TextEvent(ATTACK, Span(2, 3)))
    guessed = (
        *(TextEvent(DIE, Span(0, 1)), TextEvent(DIE, Span(0, 1))),
        *(TextEvent(ATTACK, Span(1, 2)), TextEvent(ATTACK, Span(2, 4))),
    )
    documents = [Document("D", (Sentence("D_0", words, events=gold),), ())]
    found = text_confusion(documents, Predictions({"D_0": guessed}, {}, ()))
    assert found == {
        "types": {MEET: {ATTACK: 1}, DIE: {DIE: 1}},
        "missed": {ATTACK: 1},
        "extra": {ATTACK: 1, DIE: 1},
    }


def test_in_images_equal_types_are_paired_first():
    """Of two gold types and two predicted ones the common one is right, the others are taken for each other."""
    images = (
        Image("D_0", None, (VisualEvent(DIE), VisualEvent(MEET))),
        Image("D_1", None, (VisualEvent(MEET),)),
        Image("D_2", None),
    )
    predicted = {"D_0": (VisualEvent(ATTACK), VisualEvent(DIE)), "D_2": (VisualEvent(DIE),)}
    found = image_confusion([Document("D", (), images)], Predictions({}, predicted, ()))
    assert found == {"types": {MEET: {ATTACK: 1}, DIE: {DIE: 1}}, "missed": {MEET: 1}, "extra": {DIE: 1}}
