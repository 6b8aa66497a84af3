"""Losses of the tasks and their sum: Eq. 6, 8, 10, 12 and 14 (without pseudo-label twins).

The sum over a global batch is exact for any number of workers and micro-batches: each adds its own part of every
task's mean over the whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional

from xmtl_ray.config.schema import TaskName
from xmtl_ray.models.xmtl import XMTL
from xmtl_ray.multitask.batch import Batch


class Objective(nn.Module):
    """The model with its losses: what an engine wraps, so that one call runs forward for all tasks.

    Args:
        model: gives the scores.
        smoothing: share of each target that is spread over all labels, 0 to 1 (label smoothing; not in the paper).
            A tag path is smoothed by its words: that share of its loss is the mean of -log softmax over the tags.
    """

    def __init__(self, model: XMTL, smoothing: float = 0.0) -> None:
        super().__init__()
        self.model, self.smoothing = model, smoothing

    def forward(self, batch: Batch) -> dict[TaskName, Tensor]:
        """Loss of every example [B] per task of the batch, in fp32."""
        scores = self.model(batch.inputs)
        losses: dict[TaskName, Tensor] = {}
        if batch.td is not None:
            assert batch.inputs.text is not None
            words = batch.inputs.text.word_mask
            losses["td"], _ = self.model.crf(scores["td"], words, batch.td)
            if self.smoothing:
                spread = -(scores["td"].float().log_softmax(-1).mean(-1) * words).sum(1)
                losses["td"] = (1 - self.smoothing) * losses["td"] + self.smoothing * spread
        if batch.ae is not None:
            losses["ae"] = self._cross_entropy(scores["ae"], batch.ae)
        if batch.vc is not None:
            # Eq. 10 sums over the types of an image.
            target = (1 - self.smoothing) * batch.vc + self.smoothing / 2
            losses["vc"] = functional.binary_cross_entropy_with_logits(
                scores["vc"].float(), target, reduction="none"
            ).sum(1)
        if batch.rc is not None:
            losses["rc"] = self._cross_entropy(scores["rc"], batch.rc)
        return losses

    def _cross_entropy(self, scores: Tensor, target: Tensor) -> Tensor:
        return functional.cross_entropy(scores.float(), target, reduction="none", label_smoothing=self.smoothing)


def total_loss(
    losses: Mapping[TaskName, Tensor], shares: Mapping[TaskName, int], weights: Mapping[TaskName, float]
) -> Tensor:
    """X-MTL Eq. 14: Σ_k W_k · L_k, as far as these examples add to it.

    Args:
        losses: per-example losses [B_k] of the examples at hand.
        shares: how many examples of each task the whole global batch has (N_k); L_k is the mean over them.
        weights: W_k.

    Summed over all workers and micro-batches this is the loss of the global batch.
    """
    parts = [weights[name] * values.sum() / shares[name] for name, values in losses.items()]
    return sum(parts[1:], parts[0])
