"""Gates: what is wrong with a file is told by field; each rule at its boundary, on counts a person can check."""

import pytest

from xmtl_ray.evaluation.m2e2 import METRICS
from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.evaluation.significance import gain
from xmtl_ray.registry import gate as gates
from xmtl_ray.registry.evidence import Evidence
from xmtl_ray.registry.gate import Gate, GateError, judge, passes, read
from xmtl_ray.registry.latency import Latency


def evidence(f1=50.0, types=None, correct=(5, 5, 5, 5), valid=None, latency=1.0, size=100):
    """Of documents with ten gold and ten predicted text events each."""
    counts = {f"d{n}": {"text_event": Prf(value, 10, 10)} for n, value in enumerate(correct)}
    metrics = {**dict.fromkeys(METRICS, f1), "trigger": f1, "argument": f1}
    took = None if latency is None else Latency(latency, latency / 2, 2 * latency, 9)
    return Evidence("7", metrics, counts, {"event_type": types or {}, "language": types or {}}, valid, took, size)


def rule(tree, *sides):
    (verdict,) = judge(Gate.model_validate(tree), *sides)
    return verdict


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("minimum: {text_evnt: 3}", r"minimum\.text_evnt: no such rule; expected one of text_event, "),
        ("minimum: {text_event: 130}", r"minimum\.text_event: found 130, expected less than or equal to 100"),
        ("minium: {}", "minium: no such rule; expected one of protocol, minimum, no_group_worse, better, json, cost"),
        ("protocol: tabel\nminimum: {text_event: 3}", "protocol: found 'tabel', expected 'table', 'strict'"),
        ("better: {metric: f1}", r"better\.metric: found 'f1', expected 'text_event'"),
        ("protocol: strict", "found no rule, expected one at least"),
        ("", "found no rule, expected one at least"),
        ("- 3", "file: found"),
        ("a: [", "not YAML"),
    ],
)
def test_a_wrong_gate_is_told_by_field(tmp_path, text, message):
    path = tmp_path / "gate.yaml"
    path.write_text(text)
    with pytest.raises(GateError, match=message) as told:
        read(path)
    assert str(path) in str(told.value)


def test_the_shipped_gate_is_one():
    gate = read(gates.Path(__file__).parents[2] / "cluster" / "gate.yaml")
    assert set(gate.asked()) == {
        *("minimum.text_event", "minimum.image_event", "no_group_worse.event_type"),
        *("better", "cost.latency", "cost.size"),
    }


def test_rules_of_another_family_are_refused():
    gate = Gate.model_validate({"json": {"valid": 99}, "minimum": {"trigger": 1}, "no_group_worse": {"language": 1}})
    with pytest.raises(GateError, match=r"minimum\.trigger, no_group_worse\.language, json: found in the gate"):
        gates.check_fits(gate, generative=False)
    gates.check_fits(gate, generative=True)
    with pytest.raises(GateError, match=r"better\.metric=mm_event"):
        gates.check_fits(Gate.model_validate({"better": {"metric": "mm_event"}}), generative=True)


def test_minimum_and_validity_hold_for_the_first_champion():
    """At the bound it passes; a rule that compares waits for a champion."""
    assert rule({"minimum": {"text_event": 50}}, evidence(50.0), None).passed
    assert not rule({"minimum": {"text_event": 50}}, evidence(49.99), None).passed
    assert rule({"json": {"valid": 99}}, evidence(valid=99.0), None).passed
    assert not rule({"json": {"valid": 99}}, evidence(valid=98.9), None).passed
    verdicts = judge(
        Gate.model_validate(
            {"better": {"metric": "text_event"}, "cost": {"size": 1}, "no_group_worse": {"language": 1}}
        ),
        evidence(),
        None,
    )
    assert [verdict.passed for verdict in verdicts] == [None] * 3 and passes(verdicts)


def test_no_group_worse():
    """Life:Die falls from F1 50 to 40: ten points are allowed, nine not; few gold items are not judged."""
    before = {"Life:Die": Prf(5, 10, 10), "Contact:Meet": Prf(3, 3, 3)}
    after = {"Life:Die": Prf(4, 10, 10), "Contact:Meet": Prf(0, 3, 3)}
    sides = evidence(types=after), evidence(types=before)
    assert rule({"no_group_worse": {"event_type": 10}}, *sides).passed
    verdict = rule({"no_group_worse": {"event_type": 9.9}}, *sides)
    assert verdict.passed is False and verdict.found == "Life:Die -10.00 (1 judged)"
    verdict = rule({"no_group_worse": {"language": 10, "gold": 3}}, *sides)
    assert verdict.passed is False and verdict.found == "Contact:Meet -100.00 (2 judged)"
    assert rule({"no_group_worse": {"event_type": 100, "gold": 11}}, *sides).passed is False


def test_better_is_a_paired_bootstrap():
    """The same gain in every document is sure, one of all gain in a single document is not, and none is none."""
    champion = evidence(correct=(5, 5, 5, 5, 5, 5, 5, 5))
    tree = {"better": {"metric": "text_event"}}
    assert rule(tree, evidence(correct=(6,) * 8), champion).found == "+10.00, lower end +10.00"
    assert rule(tree, evidence(correct=(6,) * 8), champion).passed
    uneven = rule(tree, evidence(correct=(10, 5, 5, 5, 5, 5, 5, 5)), champion)
    assert uneven.passed is False and uneven.found == "+6.25, lower end +0.00"
    assert not rule(tree, champion, champion).passed
    assert rule({"better": {"metric": "text_event", "by": -1}}, champion, champion).passed


def test_the_interval_is_that_of_a_plain_bootstrap():
    """Against drawing documents in a loop, to the noise of 4,000 draws."""
    import random

    first = {f"d{n}": {"text_event": Prf(n % 7, 8, 9)} for n in range(30)}
    second = {f"d{n}": {"text_event": Prf(n % 5, 7, 9)} for n in range(30)}
    observed, low = gain(first, second, "text_event", 0.9, 4000)
    chance, drawn = random.Random(1), []
    for _ in range(4000):
        names = chance.choices(list(first), k=30)
        sides = [sum((side[name]["text_event"] for name in names), Prf()).f1 for side in (first, second)]
        drawn.append(sides[0] - sides[1])
    assert abs(low - sorted(drawn)[400]) < 0.3 and low < observed
    assert gain({"d": first["d3"]}, {"d": second["d3"]}, "text_event")[1] == -100


def test_cost_is_in_times_the_champions():
    assert rule({"cost": {"latency": 1.5}}, evidence(latency=1.5), evidence(latency=1.0)).passed
    slower = rule({"cost": {"latency": 1.5}}, evidence(latency=1.51), evidence(latency=1.0))
    assert not slower.passed and slower.found == "1.51 times: 1.51 s (0.755–3.02) against 1 s (0.5–2)"
    assert not rule({"cost": {"latency": 1.5}}, evidence(latency=None), evidence(latency=1.0)).passed
    assert not rule({"cost": {"size": 1}}, evidence(size=101), evidence(size=100)).passed
