"""Weights of the losses: by hand, against torchjd's own implementations, and at their edges."""

import json
import math

import pytest
import torch
from torchjd.aggregation import UPGrad
from torchjd.scalarization import DWA, FAMO

from xmtl_ray.config.schema import Weighting as Spec
from xmtl_ray.multitask.weighting import base_weights, create, dynamic_weights, famo_weights

TERMS = ("td", "vc", "td_pseudo")
NAMES = ("dwa", "fixed", "uncertainty", "famo", "upgrad")


def make(terms=TERMS, beta=1.0, **settings):
    spec = Spec(**settings)
    return create(spec, terms, base_weights(spec, terms, beta, 1.0))


def walk(weighting, losses):
    """The weights of each step, as the loop asks for them; the losses are those before each step, and after it 0.9."""
    found = []
    for values in losses:
        step = dict(zip(TERMS, values, strict=True))
        if weighting.needs == "losses":
            weighting.before(step)
        if weighting.needs == "gramian":
            gradients = torch.tensor([[value, 1.0, -value] for value in values], dtype=torch.float64)
            weighting.gramian(gradients @ gradients.T)
        found.append(weighting.weights())
        weighting.observe(step)
        if weighting.needs == "losses":
            weighting.after(
                {name: value * factor for (name, value), factor in zip(step.items(), (0.9, 0.5, 1), strict=True)}
            )
    return found


def test_eq_13_by_hand():
    """Ratios 1/2 and 2 at alpha 0.5: e^0.25 and e^1, scaled to sum 2."""
    first, second = math.exp(0.25), math.exp(1.0)
    expected = [2 * first / (first + second), 2 * second / (first + second)]
    assert dynamic_weights([1.0, 4.0], [2.0, 2.0], 0.5) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("previous", "before"),
    [([0.0, 1.0], [0.0, 1.0]), ([1.0, 1.0], [1.0, 1.0]), ([3.0, 1.0], [0.0, 1.0])],
    ids=["zero", "constant", "from zero"],
)
def test_a_loss_that_stands_still_or_was_zero_has_ratio_1(previous, before):
    """Equal ratios are equal weights; a division by zero is none."""
    assert dynamic_weights(previous, before, 0.5) == [1.0, 1.0]


def test_a_loss_that_explodes_keeps_weights_finite():
    """A ratio of 1e300 takes all K; nothing overflows."""
    assert dynamic_weights([1e300, 1.0], [1.0, 1.0], 5.0) == [2.0, 0.0]


def test_dwa_walks_as_torchjds_does():
    """Interval means over five epochs of three steps, against torchjd's DWA at T = 1 / alpha."""
    ours, theirs = make(name="dwa", alpha=0.5), DWA(temperature=2.0)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        for _ in range(3):
            losses = torch.rand(3, generator=generator, dtype=torch.float64).add(0.1).requires_grad_()
            (expected,) = torch.autograd.grad(theirs(losses), losses)
            assert list(ours.weights().values()) == pytest.approx(expected.tolist())
            ours.observe(dict(zip(TERMS, losses.tolist(), strict=True)))
        theirs.step()
        ours.end_epoch()


def test_dwa_weighs_from_the_third_interval_on():
    """Two steps an interval: ones for four steps, then Eq. 13 of the two means; epochs' ends change nothing."""
    weighting = make(name="dwa", interval="steps:2", beta=0.5)
    losses = [(4, 1, 1), (2, 1, 1), (1, 1, 1), (2, 1, 1), (9, 9, 9)]
    found = []
    for step in losses:
        found += walk(weighting, [step])
        weighting.end_epoch()
    base = {"td": 1.0, "vc": 1.0, "td_pseudo": 0.5}
    assert found[:4] == [base] * 4
    expected = dynamic_weights([1.5, 1, 1], [3, 1, 1], 0.5)
    assert list(found[4].values()) == pytest.approx([expected[0], expected[1], 0.5 * expected[2]])
    assert sum(expected) == pytest.approx(3)


def test_famo_walks_as_torchjds_does():
    """Losses before and after each of twenty steps, against torchjd's FAMO (the authors' code), scaled by K."""
    ours, theirs = make(name="famo"), FAMO(3).double()
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        before = torch.rand(3, generator=generator, dtype=torch.float64).add(0.1).requires_grad_()
        after = (before * torch.rand(3, generator=generator, dtype=torch.float64)).detach()
        (expected,) = torch.autograd.grad(theirs(before), before)
        ours.before(dict(zip(TERMS, before.tolist(), strict=True)))
        assert list(ours.weights().values()) == pytest.approx((3 * expected).tolist(), rel=1e-6)
        theirs.update(after)
        ours.after(dict(zip(TERMS, after.tolist(), strict=True)))


