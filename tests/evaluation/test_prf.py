"""Precision, recall and F1 as arithmetic."""

import pytest

from xmtl_ray.evaluation.prf import Prf


def test_percentages():
    """3 of 4 predicted, 3 of 6 gold: 75 and 50 percent, harmonic mean 60."""
    counts = Prf(3, 4, 6)
    assert (counts.precision, counts.recall, counts.f1) == (75, 50, 60)


@pytest.mark.parametrize("counts", [Prf(), Prf(0, 5, 0), Prf(0, 0, 5), Prf(0, 5, 5)])
def test_zero_denominators_give_zero(counts):
    """Nothing predicted, no gold, neither, and nothing right."""
    assert counts.f1 == 0
    assert (counts.precision, counts.recall) == (0, 0)


def test_counts_add_up():
    """Micro averaging: 1/1/2 and 1/3/2 are 2/4/4, so 50 percent, not the mean of 66.7 and 40."""
    total = Prf(1, 1, 2) + Prf(1, 3, 2)
    assert total == Prf(2, 4, 4)
    assert total.f1 == 50
    assert sum([total, total], Prf()) == Prf(4, 8, 8)


def test_as_dict_rounds_to_four_decimals():
    """1 of 3 and 1 of 6: 33.3333, 16.6667, and 2/9 as F1."""
    assert Prf(1, 3, 6).as_dict() == {
        "correct": 1,
        "predicted": 3,
        "gold": 6,
        "P": 33.3333,
        "R": 16.6667,
        "F1": 22.2222,
    }
