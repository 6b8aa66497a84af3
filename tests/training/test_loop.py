"""The training loop in this process: exact resumption, exact accumulation, one pass per modality, clear failures."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from xmtl_ray.config.schema import PSEUDO
from xmtl_ray.data.images import Canvases
from xmtl_ray.models import weights
from xmtl_ray.multitask import examples as task_examples
from xmtl_ray.multitask.batch import Collate
from xmtl_ray.training import stopping
from xmtl_ray.training.context import Local
from xmtl_ray.training.engine import schedule
from xmtl_ray.training.loop import NonFiniteLoss, train
from xmtl_ray.training.xmtl import XmtlLearner


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


def learn(context, config, loaded, collate, examples, track):
    """Train a model that is built."""
    learner = XmtlLearner(context, config, loaded, collate, examples)
    return train(context, config.engine, config.train, learner, track)


def run(config, folder: Path, stop_at: int | None = None, twins: bool = False):
    """Losses by step of a run in this process; with ``stop_at`` it dies after that step.

    With ``twins`` a part of the gold is learnt from as if teachers had labelled it.
    """
    if twins:
        joint = config.model_copy(update={"multitask": config.multitask.model_copy(update={"strategy": "joint"})})
        loaded, collate, examples = build(joint)
        examples = pretended_twins(examples)
    else:
        loaded, collate, examples = build(config)
    losses: dict[int, dict[str, float]] = {}

    def track(step: int, metrics) -> None:
        losses.setdefault(step, {}).update(metrics)
        if step == stop_at and "train/loss" in metrics:
            raise Stopped

    context = Local(folder, config.train.select, config.train.keep_checkpoints)
    position = None
    try:
        position = learn(context, config, loaded, collate, examples, track)
    except Stopped:
        assert stop_at is not None
    return losses, position, loaded


def differing(found, expected) -> int:
    """Steps whose losses, weights of losses or dev scores are not the same numbers."""
    return sum(found.get(step) != expected.get(step) for step in found.keys() | expected.keys())


def test_a_resumed_run_follows_the_unbroken_one_exactly(tiny, tmp_path, record_property):
    """Killed in its second epoch and begun again, dropout on: every loss and every weight is the same number."""
    config = tiny("train.epochs=3", "model.built_text.dropout=0.1", "model.shared.dropout=0.1")
    unbroken, _, whole = run(config, tmp_path / "unbroken")
    steps = max(unbroken) // 3
    before, _, _ = run(config, tmp_path / "broken", stop_at=steps + 2)
    after, _, resumed = run(config, tmp_path / "broken")
    record_property("losses_differing", differing(before | after, unbroken))
    assert min(after) == steps + 1, "it goes on after the last checkpoint, which the first epoch left"
    assert before | after == unbroken
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name


def pretended_twins(examples):
    """Examples with twins: a part of the gold of each task, as if teachers had labelled it."""
    twins = {twin: examples.train[task][:40] for task, twin in PSEUDO.items()}
    return replace(examples, train={**examples.train, **twins})


METHODS = {
    "dwa by epochs": ["multitask.weighting.name=dwa"],
    "dwa by steps": ["multitask.weighting.name=dwa", "multitask.weighting.interval=steps:2"],
    "uncertainty": ["multitask.weighting.name=uncertainty"],
    "famo": ["multitask.weighting.name=famo"],
    "upgrad": ["multitask.weighting.name=upgrad"],
    "alternating": ["multitask.strategy=alternating"],
    "alternating, turns of two steps": ["multitask.strategy=alternating", "multitask.cycle=steps:2"],
    "ark": ["multitask.strategy=ark", "multitask.ark.momentum=0.9"],
    "single": ["multitask.strategy=single", "multitask.tasks=[vc]", "train.select=dev/verb_f1"],
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_resumes_exactly(tiny, tmp_path, method, record_property):
    """Losses, weights, ARK's teacher and student: killed in the third epoch and begun again, all the same numbers."""
    config = tiny("train.epochs=3", "train.eval_every_epochs=2", "multitask.rate.ae=0.2", *METHODS[method])
    unbroken, _, whole = run(config, tmp_path / "unbroken")
    steps = max(unbroken) // 3
    before, _, _ = run(config, tmp_path / "broken", stop_at=2 * steps + 1)
    after, _, resumed = run(config, tmp_path / "broken")
    record_property("losses_differing", differing(before | after, unbroken))
    assert min(after) == 2 * steps + 1
    assert before | after == unbroken
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, resumed.model.state_dict()[name]), name
    one, other = (max((tmp_path / run).glob("checkpoint_*")) / "model" for run in ("unbroken", "broken"))
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()


