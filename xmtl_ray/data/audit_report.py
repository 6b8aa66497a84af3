"""What a data check has to say: its findings, and what each source holds."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

Level = Literal["error", "warning"]
EXAMPLES = 20
"""Findings of one kind that are told in full; the others are counted."""


@dataclass
class Finding:
    """One kind of problem: how often, and some places."""

    level: Level
    kind: str
    count: int = 0
    examples: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {"level": self.level, "kind": self.kind, "count": self.count, "examples": self.examples}


@dataclass
class Contents:
    """What one source holds. Counters map a label, or a size, to how often it occurs."""

    name: str
    records: int = 0
    sentences: int = 0
    quiet_sentences: int = 0
    """Without an event."""
    lengths: Counter[int] = field(default_factory=Counter)
    """Words per sentence."""
    cut_sentences: int = 0
    text_events: Counter[str] = field(default_factory=Counter)
    text_roles: Counter[str] = field(default_factory=Counter)
    events_per_sentence: Counter[int] = field(default_factory=Counter)
    images: int = 0
    images_read: int = 0
    image_events: Counter[str] = field(default_factory=Counter)
    image_roles: Counter[str] = field(default_factory=Counter)
    verbs: Counter[str] = field(default_factory=Counter)
    pixels: Counter[str] = field(default_factory=Counter)
    """Longer side, by class."""
    videos: int = 0
    audio: int = 0
    languages: Counter[str] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    """Of annotated regions."""

    def as_dict(self) -> dict[str, object]:
        """For JSON; what does not occur is left out."""
        return {
            name: dict(sorted(value.items(), key=lambda item: (-item[1], str(item[0])))) if isinstance(value, Counter)
            else value
            for name, value in vars(self).items() if value
        }  # fmt: skip


@dataclass(frozen=True)
class Report:
    """All findings, errors first, and what the sources hold."""

    findings: tuple[Finding, ...]
    contents: tuple[Contents, ...]
    looked_at_pixels: bool

    @property
    def errors(self) -> int:
        """How many problems should stop a training."""
        return sum(finding.count for finding in self.findings if finding.level == "error")

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "errors": self.errors,
            "findings": [finding.as_dict() for finding in self.findings],
            "sources": [contents.as_dict() for contents in self.contents],
            "pixels": self.looked_at_pixels,
        }
