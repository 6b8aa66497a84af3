"""``xmtl plan``: whether fine-tuning fits a GPU, and what to change."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from xmtl_ray.cli.console import console, user_errors

if TYPE_CHECKING:
    from xmtl_ray.config.finetune import FinetuneConfig
    from xmtl_ray.generative.memory_plan import Plan

app = typer.Typer()

RecipeName = Annotated[str, typer.Argument(help="A recipe of a generative model (xmtl recipes) or a YAML file")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings on top of the recipe: path.to.field=value", show_default=False)
]

_PARTS = {
    "language model": "its layers",
    "embeddings": "of the vocabulary",
    "output head": "never quantised",
    "tower": "frozen",
    "connector": "32 bits if it learns",
    "adapters": "32 bits",
    "optimizer": "AdamW's, 32 bits",
    "gradients": "32 bits",
    "engine": "DeepSpeed's copies, buckets",
    "activations": "kept for the backward pass",
    "layer": "a layer's widest moment",
    "vision": "tower's, connector's maps",
    "16-bit copies": "autocast's, of what learns",
    "loss": "states and a chunk of logits",
    "KV cache": "of prompts and answers",
}

_COSTS = ("time", "learning", "length")


@app.command(epilog="Example: **xmtl plan videollama2 model.path=FOLDER --gpu 40GiB**")
def plan(
    recipe: RecipeName,
    overrides: Overrides = None,
    gpu: Annotated[
        str | None, typer.Option(help="Memory of a GPU, e.g. 40GiB; none: cluster.gpu_memory, or this machine's")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object")] = False,
) -> None:
    """Say what fine-tuning needs on each GPU, part by part, whether it fits, and what would save how much.

    Needs no weights, no GPU and no Ray: a folder's config.json, or the name of a released VideoLLaMA2, is enough.
    Lengths are the longest that the settings allow. Exit status 1: it does not fit.
    """
    with user_errors():
        from xmtl_ray.config.finetune import FinetuneConfig
        from xmtl_ray.config.load import load_as

        config = load_as(FinetuneConfig, recipe, overrides or [])
        from xmtl_ray.generative.memory_plan import fits

        found = fits(config, _memory(gpu, config))
    if as_json:
        typer.echo(json.dumps(found.as_dict(), indent=1))
    else:
        _print(config, found)
    if not found.fits:
        raise typer.Exit(1)


def _memory(gpu: str | None, config: FinetuneConfig) -> int:
    from xmtl_ray.models.memory import size

    if named := gpu or config.cluster.gpu_memory:
        return size(named)
    import torch

    if torch.cuda.is_available():
        return min(torch.cuda.get_device_properties(one).total_memory for one in range(torch.cuda.device_count()))
    raise ValueError("--gpu: found none, and no GPU on this machine; expected a size like 40GiB")


def _print(config: FinetuneConfig, found: Plan) -> None:
    from xmtl_ray.models.memory import GIB, OVERHEAD

    def gib(value: int) -> str:
        return f"{value / GIB:.2f}"

    workers, spec = max(1, config.cluster.workers), config.train
    together = spec.global_batch // (workers * spec.accumulation)
    sharding = f", ZeRO-{config.engine.zero_stage}" if config.engine.name == "deepspeed" else ""
    title = (
        f"{config.model.path}, {config.adapter.method} of {config.adapter.bits} bits, r {config.adapter.r}: "
        f"{together} × {config.model.max_tokens} places on each of {workers} GPU{'s' * (workers > 1)}{sharding}"
    )
    console.print(title, soft_wrap=True)
    parts = Table(box=None)
    parts.add_column("GiB")
    columns = (found.training, found.evaluating)
    for moment in columns:
        parts.add_column(moment.name, justify="right")
    parts.add_column("")
    for name, meaning in _PARTS.items():
        values = [moment.parts.get(name, 0) for moment in columns]
        if any(values):
            parts.add_row(name, *(gib(value) if value else "–" for value in values), meaning)
    parts.add_row("overhead", *[gib(OVERHEAD)] * 2, "CUDA and gaps, assumed")
    parts.add_row("needed", *(gib(moment.total + OVERHEAD) for moment in columns), style="bold")
    console.print(parts)
    others = (moment for moment in found.moments if moment not in columns)
    told = ", ".join(f"{moment.name} {gib(moment.total + OVERHEAD)}" for moment in others)
    console.print(f"other moments: {told}\n", soft_wrap=True)
    if found.changes:
        changes = Table(box=None)
        changes.add_column("change", no_wrap=True)
        for column in ("saves GiB", "of a step", "needs then"):
            changes.add_column(column, justify="right", no_wrap=True)
        changes.add_column("costs", no_wrap=True)
        for change in found.changes:
            numbers = (gib(value) for value in (change.saves, change.saves_training, change.total))
            changes.add_row(" ".join(change.settings), *numbers, _COSTS[change.cost])
        console.print(changes)
    if found.fits:
        console.print(f"[green]fits[/] {gib(found.gpu)} GiB with {gib(found.margin)} to spare", soft_wrap=True)
        return
    advice = "no setting makes it fit" if found.enough is None else f"to make it fit: {' '.join(found.enough)}"
    console.print(f"[red]does not fit[/] {gib(found.gpu)} GiB: {gib(-found.margin)} too much; {advice}", soft_wrap=True)