def test_alternating_learns_one_task_at_a_time(tiny, tmp_path):
    """Each step has one loss, whose weight is 1; all tasks have their turn in an epoch."""
    losses, _, _ = run(tiny("train.epochs=1", "multitask.strategy=alternating"), tmp_path)
    named = [[name for name in losses[step] if name.startswith("train/loss/")] for step in sorted(losses)]
    assert all(len(names) == 1 for names in named)
    order = [names[0] for names in named]
    assert list(dict.fromkeys(order)) == [f"train/loss/{task}" for task in ("td", "ae", "vc", "rc")]
    assert order == sorted(order, key=list(dict.fromkeys(order)).index), "whole turns"


def test_ark_keeps_its_teacher(tiny, tmp_path):
    """The model folder holds the moving average: 0.9 of it kept at each step, replayed here from the students."""
    config = tiny("train.epochs=1", "train.checkpoint_every_steps=1", "train.global_batch=32", "multitask.strategy=ark",
                  "multitask.ark.momentum=0.9", "multitask.tasks=[td,vc]")  # fmt: skip
    students = []

    class Watching(Local):
        def report(self, metrics, checkpoint):
            students.append(
                {name: load_file(checkpoint / name) for name in ("student.safetensors", "model/model.safetensors")}
            )
            super().report(metrics, checkpoint)

    loaded, collate, examples = build(config)
    losses = {}
    learn(Watching(tmp_path, config.train.select, 2), config, loaded, collate, examples,
          lambda step, metrics: losses.setdefault(step, {}).update(metrics))  # fmt: skip
    assert len(students) > 3
    teacher = students[0]["student.safetensors"]
    for now in students[1:]:
        teacher = {name: 0.9 * value + 0.1 * now["student.safetensors"][name] for name, value in teacher.items()}
    for name, value in students[-1]["model/model.safetensors"].items():
        if value.is_floating_point():
            assert torch.allclose(value, teacher[name], atol=1e-6), name
    assert losses[1]["train/loss/consistency"] == 0.0, "at the first step teacher and student are one"
    assert losses[3]["train/loss/consistency"] > 0


