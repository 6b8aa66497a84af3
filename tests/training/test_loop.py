"""The training loop in this process: exact resumption, exact accumulation, one pass per modality, clear failures."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from xmtl_ray.data.images import Canvases
from xmtl_ray.models import weights
from xmtl_ray.multitask import examples as task_examples
from xmtl_ray.multitask.batch import Collate
from xmtl_ray.training.context import Local
from xmtl_ray.training.engine import schedule
from xmtl_ray.training.loop import NonFiniteLoss, train


class Stopped(Exception):
    """Stands for a process that dies between two steps."""


def build(config):
    torch.set_num_threads(1)
    examples = task_examples.read(config)
    loaded = weights.create(config, weights.make_tokenizer(config, examples.sentences))
    prompt = config.data.visual_prompt
    image_px = loaded.model.image_px if loaded.model.image_encoder is not None else 0
    collate = Collate(loaded.codec, Canvases(prompt.canvas_px, 64), image_px, config.data.text_prompt, prompt)
    return loaded, collate, examples


def run(config, folder: Path, stop_at: int | None = None):
    """Losses by step of a run in this process; with ``stop_at`` it dies after that step."""
    loaded, collate, examples = build(config)
    losses: dict[int, dict[str, float]] = {}

    def track(step: int, metrics) -> None:
        losses.setdefault(step, {}).update(metrics)
        if step == stop_at and "train/loss" in metrics:
            raise Stopped

    context = Local(folder, config.train.select, config.train.keep_checkpoints)
    position = None
    try:
        position = train(context, config, loaded, collate, examples, track)
    except Stopped:
        assert stop_at is not None
    return losses, position, loaded


def test_a_resumed_run_follows_the_unbroken_one_exactly(tiny, tmp_path):
    """Killed in its second epoch and begun again, dropout on: every loss and every weight is the same number."""
    config = tiny("train.epochs=3", "model.built_text.dropout=0.1", "model.shared.dropout=0.1")
    unbroken, _, whole = run(config, tmp_path / "unbroken")
    steps = max(unbroken) // 3
    before, _, _ = run(config, tmp_path / "broken", stop_at=steps + 2)
    after, _, resumed = run(config, tmp_path / "broken")
    assert min(after) == steps + 1, "it goes on after the last checkpoint, which the first epoch left"
    assert before | after == unbroken
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def test_a_checkpoint_within_an_epoch_resumes_within_it(tiny, tmp_path):
    """With checkpoint_every_steps a run that dies mid-epoch loses only the steps since."""
    config = tiny("train.epochs=1", "train.checkpoint_every_steps=2", "model.shared.dropout=0.1")
    unbroken, _, _ = run(config, tmp_path / "unbroken")
    run(config, tmp_path / "broken", stop_at=3)
    after, position, _ = run(config, tmp_path / "broken")
    assert min(after) == 3
    assert {step: after[step] for step in after} == {step: unbroken[step] for step in after}
    assert position.epoch == 1


def test_accumulation_changes_nothing(tiny, tmp_path):
    """A global batch in two micro-batches has the losses of one batch, to float tolerance."""
    once, _, _ = run(tiny("train.epochs=1"), tmp_path / "once")
    twice, _, _ = run(tiny("train.epochs=1", "train.accumulation=2"), tmp_path / "twice")
    for step, losses in once.items():
        for name, value in losses.items():
            if name.startswith("train/"):
                assert twice[step][name] == pytest.approx(value, rel=2e-4), (step, name)


def test_training_learns(tiny, tmp_path):
    """The loss of every task falls to below 80 % of its first values within eight epochs."""
    losses, _, _ = run(tiny("train.epochs=8", "train.eval_every_epochs=8", "train.global_batch=32"), tmp_path)
    steps = sorted(losses)
    for task in ("td", "ae", "vc", "rc"):
        first, last = (sum(losses[step][f"train/loss/{task}"] for step in some) / 5 for some in (steps[:5], steps[-5:]))
        assert last < 0.8 * first, task


def test_one_encoder_pass_per_modality_and_step(tiny, tmp_path):
    """Four tasks: the text encoder and the vision encoder each run once in a training step."""
    config = tiny()
    loaded, collate, examples = build(config)
    passes = Counter()
    for name in ("text_encoder", "image_encoder"):
        getattr(loaded.model, name).register_forward_hook(lambda *_, name=name: passes.update([name]))
    loaded.model(collate({name: items[:3] for name, items in examples.train.items()}).inputs)
    assert passes == {"text_encoder": 1, "image_encoder": 1}


def test_a_non_finite_loss_stops_with_step_and_task(tiny, tmp_path):
    """A learning rate that blows the weights up ends the run with a sentence, not with NaN models."""
    with pytest.raises(NonFiniteLoss, match=r"loss of (td|ae|vc|rc) is (nan|inf) at step \d+"):
        run(tiny("train.learning_rate.other=1e30", "train.clip_norm=1e30"), tmp_path)


def test_early_stopping_and_best_checkpoint(tiny, tmp_path):
    """With patience 1 a run whose dev score cannot rise stops after two evaluations; the best stays on disk."""
    config = tiny("train.epochs=5", "train.patience=1", "train.keep_checkpoints=1", "train.learning_rate.other=1e-12",
                  "train.learning_rate.text=1e-12", "train.learning_rate.image=1e-12")  # fmt: skip
    _, position, _ = run(config, tmp_path)
    assert position.stopped and position.epoch == 2
    context = Local(tmp_path, config.train.select, 1)
    with context.best(config.train.select) as best:
        assert best.name == "checkpoint_000000", "the first of two equals"
        assert weights.load(best / "model").config == config
    assert [path.name for path in sorted(tmp_path.glob("checkpoint_*"))] == ["checkpoint_000000", "checkpoint_000001"]


@pytest.mark.parametrize(
    ("name", "step", "expected"),
    [("linear", 0, 0.5), ("linear", 1, 1.0), ("linear", 2, 1.0), ("linear", 11, 0.5), ("linear", 19, 1 / 18),
     ("cosine", 11, 0.5), ("constant", 19, 1.0)],
)  # fmt: skip
def test_schedule(tiny, name, step, expected):
    """20 steps with a tenth of warm-up: 1/2, 1, then from 1 down over 18 steps."""
    spec = tiny(f"train.schedule={name}", "train.warmup_fraction=0.1").train
    assert schedule(spec, step, 20) == pytest.approx(expected)
