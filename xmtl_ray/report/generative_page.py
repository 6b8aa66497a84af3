"""The page about a language model's answers: accuracies beside paper B's, their form, what went wrong, types confused.

Sources, gold and answers are shown as text, whatever they say: the template escapes all of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xmtl_ray.evaluation.errors import KINDS, Kind
from xmtl_ray.evaluation.generative import ALL, Rates, Report, Scored, shortened
from xmtl_ray.evaluation.published import OVERALL, SETTINGS, Pair, beside, data_note
from xmtl_ray.events.records import GenerativeEvent
from xmtl_ray.report import answer_scores
from xmtl_ray.report.answer_marks import Piece, pieces
from xmtl_ray.report.confusion_heat import Cell, heat
from xmtl_ray.report.pictures import Framed, framed
from xmtl_ray.report.templates import render

LANGUAGES = {"en": "English", "zh": "Chinese", "es": "Spanish", "ru": "Russian", OVERALL: "mean of languages"}
MODELS = {"videollama2": "VideoLLaMA2", "videollama21": "VideoLLaMA2.1"}
_SOURCE, _ANSWER = 700, 1500
"""Letters of an example that are shown."""


@dataclass(frozen=True)
class Example:
    """A sample that shows an error."""

    id: str
    group: str
    """Its language and modality."""
    told: str
    """What the error is: found and expected, as far as there are both."""
    source: tuple[Piece, ...]
    """What it was asked about, with the triggers and arguments of gold and answer."""
    gold: tuple[str, ...]
    answer: str | None
    frame: Framed | None = None
    """What it was shown, where that is an image at hand."""


@dataclass(frozen=True)
class Group:
    """All samples, or those of a language or a modality."""

    name: str
    label: str
    own: Pair
    rates: Rates
    first: bool
    """Of the languages, or of the modalities."""


@dataclass(frozen=True)
class Accuracies:
    """A line of the table: of ours, and of each model's settings."""

    label: str
    own: Pair
    others: tuple[Pair, ...]
    last: bool


def write_page(
    path: Path,
    title: str,
    scored: Sequence[Scored],
    found: Report,
    models: Sequence[str] = tuple(MODELS),
    *,
    same_data: bool = False,
    shown: int = 4,
) -> None:
    """Write one HTML file that needs neither network nor scripts.

    Args:
        path: the file.
        title: the answers' name.
        scored: the samples with their answers.
        found: the report on the same.
        models: whose published figures stand beside, one at least; see ``published``.
        same_data: the samples are the paper's own.
        shown: examples of each kind of error, at most.

    Raises ValueError for an unknown model, and for ``same_data`` of other samples.
    """
    page = render("generative.html", title=title, **sections(scored, found, models, same_data=same_data, shown=shown))
    path.write_text(page, encoding="utf-8")


def sections(
    scored: Sequence[Scored],
    found: Report,
    models: Sequence[str],
    *,
    same_data: bool = False,
    shown: int = 4,
    images: Mapping[str, Path] | None = None,
    scores: answer_scores.Scores | None = None,
) -> dict[str, object]:
    """What ``answers.html`` shows, on a page of its own or a run's; see ``write_page``.

    ``images`` are files by the samples' ids; examples show them. ``scores`` are those of ``scored``, where they are at
    hand.
    """
    groups = _groups(found)
    return {
        "facts": _facts(found),
        "models": [MODELS.get(model, model) for model in models],
        "published_settings": SETTINGS,
        "accuracies": _accuracies(found, models),
        "note": data_note(found, same_data),
        "scores": scores or answer_scores.scores(scored),
        "languages": LANGUAGES,
        "groups": groups,
        "forms": [form for form in ("ok", "reasoned", "repaired", "malformed", "cut") if form in found["rates"][ALL]],
        "errors": _errors(found, groups),
        "examples": _examples(scored, shown, images or {}),
        "heat": heat(found["confusion"]),
    }


def _facts(found: Report) -> list[tuple[str, str]]:
    samples = ", ".join(f"{found['rates'][name]['samples']:,} {name}" for name in found["languages"])
    states = ", ".join(f"{count:,} {state}" for state, count in found["states"].items())
    facts = [("Samples", f"{found['samples']:,}" + (f": {samples}" if samples else "")), ("Answers", states)]
    if found["missing"]:
        facts.append(("Without an answer", f"{found['missing']:,}, counted as malformed"))
    pooled = found["pooled"]
    for side in ("trigger", "argument"):
        scores = pooled[side][ALL]
        told = f"P {scores['P']:.1f}, R {scores['R']:.1f}, F1 {scores['F1']:.1f}"
        facts.append((f"{side.capitalize()}s, pooled", told))
    return facts


