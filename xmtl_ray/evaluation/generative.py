"""A model's answers against the gold, all at once: accuracies (paper B, Eq. 9-10), states, and what went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from xmtl_ray.evaluation.accuracy import Accuracy, arguments, mean_of_languages, triggers
from xmtl_ray.evaluation.errors import KINDS, Finding, findings
from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.events.json_format import STATES, State, parse
from xmtl_ray.events.records import GenerativeSample

ALL = "all"
"""The group of all samples, beside one per language."""


@dataclass(frozen=True)
class Scored:
    """One sample with its answer read, counted and judged."""

    sample: GenerativeSample
    state: State
    counts: Mapping[str, Prf]
    """Of ``trigger`` and of ``argument``."""
    findings: Sequence[Finding]


class Errors(TypedDict):
    """How many samples show an error, by kind, and examples."""

    by_language: dict[str, dict[str, int]]
    by_modality: dict[str, dict[str, int]]
    details: dict[str, dict[str, int]]
    """Kind → what it leaves open → samples."""
    examples: dict[str, list[dict[str, str]]]
    """Kind → the first samples that show it: id, detail, found, expected."""


class Report(TypedDict):
    """What is printed; all of it numbers, strings and None."""

    trigger: dict[str, dict[str, float | None] | float | None]
    """Language or ``all`` → accuracies and counts; ``overall_mean_of_languages`` → percent."""
    argument: dict[str, dict[str, float | None] | float | None]
    categories: dict[str, int]
    """Kind of error → samples that show it; kinds that none shows are left out."""
    states: dict[str, int]
    samples: int
    missing: int
    """Samples without an answer; they are among the malformed."""
    pooled: dict[str, dict[str, dict[str, float]]]
    """``trigger`` or ``argument`` → language or ``all`` → counts, P, R and F1."""
    modalities: dict[str, dict[str, dict[str, float | None]]]
    """Modality → ``trigger`` or ``argument`` → accuracies and counts, of samples that name one."""
    errors: Errors


def score(samples: Iterable[GenerativeSample], answers: Mapping[str, str]) -> list[Scored]:
    """Read, count and judge each sample's answer. One without an answer is malformed: a model that says nothing."""
    scored = []
    for sample in samples:
        output = answers.get(sample.id, "")
        parsed = parse(output)
        sides = sample.events, parsed.events, sample.language
        counts = {"trigger": triggers(*sides), "argument": arguments(*sides)}
        scored.append(Scored(sample, parsed.state, counts, findings(sample, output, parsed)))
    return scored


def report(samples: Sequence[GenerativeSample], answers: Mapping[str, str], examples: int = 3) -> Report:
    """Everything about a model's answers, with up to ``examples`` of each kind of error."""
    scored = score(samples, answers)
    languages = _grouped(scored, lambda item: item.sample.language)
    modalities = _grouped((item for item in scored if item.sample.modality), lambda item: str(item.sample.modality))
    groups = {**languages, ALL: scored}
    return Report(
        trigger=_accuracies(languages, scored, "trigger"),
        argument=_accuracies(languages, scored, "argument"),
        categories=_kinds(scored),
        states={state: sum(item.state == state for item in scored) for state in STATES},
        samples=len(scored),
        missing=sum(item.sample.id not in answers for item in scored),
        pooled={
            what: {name: _accuracy(group, what).pooled.as_dict() for name, group in groups.items()}
            for what in ("trigger", "argument")
        },
        modalities={
            name: {what: _accuracy(group, what).as_dict() for what in ("trigger", "argument")}
            for name, group in modalities.items()
        },
        errors=Errors(
            by_language={name: _kinds(group) for name, group in languages.items()},
            by_modality={name: _kinds(group) for name, group in modalities.items()},
            details=_details(scored),
            examples=_examples(scored, examples),
        ),
    )


def _grouped(scored: Iterable[Scored], key: Callable[[Scored], str]) -> dict[str, list[Scored]]:
    groups = dict[str, list[Scored]]()
    for item in scored:
        groups.setdefault(key(item), []).append(item)
    return groups


def _accuracy(group: Iterable[Scored], what: str) -> Accuracy:
    return Accuracy([item.counts[what] for item in group])


def _accuracies(
    languages: Mapping[str, Sequence[Scored]], scored: Sequence[Scored], what: str
) -> dict[str, dict[str, float | None] | float | None]:
    accuracies = {name: _accuracy(group, what) for name, group in languages.items()}
    return {
        **{name: accuracy.as_dict() for name, accuracy in accuracies.items()},
        ALL: _accuracy(scored, what).as_dict(),
        "overall_mean_of_languages": mean_of_languages(accuracies.values()),
    }


def _kinds(scored: Iterable[Scored]) -> dict[str, int]:
    counts = Counter(kind for item in scored for kind in {finding.kind for finding in item.findings})
    return {kind: counts[kind] for kind in KINDS if counts[kind]}


def _details(scored: Iterable[Scored]) -> dict[str, dict[str, int]]:
    counts = Counter(pair for item in scored for pair in {(f.kind, f.detail) for f in item.findings if f.detail})
    details = dict[str, dict[str, int]]()
    for kind, detail in sorted(counts, key=lambda pair: (KINDS.index(pair[0]), pair[1])):
        details.setdefault(kind, {})[detail] = counts[kind, detail]
    return details


def _examples(scored: Iterable[Scored], most: int) -> dict[str, list[dict[str, str]]]:
    examples = {kind: list[dict[str, str]]() for kind in KINDS}
    for item in scored:
        for kind in KINDS:
            first = next((finding for finding in item.findings if finding.kind == kind), None)
            if first is not None and len(examples[kind]) < most:
                examples[kind].append(
                    {
                        "id": item.sample.id,
                        "detail": first.detail,
                        "found": shortened(first.found),
                        "expected": shortened(first.expected),
                    }
                )
    return {kind: found for kind, found in examples.items() if found}


def shortened(text: str, most: int = 160) -> str:
    """``text``, or its beginning where it has more than ``most`` letters."""
    return text if len(text) <= most else text[: most - 1] + "…"
