"""Runs to register, made in seconds: folders as training leaves them, with weights that say something."""

import json
from pathlib import Path

import torch
from random_xmtl import make_model

from xmtl_ray.config.finetune import FinetuneConfig
from xmtl_ray.config.load import dump, load_as
from xmtl_ray.data import videollama2
from xmtl_ray.events.json_format import dumps
from xmtl_ray.events.records import Conversation, GenerativeArgument, GenerativeEvent, Turn
from xmtl_ray.generative import folders
from xmtl_ray.models import weights
from xmtl_ray.tracking.run import Run, environment_tags

DIE = GenerativeEvent("Life:Die", "killed", (GenerativeArgument("Place", "Rome"),))
MEET = GenerativeEvent("Contact:Meet", "met", ())
TOLD = (("Rebels killed a guard in Rome.", (DIE,)), ("Guards met the mayor.", (MEET,)), ("Nothing new today.", ()))


def tracked(folder: Path, uri: str, config, tags: dict[str, str]) -> Path:
    """What a run leaves beside its model: journal, MLflow run, summary."""
    run = Run(folder, uri, "xmtl", folder.name)
    (folder / "config.yaml").write_text(dump(config), encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps({"dev": {"dev/mean_f1": 12.5}}))
    run.journal.tags(environment_tags(tags))
    for name in ("config.yaml", "summary.json", "model", "scores.json"):
        if (folder / name).exists():
            run.journal.artifact(name)
    run.journal.status("FINISHED")
    run.close()
    return folder


def xmtl_run(world: Path, folder: Path, uri: str, calm: float = 50, seed: int = 0) -> Path:
    """X-MTL with random weights, moved until most sentences tell something, the less the greater ``calm``."""
    make_model(world, folder / "model", f"train.seed={seed}", calm=calm)
    config = weights.load(folder / "model").config
    scores = {"table": {"text_event": {"F1": 31.25}}, "strict": {"text_event": {"F1": 30.0}}}
    (folder / "scores.json").write_text(json.dumps(scores))
    return tracked(folder, uri, config, {"sha256.data.test": "d" * 64, "sha256.pseudo.teacher.td": "e" * 64})


def conversations(file: Path) -> Path:
    """Three questions about texts, with gold."""
    found = [
        Conversation(f"q{number}", (Turn(videollama2.prompt("en", text), dumps(events)),), "en")
        for number, (text, events) in enumerate(TOLD)
    ]
    videollama2.write(file, found)
    return file


def base_model(data: Path, folder: Path) -> Path:
    """A tiny VideoLLaMA2 whose random weights say different things to different prompts."""
    sizes = ["vocabulary=400", "width=32", "heads=2", "key_value_heads=1", "hidden=48", "vision_width=16"]
    sizes += ["vision_heads=2", "image_px=24", "frames=2"]
    settings = [*(f"model.built.{size}" for size in sizes), "generation.greedy=true", "generation.max_new_tokens=12"]
    config = load_as(FinetuneConfig, "videollama2_smoke", [*settings, "generation.batch=1"])
    schema = {"Life:Die": ("Place",), "Contact:Meet": ()}
    loaded = folders.create(config, videollama2.read(data), torch.float32, schema)
    _move(loaded.chat.module)
    folders.save(folder, loaded, loaded.chat.module.state_dict())
    return folder


def adapter_run(base: Path, data: Path, folder: Path, uri: str) -> Path:
    """An adapter on that base, as a run; its answers are random pieces."""
    config = load_as(
        FinetuneConfig,
        "videollama2_smoke",
        [
            f"model.path={base}", "adapter.method=lora", "adapter.bits=16", "generation.greedy=true",
            "generation.max_new_tokens=12", "generation.constrained=none", "model.train_tower=false",
            "generation.batch=1",
        ],
    )  # fmt: skip
    schema = {"Life:Die": ("Place",), "Contact:Meet": ()}
    loaded = folders.create(config, videollama2.read(data), torch.float32, schema)
    _move(loaded.chat.module)
    state = {name: value for name, value in loaded.chat.module.named_parameters() if value.requires_grad}
    folders.save(folder / "model", loaded, {name: value.detach() for name, value in state.items()})
    return tracked(folder, uri, config, {})


def _move(module) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, value in module.named_parameters():
        if value.requires_grad and "norm" not in name and ".bn." not in name:
            value.data += 0.3 * torch.randn(value.shape, generator=generator)
