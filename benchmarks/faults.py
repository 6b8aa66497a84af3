"""Faults done to real runs, F1-F20 of docs/reliability.md, and what they cost: a scoreboard in JSON and a table.

Each fault is some tests of tests/ and, as negative controls, tests that leave our mechanism out (fault_table.py says
which). They run here one fault after another, each in a process of its own, and tell their figures; nothing is measured
twice or in another way than they do. A fault is *survived* as often as its tests say, a control *shows* what is lost
without the mechanism: one that shows nothing means that the test could not fail. When a fault is over, processes that
it has left on the machine are looked for, counted, and ended.

The status is 0 if every fault was survived, every figure that should be 0 is, and every control has shown its loss.
"""

import argparse
import json
import os
import platform
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import psutil
from fault_table import FAULTS, OTHERS, TARGETS, Fault

ROOT = Path(__file__).resolve().parents[1]
MARK = "XMTL_FAULT"
"""In the environment of all that a fault starts, however deep: what has it and runs on was left over."""
EXAMPLES = """examples:
  python benchmarks/faults.py --list
  python benchmarks/faults.py F6 F15                        # checkpoints torn, promotions that race: a minute or two
  python benchmarks/faults.py --out scoreboard.json         # all of them: the better part of an hour on two cores
"""


def main() -> int:
    """Run the faults that are asked for; the process's exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("faults", nargs="*", metavar="FAULT", help="F1 to F20; none: all")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the scoreboard here, as JSON, after each fault")
    parser.add_argument("--update", action="store_true", help="keep what --out has of faults that are not run now")
    parser.add_argument(
        "--patience", type=float, default=1.0, metavar="TIMES", help="as long a fault may take; 3 on a busy machine"
    )
    parser.add_argument("--list", action="store_true", help="say what the faults are and which tests do them")
    asked = parser.parse_args()
    if unknown := [name for name in asked.faults if name not in FAULTS]:
        parser.error(f"found {', '.join(unknown)}, expected some of {', '.join(FAULTS)}")
    chosen = {name: FAULTS[name] for name in asked.faults or FAULTS}
    if asked.list:
        for name, fault in chosen.items():
            print(f"{name:4} {fault.what}")
            for test in (*fault.tests, *(f"{control}   (control)" for control in fault.controls)):
                print(f"       {test}")
        return 0
    earlier: dict[str, dict[str, Any]] = {}
    if asked.update and asked.out is not None and asked.out.exists():
        earlier = json.loads(asked.out.read_text(encoding="utf-8"))["faults"]
    results: dict[str, dict[str, Any]] = {}
    for number, (name, fault) in enumerate(chosen.items(), 1):
        print(f"{number}/{len(chosen)}  {name:4} {fault.what}", flush=True)
        results[name] = done(fault, asked.patience)
        print(f"      {told(results[name])}", flush=True)
        if asked.out is not None:
            asked.out.write_text(json.dumps(scoreboard(together(earlier, results)), indent=1) + "\n", encoding="utf-8")
    results = together(earlier, results)
    print(f"\n{table(results)}")
    return int(not scoreboard(results)["total"]["good"])


def together(earlier: dict[str, dict[str, Any]], results: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """In the table's order."""
    return {name: (earlier | results)[name] for name in FAULTS if name in earlier | results}


def done(fault: Fault, patience: float) -> dict[str, Any]:
    """Do one fault, with its controls; what came of it. It may take ``patience`` times its minutes."""
    mark, begun = secrets.token_hex(8), time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fault-") as folder:
        report, output = Path(folder) / "report.xml", Path(folder) / "output"
        nodes = [f"tests/{node}" for node in dict.fromkeys([*fault.tests, *fault.controls])]
        line = [sys.executable, "-m", "pytest", "-q", "-m", "", "-p", "no:cacheprovider", "-p", "leftovers"]
        line += ["-o", "junit_family=xunit1", f"--junitxml={report}", f"--basetemp={folder}/tests", *nodes]
        path = os.pathsep.join([str(ROOT / "tests"), str(ROOT), os.environ.get("PYTHONPATH", "")])
        environment = os.environ | {MARK: mark, "PYTHONPATH": path.rstrip(os.pathsep)}
        with output.open("wb") as out:
            process = subprocess.Popen(
                line, cwd=ROOT, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True
            )
        late = False
        try:
            process.wait(fault.minutes * patience * 60)
        except subprocess.TimeoutExpired:
            late = True
            process.kill()
            process.wait()
        left = ended(mark)
        cases = list(ElementTree.parse(report).getroot().iter("testcase")) if report.exists() else []
        result = judged(fault, cases)
        result["figures"]["processes_left"] = 0 if late else len(left)
        if late:
            result["failed"].append(f"not done within {fault.minutes * patience:g} min")
        result |= {"left": left, "minutes": round((time.monotonic() - begun) / 60, 1), "date": _now()}
        result["load"] = round(os.getloadavg()[1], 1)
        if not cases or result["failed"] or left:
            result["output"] = output.read_text(encoding="utf-8", errors="replace")[-20_000:]
    result["good"] = good(fault, result)
    return result


def ended(mark: str) -> list[str]:
    """Command lines of the processes that a fault has left on this machine, which are ended."""
    end = time.monotonic() + 60  # on a busy machine Ray takes its time to go
    while some := list(_marked(mark)):
        if time.monotonic() > end:
            break
        time.sleep(0.5)
    lines = []
    for one in some:
        try:
            lines.append(" ".join(one.cmdline())[:200])
            one.kill()
        except psutil.NoSuchProcess:
            continue
    return lines


