"""Runs of the smallest recipe by the command line, which tests kill: how they are begun, and what they have logged."""

import json
import sys
import time
from pathlib import Path

import processes
import psutil


def command(world: Path, folder: Path | str, *overrides: str) -> list[str]:
    """`xmtl train`, four epochs of 25 steps."""
    return [
        sys.executable, "-m", "xmtl_ray", "train", "xmtl_smoke", "name=run", f"storage_path={folder}",
        f"data.root={world}", "train.epochs=4", "multitask.rate.ae=0.2", "train.global_batch=32", *overrides,
    ]  # fmt: skip


def settings_of(*arguments) -> list[str]:
    """Those of ``command``, without the words before them."""
    return command(*arguments)[5:]


def journal(folder: Path) -> list[dict]:
    path = folder / "run" / "tracking.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []


def losses(folder: Path) -> dict[int, set[str]]:
    """Step → every loss line that was logged for it: one, unless the step was done again with another loss."""
    found: dict[int, set[str]] = {}
    for line in journal(folder):
        if "metrics" in line and "train/loss" in line["metrics"]:
            found.setdefault(line["step"], set()).add(json.dumps(line["metrics"]))
    return found


def differing(found: dict[int, set[str]], expected: dict[int, set[str]]) -> int:
    """Steps whose losses are not, digit for digit, those of the unbroken run."""
    return sum(found.get(step) != lines for step, lines in expected.items()) + len(set(found) - set(expected))


def starts(folder: Path) -> list[list[dict]]:
    """The loss lines of each start of a run, in the order in which they were logged."""
    found: list[list[dict]] = []
    for line in journal(folder):
        if line.get("status") == "RUNNING":
            found.append([])
        elif "train/loss" in line.get("metrics", {}):
            found[-1].append(line)
    return found


def redone(folder: Path) -> list[int]:
    """How many steps each start but the first did again."""
    found, last = [], 0
    for lines in starts(folder):
        if lines:
            found.append(last - lines[0]["step"] + 1)
            last = lines[-1]["step"]
    return found[1:]


def recovery_s(folder: Path, struck: list[float]) -> list[float]:
    """Seconds from each moment at which something was killed to the first step that was done after it."""
    times = [line["time_ms"] / 1000 for line in journal(folder) if "train/loss" in line.get("metrics", {})]
    begins = [lines[0]["time_ms"] / 1000 for lines in starts(folder) if lines]
    return [round(next(one for one in begins if one > moment) - moment, 1) for moment in struck if moment < times[-1]]


def committed(folder: Path) -> int:
    """Step of the newest checkpoint that has its name, 0 if there is none."""
    names = [path.name for path in (folder / "run/checkpoints").glob("checkpoint_*")]
    return int(max(names).rpartition("_s")[2]) if names else 0


def statuses(folder: Path) -> list[str]:
    return [line["status"] for line in journal(folder) if "status" in line]


def wait_for(condition, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def workers_at_work() -> list[psutil.Process]:
    """Those of this process's cluster: Ray names workers so, and puts each into its session's folder for the run."""
    found = []
    for one in processes.named("RayTrainWorker"):
        try:
            if one.cwd().endswith("/artifacts/run"):
                found.append(one)
        except psutil.NoSuchProcess:
            continue
    return found
