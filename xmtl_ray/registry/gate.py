"""What a model must show to become champion: rules in a YAML file, judged on evidence that was measured just now.

Absolute rules (``minimum``, ``json``) hold for the first champion too; the others compare with the champion and wait
until there is one. A rule about what the model's family has not is an error, not a rule that passes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationError, model_validator

from xmtl_ray.config.load import ConfigError, plain
from xmtl_ray.config.run import Positive, Section
from xmtl_ray.evaluation.protocols import PROTOCOLS
from xmtl_ray.evaluation.significance import gain
from xmtl_ray.registry.evidence import Evidence

Percent = Annotated[float, Field(ge=0, le=100)]
Points = Annotated[float, Field(ge=0, le=100)]
Times = Annotated[float, Field(gt=0)]
Metric = Literal[
    "text_event", "text_argument", "image_event", "image_argument", "mm_event", "mm_argument", "trigger", "argument"
]
"""F1 by the gate's protocol; the last two, of generative models, pooled over all samples."""


class GateError(ValueError):
    """A gate that is not one, or that does not fit the model."""


class Minimum(Section):
    """The least F1, percent; none: not asked for."""

    text_event: Percent | None = None
    text_argument: Percent | None = None
    image_event: Percent | None = None
    image_argument: Percent | None = None
    mm_event: Percent | None = None
    mm_argument: Percent | None = None
    trigger: Percent | None = None
    """Of generative models: pooled over all samples."""
    argument: Percent | None = None
    trigger_accuracy: Percent | None = None
    """Of generative models: mean of samples (Eq. 9)."""
    argument_accuracy: Percent | None = None
    """Eq. 10."""


class NoGroupWorse(Section):
    """How many points of F1 a group may lose against the champion; none: not asked for."""

    event_type: Points | None = None
    """Each event type: its triggers, and what images show of it."""
    language: Points | None = None
    """Each language, of generative models: triggers and arguments."""
    gold: Positive = 10
    """Groups with fewer gold items are not judged: a single one more or less would decide."""


class Better(Section):
    """A gain over the champion that is no accident of these documents: paired bootstrap, one-sided."""

    metric: Metric
    by: Annotated[float, Field(ge=-100, le=100)] = 0.0
    """Points of F1 that the gain must exceed; below 0: not worse by more than that."""
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    """The gain's lower end holds with it."""
    resamples: Annotated[int, Field(ge=100, le=100_000)] = 2000


class Json(Section):
    """How answers of a generative model must be formed."""

    valid: Percent = 100.0
    """Share that is event JSON as it stands, percent."""


class Cost(Section):
    """What the model may cost, as times the champion's."""

    latency: Times | None = None
    """Median seconds for a document, measured here and now by turns: both models must fit the machine at once."""
    size: Times | None = None
    """Bytes of the model's folder, without an adapter's base."""


class Gate(Section):
    """All rules; every one that is given must hold."""

    protocol: Literal[*PROTOCOLS] = "table"  # type: ignore[valid-type]
    """M2E2's, of X-MTL's metrics."""
    minimum: Minimum = Minimum()
    no_group_worse: NoGroupWorse = NoGroupWorse()
    better: Better | None = None
    json_answers: Annotated[Json | None, Field(alias="json")] = None
    cost: Cost = Cost()

    @model_validator(mode="after")
    def _rules(self) -> Self:
        if not any(True for _ in self.asked()):
            raise ValueError("found no rule, expected one at least: such a gate would let everything pass")
        return self

    def asked(self) -> Iterator[str]:
        """Dotted paths of the rules that are given."""
        for path, section in (("minimum", self.minimum), ("no_group_worse", self.no_group_worse), ("cost", self.cost)):
            for name, value in section:
                if value is not None and name != "gold":
                    yield f"{path}.{name}"
        yield from ("better",) * (self.better is not None)
        yield from ("json",) * (self.json_answers is not None)


@dataclass(frozen=True)
class Verdict:
    """What came of one rule."""

    rule: str
    passed: bool | None
    """None: there is no champion to compare with."""
    found: str
    expected: str

    def __str__(self) -> str:
        if self.passed is None:
            return f"{self.rule}: no champion yet"
        if self.passed:
            return f"{self.rule}: {self.found}"
        return f"{self.rule} FAILED: found {self.found}, expected {self.expected}"


def read(path: Path) -> Gate:
    """A gate's file. Raises GateError, which names the file and every wrong field."""
    try:
        tree = plain(path.read_text(encoding="utf-8"), str(path))
        return Gate.model_validate({} if tree is None else tree)
    except ConfigError as error:
        raise GateError(str(error)) from None
    except UnicodeDecodeError as error:
        raise GateError(f"{path}: not YAML: {error}") from None
    except ValidationError as error:
        raise GateError("\n".join(f"{path}: {line}" for line in _lines(error))) from None


