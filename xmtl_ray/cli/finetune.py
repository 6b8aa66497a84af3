"""``xmtl finetune`` and its like: generative models, from a base to answers."""

from __future__ import annotations

from typing import Annotated

import typer

from xmtl_ray.cli.console import user_errors

app = typer.Typer()

RecipeName = Annotated[str, typer.Argument(help="A recipe of a generative model (xmtl recipes) or a YAML file")]
Overrides = Annotated[
    list[str] | None, typer.Argument(help="Settings on top of the recipe: path.to.field=value", show_default=False)
]
Fresh = Annotated[
    bool, typer.Option("--fresh", help="Forget checkpoints, settings and numbers of an earlier start of this name")
]


@app.command(epilog="Example: **xmtl finetune videollama2 model.path=FOLDER data.root=CORPUS cluster.gpu=true**")
def finetune(recipe: RecipeName, overrides: Overrides = None, fresh: Fresh = False) -> None:
    """Fine-tune VideoLLaMA2 (or another image-text model) by QLoRA, LoRA or whole, on Ray; then answer and score
    `data.test`.

    The same `name` again continues a run that was stopped. Everything lies in `storage_path/name`: `model` is an
    adapter (or, with `adapter.method=full`, a whole checkpoint), `answers.jsonl` what it answers.
    """
    with user_errors():
        from xmtl_ray.cli.evaluate import print_answers
        from xmtl_ray.config.finetune import FinetuneConfig
        from xmtl_ray.config.load import load_as
        from xmtl_ray.training.launch import launch

        config = load_as(FinetuneConfig, recipe, overrides or [])
        summary = launch(config, fresh)
        if summary["scores"]:
            print_answers(summary["scores"])
        else:
            typer.echo("  ".join(f"{name} {value:.2f}" for name, value in summary["dev"].items()))
        folder = f"{config.storage_path}/{config.name}"
        typer.echo(f"report: {folder}/report.html\nmodel:  {folder}/model")
