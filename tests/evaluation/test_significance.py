"""Intervals and tests: what must hold whatever is drawn, and cases small enough to count by hand."""

from itertools import product

import numpy as np
import pytest

from xmtl_ray.evaluation.m2e2 import METRICS
from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.evaluation.significance import differences, intervals, mean_interval


def scores(*counts):
    """By document, with the same counts for every metric."""
    return {f"D{index}": dict.fromkeys(METRICS, Prf(*each)) for index, each in enumerate(counts)}


def f1(counts):
    correct, predicted, gold = np.sum(counts, axis=0)
    return 200 * correct / (predicted + gold)


def test_equal_documents_leave_no_doubt():
    """However they are drawn, the F1 is the same."""
    assert intervals(scores((1, 2, 2), (1, 2, 2), (1, 2, 2)))["text_event"] == pytest.approx((50, 50))


def test_interval_of_two_documents():
    """One is all right and one all wrong: a quarter of the draws has only the one, so the interval is everything."""
    low, high = intervals(scores((1, 1, 1), (0, 1, 1)))["mm_event"]
    assert (low, high) == (0, 100)
    assert intervals(scores((1, 1, 1)))["mm_event"] == (100, 100)
    assert intervals({})["mm_event"] == (0, 0)


def test_an_interval_against_plain_resampling():
    """The ends agree with a bootstrap written out here, within the noise of two thousand draws."""
    rng = np.random.default_rng(3)
    counts = [(int(min(p, g) * rng.random()), int(p), int(g)) for p, g in rng.integers(1, 9, (40, 2))]
    drawn = [f1([counts[i] for i in rng.integers(0, 40, 40)]) for _ in range(4000)]
    low, high = intervals(scores(*counts))["text_event"]
    assert (low, high) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=2)
    assert intervals(scores(*counts))["text_event"] == (low, high)


def test_a_mean_of_groups_against_plain_resampling():
    """As a mean of languages: samples are drawn within each. A group of one value adds no doubt, equal values none."""
    rng = np.random.default_rng(4)
    many, few = rng.uniform(0, 100, 30), rng.uniform(0, 50, 8)
    drawn = [np.mean([rng.choice(many, 30).mean(), rng.choice(few, 8).mean(), 40.0]) for _ in range(4000)]
    assert mean_interval([list(many), list(few), [40.0]]) == pytest.approx(np.percentile(drawn, [2.5, 97.5]), abs=1)
    assert mean_interval([[25.0] * 6]) == (25.0, 25.0) and mean_interval([[7.0]]) == (7.0, 7.0)


def test_paired_test_against_every_swap():
    """Six documents have 64 ways of swapping: scipy goes through them all, and so does this test."""
    one = [(3, 4, 4), (2, 4, 4), (4, 4, 4), (1, 2, 4), (3, 3, 4), (2, 2, 4)]
    other = [(1, 4, 4), (2, 4, 4), (2, 4, 4), (1, 4, 4), (2, 3, 4), (2, 4, 4)]
    observed = f1(one) - f1(other)
    swapped = [
        f1([pair[bit] for pair, bit in zip(zip(one, other, strict=True), bits, strict=True)])
        - f1([pair[1 - bit] for pair, bit in zip(zip(one, other, strict=True), bits, strict=True)])
        for bits in product((0, 1), repeat=6)
    ]
    found = differences(scores(*one), scores(*other))["image_event"]
    assert found.f1 == pytest.approx(observed)
    assert found.p == pytest.approx(np.mean(np.abs(swapped) >= abs(observed) - 1e-9), abs=0.01)


def test_the_same_system_twice():
    """No difference, and certainly none that means anything; a document that one lacks counts as empty."""
    same = differences(scores((1, 2, 2), (0, 1, 1)), scores((1, 2, 2), (0, 1, 1)))["text_event"]
    assert (same.f1, same.p) == (0, 1)
    more = scores((1, 2, 2), (0, 1, 1))
    less = {"D0": more["D0"]}
    assert differences(more, less)["text_event"].f1 == pytest.approx(200 / 6 - 50)
