"""Protocols side by side, and the published rows."""

import pytest
from test_m2e2_scores import GOLD, SHARED, needs_m2e2

from xmtl_ray.evaluation.baselines import BASELINES
from xmtl_ray.evaluation.summary import published, summarise
from xmtl_ray.events.predictions import from_gold


def test_inflation_is_against_strict():
    """All pairs of the small document: 2 of 4 pairs are right where the multimedia files' alone count, else 2 of 7."""
    summary = summarise(GOLD, BASELINES["gold-all-pairs"](GOLD), ["table"])
    row = {row.metric: row for row in summary["table"]}["mm_event"]
    assert (row.counts.correct, row.counts.predicted, row.counts.gold) == (2, 3, 2)
    assert row.inflation == pytest.approx(100 * (4 / 5 - 4 / 9))
    assert (row.label, row.interval, row.difference) == ("multimedia event", None, None)


def test_what_json_holds():
    """The counts alone, unless more is asked for."""
    gold = from_gold(GOLD)
    (row, *_), *_ = summarise(GOLD, gold, ["strict"]).values()
    assert row.as_dict() == {"correct": 3, "predicted": 3, "gold": 3, "P": 100.0, "R": 100.0, "F1": 100.0}
    (row, *_), *_ = summarise(GOLD, gold, ["strict"], intervals=True, against=BASELINES["empty"](GOLD)).values()
    assert row.as_dict()["interval"] == [100.0, 100.0]
    assert row.as_dict()["difference"] == {"F1": 100.0, "p": 1.0}  # a single document proves nothing


def test_an_unknown_protocol_is_named():
    with pytest.raises(ValueError, match="found 'lenient', expected one of"):
        summarise(GOLD, from_gold(GOLD), ["lenient"])


def test_published_rows():
    """24 systems' rows in two metrics each, and the four F1 that do not follow from their P and R."""
    rows = published()
    assert len(rows) == 48
    slips = {(row.system, row.metric): (row.f1, round(row.recomputed, 1)) for row in rows if row.slip}
    assert slips == {
        ("WASE-T", "text_event"): (48.2, 49.1),
        ("CLIP-Event", "image_argument"): (17.1, 16.2),
        ("Flat", "mm_event"): (42.2, 43.3),
        ("WASE-att", "mm_event"): (49.1, 48.7),
    }


@needs_m2e2
def test_joining_by_type_is_inflated_by_half():
    from xmtl_ray.data.m2e2 import read

    documents = read(SHARED / "m2e2")
    rows = summarise(documents, BASELINES["gold-same-type"](documents), ["table"])["table"]
    assert {row.metric: round(row.inflation, 1) for row in rows}["mm_event"] == pytest.approx(90.0 - 52.8, abs=0.11)
