"""Precision, recall and F1 from three counts: the only F1 in the package."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prf:
    """Counts of correct, predicted and gold items. They add up over documents, which gives micro averages.

    Precision, recall and F1 are in percent; one whose denominator is zero is 0. Where a protocol counts one item as
    correct for several others, they can pass 100.
    """

    correct: int = 0
    predicted: int = 0
    gold: int = 0

    def __add__(self, other: Prf) -> Prf:
        return Prf(self.correct + other.correct, self.predicted + other.predicted, self.gold + other.gold)

    @property
    def precision(self) -> float:
        """Correct of predicted, percent."""
        return 100 * self.correct / self.predicted if self.predicted else 0.0

    @property
    def recall(self) -> float:
        """Correct of gold, percent."""
        return 100 * self.correct / self.gold if self.gold else 0.0

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, percent: 2 correct / (predicted + gold)."""
        total = self.predicted + self.gold
        return 200 * self.correct / total if total else 0.0

    def as_dict(self) -> dict[str, float]:
        """Counts, and P, R and F1 in percent, rounded to four decimals."""
        return {
            "correct": self.correct,
            "predicted": self.predicted,
            "gold": self.gold,
            "P": round(self.precision, 4),
            "R": round(self.recall, 4),
            "F1": round(self.f1, 4),
        }
