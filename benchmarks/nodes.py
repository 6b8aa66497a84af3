"""What a second node costs: the same training with one worker, two on a node, one on each of two nodes.

Nodes are Ray nodes on this machine (tests/cluster/ray_nodes.py): started by cluster/on-premises with token and TLS, in
network namespaces with addresses of their own, then once more as plain processes. Every variant is a whole `xmtl train`
on the miniature world with the same global batches, and its losses must be those of the others: of the variants with
two workers digit for digit, else to float tolerance; or the script ends with status 1.

On a machine of few cores two workers are no faster than one. So look at work, not at speed: ``CPU ms`` is the CPU time
of all workers together in a step, and ``work`` what one worker alone takes of it (1: a second worker or node costs
nothing). ``outside`` is what a step takes besides forward pass, backward pass (the exchange of gradients in it) and
optimizer: batches, journal, the mean losses of all workers. ``exchange`` is one sum of as many numbers as there are
weights over all workers, alone, and ``checkpoint`` one commit by all workers. ``start`` is from the command to the
first step, ``end`` from the last step to the command's end (dev scores, checkpoint, model, page). Times are medians and
depend on what else the machine does; see the load average beside them, and the ratios below.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "cluster")]

EXAMPLES = """examples:
  python benchmarks/nodes.py                       # the smoke model; some minutes on two idle cores
  python benchmarks/nodes.py --json nodes.json engine.name=deepspeed engine.zero_stage=2
  python benchmarks/nodes.py --repetitions 3 train.global_batch=160
"""
ONE = ["cluster.workers=1", "cluster.cpus_per_worker=1"]
TWO = ["cluster.workers=2", "cluster.cpus_per_worker=1"]
APART = ["cluster.workers=2", "cluster.cpus_per_worker=1.5"]
"""A node has two CPUs, so a second worker finds no room there; each has one thread."""
VARIANTS = {
    "one worker": (True, ONE, [1]),
    "two, one node": (True, TWO, [2]),
    "two nodes": (True, APART, [1, 1]),
    "two nodes, no namespaces": (False, APART, [1, 1]),
}
"""Whether nodes are in namespaces, settings, workers of each node that has some."""
FIXED = [
    "data.test=null", "model.built_text.dropout=0", "model.shared.dropout=0", "tracking.enabled=false",
    "multitask.rate.ae=0.2", "train.eval_every_epochs=1000", "train.checkpoint_every_steps=10",
]  # fmt: skip
SUMS = 10
"""Exchanges that are timed."""
MS = ("step", "outside", "cpu", "cpu_outside", "exchange")
RATIOS = {
    "two nodes to two workers on one": ("two nodes", "two, one node"),
    "namespaces to none": ("two nodes", "two nodes, no namespaces"),
    "two workers to one": ("two, one node", "one worker"),
}


def timed(settings: dict[str, Any]) -> dict[str, Any]:
    """Runs in each worker: `xmtl train`'s own part, with a clock around each step; leaves ``steps_RANK.json``."""
    import ray.train
    import torch
    import torch.distributed as dist

    from xmtl_ray.training import engine
    from xmtl_ray.training.worker import RayContext, train_worker

    steps: list[list[float]] = []
    sizes: list[int] = []
    commits: list[float] = []

    def report(self: Any, *arguments: Any, plain: Any = RayContext.report) -> None:
        start = time.time()
        plain(self, *arguments)
        commits.append(time.time() - start)

    RayContext.report = report  # type: ignore[method-assign]
    for kind in (engine.Ddp, engine.DeepSpeed):

        def step(self: Any, *arguments: Any, plain: Any = kind.step) -> Any:
            start, cpu = time.time(), time.process_time()
            found = plain(self, *arguments)
            steps.append([start, time.time(), cpu, time.process_time()])
            if not sizes:
                sizes.append(sum(one.numel() for one in self.objective.parameters() if one.requires_grad))
            return found

        kind.step = step  # type: ignore[method-assign]
    summary = train_worker(settings)
    numbers, sums = torch.zeros(sizes[0]), []
    if dist.is_initialized() and dist.get_world_size() > 1:
        for _ in range(SUMS + 2):
            dist.barrier()
            start = time.time()
            dist.all_reduce(numbers)
            sums.append(time.time() - start)
    context = ray.train.get_context()
    told = {"steps": steps, "weights": sizes[0], "sums": sums[2:], "commits": commits}
    told["node"] = ray.get_runtime_context().get_node_id()
    path = Path(settings["storage_path"]) / settings["name"] / f"steps_{context.get_world_rank()}.json"
    path.write_text(json.dumps(told), encoding="utf-8")
    return summary