def _accuracies(found: Report, models: Sequence[str]) -> list[Accuracies]:
    settings = [(model, setting) for model in models for setting in SETTINGS]
    lines = []
    for rows in zip(*(beside(found, model) for model in models), strict=True):
        published = {model: row.published for model, row in zip(models, rows, strict=True)}
        name = rows[0].language
        others = tuple(published[model].get(setting, Pair(None, None)) for model, setting in settings)
        lines.append(Accuracies(LANGUAGES.get(name, name), rows[0].own, others, name == OVERALL))
    return lines


def _groups(found: Report) -> list[Group]:
    languages = {name: (found["trigger"][name], found["argument"][name]) for name in found["languages"]}
    modalities = {name: (sides["trigger"], sides["argument"]) for name, sides in found["modalities"].items()}
    groups = [Group(ALL, "all", _pair(found["trigger"][ALL], found["argument"][ALL]), found["rates"][ALL], False)]
    for kind in (languages, modalities):
        for place, (name, sides) in enumerate(kind.items()):
            groups.append(Group(name, LANGUAGES.get(name, name), _pair(*sides), found["rates"][name], not place))
    return groups


def _pair(*sides: Mapping[str, float | None] | float | None) -> Pair:
    return Pair(*(side["accuracy_mean_of_samples"] if isinstance(side, Mapping) else side for side in sides))


def _errors(found: Report, groups: Iterable[Group]) -> list[tuple[str, tuple[Cell, ...], tuple[tuple[str, int], ...]]]:
    """Kind, its counts in each group, and what it leaves open."""
    errors = found["errors"]
    by_group = {ALL: found["categories"], **errors["by_language"], **errors["by_modality"]}
    lines = []
    for kind in found["categories"]:
        counts = [(by_group[group.name].get(kind, 0), max(1, group.rates["samples"])) for group in groups]
        cells = tuple(Cell(count, 100 * count / samples) for count, samples in counts)
        lines.append((words(kind), cells, tuple(errors["details"].get(kind, {}).items())))
    return lines


def words(kind: str) -> str:
    """``wrong_type`` → ``wrong type``."""
    return kind.replace("_", " ").replace("json", "JSON")


def _examples(scored: Iterable[Scored], most: int, images: Mapping[str, Path]) -> list[tuple[str, int, list[Example]]]:
    """Kind, samples that show it, and the first ones, of as many languages and modalities as there are."""
    showing = {kind: list[Scored]() for kind in KINDS}
    for item in scored:
        for kind in {finding.kind for finding in item.findings}:
            showing[kind].append(item)
    return [
        (words(kind), len(items), [_example(item, kind, images.get(item.sample.id)) for item in _spread(items, most)])
        for kind, items in showing.items()
        if items
    ]


def _spread(items: Sequence[Scored], most: int) -> list[Scored]:
    """The first of each language and modality, then their second ones, in the order of the samples."""
    seen = Counter[tuple[str, str | None]]()
    ranked = []
    for place, item in enumerate(items):
        group = item.sample.language, item.sample.modality
        ranked.append((seen[group], place))
        seen[group] += 1
    return [items[place] for _, place in sorted(ranked)[:most]]


def _example(item: Scored, kind: Kind, image: Path | None) -> Example:
    sample = item.sample
    finding = next(finding for finding in item.findings if finding.kind == kind)
    parts = (shortened(finding.found), shortened(finding.expected))
    told = "" if kind == "malformed_json" else " → ".join(part or "nothing" for part in parts)
    return Example(
        sample.id,
        ", ".join(part for part in (LANGUAGES.get(sample.language, sample.language), sample.modality) if part),
        f"{finding.detail}: {told}" if finding.detail else told,
        pieces(shortened(sample.source, _SOURCE), sample.events, item.events, sample.language),
        tuple(map(told_event, sample.events)),
        None if item.output is None else shortened(item.output, _ANSWER),
        None if image is None else framed(image, (), {}),
    )


def told_event(event: GenerativeEvent) -> str:
    """An event on one line.

    >>> told_event(GenerativeEvent("buy", "bought", (("agent", "Labs"),)))
    'buy: bought (agent: Labs)'
    """
    arguments = "; ".join(f"{role}: {text}" for role, text in event.arguments)
    return f"{event.event_type}: {event.trigger}" + (f" ({arguments})" if arguments else "")
