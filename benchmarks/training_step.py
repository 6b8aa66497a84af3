"""Samples a second of a training step: what the framework costs, and what one encoder pass for all tasks saves.

(a) The same model learns from the same batches three times over, each time in a process of its own: ``plain``, a loop
written by hand here with nothing but torch; ``loop``, the framework's training without workers
(`cluster.workers=0`); ``ray``, a whole `xmtl train` with one Ray Train worker. Journal and MLflow belong to the last
two. Rates are of the later half of the steps (``of plain``: of means, so whatever comes now and then is in it; ``by
median``: of median steps, which neighbours on the machine disturb less). Reading images and making tensors is in all
three alike. What only a short run feels stands beside it: ``start`` is from the process to its first step, ``end`` from
the last step to the process's end, and ``early`` what the first half of the steps took beyond the later half's pace,
in seconds: above all MLflow's own start, which a thread does meanwhile.

(b) ``joint`` is the framework's step: one pass of each encoder serves all tasks. ``per task`` takes the same examples,
the same engine and the same optimizer, but one forward and backward pass for each task (and pseudo-label twin). Both
step by step in turn in one process, without dropout, on tensors that were made before.

Every variant's losses, task by task and step by step, must agree to the tolerance, or the script ends with status 1:
only the same work is compared. (Of (b) the first 100 steps: rounding differs there, and grows from step to step.)
Trust the ratios, not the rates: each is the median of pairs that ran one after the other. What is forced: fixed weights
of losses, no label smoothing, no accumulation, engine ddp, fp32 on CPU, no dev evaluation but at the end, no test
documents.
"""

import argparse
import itertools
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

EXAMPLES = """examples:
  python benchmarks/training_step.py                      # the smoke model; five minutes on two idle cores
  python benchmarks/training_step.py --epochs 8 --repetitions 1 --only framework
  python benchmarks/training_step.py --recipe xmtl_demo --json step.json
  python benchmarks/training_step.py --only passes train.global_batch=32
  python benchmarks/training_step.py multitask.strategy=xmtl multitask.pseudo.store=/path/to/store
"""
ORDER = ("plain", "loop", "ray")
FORCED = [
    "multitask.weighting.name=fixed",
    "train.label_smoothing=0",
    "train.accumulation=1",
    "train.precision=fp32",
    "train.layer_decay=1",
    "engine.name=ddp",
    "cluster.gpu=false",
    "data.test=null",
    "data.test_objects=null",
]
CHECKED = 100
"""Steps of (b) whose losses are compared."""
NO_DROPOUT = [f"model.{part}.dropout=0" for part in ("built_text", "built_image", "shared")]

Losses = list[dict[str, float]]
"""Mean loss of each term over the batch, step by step."""


def built(config: Any) -> tuple[Any, Any]:
    """A fresh model of ``config`` and its batches, as a worker makes them."""
    import torch

    from xmtl_ray.data.images import Canvases
    from xmtl_ray.models import weights
    from xmtl_ray.multitask import examples as task_examples
    from xmtl_ray.multitask.batch import Collate
    from xmtl_ray.multitask.pseudo import pseudo_examples
    from xmtl_ray.training.batches import Batches

    torch.set_num_threads(max(1, int(config.cluster.cpus_per_worker)))
    read = task_examples.read(config)
    train = dict(read.train)
    if config.multitask.strategy == "xmtl":
        train |= pseudo_examples(config.multitask.pseudo, config.multitask.tasks)
    loaded = weights.create(config, weights.make_tokenizer(config, read.sentences))
    data = config.data
    image_px = loaded.model.image_px if loaded.model.image_encoder is not None else 0
    canvases = Canvases(data.visual_prompt.canvas_px, data.image_cache_mib)
    collate = Collate(loaded.codec, canvases, image_px, data.text_prompt, data.visual_prompt)
    torch.manual_seed(config.train.seed * 100_003)
    return loaded, Batches(config, train, collate, 0, 1, torch.device("cpu"))