def child(recipe: str, overrides: list[str]) -> None:
    """A driver: `xmtl train` with clocks."""
    from xmtl_ray.cluster.connection import set_environment

    set_environment()
    from xmtl_ray.config.load import load
    from xmtl_ray.training import launch, worker

    worker.train_worker = timed
    launch.launch(load(recipe, overrides))


def run(nodes: Any, name: str, recipe: str, overrides: list[str], folder: Path) -> dict[str, Any]:
    """One training; what its workers noted."""
    begun = time.time()
    command = [sys.executable, __file__, "--child", "--recipe", recipe, *overrides]
    driver = nodes.start(*command, f"storage_path={folder}", f"name={name}")
    printed, _ = driver.communicate()
    ended = time.time()
    if driver.returncode:
        sys.exit(f"{name} failed:\n{printed[-3000:]}")
    workers = [json.loads(path.read_text()) for path in sorted((folder / name).glob("steps_*.json"))]
    lines = map(json.loads, (folder / name / "tracking.jsonl").read_text(encoding="utf-8").splitlines())
    losses = [line["metrics"]["train/loss"] for line in lines if "train/loss" in line.get("metrics", {})]
    return {"begun": begun, "ended": ended, "workers": workers, "losses": losses, "load": os.getloadavg()[0]}


def figures(found: dict[str, Any]) -> dict[str, Any]:
    """Medians over the steps but for the first quarter, in seconds; times of the clock are rank 0's."""
    first, *_ = found["workers"]
    skipped = len(first["steps"]) // 4
    pairs = [list(itertools.pairwise(worker["steps"][skipped:])) for worker in found["workers"]]
    cpu = [sum(after[2] - before[2] for before, after in step) for step in zip(*pairs, strict=True)]
    cpu_outside = [sum(after[2] - before[3] for before, after in step) for step in zip(*pairs, strict=True)]
    return {
        "steps": len(first["steps"]),
        "step_s": statistics.median(after[0] - before[0] for before, after in pairs[0]),
        "outside_s": statistics.median(after[0] - before[1] for before, after in pairs[0]),
        "cpu_s": statistics.median(cpu),
        "cpu_outside_s": statistics.median(cpu_outside),
        "exchange_s": statistics.median(first["sums"]) if first["sums"] else 0.0,
        "checkpoint_s": statistics.median(first["commits"]),
        "start_s": first["steps"][0][0] - found["begun"],
        "end_s": found["ended"] - first["steps"][-1][1],
        "load": found["load"],
    }


def measured(arguments: argparse.Namespace, folder: Path, wanted: set[str]) -> dict[str, list[dict[str, Any]]]:
    """Runs of each variant, in turn."""
    import ray_nodes

    from xmtl_ray.data.world import write_world

    write_world(folder / "world", seed=0, size="small")
    shared = [f"data.root={folder / 'world'}", f"train.epochs={arguments.epochs}", *FIXED, *arguments.overrides]
    runs: dict[str, list[dict[str, Any]]] = {}
    for apart in (True, False):
        names = [name for name, (there, _, _) in VARIANTS.items() if there == apart and name in wanted]
        if not names:
            continue
        begun = time.time()
        with ray_nodes.cluster(2, 2, apart=apart) as nodes:
            print(f"head and two nodes: {time.time() - begun:.0f} s", file=sys.stderr, flush=True)
            if apart and not nodes.apart:
                print("no network namespaces here: nodes are plain processes", file=sys.stderr)
            for number in range(arguments.repetitions):
                for name in names:
                    _, settings, places = VARIANTS[name]
                    run_name = f"{name.replace(',', '').replace(' ', '-')}-{number}"
                    found = run(nodes, run_name, arguments.recipe, [*shared, *settings], folder)
                    by_node = [worker["node"] for worker in found["workers"]]
                    assert sorted(by_node.count(node) for node in set(by_node)) == places, by_node
                    found["namespaces"] = nodes.apart
                    runs.setdefault(name, []).append(found)
                    print(f"  {name}: {figures(found)['step_s'] * 1000:.0f} ms a step", file=sys.stderr, flush=True)
    return runs


