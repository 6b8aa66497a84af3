"""Which examples a step learns from: exact shares, nothing twice, the same on every rank, little padding."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmtl_ray.data.mixture import (
    POOL,
    cyclic_batches,
    cyclic_steps,
    epoch_batches,
    quotas,
    rank_share,
    steps_per_epoch,
)

NAMES = ("td", "ae", "vc", "rc")


@st.composite
def tasks(draw, largest=400):
    """Sizes of one to four tasks, a batch that can hold some of each, and the least number of each."""
    sizes = {name: draw(st.integers(1, largest)) for name in NAMES[: draw(st.integers(1, 4))]}
    minimum = draw(st.integers(1, 4))
    return sizes, draw(st.integers(minimum * len(sizes), 200)), minimum


@st.composite
def plans(draw):
    """Sizes, shares and, for some, the lengths of some tasks' examples."""
    sizes, batch, minimum = draw(tasks())
    batch = min(batch, 4 * len(sizes) * minimum)
    shares = quotas(sizes, batch, minimum)
    generator = np.random.default_rng(draw(st.integers(0, 100)))
    timed = [name for name in sizes if name in ("td", "ae")] if draw(st.booleans()) else []
    lengths = {name: generator.integers(1, 60, sizes[name]) for name in timed}
    return sizes, shares, lengths or None


def epoch(sizes, shares, number=0, seed=0, first_step=0, lengths=None):
    return [
        {name: indices.tolist() for name, indices in step.items()}
        for step in epoch_batches(sizes, shares, steps_per_epoch(sizes, shares), seed, number, first_step, lengths)
    ]


def test_quotas_by_hand():
    """The paper's sizes at its batch; 10 × 1/3 is 3.33 each, so the task named first has the fourth."""
    assert quotas({"td": 15789, "vc": 126102}, 64) == {"td": 7, "vc": 57}
    assert quotas({"td": 1, "ae": 1, "vc": 1}, 10) == {"td": 4, "ae": 3, "vc": 3}
    assert quotas({"td": 1, "vc": 999}, 8, minimum=2) == {"td": 2, "vc": 6}
    assert quotas({"td": 3, "vc": 5}, 8) == {"td": 3, "vc": 5}


@given(tasks())
def test_quotas_fill_the_batch_in_proportion(given_tasks):
    """Exactly the batch in all, the minimum of each, and no share a whole place above its exact one but by that."""
    sizes, batch, minimum = given_tasks
    shares = quotas(sizes, batch, minimum)
    exact = {name: batch * size / sum(sizes.values()) for name, size in sizes.items()}
    assert list(shares) == list(sizes)
    assert sum(shares.values()) == batch
    assert min(shares.values()) >= minimum
    for name, share in shares.items():
        assert share == minimum or share < exact[name] + 1
    if min(exact.values()) >= minimum:
        assert all(abs(share - exact[name]) < 1 for name, share in shares.items())


def test_a_batch_too_small_for_every_task_is_refused():
    """Three of each of two tasks are six."""
    assert quotas({"td": 9, "ae": 9}, 6, minimum=3) == {"td": 3, "ae": 3}
    with pytest.raises(ValueError, match="a batch of 5 cannot hold 3 of each of 2 tasks"):
        quotas({"td": 9, "ae": 9}, 5, minimum=3)


def test_steps_end_with_the_task_that_runs_out_first():
    """10 // 3, not 100 // 3; a task smaller than its share leaves no step."""
    assert steps_per_epoch({"td": 10, "vc": 100}, {"td": 3, "vc": 3}) == 3
    assert steps_per_epoch({"td": 2, "vc": 100}, {"td": 3, "vc": 3}) == 0
    assert epoch({"td": 2, "vc": 100}, {"td": 3, "vc": 3}) == []


