"""What paper B reports of VideoLLaMA2, zero-shot and fine-tuned, beside a model's own accuracies.

The surprising fact: its data are not public, so a difference to its figures is one of models, data and gold at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml

from xmtl_ray.evaluation.generative import Report

SETTINGS = ("zero-shot", "fine-tuned")
"""Tables 3 and 4."""
LANGUAGES = ("en", "zh", "es", "ru")
"""In the paper's order."""
OVERALL = "overall"
"""The mean of the languages, each weighing the same."""
SAMPLES = 80
"""Of each language in the paper's test set."""

OTHER_DATA = (
    "The data are not the same: the paper's 320 test samples are not public, so the figures of the two do not compare"
    " the models."
)
SAME_DATA = "The data are given out for the paper's own 320 test samples."


@dataclass(frozen=True)
class Pair:
    """Trigger and argument accuracy, percent; None where there is nothing to count."""

    trigger: float | None
    argument: float | None


@dataclass(frozen=True)
class Row:
    """A language, or ``overall``: own accuracies and the published ones by setting, where the paper has any."""

    language: str
    own: Pair
    published: Mapping[str, Pair]


@cache
def published() -> dict[str, dict[str, dict[str, Pair]]]:
    """Model → setting → language or ``overall`` → accuracies, as printed; models as configurations name families."""
    text = (files("xmtl_ray.evaluation") / "published_videollama2.yaml").read_text(encoding="utf-8")
    return {
        model: {
            setting: {language: Pair(*pair) for language, pair in languages.items()}
            for setting, languages in settings.items()
        }
        for model, settings in yaml.safe_load(text).items()
    }


def beside(found: Report, model: str) -> tuple[Row, ...]:
    """Own accuracies (Eq. 9-10) beside those of ``model``: the paper's languages, further own ones, overall.

    Raises ValueError for a model that the paper does not have.
    """
    if model not in published():
        raise ValueError(f"published figures: found {model!r}, expected one of {', '.join(published())}")
    own = [language for language in found["languages"] if language not in LANGUAGES]
    figures = published()[model]
    rows = [
        Row(
            language,
            Pair(_accuracy(found["trigger"], language), _accuracy(found["argument"], language)),
            {setting: figures[setting][language] for setting in SETTINGS if language in figures[setting]},
        )
        for language in (*LANGUAGES, *own)
    ]
    overall = "overall_mean_of_languages"
    own_overall = Pair(_accuracy(found["trigger"], overall), _accuracy(found["argument"], overall))
    return (*rows, Row(OVERALL, own_overall, {setting: figures[setting][OVERALL] for setting in SETTINGS}))


def _accuracy(groups: Mapping[str, dict[str, float | None] | float | None], name: str) -> float | None:
    group = groups.get(name)
    return group["accuracy_mean_of_samples"] if isinstance(group, dict) else group


def data_note(found: Report, same: bool = False) -> str:
    """The sentence that must stand with the two: whether they are of the same data.

    Raises ValueError where ``same`` is claimed of samples that are not 80 of each of the four languages.
    """
    if not same:
        return OTHER_DATA
    counts = {language: found["rates"][language]["samples"] for language in found["languages"]}
    if counts != dict.fromkeys(LANGUAGES, SAMPLES):
        raise ValueError(f"same data: found samples {counts}, expected {SAMPLES} in each of {', '.join(LANGUAGES)}")
    return SAME_DATA