def plain(config: Any) -> tuple[list[float], Losses]:
    """A loop as one writes it for one experiment: forward, losses, backward, clip, AdamW. Time stamps and losses."""
    import torch
    from torch.nn import functional

    from xmtl_ray.training.engine import schedule

    loaded, batches = built(config)
    model, spec, total = loaded.model.train(), config.train, config.train.epochs * batches.steps
    rates = {"text_encoder": spec.learning_rate.text, "image_encoder": spec.learning_rate.image}
    groups: dict[tuple[float, float], list[Any]] = {}
    for name, parameter in model.named_parameters():
        rate = rates.get(name.partition(".")[0], spec.learning_rate.other)
        groups.setdefault((rate, spec.weight_decay if parameter.ndim > 1 else 0.0), []).append(parameter)
    optimizer = torch.optim.AdamW(
        [{"params": p, "lr": rate, "peak": rate, "weight_decay": decay} for (rate, decay), p in groups.items()],
        fused=True,
    )
    beta, stamps, seen = config.multitask.pseudo.beta, [], []
    for number, step in enumerate(
        itertools.chain.from_iterable(batches.epoch(epoch, 0) for epoch in range(spec.epochs))
    ):
        (batch,) = step.batches
        scores, losses = model(batch.inputs), {}
        if batch.td is not None:
            losses["td"], _ = model.crf(scores["td"], batch.inputs.text.word_mask, batch.td)
        if batch.ae is not None:
            losses["ae"] = functional.cross_entropy(scores["ae"], batch.ae, reduction="none")
        if batch.vc is not None:
            losses["vc"] = functional.binary_cross_entropy_with_logits(scores["vc"], batch.vc, reduction="none").sum(1)
        if batch.rc is not None:
            losses["rc"] = functional.cross_entropy(scores["rc"], batch.rc, reduction="none")
        means, loss = {}, 0.0
        for task, values in losses.items():
            gold = batch.gold.get(task, len(values))
            weight = getattr(config.multitask.weighting.fixed, task)
            if gold:
                means[task] = values[:gold].mean()
                loss = loss + weight * means[task]
            if gold < len(values):
                means[f"{task}_pseudo"] = values[gold:].mean()
                loss = loss + weight * beta * means[f"{task}_pseudo"]
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * schedule(spec, number, total)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), spec.clip_norm)
        optimizer.step()
        seen.append({name: value.item() for name, value in means.items()})
        stamps.append(time.time())
    return stamps, seen


def framework(config: Any) -> tuple[list[float], Losses]:
    """The same by `xmtl train`: time stamps and losses of its journal."""
    from xmtl_ray.training.launch import launch

    launch(config)
    stamps: list[float] = []
    seen: Losses = []
    for line in (Path(config.storage_path) / config.name / "tracking.jsonl").read_text().splitlines():
        told = json.loads(line)
        losses = {name.removeprefix("train/loss/"): value for name, value in told.get("metrics", {}).items()}
        if told.get("step") and any(name.startswith("train/loss/") for name in told["metrics"]):
            seen.append(losses)
            stamps.append(told["time_ms"] / 1000)
    return stamps, seen


class Both:
    """The examples of a step as one batch for all tasks, and as one for each."""

    def __init__(self, collate: Any, examples: dict[Any, Any]) -> None:
        self.joint = [collate(examples)]
        self.per_task = [collate({term: items}) for term, items in examples.items() if len(items)]

    def to(self, _: object) -> "Both":
        """They are where they are needed."""
        return self


def passes(config: Any) -> dict[str, Any]:
    """Both ways step by step in turn: seconds of each step, and its losses."""
    from xmtl_ray.multitask.objective import Objective, total_loss
    from xmtl_ray.multitask.weighting import base_weights
    from xmtl_ray.training import engine as engines
    from xmtl_ray.training.xmtl import rated_groups

    engine, seconds, seen = {}, {}, {}
    for way in ("joint", "per_task"):
        loaded, batches = built(config)
        objective = Objective(loaded.model).train()
        spec = config.train
        groups = rated_groups(loaded.model, spec.learning_rate, spec.weight_decay, spec.layer_decay)
        engine[way] = engines.create(config.engine, spec, objective, groups, batches.device)
        seconds[way], seen[way] = [], []
    collate = batches.collate
    batches.collate = lambda examples: Both(collate, examples)
    spec = config.multitask
    weights = base_weights(spec.weighting, list(batches.sizes), spec.pseudo.beta, 1.0)
    number = 0
    for epoch in range(config.train.epochs):
        for step in batches.epoch(epoch, 0):
            factor = engines.schedule(config.train, number, config.train.epochs * batches.steps)
            for way in ("joint", "per_task") if number % 2 else ("per_task", "joint"):
                parts = getattr(step.batches[0], way)
                start = time.perf_counter()
                found = engine[way].step(
                    parts, lambda losses, step=step: total_loss(losses, step.shares, weights), factor
                )
                seconds[way].append(time.perf_counter() - start)
                seen[way].append({name: float(values.mean()) for losses in found for name, values in losses.items()})
            number += 1
    return {"seconds": seconds, "losses": seen}