@settings(max_examples=60)
@given(plans())
def test_an_epoch_shows_no_example_twice(plan):
    """Every step has each task's share, of indices that exist and that no other step of the epoch has."""
    sizes, shares, lengths = plan
    steps = epoch(sizes, shares, lengths=lengths)
    assert len(steps) == min(sizes[name] // share for name, share in shares.items())
    for name, share in shares.items():
        assert all(len(step[name]) == share for step in steps)
        seen = [index for step in steps for index in step[name]]
        assert len(set(seen)) == len(seen)
        assert set(seen) <= set(range(sizes[name]))


@settings(max_examples=60)
@given(plans(), st.integers(0, 5), st.integers(0, 60))
def test_any_step_of_any_epoch_can_be_begun_with(plan, number, first_step):
    """A resumed epoch goes on with exactly the steps that were left."""
    sizes, shares, lengths = plan
    whole = epoch(sizes, shares, number, lengths=lengths)
    assert epoch(sizes, shares, number, lengths=lengths) == whole
    assert epoch(sizes, shares, number, first_step=first_step, lengths=lengths) == whole[first_step:]


SIZES = {"td": 2000, "ae": 3000, "vc": 1000}
SHARES = {"td": 20, "ae": 30, "vc": 10}
LENGTHS = {name: np.random.default_rng(7).lognormal(2.7, 0.6, SIZES[name]).astype(int) + 1 for name in ("td", "ae")}


@pytest.mark.parametrize("lengths", [None, LENGTHS], ids=["shuffled", "by length"])
def test_every_epoch_and_seed_has_its_own_order(lengths):
    """The order is a function of (seed, epoch): another of either gives other steps, of the same examples here."""
    first, second, other = (
        epoch(SIZES, SHARES, number, seed, lengths=lengths) for number, seed in ((0, 0), (1, 0), (0, 1))
    )
    for later in (second, other):
        assert sum(a == b for a, b in zip(first, later, strict=True)) == 0
        for name, size in SIZES.items():
            assert sorted(index for step in later for index in step[name]) == list(range(size))


@settings(max_examples=60)
@given(plans(), st.integers(1, 4), st.integers(1, 3))
def test_ranks_and_micro_batches_partition_the_global_batch(plan, world_size, accumulation):
    """Every example goes to exactly one micro-batch of one rank; with enough of each task, none lacks a task."""
    sizes, shares, lengths = plan
    for step in list(epoch_batches(sizes, shares, steps_per_epoch(sizes, shares), 0, 0, 0, lengths))[:3]:
        parts = [part for rank in range(world_size) for part in rank_share(step, rank, world_size, accumulation)]
        assert len(parts) == world_size * accumulation
        for name, indices in step.items():
            assert sorted(np.concatenate([part[name] for part in parts])) == sorted(indices)
            held = [len(part[name]) for part in parts]
            assert max(held) - min(held) <= 1
            assert (min(held) >= 1) == (shares[name] >= len(parts))


def padded_per_real(steps, ranks=1):
    """Tokens of padding per real token, when each rank pads its examples of a task to their longest."""
    real = padded = 0
    for step in steps:
        for rank in range(ranks):
            for name, table in LENGTHS.items():
                own = table[step[name][rank::ranks]]
                real += own.sum()
                padded += len(own) * own.max() - own.sum()
    return padded / real


@pytest.mark.parametrize("ranks", [1, 2])
def test_like_lengths_together_pad_little(ranks):
    """Of log-normal lengths a shuffled batch is mostly padding; dealt out by length, it has under a fifth of that."""
    shuffled, dealt = (padded_per_real(epoch(SIZES, SHARES, lengths=lengths), ranks) for lengths in (None, LENGTHS))
    assert shuffled > 0.8
    assert dealt < 0.2 * shuffled


def test_steps_of_like_lengths_come_in_random_order():
    """Long and short steps alternate within a pool, and all tasks are long in the same steps."""
    steps = epoch(SIZES, SHARES, lengths=LENGTHS)[:POOL]
    td, ae = (np.array([LENGTHS[name][step[name]].mean() for step in steps]) for name in ("td", "ae"))
    rises = (np.diff(td) > 0).mean()
    assert 0.25 < rises < 0.75
    assert np.corrcoef(td.argsort().argsort(), ae.argsort().argsort())[0, 1] > 0.99


def test_a_task_with_few_examples_is_gone_through_again():
    """Ten steps of two pseudo-labels where there are three: each is seen six or seven times, never twice in a row."""
    steps = list(epoch_batches({"td": 30, "td_pseudo": 3}, {"td": 3, "td_pseudo": 2}, 10, 0, 0))
    seen = np.bincount(np.concatenate([step["td_pseudo"] for step in steps]))
    assert len(steps) == 10 and seen.sum() == 20 and set(seen) <= {6, 7}
    assert sorted(np.concatenate([step["td"] for step in steps])) == list(range(30))


CYCLE = ({"td": 20, "ae": 9, "vc": 7}, {"td": 5, "ae": 2, "vc": 1})


@pytest.mark.parametrize(
    ("turn", "expected"),
    [(None, "td td td td td ae ae vc"), (2, "td td ae ae vc td td td"), (1, "td ae vc td ae td td td")],
)
def test_tasks_take_turns(turn, expected):
    """Whole turns, turns of two steps and of one; who has no step left is passed over."""
    sizes, steps = CYCLE
    order = [" ".join(step) for step in cyclic_batches(sizes, steps, 4, turn, 0, 0)]
    assert " ".join(order) == expected


@pytest.mark.parametrize("turn", [None, 2])
def test_turns_show_no_example_twice_and_resume_anywhere(turn):
    """Each of an epoch's steps has its own examples; from any step on it is the rest of the whole epoch."""
    sizes, steps = CYCLE
    lengths = {"td": np.arange(20) % 7}

    def tell(first):
        found = cyclic_batches(sizes, steps, 4, turn, 3, 1, first, lengths)
        return [(name, indices.tolist()) for step in found for name, indices in step.items()]

    whole = tell(0)
    for name, count in steps.items():
        indices = [index for each, some in whole if each == name for index in some]
        assert len(indices) == len(set(indices)) == 4 * count
    assert all(tell(first) == whole[first:] for first in range(9))


def test_turns_have_the_examples_of_a_joint_epoch():
    """The same rates, the same share of each task's data, to the rounding of a batch."""
    sizes, rates = {"td": 8000, "ae": 20000, "vc": 12000}, {"td": 0.25, "ae": 0.4, "vc": 1.0}
    shares = quotas({name: sizes[name] * rates[name] for name in sizes}, 64)
    joint = steps_per_epoch(sizes, shares)
    turns = cyclic_steps(sizes, rates, 64)
    for name in sizes:
        assert turns[name] * 64 == pytest.approx(joint * shares[name], rel=0.05)
    assert cyclic_steps({"td": 3}, {"td": 1.0}, 64) == {"td": 1}
