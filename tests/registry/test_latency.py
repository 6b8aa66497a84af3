"""Latency by turns: what a busy minute does to it, on a clock that a person can follow."""

import pytest
import torch

from xmtl_ray.registry.evidence import _answered
from xmtl_ray.registry.latency import by_turns, latency
from xmtl_ray.serving.answerer import GpuMemoryError


class Machine:
    """A clock, and two models alike on a machine that is slower from document to document."""

    def __init__(self):
        self.now, self.asked = 0.0, []

    def model(self, name):
        def ask(number):
            self.asked.append(f"{name}{number}")
            self.now += 1.0 + len(self.asked)  # each work takes a second longer than that before it
            return f"{name} of {number}"

        return ask

    def clock(self):
        return self.now


def test_models_take_turns_and_none_is_measured_cold():
    """First work of both does not count; then A B, B A, …; answers are in the order of the documents."""
    machine = Machine()
    found = by_turns({name: machine.model(name) for name in "AB"}, 3, machine.clock)
    assert machine.asked == ["A0", "B0", "A0", "B0", "B1", "A1", "A2", "B2"]
    assert found["A"].answers == ["A of 0", "A of 1", "A of 2"]
    assert found["A"].seconds == [4.0, 7.0, 8.0] and found["B"].seconds == [5.0, 6.0, 9.0]


def test_a_machine_that_gets_slower_counts_against_both():
    """Forty documents while the machine gets nine times as slow: by turns the medians differ by a hundredth, one
    after the other by more than half."""
    machine = Machine()
    found = by_turns({name: machine.model(name) for name in "AB"}, 40, machine.clock)
    ours = [latency(found[name].seconds).median_s for name in "AB"]
    assert abs(ours[0] / ours[1] - 1) < 0.02
    machine = Machine()
    alone = [by_turns({name: machine.model(name)}, 40, machine.clock)[name] for name in "AB"]
    theirs = [latency(one.seconds).median_s for one in alone]
    assert theirs[1] / theirs[0] > 1.5


def test_the_spread_is_the_middle_half():
    """Of 1 to 5 seconds the quartiles are 2, 3 and 4; a single time has no spread."""
    found = latency([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (found.low_s, found.median_s, found.high_s, found.measured) == (2.0, 3.0, 4.0, 5)
    assert str(found) == "3 s (2–4)"
    assert latency([1.0]) is None and latency([]) is None


def test_models_that_do_not_fit_a_gpu_at_once_are_told():
    """Taking turns needs both in memory; the user may do without the rule."""

    def load():
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    loaders = {"7": lambda: str, "8": load}
    with pytest.raises(GpuMemoryError, match=r"out of memory: expected memory for versions 7 and 8 at once, .* a gate"):
        list(_answered(loaders, 3, gpu=True, turns=True))
    assert next(_answered(loaders, 3, gpu=True, turns=False))[1].answers == ["0", "1", "2"]
