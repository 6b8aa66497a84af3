"""The table of faults: F1-F20 are all there, their tests exist, and the scoreboard is what the tests have told."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import faults
from fault_table import FAULTS, OTHERS, TARGETS, Fault

ROOT = Path(__file__).resolve().parents[1]


def functions(path):
    """Names of the tests of a file, those of classes with their class."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        inside = node.body if isinstance(node, ast.ClassDef) else [node]
        prefix = f"{node.name}::" if isinstance(node, ast.ClassDef) else ""
        found |= {f"{prefix}{one.name}" for one in inside if isinstance(one, ast.FunctionDef)}
    return found


def test_every_fault_is_done_and_has_a_control():
    assert list(FAULTS) == [f"F{number}" for number in range(1, 21)]
    for name, fault in FAULTS.items():
        recorded = any("control." in (ROOT / "tests" / node.partition("::")[0]).read_text() for node in fault.tests)
        assert fault.tests and (fault.controls or recorded), name


@pytest.mark.parametrize("node", sorted({node for one in FAULTS.values() for node in (*one.tests, *one.controls)}))
def test_every_test_of_the_table_exists(node):
    file, _, name = node.partition("::")
    assert (ROOT / "tests" / file).is_file()
    assert not name or name.partition("[")[0] in functions(ROOT / "tests" / file)


def case(name, file="tests/a/test_a.py", outcome=None, **properties):
    """An entry of pytest's report."""
    found = ElementTree.Element("testcase", {"name": name, "file": file})
    told = ElementTree.SubElement(found, "properties")
    for one, value in properties.items():
        ElementTree.SubElement(told, "property", {"name": one.replace("__", "."), "value": json.dumps(value)})
    if outcome is not None:
        ElementTree.SubElement(found, outcome)
    return found


FAULT = Fault("something", ("a/test_a.py::test_one", "a/test_a.py::test_two"), ("a/test_a.py::test_without",))
FINE = [
    case("test_one[x]", tried=8, survived=8, steps_redone=2, rows_lost=0, recovery_s=[3.0, 1.0, 8.0]),
    case("test_two", steps_redone=5, rows_lost=0),
    case("test_without", control__rows_lost=50),
]


def test_figures_are_those_of_the_tests():
    """Nine faults, the most of steps, the median of seconds; the control is not counted among the survived."""
    found = faults.judged(FAULT, FINE)
    assert (found["tried"], found["survived"], found["failed"]) == (9, 9, [])
    recovery = {"median": 3.0, "worst": 8.0, "of": 3}
    assert found["figures"] == {"steps_redone": 5, "rows_lost": 0, "recovery_s": recovery}
    assert found["control"] == {"rows_lost": 50} and faults.good(FAULT, found)
    (line,) = [
        line for line in faults.table({"F1": {**found, "good": True, "minutes": 1}}).splitlines() if "F1" in line
    ]
    assert "| 9/9 | 0 rows lost; steps redone 5; recovery 3 s, worst 8 s of 3 | rows lost 50 |" in line


@pytest.mark.parametrize(
    ("worse", "survived"),
    [
        (case("test_two", outcome="failure", rows_lost=0), 8),
        (case("test_two", rows_lost=1), 9),
        (case("test_two", tried=3, survived=2), 10),
    ],
    ids=["failed", "a row lost", "not survived"],
)
def test_what_is_not_good(worse, survived):
    found = faults.judged(FAULT, [FINE[0], worse, FINE[2]])
    assert found["survived"] == survived and not faults.good(FAULT, found)


def test_a_control_that_shows_nothing_is_not_good():
    """Nor one that was not run."""
    for control in ([], [case("test_without", control__rows_lost=0)], [case("test_without", outcome="skipped")]):
        assert not faults.good(FAULT, faults.judged(FAULT, [*FINE[:2], *control]))


def test_figures_are_known():
    """What a test records under another name would be dropped."""
    names = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "record_property":
                names |= {node.args[0].value} if isinstance(node.args[0], ast.Constant) else set()
    known = {*TARGETS, *OTHERS, "tried", "survived"}
    assert {name for name in names if not name.startswith("control.")} <= known


@pytest.mark.slow
def test_a_fault_is_done(tmp_path):
    """One of seconds, by the command: what it prints, what it writes, and its status."""
    out = tmp_path / "scoreboard.json"
    line = [sys.executable, str(ROOT / "benchmarks" / "faults.py"), "F11", "--out", str(out)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1/1  F11" in done.stdout and "| F11 |" in done.stdout and "control: commits lost 1" in done.stdout
    found = json.loads(out.read_text())
    assert found["faults"]["F11"]["tried"] == found["total"]["faults_survived"] == 3
    assert found["total"]["good"] and found["total"]["figures"]["processes_left"] == 0
    refused = subprocess.run([*line[:2], "F21"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2 and "found F21, expected some of F1, F2" in refused.stderr
