"""Paper B's figures, and ours beside them."""

import pytest

from xmtl_ray.evaluation.generative import report
from xmtl_ray.evaluation.published import OTHER_DATA, SAME_DATA, Pair, beside, data_note, published
from xmtl_ray.events.json_format import dumps
from xmtl_ray.events.records import GenerativeEvent as Event
from xmtl_ray.events.records import GenerativeSample

BUY = Event("buy", "bought", (("agent", "Labs"),))


def samples(**counts):
    return [
        GenerativeSample(f"{language}{number}", language, "Labs bought it", (BUY,))
        for language, count in counts.items()
        for number in range(count)
    ]


def test_overall_is_the_mean_of_the_languages():
    """All 16 printed means follow from the printed languages, to what rounding or cutting the last digit leaves."""
    for settings in published().values():
        assert list(settings) == ["zero-shot", "fine-tuned"]
        for languages in settings.values():
            assert list(languages) == ["en", "zh", "es", "ru", "overall"]
            for side in ("trigger", "argument"):
                *parts, overall = (getattr(pair, side) for pair in languages.values())
                assert sum(parts) / 4 == pytest.approx(overall, abs=0.01)


def test_gains_that_the_paper_tells():
    """Section 4.2: VL2 gains 36.88 and 36.65 points, VL2.1 40.72 and 32.16."""
    for model, trigger, argument in (("videollama2", 36.88, 36.65), ("videollama21", 40.72, 32.16)):
        before, after = (published()[model][setting]["overall"] for setting in ("zero-shot", "fine-tuned"))
        assert after.trigger - before.trigger == pytest.approx(trigger)
        assert after.argument - before.argument == pytest.approx(argument)


def test_ours_beside_the_published():
    """The paper's languages, then further ones, then the mean; what one side lacks is None or left out."""
    found = report(samples(en=2, de=1), {"en0": dumps([BUY]), "de0": dumps([Event("buy", "bought", ())])})
    rows = {row.language: row for row in beside(found, "videollama21")}
    assert list(rows) == ["en", "zh", "es", "ru", "de", "overall"]
    assert rows["en"].own == Pair(50, 50) and rows["zh"].own == Pair(None, None)
    assert rows["de"].own == Pair(100, 0) and rows["de"].published == {}
    assert rows["overall"].own == Pair(75, 25)
    assert rows["zh"].published == {"zero-shot": Pair(44.80, 36.25), "fine-tuned": Pair(78.54, 56.77)}
    with pytest.raises(ValueError, match="found 'videollama3', expected one of videollama2, videollama21"):
        beside(found, "videollama3")


def test_whether_the_data_are_the_same():
    """Not, unless it is said of 80 samples in each language."""
    assert data_note(report(samples(en=1), {})) == OTHER_DATA
    assert data_note(report(samples(en=80, zh=80, es=80, ru=80), {})) == OTHER_DATA
    assert data_note(report(samples(en=80, zh=80, es=80, ru=80), {}), same=True) == SAME_DATA
    with pytest.raises(ValueError, match=r"same data: found samples \{'en': 1\}, expected 80 in each"):
        data_note(report(samples(en=1), {}), same=True)
