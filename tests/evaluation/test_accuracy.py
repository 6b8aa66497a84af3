"""Trigger and argument accuracy: strings that agree, means of samples and of languages."""

import pytest

from xmtl_ray.evaluation.accuracy import (
    Accuracy,
    arguments,
    mean_of_languages,
    normalised_label,
    normalised_text,
    triggers,
)
from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.events.records import GenerativeEvent as Event


@pytest.mark.parametrize(
    ("language", "text", "same"),
    [
        ("en", "Norvale  Labs", "norvale\nlabs"),
        ("en", "ﬁrm", "FIRM."),
        ("en", "“the chip”, ", "The chip"),
        ("es", "¡Lanzó!", "lanzó"),
        ("es", "lanzo\u0301", "lanzó"),
        ("zh", "星河 科技", "星河科技。"),
        ("zh", "Ｏｐｅｎ传感器", "open传感器"),
        ("ru", "«Ёлка»", "елка"),
        ("ru", "учёные", "Ученые"),
        ("en", "...", ""),
    ],
)
def test_strings_that_agree(language, text, same):
    """NFKC, case, white space, ё, outer punctuation make no difference."""
    assert normalised_text(text, language) == normalised_text(same, language)


@pytest.mark.parametrize(
    ("language", "text", "other"),
    [
        ("en", "a chip", "achip"),
        ("es", "lanzó", "lanzo"),
        ("en", "ёлка", "елка"),
        ("ru", "стартап «Ёлка»", "стартап Ёлка"),
        ("en", "$5", "5"),
    ],
)
def test_strings_that_do_not(language, text, other):
    """White space outside Chinese, accents, ё outside Russian, inner punctuation and signs of money do."""
    assert normalised_text(text, language) != normalised_text(other, language)


def test_labels_that_agree():
    """Case, space, underscore and hyphen are alike; letters are not."""
    assert len({normalised_label(name) for name in ("Policy-Change", "policy_change", " policy change")}) == 1
    assert normalised_label("policychange") != normalised_label("policy-change")


def test_triggers_agree_one_to_one_with_their_type():
    """Of two equal predictions one is right; the right string with another type is wrong."""
    gold = [Event("launch", "unveiled"), Event("launch", "unveiled"), Event("buy", "bought")]
    found = [Event("Launch", "Unveiled"), Event("sell", "bought")]
    assert triggers(gold, found, "en") == Prf(1, 2, 3)
    assert triggers(gold, [Event("buy", "bought")] * 3, "en") == Prf(1, 3, 3)


def test_arguments_agree_whatever_event_they_hang_on():
    """Role and string, in another event and even of another type."""
    gold = [Event("launch", "unveiled", (("entity", "Labs"), ("place", "Oslo"))), Event("buy", "bought")]
    found = [Event("x", "y"), Event("x", "z", (("Place", "oslo"), ("agent", "Labs"), ("place", "Oslo")))]
    assert arguments(gold, found, "en") == Prf(1, 3, 2)


def test_the_mean_is_over_samples_that_have_gold():
    """1 of 2 and 1 of 1: 75 on average, 2 of 3 pooled; a sample without gold only lowers precision."""
    accuracy = Accuracy([Prf(1, 1, 2), Prf(1, 3, 1), Prf(0, 4, 0)])
    assert accuracy.mean == 75
    assert accuracy.as_dict() == {
        "accuracy_mean_of_samples": 75,
        "accuracy_pooled": 66.6667,
        "precision_pooled": 25,
        "correct": 2,
        "predicted": 8,
        "gold": 3,
    }


def test_nothing_to_find_is_no_accuracy():
    """Neither 0 nor 100; and such a language is left out of the mean."""
    nothing = Accuracy([Prf(0, 4, 0)])
    assert nothing.mean is None and nothing.as_dict()["accuracy_pooled"] is None
    assert mean_of_languages([nothing, Accuracy([Prf(1, 1, 2)]), Accuracy([Prf(1, 1, 1)] * 5)]) == 75
    assert mean_of_languages([nothing]) is None
