"""What a data check found, as a page: findings with their places, and what each source holds."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from xmtl_ray.data.audit_report import Report
from xmtl_ray.report.templates import render


def write_audit(path: Path, report: Report) -> None:
    """Write one HTML file that needs neither network nor scripts."""
    path.write_text(render("audit.html", report=report, lengths=length_classes, dict=dict), encoding="utf-8")


def length_classes(lengths: Counter[int]) -> list[tuple[str, int]]:
    """Words per text in about ten classes of equal width, the last one open.

    >>> length_classes(Counter({3: 2, 12: 1, 240: 1}))
    [('up to 10', 2), ('11 to 20', 1), ('above 100', 1)]
    """
    classes: Counter[int] = Counter()
    for words, count in lengths.items():
        classes[min(max(words - 1, 0) // 10, 10)] += count
    names = {0: "up to 10", 10: "above 100"}
    return [(names.get(index, f"{10 * index + 1} to {10 * index + 10}"), classes[index]) for index in sorted(classes)]
