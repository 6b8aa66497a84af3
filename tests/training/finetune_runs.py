"""Short fine-tuning runs of a tiny VideoLLaMA2 on some conversations of the synthetic corpus."""

from pathlib import Path

import torch

from xmtl_ray.config.finetune import BuiltLanguage, FinetuneConfig
from xmtl_ray.config.load import load_as
from xmtl_ray.data import videollama2
from xmtl_ray.data.corpus import write_corpus
from xmtl_ray.generative import built
from xmtl_ray.training import finetune
from xmtl_ray.training.context import Local
from xmtl_ray.training.loop import train

SIZES = BuiltLanguage(
    vocabulary=600, width=32, layers=2, heads=2, key_value_heads=1, hidden=64, vision_width=16, vision_layers=2,
    vision_heads=2, image_px=24, patch_px=8, frames=2,
)  # fmt: skip
ADAPTERS = {
    "qlora": ["adapter.method=qlora", "adapter.bits=4"],
    "lora": ["adapter.method=lora", "adapter.bits=16"],
    "full": ["adapter.method=full", "adapter.bits=16"],
}


class Stopped(Exception):
    """Stands for a process that dies between two steps."""


def prepare(folder: Path) -> tuple[Path, Path]:
    """A corpus of 48 training conversations of all kinds, and a base's folder."""
    corpus, base = folder / "corpus", folder / "base"
    write_corpus(corpus, seed=0, size="small")
    everything = videollama2.read(corpus / "train.json")
    kinds: dict[str, list] = {}
    for one in everything:
        kinds.setdefault("text" if one.media is None else one.media.kind, []).append(one)
    some = [*kinds["text"][:26], *kinds["image"][:18], *kinds["video"][:4]]
    videollama2.write(corpus / "some.json", some)
    videollama2.write(corpus / "few.json", videollama2.read(corpus / "dev.json")[:8])
    tokenizer = built.learn_tokenizer(everything, SIZES.vocabulary, "videollama21")
    model = built.make_model(SIZES, "videollama21", tokenizer, 0)
    model.save_pretrained(base)
    tokenizer.save_pretrained(base)
    return corpus, base


def config(corpus: Path, base: Path, method: str, *overrides: str) -> FinetuneConfig:
    """Two epochs of six steps, nothing at random but the order of the data."""
    settings = [
        "model.family=videollama21", f"model.path={base}", "model.train_tower=false", f"data.root={corpus}",
        "data.train=some.json", "data.dev=few.json", "data.test=null", "data.check=none", "train.epochs=2",
        "train.global_batch=8", "train.dev_samples=2", "generation.max_new_tokens=4", "train.schedule=constant",
        "train.warmup_fraction=0", "adapter.dropout=0", "tracking.enabled=false", "cluster.workers=0", "name=run",
        "train.learning_rate=5e-3", *ADAPTERS[method],
    ]  # fmt: skip
    return load_as(FinetuneConfig, "videollama2_smoke", [*settings, *overrides])


def learn(context, spec: FinetuneConfig, track):
    """Train from what ``context`` has; the position and what was built."""
    torch.set_num_threads(1)
    made = finetune.build(context, spec)
    return train(context, spec.engine, spec.train, finetune.learner(context, spec, made), track), made


def run(spec: FinetuneConfig, folder: Path, stop_at: int | None = None):
    """Metrics by step of a run in this process; with ``stop_at`` it dies after that step."""
    losses: dict[int, dict[str, float]] = {}

    def track(step, metrics) -> None:
        losses.setdefault(step, {}).update(metrics)
        if step == stop_at and "train/loss" in metrics:
            raise Stopped

    position = chat = None
    try:
        position, made = learn(Local(folder, spec.train.select, 2), spec, track)
        chat = made.loaded.chat
    except Stopped:
        assert stop_at is not None
    return losses, position, chat
