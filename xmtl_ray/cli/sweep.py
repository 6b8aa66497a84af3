"""``xmtl sweep``: trials of a recipe at settings from a space, on Ray Tune."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.table import Table

from xmtl_ray.cli.console import console, many, user_errors

if TYPE_CHECKING:
    from xmtl_ray.tuning.ledger import Trial
    from xmtl_ray.tuning.plan import Plan
    from xmtl_ray.tuning.sweep import Watcher

app = typer.Typer()


@app.command(epilog="Example: **xmtl sweep pseudo_threshold data.root=FOLDER --dry-run**")
def sweep(
    space: Annotated[str, typer.Argument(help="A space of tune_spaces (a wrong name lists them) or a YAML file")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings fixed for all trials: path.to.field=value; name=… names it", show_default=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a sweep that was stopped or killed")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would run, and end")] = False,
    samples: Annotated[int | None, typer.Option(min=1, help="Trials; none: the space's", show_default=False)] = None,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Trials side by side at most; none: what fits", show_default=False)
    ] = None,
) -> None:
    """Try settings of a recipe, stop the poor ones early, keep the best: each trial is a real training run.

    Everything lies in `storage_path/name` of the space: `sweep.json`, `best.yaml` (a recipe for `xmtl train` or
    `xmtl finetune`), `trials`. Trials are compared on the dev set; none sees the test set.
    """
    with user_errors():
        from xmtl_ray.tuning.plan import prepare
        from xmtl_ray.tuning.space import load
        from xmtl_ray.tuning.sweep import Interrupted
        from xmtl_ray.tuning.sweep import sweep as run

        given = {"samples": samples, "concurrency": concurrency}
        wanted = load(space, overrides or [], {name: value for name, value in given.items() if value is not None})
        plan = prepare(wanted)
        if dry_run:
            print_plan(plan)
            return
        again = " ".join(["xmtl sweep", space, *(overrides or [])])
        try:
            with told(plan) as watcher:
                trials = run(plan, watcher, resume)
        except Interrupted:
            console.print(f"stopped; to go on: {escape(again)} --resume", soft_wrap=True)
            raise typer.Exit(130) from None
        print_result(plan, trials)
        if not any(trial.state == "finished" for trial in trials):
            raise typer.Exit(1)


def print_plan(plan: Plan) -> None:
    """Trials, their settings, what one takes, how many fit, what is shared, what it may cost."""
    from xmtl_ray.cli.pipeline import print_plan as print_stages
    from xmtl_ray.tuning.plan import room_here, rungs

    spec = plan.space
    console.print(f"sweep {spec.name} of {spec.recipe}, in {plan.folder}", soft_wrap=True)
    table = Table(box=None, pad_edge=False, show_header=False)
    for path, domain in spec.space.items():
        table.add_row(f"  {path}", escape(domain.told()))
    console.print(table)
    aim = "highest" if spec.mode == "max" else "lowest"
    console.print(f"trials:  {plan.trials} by {spec.search} from seed {spec.seed}; best is the {aim} {spec.metric}")
    how = "its own process trains" if plan.direct else "driven by a process that takes no CPU"
    console.print(f"a trial: {plan.need.told()}, {how}; {many(plan.epochs, 'epoch')}", soft_wrap=True)
    console.print(f"at once: {room_here(plan)}", soft_wrap=True)
    most = plan.trials * plan.epochs
    cost = f"at most {most:,} epochs"
    if stops := rungs(spec, plan.epochs):
        cost += f", about {_halved(plan, stops):,.0f} with ASHA, which stops after epoch {', '.join(map(str, stops))}"
    console.print(f"cost:    {cost}; {plan.need.workers} worker{'s' * (plan.need.workers > 1)} each", soft_wrap=True)
    if shared := plan.shared_stages():
        console.print("shared by all trials, made once:")
        print_stages(shared)
    else:
        console.print("shared by all trials: nothing has to be made before them")


def print_result(plan: Plan, trials: list[Trial]) -> None:
    """The best trials, and where all is."""
    from xmtl_ray.tuning.ledger import best_of
    from xmtl_ray.tuning.sweep import summary

    spec = plan.space
    sign = -1 if spec.mode == "max" else 1
    table = Table(box=None, pad_edge=False)
    table.add_column("trial")
    table.add_column("")
    table.add_column(spec.metric, justify="right")
    table.add_column("epochs", justify="right")
    for path in spec.space:
        name = ".".join(path.split(".")[-2:])
        if len(spec.space) > 2:  # broken where a name has parts, so that all fit a narrow terminal
            name = name.replace(".", ".\n").replace("_", "_\n")
        table.add_column(name, justify="right")
    ranked = sorted(trials, key=lambda one: (one.metric is None, sign * (one.metric or 0.0)))
    for trial in ranked[:12]:
        metric = "–" if trial.metric is None else f"{trial.metric:.2f}"
        table.add_row(trial.id, trial.state, metric, str(trial.epochs), *map(_shown, trial.parameters.values()))
    console.print(table)
    if len(ranked) > 12:
        console.print(f"… and {len(ranked) - 12} more")
    for line in summary(plan):
        console.print(line, soft_wrap=True)
    best = best_of(trials, spec.mode)
    if best is None:
        console.print("no trial came to its end", style="red")
        return
    console.print(f"best:   trial {best.id}, {spec.metric} {best.metric:.2f}")
    console.print(f"recipe: {plan.folder / 'best.yaml'}\nfolder: {plan.folder}", soft_wrap=True)


@contextmanager
def told(plan: Plan) -> Iterator[Watcher]:
    """Prints a line for each thing that happens to a trial or to a stage before them."""
    from xmtl_ray.cli.pipeline import told as stages_told
    from xmtl_ray.tuning.sweep import Watcher

    started = time.monotonic()

    def line(text: str) -> None:
        seconds = int(time.monotonic() - started)
        console.print(f"{seconds // 60:3d}:{seconds % 60:02d}  {text}", soft_wrap=True)

    def trial(what: str, one: Trial, why: str) -> None:
        name, latest = f"trial {one.id}", one.reports[-1] if one.reports else None
        match what:
            case "begun":
                values = ", ".join(f"{path} {_shown(value)}" for path, value in one.parameters.items())
                line(f"{name} begins: {escape(values)}")
            case "reported" if latest is not None:
                line(f"{name} epoch {latest.epoch}: {plan.space.metric} {latest.metric:.2f}")
            case "again":
                line(f"[yellow]{name} died and begins again[/]")
            case "finished":
                line(f"[green]{name} done[/]: {plan.space.metric} {_metric(one)}")
            case "stopped":
                line(f"[yellow]{name} stopped[/] after epoch {one.epochs}: {plan.space.metric} {_metric(one)}")
            case "failed":
                line(f"[red]{name} failed[/]: {escape(why)}")

    def fanning(left: int, side_by_side: int) -> None:
        line(f"{many(left, 'trial')} to go, {side_by_side} at a time")

    with stages_told() as stages:
        yield Watcher(trial, fanning, stages)


def _metric(trial: Trial) -> str:
    return "–" if trial.metric is None else f"{trial.metric:.2f}"


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _halved(plan: Plan, stops: list[int]) -> float:
    """Epochs where at each rung a share of 1/reduction goes on."""
    assert plan.space.asha is not None
    left, total, before = float(plan.trials), 0.0, 0
    for epoch in stops:
        total += left * (epoch - before)
        left, before = left / plan.space.asha.reduction, epoch
    return total + left * (plan.epochs - before)