def _lines(error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False):
        place = ".".join(map(str, item["loc"]))
        if item["type"] == "extra_forbidden":
            section = Gate.model_fields.get(str(item["loc"][0])) if len(item["loc"]) > 1 else None
            fields = {"minimum": Minimum, "no_group_worse": NoGroupWorse, "better": Better, "json": Json, "cost": Cost}
            kind = fields.get(str(item["loc"][0]), Gate) if section or len(item["loc"]) > 1 else Gate
            names = [field.alias or name for name, field in kind.model_fields.items()]
            yield f"{place}: no such rule; expected one of {', '.join(names)}"
        elif item["type"] == "value_error":
            yield f"{place + ': ' if place else ''}{item['msg'].removeprefix('Value error, ')}"
        else:
            yield f"{place or 'file'}: found {item['input']!r}, expected {item['msg'].removeprefix('Input should be ')}"


def check_fits(gate: Gate, generative: bool) -> None:
    """Raises GateError for rules about what such a model has not."""
    own = {"trigger", "argument", "trigger_accuracy", "argument_accuracy"}
    rules = [name for name, value in gate.minimum if value is not None and (name in own) != generative]
    foreign = [f"minimum.{name}" for name in rules]
    if gate.better is not None and (gate.better.metric in own) != generative:
        foreign.append(f"better.metric={gate.better.metric}")
    if not generative and gate.no_group_worse.language is not None:
        foreign.append("no_group_worse.language")
    if not generative and gate.json_answers is not None:
        foreign.append("json")
    if foreign:
        kind = "a generative model" if generative else "X-MTL"
        raise GateError(f"{', '.join(foreign)}: found in the gate, expected rules that {kind} has something for")


def judge(gate: Gate, challenger: Evidence, champion: Evidence | None) -> list[Verdict]:
    """What comes of each rule that is given; the challenger passes if none has failed."""
    found = []
    for name, least in gate.minimum:
        if least is not None:
            value = challenger.metrics[name]
            found.append(Verdict(f"minimum.{name}", value >= least, f"{value:.2f}", f"at least {least:g}"))
    if gate.json_answers is not None:
        least, valid = gate.json_answers.valid, challenger.valid or 0.0
        found.append(Verdict("json.valid", valid >= least, f"{valid:.2f} %", f"at least {least:g} %"))
    for kind in ("event_type", "language"):
        most = getattr(gate.no_group_worse, kind)
        if most is not None:
            found.append(_groups(kind, most, gate.no_group_worse.gold, challenger, champion))
    if gate.better is not None:
        found.append(_better(gate.better, challenger, champion))
    for name, most in (("latency", gate.cost.latency), ("size", gate.cost.size)):
        if most is not None:
            found.append(_cost(name, most, challenger, champion))
    return found


def passes(verdicts: list[Verdict]) -> bool:
    """Whether no rule has failed."""
    return all(verdict.passed is not False for verdict in verdicts)


def _groups(kind: str, most: float, gold: int, challenger: Evidence, champion: Evidence | None) -> Verdict:
    rule, expected = f"no_group_worse.{kind}", f"no {kind.replace('_', ' ')} more than {most:g} points below"
    if champion is None:
        return Verdict(rule, None, "no champion", expected)
    losses = {}
    for name, counts in champion.groups[kind].items():
        if counts.gold >= gold:
            losses[name] = (
                counts.f1 - challenger.groups[kind][name].f1 if name in challenger.groups[kind] else counts.f1
            )
    if not losses:
        return Verdict(rule, False, f"no {kind.replace('_', ' ')} with {gold} gold items", expected)
    worst = sorted(losses, key=lambda name: -losses[name])
    over = [name for name in worst if losses[name] > most]
    shown = over or worst[:1]
    told = ", ".join(f"{name} {-losses[name]:+.2f}" for name in shown)
    return Verdict(rule, not over, f"{told} ({len(losses)} judged)", expected)


def _better(spec: Better, challenger: Evidence, champion: Evidence | None) -> Verdict:
    expected = f"more than {spec.by:+g} points of {spec.metric} with {100 * spec.confidence:g} % confidence"
    if champion is None:
        return Verdict("better", None, "no champion", expected)
    observed, low = gain(challenger.counts, champion.counts, spec.metric, spec.confidence, spec.resamples)
    return Verdict("better", low > spec.by, f"{observed:+.2f}, lower end {low:+.2f}", expected)


def _cost(name: str, most: float, challenger: Evidence, champion: Evidence | None) -> Verdict:
    rule, expected = f"cost.{name}", f"at most {most:g} times the champion's"
    if champion is None:
        return Verdict(rule, None, "no champion", expected)
    if name == "size":
        mine, theirs = challenger.size_bytes / 2**20, champion.size_bytes / 2**20
        told = f"{mine:.3g} MiB against {theirs:.3g} MiB"
    elif challenger.latency is None or champion.latency is None:
        return Verdict(rule, False, "too few documents to measure it", expected)
    else:
        mine, theirs = challenger.latency.median_s, champion.latency.median_s
        told = f"{challenger.latency} against {champion.latency}"
    times = mine / theirs if theirs else float("inf")
    return Verdict(rule, times <= most, f"{times:.2f} times: {told}", expected)
