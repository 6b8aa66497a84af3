"""Losses of the tasks and their sum: Eq. 6, 8, 10, 12 and 14.

The sum over a global batch is exact for any number of workers and micro-batches: each adds its own part of every
loss's mean over the whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from xmtl_ray.config.schema import PSEUDO, TaskName, Term
from xmtl_ray.models.inputs import Inputs
from xmtl_ray.models.xmtl import XMTL, States
from xmtl_ray.multitask.batch import Batch


class Objective(nn.Module):
    """The model with its losses: what an engine wraps, so that one call runs forward for all tasks.

    Args:
        model: gives the scores.
        smoothing: share of each target that is spread over all labels, 0 to 1 (label smoothing; not in the paper).
            A tag path is smoothed by its words: that share of its loss is the mean of -log softmax over the tags.
        teacher: a frozen model of the same kind whose states the model's are drawn to (ARK); none: no such loss.
    """

    def __init__(self, model: XMTL, smoothing: float = 0.0, teacher: XMTL | None = None) -> None:
        super().__init__()
        self.model, self.smoothing = model, smoothing
        self._teacher = (teacher,)  # in a tuple: not a part of the module that an engine wraps and exchanges

    def forward(self, batch: Batch) -> dict[Term, Tensor]:
        """Loss of every example [B] per task of the batch and per pseudo-label twin, in fp32."""
        states = self.model.states(batch.inputs)
        scores = self.model.scores(states, batch.inputs)
        found: dict[TaskName, Tensor] = {}
        if batch.td is not None:
            assert batch.inputs.text is not None
            words = batch.inputs.text.word_mask
            found["td"], _ = self.model.crf(scores["td"], words, batch.td)
            if self.smoothing:
                spread = -(scores["td"].float().log_softmax(-1).mean(-1) * words).sum(1)
                found["td"] = (1 - self.smoothing) * found["td"] + self.smoothing * spread
        if batch.ae is not None:
            found["ae"] = self._cross_entropy(scores["ae"], batch.ae)
        if batch.vc is not None:
            # Eq. 10 sums over the types of an image.
            target = (1 - self.smoothing) * batch.vc + self.smoothing / 2
            found["vc"] = functional.binary_cross_entropy_with_logits(
                scores["vc"].float(), target, reduction="none"
            ).sum(1)
        if batch.rc is not None:
            found["rc"] = self._cross_entropy(scores["rc"], batch.rc)
        losses: dict[Term, Tensor] = {}
        for task, values in found.items():
            gold = batch.gold.get(task, len(values))
            if gold:
                losses[task] = values[:gold]
            if gold < len(values):
                losses[PSEUDO[task]] = values[gold:]
        (teacher,) = self._teacher
        if teacher is not None:
            losses["consistency"] = self._consistency(teacher, states, batch.inputs)
        return losses

    def _cross_entropy(self, scores: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(scores.float(), target, reduction="none", label_smoothing=self.smoothing)

    def _consistency(self, teacher: XMTL, states: States, inputs: Inputs) -> Tensor:
        """Mean squared distance of each row's pooled states from the teacher's, [B]."""
        with torch.no_grad():
            goal = teacher.states(inputs).pooled(inputs)
        return (states.pooled(inputs) - goal).float().square().mean(1)


def total_loss(losses: Mapping[Term, Tensor], shares: Mapping[Term, int], weights: Mapping[Term, float]) -> Tensor:
    """X-MTL Eq. 14: Σ_k W_k · L_k + β · W_k' · L_k', as far as these examples add to it.

    Args:
        losses: per-example losses [B_k] of the examples at hand.
        shares: how many examples of each loss the whole global batch has (N_k); L_k is the mean over them.
        weights: W_k, of pseudo-label twins β · W_k'.

    Summed over all workers and micro-batches this is the loss of the global batch.
    """
    parts = [weights[name] * values.sum() / shares[name] for name, values in losses.items()]
    return sum(parts[1:], parts[0])