def child(what: str, recipe: str, overrides: list[str], begun: float) -> None:
    """One measurement in this process; prints it as JSON."""
    from xmtl_ray.cluster.connection import set_environment

    set_environment()
    from xmtl_ray.config.load import load

    config = load(recipe, overrides)
    if what == "passes":
        print(json.dumps(passes(config)))
        return
    stamps, losses = plain(config) if what == "plain" else framework(config)
    print(json.dumps({"begun": begun, "stamps": stamps, "losses": losses, "ended": time.time()}))


def started(what: str, recipe: str, overrides: list[str]) -> dict[str, Any]:
    """What :func:`child` has measured."""
    command = [sys.executable, __file__, "--child", what, "--recipe", recipe, *overrides]
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env={**os.environ, **threads})
    if done.returncode:
        sys.exit(f"{what} failed:\n{done.stderr[-3000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def largest_difference(one: Losses, other: Losses) -> float:
    """The largest relative difference of any task's loss at any step; infinite where they are of different things."""
    if len(one) != len(other) or any(a.keys() != b.keys() for a, b in zip(one, other, strict=False)):
        return math.inf
    pairs = [(a[name], b[name]) for a, b in zip(one, other, strict=True) for name in a]
    return max(abs(a - b) / max(abs(a), abs(b), 1e-3) for a, b in pairs)


def paced(found: dict[str, Any], batch: int) -> dict[str, Any]:
    """What a run's time stamps come to."""
    stamps = found["stamps"]
    half = len(stamps) // 2
    if half < 2:
        sys.exit(f"{len(stamps)} steps are too few: raise --epochs")
    steps = [after - before for before, after in itertools.pairwise(stamps[half:])]
    mean = statistics.fmean(steps)
    return {
        "steps": len(stamps),
        "samples_per_s": batch / mean,
        "median_step_s": statistics.median(steps),
        "early_s": stamps[half] - stamps[0] - half * mean,
        "start_s": stamps[0] - found["begun"],
        "end_s": found["ended"] - stamps[-1],
    }


def framework_cost(arguments: argparse.Namespace, root: Path, overrides: list[str], batch: int) -> dict[str, Any]:
    """(a): one figure of each kind per repetition, and their medians."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ORDER}
    differences: dict[str, float] = dict.fromkeys(ORDER, 0.0)
    for repetition in range(arguments.repetitions):
        turn, losses = repetition % len(ORDER), {}
        for name in (*ORDER[turn:], *ORDER[:turn]):
            workers = f"cluster.workers={1 if name == 'ray' else 0}"
            place = [f"storage_path={root / 'runs'}", f"name={name}-{repetition}"]
            found = started(name, arguments.recipe, [*overrides, *place, workers])
            losses[name] = found["losses"]
            runs[name].append(paced(found, batch))
            print(f"  {name:6} {runs[name][-1]['samples_per_s']:8.1f} samples/s", file=sys.stderr, flush=True)
        for name, found_losses in losses.items():
            differences[name] = max(differences[name], largest_difference(losses["plain"], found_losses))
    figures: dict[str, Any] = {"steps": runs["plain"][0]["steps"]}
    for name, found_runs in runs.items():
        for run, plain_run in zip(found_runs, runs["plain"], strict=True):
            run["of_plain"] = run["samples_per_s"] / plain_run["samples_per_s"]
            run["of_plain_by_median"] = plain_run["median_step_s"] / run["median_step_s"]
        figures[name] = {
            "medians": {key: statistics.median(run[key] for run in found_runs) for key in found_runs[0]},
            "runs": found_runs,
            "largest_relative_loss_difference": differences[name],
        }
    return figures


def pass_saving(arguments: argparse.Namespace, overrides: list[str], batch: int) -> dict[str, Any]:
    """(b)."""
    found = [started("passes", arguments.recipe, [*overrides, *NO_DROPOUT]) for _ in range(arguments.repetitions)]
    seconds = {
        way: [s for each in found for s in each["seconds"][way][arguments.warmup :]] for way in ("joint", "per_task")
    }
    ratios = [slow / quick for quick, slow in zip(seconds["joint"], seconds["per_task"], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return {
        "steps": len(ratios),
        "terms": sorted(found[0]["losses"]["joint"][0]),
        "joint_samples_per_s": batch / statistics.median(seconds["joint"]),
        "per_task_samples_per_s": batch / statistics.median(seconds["per_task"]),
        "joint_over_per_task": statistics.median(ratios),
        "quartiles": [low, high],
        "largest_relative_loss_difference": max(
            largest_difference(*(each["losses"][way][:CHECKED] for way in ("joint", "per_task"))) for each in found
        ),
    }


def show(results: dict[str, Any]) -> Iterator[str]:
    """The tables, line by line."""
    machine = results["machine"]
    yield (
        f"{results['recipe']} {' '.join(results['overrides'])}: batches of {results['batch']} examples; "
        f"{machine['cpus']} CPUs, load {machine['load_before']:.1f} before, {machine['load_after']:.1f} after"
    )
    if figures := results.get("framework"):
        yield f"(a) the same {figures['steps']} steps, {results['repetitions']} times each"
        yield (
            f"{'':6} {'samples/s':>9} {'of plain':>8} {'(each)':>16} {'by median':>9} "
            f"{'start s':>7} {'early s':>7} {'end s':>6} {'losses differ':>13}"
        )
        for name in ORDER:
            row, difference = figures[name]["medians"], figures[name]["largest_relative_loss_difference"]
            each = " ".join(f"{run['of_plain']:.2f}" for run in figures[name]["runs"])
            yield (
                f"{name:6} {row['samples_per_s']:9.1f} {row['of_plain']:8.3f} {each:>16} "
                f"{row['of_plain_by_median']:9.3f} {row['start_s']:7.1f} {row['early_s']:7.1f} {row['end_s']:6.1f} "
                f"{difference:13.1e}"
            )
    if figures := results.get("passes"):
        low, high = figures["quartiles"]
        yield f"(b) {figures['steps']} steps of {len(figures['terms'])} losses each way, in turn"
        yield (
            f"joint {figures['joint_samples_per_s']:.1f} samples/s, per task {figures['per_task_samples_per_s']:.1f}: "
            f"{figures['joint_over_per_task']:.2f} times as fast (quartiles {low:.2f} to {high:.2f}); "
            f"losses differ by {figures['largest_relative_loss_difference']:.1e}"
        )


def main(arguments: argparse.Namespace) -> int:
    """Measure, print, and say whether the losses agreed."""
    from xmtl_ray.config.load import load
    from xmtl_ray.data.world import write_world

    machine = {"cpus": os.cpu_count(), "load_before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        world = arguments.world or root / "world"
        if arguments.world is None:
            write_world(world, 0, "small")
        length = [f"train.epochs={arguments.epochs}", f"train.eval_every_epochs={arguments.epochs}"]
        overrides = [f"data.root={world}", *length, *FORCED, *arguments.overrides]
        config = load(arguments.recipe, overrides)
        if not config.multitask.summed:
            sys.exit(f"multitask.strategy={config.multitask.strategy} sums no losses: joint or xmtl can be compared")
        results: dict[str, Any] = {
            "recipe": arguments.recipe,
            "overrides": arguments.overrides,
            "batch": config.train.global_batch,
            "epochs": arguments.epochs,
            "warmup": arguments.warmup,
            "repetitions": arguments.repetitions,
            "tolerance": arguments.tolerance,
        }
        if arguments.only != "passes":
            results["framework"] = framework_cost(arguments, root, overrides, config.train.global_batch)
        if arguments.only != "framework":
            results["passes"] = pass_saving(arguments, overrides, config.train.global_batch)
    results["machine"] = {**machine, "load_after": os.getloadavg()[0]}
    differences = [
        results["framework"][name]["largest_relative_loss_difference"] for name in ORDER if "framework" in results
    ]
    differences += [results["passes"]["largest_relative_loss_difference"]] if "passes" in results else []
    results["losses_agree"] = max(differences) <= arguments.tolerance
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1), encoding="utf-8")
    print("\n".join(show(results)))
    if not results["losses_agree"]:
        print(
            f"not the same work: losses differ by up to {max(differences):.1e}, --tolerance is {arguments.tolerance:g}"
        )
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    """What may be asked for."""
    found = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("overrides", nargs="*", help="settings of the recipe, path.to.field=value")
    found.add_argument("--recipe", default="xmtl_smoke", help="name or YAML file (default: xmtl_smoke)")
    found.add_argument(
        "--world", type=Path, help="miniature world to learn from (default: a small one, drawn and removed)"
    )
    found.add_argument("--only", choices=("framework", "passes"), help="(a) or (b) alone")
    found.add_argument("--epochs", type=int, default=16, help="of each measurement (default: 16, 320 steps of 64)")
    found.add_argument("--warmup", type=int, default=10, help="first steps of (b) that do not count (default: 10)")
    found.add_argument("--repetitions", type=int, default=3, help="of everything; the order is turned (default: 3)")
    found.add_argument(
        "--tolerance", type=float, default=1e-3, help="largest relative difference of losses (default: 1e-3)"
    )
    found.add_argument("--json", type=Path, metavar="FILE", help="write all figures here, too")
    found.add_argument("--child", help=argparse.SUPPRESS)
    return found


if __name__ == "__main__":
    asked = parser().parse_args()
    if asked.child:
        child(asked.child, asked.recipe, asked.overrides, time.time())
    else:
        sys.exit(main(asked))
