"""Calibration by hand: classes, their edges, and the expected error."""

import pytest

from xmtl_ray.evaluation.calibration import calibration


def test_nothing_is_none():
    """No answers, no calibration."""
    assert calibration([]) is None


def test_a_confidence_on_an_edge_belongs_below_it():
    """Classes are open below and closed above; 0 is in the first; floating point does not move 0.3 up."""
    found = calibration([(0.0, False), (0.1, False), (0.3, True), (0.30001, True), (1.0, True)])
    assert [(one.low, one.high, one.count) for one in found.bins] == [
        *((0.0, 0.1, 2), (0.2, 0.3, 1), (0.3, 0.4, 1), (0.9, 1.0, 1))
    ]


def test_the_error_is_the_mean_distance_weighted_by_answers():
    """Ten answers at 0.95 of which 5 are right, and 30 at 0.55 of which 15 are: (10 * 0.45 + 30 * 0.05) / 40."""
    answers = [(0.95, place < 5) for place in range(10)] + [(0.55, place < 15) for place in range(30)]
    found = calibration(answers)
    assert found.count == 40 and found.accuracy == pytest.approx(0.5) and found.confidence == pytest.approx(0.65)
    assert found.error == pytest.approx((10 * 0.45 + 30 * 0.05) / 40)


def test_honest_answers_have_no_error():
    """Where 3 of 4 answers at 0.75 are right."""
    assert calibration([(0.75, place < 3) for place in range(4)]).error == pytest.approx(0)


def test_the_interval_is_wilsons():
    """5 of 10: (0.2366, 0.7634), from the formula; none of 4 begins at 0 and does not end there."""
    (one,) = calibration([(0.95, place < 5) for place in range(10)]).bins
    assert one.interval == pytest.approx((0.2366, 0.7634), abs=1e-4)
    (none,) = calibration([(0.95, False)] * 4).bins
    assert none.interval == pytest.approx((0.0, 0.4899), abs=1e-4)
