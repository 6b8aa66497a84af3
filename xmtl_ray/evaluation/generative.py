"""A model's answers against the gold, all at once: accuracies (paper B, Eq. 9-10), states, and what went wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NotRequired, TypedDict

from xmtl_ray.evaluation.accuracy import Accuracy, arguments, mean_of_languages, triggers
from xmtl_ray.evaluation.confusion import Confusion, confusion
from xmtl_ray.evaluation.errors import KINDS, Finding, findings
from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.events.json_format import STATES, State, parse
from xmtl_ray.events.records import GenerativeEvent, GenerativeSample
from xmtl_ray.events.schema_prompt import parse_reasoned

ALL = "all"
"""The group of all samples, beside one per language."""


@dataclass(frozen=True)
class Scored:
    """One sample with its answer read, counted and judged."""

    sample: GenerativeSample
    output: str | None
    """The raw answer; None where there is none."""
    events: tuple[GenerativeEvent, ...]
    """What it says."""
    state: State
    reasoned: bool
    """As it was asked to, it reasons first, and its last line is the JSON; its state is ok."""
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


class Rates(TypedDict):
    """How answers are formed, percent of the group's samples."""

    samples: int
    ok: float
    repaired: float
    malformed: float
    reasoned: NotRequired[float]
    """Of them ok after reasoning; only where it was asked for."""
    cut: NotRequired[float]
    """Stopped by a limit on tokens, whatever their state; only where that is known."""


class Report(TypedDict):
    """What is printed; all of it numbers, strings and None."""

    trigger: dict[str, dict[str, float | None] | float | None]
    """Language or ``all`` → accuracies and counts; ``overall_mean_of_languages`` → percent."""
    argument: dict[str, dict[str, float | None] | float | None]
    languages: list[str]
    """Of the samples, in the order in which they come."""
    categories: dict[str, int]
    """Kind of error → samples that show it; kinds that none shows are left out."""
    states: dict[str, int]
    """``reasoned`` stands apart from ``ok`` where reasoning was asked for."""
    rates: dict[str, Rates]
    """Language, modality or ``all`` → how answers are formed."""
    samples: int
    missing: int
    """Samples without an answer; they are among the malformed."""
    pooled: dict[str, dict[str, dict[str, float]]]
    """``trigger`` or ``argument`` → language or ``all`` → counts, P, R and F1."""
    modalities: dict[str, dict[str, dict[str, float | None]]]
    """Modality → ``trigger`` or ``argument`` → accuracies and counts, of samples that name one."""
    errors: Errors
    confusion: Confusion


def score(samples: Iterable[GenerativeSample], answers: Mapping[str, str], reason: bool = False) -> list[Scored]:
    """Read, count and judge each sample's answer. One without an answer is malformed: a model that says nothing.

    ``reason``: the prompt asked for reasoning before the JSON, which is then no repair.
    """
    scored = []
    for sample in samples:
        output = answers.get(sample.id)
        text = output or ""
        parsed, reasoned = parse_reasoned(text) if reason else (parse(text), False)
        sides = sample.events, parsed.events, sample.language
        counts = {"trigger": triggers(*sides), "argument": arguments(*sides)}
        judged = findings(sample, text, parsed)
        scored.append(Scored(sample, output, parsed.events, parsed.state, reasoned, counts, judged))
    return scored


def report(
    samples: Sequence[GenerativeSample],
    answers: Mapping[str, str],
    examples: int = 3,
    *,
    reason: bool = False,
    cut: Collection[str] | None = None,
) -> Report:
    """Everything about a model's answers.

    Args:
        samples: with their gold.
        answers: raw answers by sample id.
        examples: shown of each kind of error, at most.
        reason: the prompt asked for reasoning before the JSON.
        cut: ids of samples whose answers a limit on tokens stopped; None: not known.
    """
    return summary(score(samples, answers, reason), examples, reason=reason, cut=cut)


def summary(
    scored: Sequence[Scored], examples: int = 3, *, reason: bool = False, cut: Collection[str] | None = None
) -> Report:
    """``report`` of what is scored already."""
    languages = _grouped(scored, lambda item: item.sample.language)
    modalities = _grouped((item for item in scored if item.sample.modality), lambda item: str(item.sample.modality))
    groups = {**languages, ALL: scored}
    return Report(
        trigger=_accuracies(languages, scored, "trigger"),
        argument=_accuracies(languages, scored, "argument"),
        languages=list(languages),
        categories=_kinds(scored),
        states=_states(scored, reason),
        rates={name: _rates(group, reason, cut) for name, group in {**groups, **modalities}.items()},
        samples=len(scored),
        missing=sum(item.output is None for item in scored),
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
        confusion=confusion((item.sample.events, item.events, item.sample.language) for item in scored),
    )


def _states(scored: Iterable[Scored], reason: bool) -> dict[str, int]:
    counts = Counter("reasoned" if item.reasoned else item.state for item in scored)
    return {state: counts[state] for state in (("ok", "reasoned", *STATES[1:]) if reason else STATES)}


def _rates(scored: Sequence[Scored], reason: bool, cut: Collection[str] | None) -> Rates:
    def percent(count: int) -> float:
        return round(100 * count / len(scored), 4) if scored else 0.0

    rates = Rates(
        samples=len(scored),
        ok=percent(sum(item.state == "ok" for item in scored)),
        repaired=percent(sum(item.state == "repaired" for item in scored)),
        malformed=percent(sum(item.state == "malformed" for item in scored)),
    )
    if reason:
        rates["reasoned"] = percent(sum(item.reasoned for item in scored))
    if cut is not None:
        rates["cut"] = percent(sum(item.sample.id in cut for item in scored))
    return rates


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
