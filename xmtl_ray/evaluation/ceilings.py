"""How much of the gold a stage can reach at most, whatever comes after it."""

from __future__ import annotations

from collections.abc import Iterable

from xmtl_ray.evaluation.m2e2 import overlaps
from xmtl_ray.events.records import Document


def visual_argument_recall(documents: Iterable[Document], confidence: float) -> tuple[int, int]:
    """Gold boxes of visual arguments that some detection matches (IoU above 0.5), and all of them.

    A role classifier chooses among detections, so this share bounds its recall. Detections are those of
    ``Image.objects`` of at least ``confidence``; a box that fills two roles counts twice.
    """
    reached = total = 0
    for document in documents:
        for image in document.images:
            boxes = [item.box for item in image.objects if item.confidence >= confidence]
            for event in image.events:
                total += len(event.arguments)
                reached += sum(any(overlaps(argument.box, box) for box in boxes) for argument in event.arguments)
    return reached, total
