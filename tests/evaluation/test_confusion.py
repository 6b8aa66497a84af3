"""Which types are taken for which."""

import random

from hypothesis import given
from hypothesis import strategies as st

from xmtl_ray.evaluation.accuracy import triggers
from xmtl_ray.evaluation.confusion import confusion
from xmtl_ray.events.records import GenerativeEvent as Event


def events(*pairs):
    return [Event(event_type, trigger) for event_type, trigger in pairs]


def test_triggers_that_agree_in_text():
    """Right, taken for another, missed, extra; labels and triggers are compared as the scorer does."""
    gold = events(("Policy_Change", "signed"), ("launch", "«launched»"), ("buy", "bought"), ("buy", "paid"))
    guesses = events(("policy change", "Signed"), ("policy-change", "launched"), ("buy", "bought it"), ("sell", "sold"))
    assert confusion([(gold, guesses, "en")]) == {
        "types": {"Policy_Change": {"Policy_Change": 1}, "launch": {"Policy_Change": 1}},
        "missed": {"buy": 2},
        "extra": {"buy": 1, "sell": 1},
    }


def test_pairs_are_one_to_one_and_right_ones_come_first():
    """Of two golds with one trigger the guess takes the one of its type, wherever it stands; the other is missed."""
    found = confusion([(events(("a", "x"), ("b", "x")), events(("b", "x")), "en")])
    assert found == {"types": {"b": {"b": 1}}, "missed": {"a": 1}, "extra": {}}
    found = confusion([(events(("a", "x"), ("b", "x")), events(("c", "x"), ("b", "x")), "en")])
    assert found["types"] == {"a": {"c": 1}, "b": {"b": 1}}


EVENTS = st.lists(st.builds(Event, st.sampled_from(["a", "B", "c"]), st.sampled_from("xyz")), max_size=5)


@given(st.lists(st.tuples(EVENTS, EVENTS, st.just("en")), max_size=4))
def test_every_event_is_counted_once(samples):
    """Golds are paired or missed, predictions paired or extra; the diagonal is the scorer's correct triggers."""
    found = confusion(samples)
    paired = sum(sum(row.values()) for row in found["types"].values())
    assert paired + sum(found["missed"].values()) == sum(len(gold) for gold, _, _ in samples)
    assert paired + sum(found["extra"].values()) == sum(len(guesses) for _, guesses, _ in samples)
    correct = sum(triggers(gold, guesses, language).correct for gold, guesses, language in samples)
    assert sum(row.get(name, 0) for name, row in found["types"].items()) == correct
    assert confusion(random.Random(0).sample(samples, len(samples))) == found