def differences(runs: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    """Largest relative difference of a loss from the first run of one worker, and of two workers."""
    losses = {name: [found["losses"] for found in some] for name, some in runs.items()}
    ones = losses.get("one worker", [])
    twos = [each for name, some in losses.items() if name != "one worker" for each in some]

    def largest(first: list[float], others: list[list[float]]) -> float:
        assert all(len(other) == len(first) for other in others)
        return max((abs(a - b) / abs(a) for other in others for a, b in zip(first, other, strict=True)), default=0.0)

    return {
        "among two workers": largest(twos[0], twos[1:]) if twos else 0.0,
        "two from one": largest(ones[0], twos) if ones and twos else 0.0,
    }


def show(results: dict[str, Any]) -> Iterator[str]:
    """The table, line by line."""
    variants = results["variants"]
    base = next(iter(variants.values()))
    yield (
        f"{results['recipe']} {' '.join(results['overrides'])}: {base['steps']} steps, {results['weights']:,} weights; "
        f"{results['machine']['cpus']} CPUs"
    )
    head = f"{'':26} {'step ms':>8} {'outside':>8} {'CPU ms':>8} {'outside':>8} {'work':>6} {'exchange':>9}"
    yield f"{head} {'checkpoint':>10} {'start s':>8} {'end s':>6} {'load':>6}"
    for name, row in variants.items():
        ms = {key: 1000 * row[f"{key}_s"] for key in (*MS, "checkpoint")}
        yield (
            f"{name:26} {ms['step']:8.1f} {ms['outside']:8.1f} {ms['cpu']:8.1f} {ms['cpu_outside']:8.1f} "
            f"{row['work']:6.2f} {ms['exchange']:9.1f} {ms['checkpoint']:10.1f} {row['start_s']:8.1f} "
            f"{row['end_s']:6.1f} {row['load']:6.1f}"
        )
    for name, ratios in results["ratios"].items():
        yield f"{name}: " + ", ".join(f"{what} {value:.2f}" for what, value in ratios.items())
    for name, value in results["losses_differ"].items():
        yield f"losses differ, {name}: {value:.1e}"


def main() -> None:
    """Measure, print, and check that the same work was done."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("overrides", nargs="*", help="settings of the recipe")
    parser.add_argument("--recipe", default="xmtl_smoke")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--repetitions", type=int, default=1)
    parser.add_argument("--only", choices=[*VARIANTS], action="append", help="these variants alone")
    parser.add_argument("--tolerance", type=float, default=2e-3, help="of losses, of two workers from one")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_intermixed_args()
    if arguments.child:
        child(arguments.recipe, arguments.overrides)
        return
    before = os.getloadavg()
    with tempfile.TemporaryDirectory() as folder:
        runs = measured(arguments, Path(folder), set(arguments.only or VARIANTS))
    variants = {}
    for name, some in runs.items():
        each = [figures(found) for found in some]
        variants[name] = {key: statistics.median(one[key] for one in each) for key in each[0]} | {"runs": each}
        variants[name]["namespaces"] = some[0]["namespaces"]
    base = next(iter(variants.values()))["cpu_s"]
    for row in variants.values():
        row["work"] = base / row["cpu_s"]
    kinds = (*MS, "checkpoint", "start", "end")
    ratios = {
        name: {what: variants[a][f"{what}_s"] / variants[b][f"{what}_s"] for what in kinds if variants[b][f"{what}_s"]}
        for name, (a, b) in RATIOS.items()
        if {a, b} <= set(variants)
    }
    results = {
        "recipe": arguments.recipe,
        "overrides": arguments.overrides,
        "repetitions": arguments.repetitions,
        "weights": next(iter(runs.values()))[0]["workers"][0]["weights"],
        "machine": {"cpus": os.cpu_count(), "load_before": before, "load_after": os.getloadavg()},
        "variants": variants,
        "ratios": ratios,
        "losses_differ": differences(runs),
    }
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    for line in show(results):
        print(line)
    differ = results["losses_differ"]
    if differ["among two workers"] or differ["two from one"] > arguments.tolerance:
        sys.exit("not the same work")


if __name__ == "__main__":
    main()