def test_famo_weights_sum_to_k_even_with_a_loss_of_zero():
    """It takes nearly all, as in the authors' code, and nothing is NaN."""
    found = famo_weights([0.0, 1.0, 2.0], [0.0, 0.0, 0.0])
    assert sum(found) == pytest.approx(3) and found[0] > 2.99


@pytest.mark.parametrize("loss", [0.25, 2.0])
def test_uncertainty_of_a_constant_loss_ends_at_its_closed_form(loss):
    """d/ds (e^-s L + s/2) = 0 at e^-s = 1 / (2 L)."""
    weighting = make(("td",), name="uncertainty", learning_rate=0.05)
    for _ in range(2000):
        weighting.observe({"td": loss})
    assert weighting.weights()["td"] == pytest.approx(1 / (2 * loss), rel=1e-3)


def test_uncertainty_of_a_zero_loss_stays_bounded():
    """Its variance would fall for ever; the weight stops at e^5."""
    weighting = make(("td",), name="uncertainty", learning_rate=1.0)
    for _ in range(50):
        weighting.observe({"td": 0.0})
    assert weighting.weights()["td"] == pytest.approx(math.exp(5))


def test_upgrad_weights_are_those_of_the_projected_gradients():
    """Σ w_k g_k is torchjd's own UPGrad of the gradients, times K; without a conflict every weight is 1."""
    gradients = torch.tensor([[1.0, 0.0, 0.2], [-0.5, 1.0, 0.0], [0.3, -0.8, 1.0]], dtype=torch.float64)
    weighting = make(name="upgrad")
    weighting.gramian(gradients @ gradients.T)
    found = torch.tensor(list(weighting.weights().values()), dtype=torch.float64)
    assert (found @ gradients).tolist() == pytest.approx((3 * UPGrad()(gradients)).tolist(), rel=1e-3)
    assert (gradients @ (found @ gradients)).min() > -1e-3, "no loss is made worse"
    weighting.gramian(torch.eye(3))
    assert list(weighting.weights().values()) == pytest.approx([1.0, 1.0, 1.0], rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_weights_resume_from_what_json_keeps(name):
    """Stopped anywhere within an interval and gone on with from its state: the same weights, digit for digit."""
    losses = [(1 / (step + 1), 2.0, 0.3 + 0.1 * (step % 3)) for step in range(11)]
    whole = walk(make(name=name, interval="steps:3", beta=0.5), losses)
    for cut in (1, 4, 7):
        first = make(name=name, interval="steps:3", beta=0.5)
        before = walk(first, losses[:cut])
        second = make(name=name, interval="steps:3", beta=0.5)
        second.load(json.loads(json.dumps(first.state())))
        assert before + walk(second, losses[cut:]) == whole


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_constant_and_zero_losses_have_finite_weights(name, value):
    """Every method, every loss the same number at every step."""
    for weights in walk(make(name=name, interval="steps:1"), [(value,) * 3] * 5):
        assert all(math.isfinite(weight) and weight >= 0 for weight in weights.values())


@pytest.mark.parametrize("name", NAMES)
def test_k_is_the_number_of_losses_that_there_are(name):
    """A twin without examples is no term: with one loss left every method gives it what it alone would have."""
    weighting = make(("td",), name=name, interval="steps:1")
    for step in range(4):
        if weighting.needs == "losses":
            weighting.before({"td": 0.7})
        if weighting.needs == "gramian":
            weighting.gramian(torch.tensor([[2.0]]))
        found = weighting.weights()
        assert set(found) == {"td"}
        if name != "uncertainty":
            assert found["td"] == pytest.approx(1.0, rel=1e-3), step
        weighting.observe({"td": 0.7})
        if weighting.needs == "losses":
            weighting.after({"td": 0.6})


def test_beta_and_fixed_weights_are_where_the_sum_begins():
    """Eq. 14's beta on the twins; `fixed` gives a twin its task's weight times beta."""
    spec = Spec(name="fixed", fixed={"vc": 3.0})
    assert base_weights(spec, ("td", "vc", "vc_pseudo", "consistency"), 0.5, 0.2) == {
        "td": 1.0, "vc": 3.0, "vc_pseudo": 1.5, "consistency": 0.2,
    }  # fmt: skip
    assert base_weights(Spec(name="dwa", fixed={"vc": 3.0}), ("vc",), 0.5, 0.2) == {"vc": 1.0}
