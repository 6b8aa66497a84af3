"""Marks in the sources of examples: where they are, what became of them, and that no letter is lost."""

from xmtl_ray.events.records import GenerativeArgument as Argument
from xmtl_ray.events.records import GenerativeEvent as Event
from xmtl_ray.report.answer_marks import pieces

SOURCE = "Police held Ann, and the police freed Bob in Rome."
HELD = Event("Arrest", "held", (Argument("Agent", "police"), Argument("Person", "Ann")))
FREED = Event("Release", "freed", (Argument("Person", "Bob"),))


def marked(found):
    return [(one.text, one.kind, one.outcome, one.told) for one in found if one.kind]


def test_right_missed_and_wrong():
    """Held is right; freed is told as another type; Ann is missed, Rome made up as a person, the mayor not there."""
    answered = (
        Event("arrest", "held", (Argument("agent", "Police"), Argument("Person", "Rome"), Argument("Person", "mayor"))),
        Event("Transport", "freed", (Argument("Person", "bob"),)),
    )
    found = pieces(SOURCE, (HELD, FREED), answered, "en")
    assert marked(found) == [
        ("Police", "argument", "correct", "Agent"),
        ("held", "trigger", "correct", "Arrest"),
        ("Ann", "argument", "missed", "gold Person, answer nothing"),
        ("freed", "trigger", "wrong", "gold Release, answer Transport"),
        ("Bob", "argument", "correct", "Person"),
        ("Rome", "argument", "wrong", "gold nothing, answer Person"),
    ]
    assert "".join(one.text for one in found) == SOURCE


def test_words_are_whole_and_places_are_taken_once():
    """``an`` is not found within Ann, nor in Chinese is a word needed; a trigger goes before an argument like it."""
    assert not marked(pieces("Ann", (Event("a", "an", ()),), (), "en"))
    assert marked(pieces("警方拘留他", (Event("拘", "拘留", ()),), (), "zh")) == [
        ("拘留", "trigger", "missed", "gold 拘, answer nothing")
    ]
    both = Event("Attack", "attack", (Argument("Thing", "attack"),))
    assert [one[1] for one in marked(pieces("An attack.", (both,), (both,), "en"))] == ["trigger"]
    assert pieces("", (both,), (both,), "en") == ()
