"""How much each loss counts in the sum of Eq. 14: fixed, DWA (Eq. 13), uncertainty, FAMO or UPGrad.

A weighting sees losses that were reduced over all workers and micro-batches, computes in float64 on the CPU and draws
nothing at random: every rank has the same weights, whatever the engine. Its state is plain numbers, kept in the
checkpoint. A weight is the whole factor of its loss: beta of the pseudo-label twins is in it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from xmtl_ray.config.schema import Term
from xmtl_ray.config.schema import Weighting as WeightingConfig

Losses = Mapping[Term, float]
Weights = dict[Term, float]


class Weighting(Protocol):
    """The weights of one step after the other."""

    needs: str
    """What a step must find out for it: "" nothing, "losses" before and after the step, "gramian" of the gradients."""

    def weights(self) -> Weights:
        """Of the step to come (or, with ``needs``, of the one at hand, once it was told what it needs)."""

    def observe(self, losses: Losses) -> None:
        """The mean losses of a finished step over its global batch, unweighted."""

    def end_epoch(self) -> None:
        """An epoch is over."""

    def state(self) -> dict[str, Any]:
        """What JSON can keep."""

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from :meth:`state`."""


def dynamic_weights(previous: Sequence[float], before_previous: Sequence[float], alpha: float) -> list[float]:
    """X-MTL Eq. 13: W = K · softmax(alpha · L(t-1) / L(t-2)), K losses each.

    The original method (Liu, Johns and Davison 2019) divides by a temperature T = 1 / alpha. The weights sum to K. A
    loss that was 0 has no rate of change; its ratio counts as 1, that of a loss that stands still.

    >>> [round(weight, 3) for weight in dynamic_weights([0.5, 1.0], [1.0, 1.0], alpha=0.5)]
    [0.876, 1.124]
    """
    ratios = [new / old if old > 0 else 1.0 for new, old in zip(previous, before_previous, strict=True)]
    top = max(ratios)
    grown = [math.exp(alpha * (ratio - top)) for ratio in ratios]
    return [len(ratios) * value / sum(grown) for value in grown]


def famo_weights(losses: Sequence[float], logits: Sequence[float]) -> list[float]:
    """FAMO's step (Liu et al. 2023, Eq. 8): W_i = K · c · z_i / l_i with z = softmax(logits) and c = 1 / Σ z_j / l_j.

    Its gradient is that of Σ z_i log l_i, scaled; ours sums to K where the paper's sums to 1, so that learning rates
    mean what they mean elsewhere. A loss of 0 counts as 1e-8 and takes nearly all weight, as in the authors' code.
    """
    z = torch.tensor(logits, dtype=torch.float64).softmax(0)
    pull = z / (torch.tensor(losses, dtype=torch.float64) + _TINY)
    return (len(losses) * pull / pull.sum()).tolist()


_TINY = 1e-8
_LARGEST_LOG_VARIANCE = 5.0


class Fixed:
    """The same weights at every step."""

    needs = ""

    def __init__(self, base: Weights) -> None:
        self.base = base

    def weights(self) -> Weights:
        """See :class:`Weighting`."""
        return dict(self.base)

    def observe(self, losses: Losses) -> None:
        """Nothing to learn."""

    def end_epoch(self) -> None:
        """Nothing to do."""

    def state(self) -> dict[str, Any]:
        """Nothing to keep."""
        return {}

    def load(self, state: Mapping[str, Any]) -> None:
        """Nothing to load."""


class Dwa(Fixed):
    """Dynamic weight adjustment, Eq. 13, on mean losses of intervals: of ``steps`` steps, or epochs (None).

    All weights are their base during the first two intervals. A cut-off interval, an epoch's end apart, does not count.
    """

    def __init__(self, base: Weights, alpha: float, steps: int | None) -> None:
        super().__init__(base)
        self.alpha, self.steps = alpha, steps
        self.sums: dict[str, float] = dict.fromkeys(base, 0.0)
        self.count = 0
        self.history: list[dict[str, float]] = []  # the last two intervals, older first

    def weights(self) -> Weights:
        """Base times Eq. 13."""
        if len(self.history) < 2:
            return dict(self.base)
        older, newer = ([interval[name] for name in self.base] for interval in self.history)
        found = dynamic_weights(newer, older, self.alpha)
        return {name: self.base[name] * weight for name, weight in zip(self.base, found, strict=True)}

    def observe(self, losses: Losses) -> None:
        """Add a step to the current interval."""
        self.sums = {name: self.sums[name] + losses[name] for name in self.base}
        self.count += 1
        if self.count == self.steps:
            self._close()

    def end_epoch(self) -> None:
        """The interval ``epoch`` ends here."""
        if self.steps is None and self.count:
            self._close()

    def _close(self) -> None:
        self.history = [*self.history, {name: value / self.count for name, value in self.sums.items()}][-2:]
        self.sums, self.count = dict.fromkeys(self.base, 0.0), 0

    def state(self) -> dict[str, Any]:
        """Sums of the current interval and the two before."""
        return {"sums": self.sums, "count": self.count, "history": self.history}

    def load(self, state: Mapping[str, Any]) -> None:
        """See :class:`Weighting`."""
        self.sums, self.count, self.history = dict(state["sums"]), state["count"], list(state["history"])


