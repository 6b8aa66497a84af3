"""Scores of each task on its dev examples: what selects a checkpoint.

Argument and role scores are given gold events, as each task is trained; scores from raw documents are the
evaluation's business.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from xmtl_ray.config.schema import TaskName
from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.events.ontology import m2e2, mentions
from xmtl_ray.models.heads import favour_events
from xmtl_ray.models.xmtl import XMTL
from xmtl_ray.multitask.batch import Batch, Collate
from xmtl_ray.multitask.examples import Example

METRICS: dict[TaskName, str] = {
    "td": "dev/trigger_f1",
    "ae": "dev/argument_f1",
    "vc": "dev/verb_f1",
    "rc": "dev/role_f1",
}


@torch.no_grad()
def evaluate(
    model: XMTL,
    collate: Collate,
    examples: Mapping[TaskName, Sequence[Example]],
    batch: int,
    rank: int,
    world_size: int,
    reduce: Callable[[Tensor], Tensor],
    verb_threshold: float = 0.5,
    trigger_bias: float = 0.0,
) -> dict[str, float]:
    """F1 in percent per task, and ``dev/mean_f1`` over the tasks; the same on every rank.

    Each rank scores its share and ``reduce`` sums the counts. All ranks run equally many forward passes (sharded
    weights are gathered in each), so a rank without examples left repeats some and does not count them.
    """
    training = model.training
    model.eval()
    device = next(model.parameters()).device
    metrics: dict[str, float] = {}
    for task, items in examples.items():
        counts = torch.zeros(3, dtype=torch.long)
        for start in range(0, len(items), batch * world_size):
            mine = items[start + rank * batch : start + (rank + 1) * batch]
            score = task_counts(
                model, task, collate({task: mine or items[:1]}).to(device), verb_threshold, trigger_bias
            )
            if mine:
                counts += torch.tensor([score.correct, score.predicted, score.gold])
        correct, predicted, gold = reduce(counts).tolist()
        metrics[METRICS[task]] = Prf(correct, predicted, gold).f1
    model.train(training)
    metrics["dev/mean_f1"] = sum(metrics.values()) / len(metrics)
    return metrics


def task_counts(
    model: XMTL, task: TaskName, batch: Batch, verb_threshold: float = 0.5, trigger_bias: float = 0.0
) -> Prf:
    """Correct, predicted and gold: trigger mentions (type and span), roles other than None, or types of images.

    Thresholds are those that documents are extracted with, so that the checkpoint is chosen for them.
    """
    scores = model(batch.inputs)[task]
    if task == "td":
        assert batch.td is not None and batch.inputs.text is not None
        mask = batch.inputs.text.word_mask
        _, best = model.crf(favour_events(scores, trigger_bias), mask)
        return _mention_counts(best, batch.td, mask)
    if task == "vc":
        assert batch.vc is not None
        predicted, gold = scores.sigmoid() > verb_threshold, batch.vc > 0
        return Prf(int((predicted & gold).sum()), int(predicted.sum()), int(gold.sum()))
    target = batch.ae if task == "ae" else batch.rc
    assert target is not None
    best = scores.argmax(1)
    return Prf(int(((best == target) & (target > 0)).sum()), int((best > 0).sum()), int((target > 0).sum()))


def _mention_counts(best: Tensor, gold: Tensor, mask: Tensor) -> Prf:
    tags, total = m2e2().tags, Prf(0, 0, 0)
    for row, length in enumerate(mask.sum(1).tolist()):
        found, expected = (
            Counter(mentions([tags[index] for index in side[row, :length].tolist()])) for side in (best, gold)
        )
        total += Prf((found & expected).total(), found.total(), expected.total())
    return total
