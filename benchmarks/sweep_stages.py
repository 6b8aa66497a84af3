"""What a sweep shares: 12 thresholds as one sweep and as 12 pipelines: ``python benchmarks/sweep_stages.py [TRIALS]``.

A small miniature world, the recipe ``xmtl_full_smoke``. The sweep trains four teachers and labels the pairs once, then
trains X-MTL at TRIALS thresholds from one store. Separate pipelines do all of it for each; as they are all alike but
for the threshold, one of them is run for real, by ``xmtl run``'s own code, and counted TRIALS times (``--all`` runs
every one). Work is seconds of processes that train or label, stage by stage and trial by trial, so that what runs side
by side counts in full; starting Ray is in neither.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import yaml

from xmtl_ray.cluster.connection import cluster, set_environment
from xmtl_ray.config.load import load
from xmtl_ray.data.world import write_world
from xmtl_ray.pipeline.launch import run_pipeline
from xmtl_ray.pipeline.running import Watcher
from xmtl_ray.tuning import plan, space, sweep

FIXED = {"data.check": "none", "tracking.enabled": False}
TASKS = ("td", "ae", "vc", "rc")


def thresholds(count: int) -> list[float]:
    """From 0.3, the floor of the recipe's store, by hundredths."""
    return [round(0.3 + number / 100, 2) for number in range(count)]


def swept(root: Path, count: int) -> tuple[float, float]:
    """(seconds of stages that all share, seconds of trials)."""
    first, *others = (f"multitask.pseudo.threshold.{task}" for task in TASKS)
    body = {
        "recipe": "xmtl_full_smoke",
        "name": "thresholds",
        "metric": "dev/mean_f1",
        "search": "grid",
        "fixed": {**FIXED, "data.root": str(root / "world"), "storage_path": str(root / "swept")},
        "space": {first: {"grid": thresholds(count)}, **{other: {"equals": first} for other in others}},
    }
    path = root / "space.yaml"
    path.write_text(yaml.safe_dump(body), encoding="utf-8")
    trials = sweep.sweep(plan.prepare(space.load(str(path))))
    assert all(trial.state == "finished" for trial in trials)
    return sum(stage_seconds(root / "swept").values()), sum(trial.seconds for trial in trials)


def piped(root: Path, values: list[float]) -> float:
    """Seconds of the stages of separate pipelines, extraction and scores left out, which trials do not do."""
    total = 0.0
    for value in values:
        storage = root / f"pipeline-{value:g}"
        settings = [f"{path}={str(one).lower()}" for path, one in FIXED.items()]
        settings += [f"multitask.pseudo.threshold.{task}={value}" for task in TASKS]
        config = load("xmtl_full_smoke", [*settings, f"data.root={root / 'world'}", f"storage_path={storage}"])
        assert run_pipeline(config, Watcher()).good
        total += sum(seconds for kind, seconds in stage_seconds(storage).items() if kind not in {"extract", "score"})
    return total


def stage_seconds(storage: Path) -> dict[str, float]:
    """Kind → seconds of each stage."""
    records = [json.loads(path.read_text()) for path in storage.glob("stages/*/stage.json")]
    return {record["kind"]: record["seconds"] for record in records}


def main(count: int, every: bool) -> None:
    """Print both and their ratio."""
    os.environ["OMP_NUM_THREADS"] = "1"
    set_environment()
    with tempfile.TemporaryDirectory() as folder, cluster(2, dashboard=True, quiet=True):
        root = Path(folder)
        write_world(root / "world", 0, "small", pairs=300)
        began = time.monotonic()
        shared, trials = swept(root, count)
        wall = time.monotonic() - began
        print(f"sweep of {count}: shared stages {shared:.0f} s, trials {trials:.0f} s; in {wall:.0f} s", flush=True)
        values = thresholds(count) if every else thresholds(1)
        one = piped(root, values) / len(values)
        told = "" if every else f", one of them measured ({one:.0f} s)"
        print(f"{count} pipelines: {count * one:.0f} s{told}")
        print(f"work of {count} pipelines / work of the sweep: {count * one / (shared + trials):.2f}")


if __name__ == "__main__":
    numbers = [int(argument) for argument in sys.argv[1:] if argument.isdigit()]
    main(numbers[0] if numbers else 12, "--all" in sys.argv)