class _Learnt(Fixed):
    """One number for each loss, moved by Adam."""

    def __init__(self, base: Weights, learning_rate: float, decay: float) -> None:
        super().__init__(base)
        self.learnt = torch.zeros(len(base), dtype=torch.float64, requires_grad=True)
        self.adam = torch.optim.Adam([self.learnt], lr=learning_rate, weight_decay=decay)

    def _step(self, gradient: Tensor) -> None:
        self.learnt.grad = gradient
        self.adam.step()

    def _with(self, weights: Sequence[float]) -> Weights:
        return {name: self.base[name] * weight for name, weight in zip(self.base, weights, strict=True)}

    def state(self) -> dict[str, Any]:
        """The numbers and Adam's moments."""
        moments = self.adam.state.get(self.learnt, {})
        return {"learnt": self.learnt.tolist(), "adam": {name: value.tolist() for name, value in moments.items()}}

    def load(self, state: Mapping[str, Any]) -> None:
        """See :class:`Weighting`."""
        with torch.no_grad():
            self.learnt.copy_(torch.tensor(state["learnt"], dtype=torch.float64))
        if state["adam"]:
            moments = {
                name: torch.tensor(value, dtype=torch.float32 if name == "step" else torch.float64)
                for name, value in state["adam"].items()
            }
            self.adam.state[self.learnt] = moments


class Uncertainty(_Learnt):
    """Homoscedastic uncertainty (Kendall, Gal and Cipolla 2018), as for classification: Σ e^-s_k · L_k + s_k / 2.

    The derivative by s_k needs only the reduced loss, so s is learnt outside the engine. A constant loss L ends at the
    weight 1 / (2 L); s stays within ±5, for that of a loss of 0 would run away.
    """

    def __init__(self, base: Weights, learning_rate: float) -> None:
        super().__init__(base, learning_rate, decay=0.0)

    def weights(self) -> Weights:
        """Base times e^-s."""
        return self._with(self.learnt.detach().neg().exp().tolist())

    def observe(self, losses: Losses) -> None:
        """One step of Adam on s."""
        values = torch.tensor([losses[name] for name in self.base], dtype=torch.float64)
        self._step(0.5 - self.learnt.detach().neg().exp() * values)
        with torch.no_grad():
            self.learnt.clamp_(-_LARGEST_LOG_VARIANCE, _LARGEST_LOG_VARIANCE)


class Famo(_Learnt):
    """Fast adaptive multitask optimisation (Liu et al. 2023): all losses fall at like rates, by their values alone.

    Needs the losses of the global batch before its backward pass and again after the step.
    """

    needs = "losses"

    def __init__(self, base: Weights, learning_rate: float, decay: float) -> None:
        super().__init__(base, learning_rate, decay)
        self._before: list[float] | None = None

    def before(self, losses: Losses) -> None:
        """The losses of the step at hand."""
        self._before = [losses[name] for name in self.base]

    def weights(self) -> Weights:
        """Base times :func:`famo_weights` of the step at hand."""
        assert self._before is not None
        return self._with(famo_weights(self._before, self.learnt.tolist()))

    def after(self, losses: Losses) -> None:
        """The same batch's losses after the step: logits of those that fell least rise."""
        assert self._before is not None
        old, new = (
            torch.tensor(values, dtype=torch.float64) + _TINY
            for values in (self._before, [losses[name] for name in self.base])
        )
        with torch.enable_grad():
            z = self.learnt.softmax(0)
            (gradient,) = torch.autograd.grad(z, self.learnt, old.log() - new.log())
        self._step(gradient)


class Upgrad(Fixed):
    """Unconflicting projection of gradients (Quinton and Rey 2024), by torchjd's quadratic programme.

    Each loss's gradient is projected onto the cone that no other gradient objects to; the sum of projections is again
    a weighted sum of the gradients, with weights that follow from their Gramian. Where none conflict all are 1.
    """

    needs = "gramian"

    def __init__(self, base: Weights) -> None:
        from torchjd.aggregation import UPGradWeighting

        super().__init__(base)
        self._project = UPGradWeighting(pref_vector=torch.tensor(list(base.values()), dtype=torch.float64))
        self._found: list[float] = list(base.values())

    def gramian(self, products: Tensor) -> None:
        """Inner products [K, K] of the losses' gradients over all workers, at the step at hand."""
        self._found = self._project(products.double().cpu()).tolist()

    def weights(self) -> Weights:
        """What the projections come to."""
        return dict(zip(self.base, self._found, strict=True))


def create(spec: WeightingConfig, terms: Sequence[Term], base: Weights) -> Weighting:
    """The weighting that ``spec`` names.

    Args:
        spec: its settings.
        terms: the losses that are summed, those that this run has: K of Eq. 13 is their number.
        base: what each weight is multiplied with: 1, of pseudo-label twins beta.
    """
    base = {name: base[name] for name in terms}
    match spec.name:
        case "fixed":
            return Fixed(base)
        case "dwa":
            return Dwa(
                base, spec.alpha, None if spec.interval == "epoch" else int(spec.interval.removeprefix("steps:"))
            )
        case "uncertainty":
            return Uncertainty(base, spec.learning_rate)
        case "famo":
            return Famo(base, spec.learning_rate, spec.decay)
        case "upgrad":
            return Upgrad(base)


def base_weights(spec: WeightingConfig, terms: Sequence[Term], beta: float, consistency: float) -> Weights:
    """What the sum begins with: a task's fixed weight (1 unless ``fixed`` is asked for), its twin's times ``beta``."""
    found: Weights = {}
    for term in terms:
        if term == "consistency":
            found[term] = consistency
        else:
            task = term.removesuffix("_pseudo")
            weight = getattr(spec.fixed, task) if spec.name == "fixed" else 1.0
            found[term] = weight * (1.0 if term == task else beta)
    return found