def _marked(mark: str) -> Iterable[psutil.Process]:
    for one in psutil.process_iter(["environ", "status"]):
        if (one.info["environ"] or {}).get(MARK) == mark and one.info["status"] != psutil.STATUS_ZOMBIE:
            yield one


def judged(fault: Fault, cases: Iterable[ElementTree.Element]) -> dict[str, Any]:
    """What the tests' report says of a fault."""
    tried = survived = 0
    figures: dict[str, Any] = {}
    control: dict[str, Any] = {}
    failed, skipped = [], []
    for case in cases:
        name = case.get("name", "?")
        own = {item.get("name", ""): item.get("value", "") for item in case.iter("property")}
        passed = not any(case.find(kind) is not None for kind in ("failure", "error", "skipped"))
        if case.find("skipped") is not None:
            skipped.append(name)
            continue
        if not passed:
            failed.append(name)
        for figure, value in own.items():
            if figure.startswith("control."):
                _add(control, figure.removeprefix("control."), json.loads(value))
            elif figure in TARGETS or figure in OTHERS:
                _add(figures, figure, json.loads(value))
        if not _is_control(fault, case):
            count = int(own.get("tried", 1))
            tried += count
            survived += min(int(own.get("survived", 1)), count) if passed else 0
    return {
        "what": fault.what, "tried": tried, "survived": survived, "figures": _summed(figures),
        "control": _summed(control), "failed": failed, "skipped": skipped,
    }  # fmt: skip


def _is_control(fault: Fault, case: ElementTree.Element) -> bool:
    file, name = case.get("file", ""), case.get("name", "")
    for node in fault.controls:
        path, _, test = node.partition("::")
        if file.endswith(path) and test in {"", name, name.partition("[")[0]}:
            return True
    return False


def _add(figures: dict[str, Any], name: str, value: Any) -> None:
    figures.setdefault(name, []).extend(value if isinstance(value, list) else [value])


def _summed(figures: dict[str, list[float]]) -> dict[str, Any]:
    """One number for each figure: the sum of losses, the most of what was done again, of seconds median and worst."""
    found: dict[str, Any] = {}
    for name, values in figures.items():
        if not values:
            continue
        if name.endswith("_s"):
            found[name] = {"median": round(statistics.median(values), 3), "worst": max(values), "of": len(values)}
        else:
            found[name] = max(values) if name in OTHERS else sum(values)
    return found


def good(fault: Fault, result: dict[str, Any]) -> bool:
    """Whether it was survived, every figure is at its target, and the control has shown its loss."""
    lost = [name for name, value in result["figures"].items() if name in TARGETS and value]
    shown = any(isinstance(value, int) and value > 0 for value in result["control"].values())
    survived = 0 < result["tried"] == result["survived"]
    return survived and shown and not lost and not result["failed"]


def scoreboard(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """All of it, and what it was measured on."""
    totals: dict[str, list[float]] = {}
    for result in results.values():
        for name, value in result["figures"].items():
            totals.setdefault(name, []).extend([value["worst"]] if isinstance(value, dict) else [value])
    return {
        "format": 1,
        "date": _now(),
        "machine": {"cores": os.cpu_count(), "system": platform.platform()},
        "versions": {name: version(name) for name in ("ray", "torch", "mlflow", "deepspeed")},
        "figures": {name: text for name, text in (TARGETS | OTHERS).items() if name in totals},
        "total": {
            "faults_tried": sum(result["tried"] for result in results.values()),
            "faults_survived": sum(result["survived"] for result in results.values()),
            "figures": {name: sum(some) if name in TARGETS else max(some) for name, some in totals.items()},
            "controls_shown": sum(bool(result["control"]) for result in results.values()),
            "good": all(result["good"] for result in results.values()),
        },
        "faults": results,
    }


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.gmtime())


def told(result: dict[str, Any]) -> str:
    """One line for who waits."""
    parts = [f"survived {result['survived']} of {result['tried']}"]
    parts += [_words(name, value) for name, value in result["figures"].items() if value or name in OTHERS]
    parts += [f"control: {_words(name, value)}" for name, value in result["control"].items()]
    parts += [f"skipped: {', '.join(result['skipped'])}"] if result["skipped"] else []
    parts += [f"FAILED: {', '.join(result['failed'])}"] if result["failed"] else []
    return f"{'good' if result['good'] else 'NOT GOOD'} in {result['minutes']} min: {'; '.join(parts)}"


def _words(name: str, value: Any) -> str:
    words = name.removesuffix("_s").replace("_", " ")
    if not isinstance(value, dict):
        return f"{words} {value}"
    worst = f", worst {value['worst']:g} s of {value['of']}" if value["of"] > 1 else ""
    return f"{words} {value['median']:g} s{worst}"


def table(results: dict[str, dict[str, Any]]) -> str:
    """In Markdown."""
    lines = ["| | fault | survived | figures | without the mechanism | minutes |", "|---|---|---|---|---|---|"]
    for name, result in results.items():
        figures = result["figures"]
        zero = [one.replace("_", " ") for one, value in figures.items() if one in TARGETS and not value]
        parts = [f"0 {', '.join(zero)}"] if zero else []
        parts += [_words(one, value) for one, value in figures.items() if value]
        control = ", ".join(_words(one, value) for one, value in result["control"].items())
        mark = "" if result["good"] else " **not good**"
        survived = f"{result['survived']}/{result['tried']}{mark}"
        lines.append(
            f"| {name} | {result['what']} | {survived} | {'; '.join(parts)} | {control} | {result['minutes']} |"
        )
    total = scoreboard(results)["total"]
    lines.append(f"| | all | {total['faults_survived']}/{total['faults_tried']} | | | |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
