"""Intervals crossed over documents and seeds: cases that can be counted by hand, and one by plain resampling."""

import numpy as np
import pytest

from xmtl_ray.evaluation.m2e2 import METRICS
from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.evaluation.seeds import MEAN, Estimate, Runs, differences, estimates


def scores(*counts):
    """By document, with the same counts for every metric."""
    return {f"D{index}": dict.fromkeys(METRICS, Prf(*each)) for index, each in enumerate(counts)}


def test_equal_documents_and_seeds_leave_no_doubt():
    """F1 is 50 however they are drawn, and so is the mean of the six."""
    found = estimates(Runs({seed: scores((1, 2, 2), (1, 2, 2)) for seed in range(3)}))
    assert found["text_event"] == Estimate(pytest.approx(50), pytest.approx(50), pytest.approx(50), pytest.approx(0))
    assert found[MEAN].mean == pytest.approx(50)


def test_seeds_alone_give_the_range_that_was_seen():
    """Equal documents, three seeds of F1 100, 50 and 0: all of one seed are drawn in 1 of 27, above 2.5 %."""
    found = estimates(Runs({0: scores((2, 2, 2)), 1: scores((1, 2, 2)), 2: scores((0, 2, 2))}))["mm_event"]
    assert (found.mean, found.low, found.high, found.deviation) == (50, 0, 100, 50)


def test_the_mean_of_the_six_is_of_their_f1_and_not_of_their_counts():
    """One metric all right with few items, five all wrong with many."""
    counts = {metric: Prf(0, 50, 50) for metric in METRICS} | {"text_event": Prf(1, 1, 1)}
    assert estimates(Runs({0: {"D": counts}}))[MEAN].mean == pytest.approx(100 / 6)
    assert estimates(Runs({0: {"D": counts}}))[MEAN].deviation is None


def test_a_difference_is_paired_in_documents_and_in_seeds():
    """Documents are hard or easy, seeds good or bad, and yet the first system is always one item better."""
    hard_and_easy = [(1, 10, 10), (8, 10, 10)] * 20
    better = [(correct + 1, predicted, gold) for correct, predicted, gold in hard_and_easy]
    worse_seed = [(correct // 2, predicted, gold) for correct, predicted, gold in hard_and_easy]
    better_of_worse = [(correct + 1, predicted, gold) for correct, predicted, gold in worse_seed]
    first = Runs({0: scores(*better), 1: scores(*better_of_worse)})
    second = Runs({0: scores(*hard_and_easy), 1: scores(*worse_seed)})
    found = differences(first, second)["text_event"]
    assert (found.mean, found.low, found.high) == pytest.approx((10, 10, 10))
    assert found.verdict == "holds" and differences(second, first)["text_event"].verdict == "does not hold"
    assert differences(first, first)["text_event"].verdict == "cannot be told"


def test_only_seeds_of_both_are_compared():
    first, second = (
        Runs({0: scores((1, 2, 2)), 1: scores((2, 2, 2))}),
        Runs({1: scores((1, 2, 2)), 2: scores((0, 2, 2))}),
    )
    assert differences(first, second)[MEAN].mean == pytest.approx(50)
    with pytest.raises(ValueError, match="no seed in common"):
        differences(first, Runs({7: scores((1, 2, 2))}))
    with pytest.raises(ValueError, match="no run"):
        estimates(Runs({}))


def test_an_interval_against_plain_resampling():
    """Drawing seeds and documents one by one, written out here, gives the same ends within the noise of the draws."""
    rng = np.random.default_rng(5)

    def draw():
        return [(int(min(p, g) * rng.random()), int(p), int(g)) for p, g in rng.integers(1, 9, (30, 2))]

    sides = [{seed: draw() for seed in range(4)} for _ in range(2)]
    drawn = []
    for _ in range(4000):
        documents, seeds = rng.integers(0, 30, 30), rng.integers(0, 4, 4)
        f1 = [
            np.mean(
                [200 * c / (p + g) for seed in seeds for c, p, g in [np.sum([side[seed][i] for i in documents], 0)]]
            )
            for side in sides
        ]
        drawn.append(f1[0] - f1[1])
    found = differences(*(Runs({seed: scores(*own) for seed, own in side.items()}) for side in sides))["image_event"]
    assert np.percentile(drawn, [2.5, 97.5]) == pytest.approx([found.low, found.high], abs=0.6)
