"""Dev metrics of a generative model: what a run is selected on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from xmtl_ray.evaluation import generative
from xmtl_ray.events.records import GenerativeSample


def metrics(gold: Sequence[GenerativeSample], answers: Mapping[str, str], loss: float) -> dict[str, float]:
    """Accuracies (paper B, Eq. 9-10), valid answers and the probability of gold tokens, all in percent.

    Args:
        gold: the samples that were answered.
        answers: raw answers by id.
        loss: mean over gold tokens of all dev samples, in nats.

    An accuracy without any gold item is 0.
    """
    found = {"dev/loss_lm": loss, "dev/token_probability": 100 * math.exp(-loss)}
    if not gold:
        return found
    return found | scores(generative.report(gold, answers, examples=0), "dev")


def scores(report: generative.Report, part: str) -> dict[str, float]:
    """The figures of a report that are tracked, in percent, by their names under ``part`` (dev or test)."""
    found: dict[str, float] = {}
    sides = {"tr": report["trigger"], "arg": report["argument"]}
    for side, groups in sides.items():
        found[f"{part}/{side}_accuracy"] = _percent(groups["overall_mean_of_languages"])
        for language, group in groups.items():
            if isinstance(group, Mapping) and language != generative.ALL:
                found[f"{part}/{side}_accuracy_{language}"] = _percent(group["accuracy_mean_of_samples"])
    found[f"{part}/mean_accuracy"] = (found[f"{part}/tr_accuracy"] + found[f"{part}/arg_accuracy"]) / 2
    for side, pooled in report["pooled"].items():
        found[f"{part}/{side}_f1"] = pooled[generative.ALL]["F1"]
    for state, count in report["states"].items():
        found[f"{part}/json_{state}"] = 100 * count / report["samples"]
    return found


@torch.no_grad()
def loss(
    objective: Callable[[Any], Mapping[Any, torch.Tensor]], batches: Sequence[Callable[[], Any]], tokens: Sequence[int]
) -> tuple[float, int]:
    """Sum in nats over gold tokens, and their number; one of 0 tokens is only run: all workers run as often.

    Args:
        objective: a batch → its losses, summed.
        batches: each makes a batch on the device.
        tokens: gold tokens of each batch.
    """
    total, count = 0.0, 0
    for make, number in zip(batches, tokens, strict=True):
        value = float(objective(make())["lm"].sum())
        if number:
            total, count = total + value, count + number
    return total, count


def spread(items: Sequence[GenerativeSample], most: int) -> list[int]:
    """Numbers of at most ``most`` items, evenly from each language and modality: always the same ones."""
    if most >= len(items):
        return list(range(len(items)))
    groups: dict[tuple[str, str | None], list[int]] = {}
    for number, item in enumerate(items):
        groups.setdefault((item.language, item.modality), []).append(number)
    shares = {key: len(members) * most / len(items) for key, members in groups.items()}
    chosen = {key: groups[key][: int(share)] for key, share in shares.items()}
    left = sorted(groups, key=lambda key: (int(shares[key]) - shares[key], key[0], str(key[1])))
    for key in left[: most - sum(map(len, chosen.values()))]:
        chosen[key] = groups[key][: len(chosen[key]) + 1]
    return sorted(number for members in chosen.values() for number in members)


def _percent(value: float | None) -> float:
    return 0.0 if value is None else float(value)