def test_pseudo_label_twins_have_losses_and_weights_of_their_own(tiny, tmp_path):
    """Eight losses: twins begin with beta, all sum as Eq. 14, DWA moves the weights, their sum before beta stays 8."""
    config = tiny("train.epochs=3", "multitask.weighting.name=dwa", "multitask.strategy=xmtl", "multitask.rate.ae=0.3")
    loaded, collate, examples = build(config.model_copy(update={
        "multitask": config.multitask.model_copy(update={"strategy": "joint"})}))  # fmt: skip
    found: dict[int, dict[str, float]] = {}
    learn(Local(tmp_path, config.train.select, 2), config, loaded, collate, pretended_twins(examples),
          lambda step, metrics: found.setdefault(step, {}).update(metrics))  # fmt: skip
    terms = [*PSEUDO, *PSEUDO.values()]
    first = {name: found[1][f"train/weight/{name}"] for name in terms}
    assert first == {name: 0.5 if name.endswith("_pseudo") else 1.0 for name in terms}
    assert found[1]["train/loss"] == pytest.approx(sum(first[n] * found[1][f"train/loss/{n}"] for n in terms))
    changed = [step for step in sorted(found) if "train/weight/td" in found[step]]
    assert changed == [1, 2 * (max(found) // 3) + 1], "weights are 1 for two epochs, then Eq. 13's"
    last = {name: found[changed[1]][f"train/weight/{name}"] for name in terms}
    assert last != first
    assert sum(last[task] + last[twin] / 0.5 for task, twin in PSEUDO.items()) == pytest.approx(8)


def test_pseudo_labels_resume_where_they_were(tiny, tmp_path, record_property):
    """Killed within an epoch: eight losses of gold and pseudo-labels, and DWA's weights, go on as they would have."""
    config = tiny("train.epochs=2", "multitask.weighting.name=dwa", "multitask.strategy=xmtl", "multitask.rate.ae=0.3",
                  "train.checkpoint_every_steps=2", "multitask.weighting.interval=steps:2")  # fmt: skip
    unbroken, _, _ = run(config, tmp_path / "unbroken", twins=True)
    stop = max(unbroken) // 2 + 3
    before, _, _ = run(config, tmp_path / "broken", stop_at=stop, twins=True)
    after, _, _ = run(config, tmp_path / "broken", twins=True)
    found = {step: before.get(step, {}) | after.get(step, {}) for step in before.keys() | after.keys()}
    record_property("losses_differing", differing(found, unbroken))
    assert stop - 1 <= min(after) <= stop + 1 and found == unbroken
    assert {f"train/loss/{twin}" for twin in PSEUDO.values()} <= set(unbroken[1])


def test_a_checkpoint_within_an_epoch_resumes_within_it(tiny, tmp_path):
    """With checkpoint_every_steps a run that dies mid-epoch loses only the steps since."""
    config = tiny("train.epochs=1", "train.checkpoint_every_steps=2", "model.shared.dropout=0.1")
    unbroken, _, _ = run(config, tmp_path / "unbroken")
    run(config, tmp_path / "broken", stop_at=3)
    after, position, _ = run(config, tmp_path / "broken")
    assert min(after) == 3
    assert {step: after[step] for step in after} == {step: unbroken[step] for step in after}
    assert position.epoch == 1


@pytest.mark.parametrize("where", ["in the middle of an epoch", "after an epoch's last step"])
def test_who_is_told_to_stop_leaves_a_checkpoint_of_that_step(tiny, tmp_path, where):
    """The step that goes on is the last one; begun again the run follows the unbroken one exactly."""
    config = tiny("train.epochs=2", "model.shared.dropout=0.1", "multitask.weighting.name=dwa")
    unbroken, _, _ = run(config, tmp_path / "unbroken")
    last = max(unbroken) // 2 - (where == "in the middle of an epoch")
    before: dict[int, dict[str, float]] = {}

    def track(step, metrics) -> None:
        before.setdefault(step, {}).update(metrics)
        if step == last:
            stopping.ASKED.set()

    context = Local(tmp_path / "broken", config.train.select, config.train.keep_checkpoints)
    try:
        with pytest.raises(stopping.Interrupted, match=f"after step {last}, with a checkpoint"):
            learn(context, config, *build(config), track)
    finally:
        stopping.ASKED.clear()
    after, _, _ = run(config, tmp_path / "broken")
    assert max(before) == last
    assert {**before, **{step: before.get(step, {}) | metrics for step, metrics in after.items()}} == unbroken


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
        assert best.name == f"checkpoint_a0001_s{position.step // 2:08d}", "the first of two equals"
        assert weights.load(best / "model").config == config
    assert [path.name[-8:] for path in sorted(tmp_path.glob("checkpoint_*"))] == [
        f"{step:08d}" for step in (position.step // 2, position.step)
    ]


@pytest.mark.parametrize(
    ("name", "step", "expected"),
    [("linear", 0, 0.5), ("linear", 1, 1.0), ("linear", 2, 1.0), ("linear", 11, 0.5), ("linear", 19, 1 / 18),
     ("cosine", 11, 0.5), ("constant", 19, 1.0)],
)  # fmt: skip
def test_schedule(tiny, name, step, expected):
    """20 steps with a tenth of warm-up: 1/2, 1, then from 1 down over 18 steps."""
    spec = tiny(f"train.schedule={name}", "train.warmup_fraction=0.1").train
    assert schedule(spec, step, 20) == pytest.approx(expected)
