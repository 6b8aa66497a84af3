"""Fine-tuning in this process: exact resumption, and what must not change a loss."""

import json

import pytest
import torch
from finetune_runs import config, prepare, run

from xmtl_ray.cli.main import app
from xmtl_ray.generative import folders
from xmtl_ray.models import qlora


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Corpus and base."""
    return prepare(tmp_path_factory.mktemp("finetune"))


@pytest.mark.parametrize("method", ["qlora", "full"])
def test_a_resumed_run_follows_the_unbroken_one_exactly(made, tmp_path, method):
    """Killed in its second epoch and begun again, dropout on: every loss and trained weight is the same number."""
    spec = config(*made, method, "train.eval_every_steps=4", "adapter.dropout=0.1")
    unbroken, _, whole = run(spec, tmp_path / "unbroken")
    before, _, _ = run(spec, tmp_path / "broken", stop_at=9)
    after, position, resumed = run(spec, tmp_path / "broken")
    assert min(after) == 9, "it goes on after the evaluation at step 8"
    assert {step: metrics for step, metrics in unbroken.items() if step < 9} | after == unbroken
    assert before[5] == unbroken[5] and position.step == 12
    learnt = qlora.trainable_names(whole.module)
    assert learnt
    weights = resumed.module.state_dict()
    for name in learnt:
        assert torch.equal(whole.module.state_dict()[name], weights[name]), name


def test_a_checkpoint_of_adapters_holds_nothing_else(made, tmp_path):
    """Adapters and connector, pinned to the base's hash; not the base. It loads by itself and answers alike."""
    corpus, base = made
    spec = config(corpus, base, "qlora")
    _, _, chat = run(spec, tmp_path)
    folder = max(tmp_path.glob("checkpoint_*")) / "model"
    state = qlora.read_adapter(folder)
    assert set(state) == set(qlora.trainable_names(chat.module))
    assert all("lora_" in name or name.startswith("connector.") for name in state)
    assert json.loads((folder / "base.json").read_text())["sha256"] == qlora.base_of(folder).sha256
    loaded = folders.load(folder)
    for name, value in state.items():
        assert torch.equal(loaded.chat.module.state_dict()[name], value), name


@pytest.mark.parametrize("change", [
    ["train.accumulation=2"], ["train.pack=false"], ["train.pack=false", "train.accumulation=4"],
    ["model.gradient_checkpointing=true"], ["data.features=features"], ["data.loader_workers=1"],
])  # fmt: skip
def test_what_must_not_change_a_loss(made, tmp_path, change):
    """Micro-batches, packing, recomputation, kept features and loader processes: the same losses, to 32 bits."""
    expected, _, _ = run(config(*made, "lora"), tmp_path / "plain")
    change = [item.replace("=features", f"={tmp_path / 'features'}") for item in change]
    found, _, _ = run(config(*made, "lora", *change), tmp_path / "changed")
    assert set(found) == set(expected)
    for step, metrics in expected.items():
        assert found[step]["train/loss"] == pytest.approx(metrics["train/loss"], rel=1e-4), step
    if "data.features" in change[0]:
        assert list((tmp_path / "features").glob("??/*.safetensors"))


def test_learning_lowers_the_loss_for_every_method(made, tmp_path):
    """Two epochs of six steps at a high rate; beneath adapters the output head stays as random as it was."""
    for method, most in (("qlora", 0.99), ("lora", 0.99), ("full", 0.9)):
        losses, _, _ = run(config(*made, method), tmp_path / method)
        assert losses[12]["train/loss"] < most * losses[1]["train/loss"], method


def test_early_stopping_within_an_epoch_ends_the_run(made, tmp_path):
    """Patience 1 with an evaluation at each step: it stops at the first that is no better, and stays stopped."""
    spec = config(*made, "lora", "train.eval_every_steps=1", "train.patience=1", "train.select=dev/tr_accuracy")
    losses, position, _ = run(spec, tmp_path)
    assert position.stopped and max(losses) < 12
    again, position, _ = run(spec, tmp_path)
    assert again == {} and position.stopped


@pytest.mark.parametrize(("change", "told"), [
    (["adapter.bits=16", "adapter.method=qlora"], "adapter: bits: found 16, expected 4 or 8 with method qlora"),
    (["train.global_batch=3", "train.accumulation=2"], "expected a multiple of 2"),
    (["train.dev_samples=0", "train.select=dev/tr_accuracy"], "dev_samples=0 answers nothing"),
    (["model.family=videollama2"], "model.family: found videollama2, expected videollama21"),
    (["model.path=/nowhere"], "nothing is fetched"),
    (["adapter.targets=[q_proj,qproj]", "adapter.method=lora", "adapter.bits=16"], "adapter.targets: found qproj"),
    (["generation.constrained=schema", "train.learning_rat=1"], "did you mean 'learning_rate'"),
])  # fmt: skip
def test_a_wrong_setting_is_told_before_training(made, tmp_path, change, told):
    """By its dotted path, with what was expected; exit status 2 and no traceback."""
    from typer.testing import CliRunner

    corpus, base = made
    line = [
        "finetune", "videollama2_smoke", "model.family=videollama21", f"model.path={base}", "model.train_tower=false",
        f"data.root={corpus}", "data.train=some.json", "data.dev=few.json", "data.check=none", "cluster.workers=0",
        f"storage_path={tmp_path}", "adapter.method=qlora", "adapter.bits=4", "tracking.enabled=false", *change,
    ]  # fmt: skip
    found = CliRunner().invoke(app, line)
    assert found.exit_code == 2, found.output
    assert told in found.output.replace("\n", " ")


def test_train_refuses_a_recipe_of_the_other_family():
    """And says which verb takes it."""
    from typer.testing import CliRunner

    found = CliRunner().invoke(app, ["train", "videollama2_smoke"])
    assert found.exit_code == 2 and "xmtl finetune" in found.output
    found = CliRunner().invoke(app, ["finetune", "xmtl_smoke"])
    assert found.exit_code == 2 and "xmtl train" in found.output


def test_test_conversations_among_the_training_ones_stop_the_run(made, tmp_path):
    """The paper's own step count suggests that its test samples were trained on; here that is an error."""
    from typer.testing import CliRunner

    corpus, base = made
    line = [
        "finetune", "videollama2_smoke", "model.family=videollama21", f"model.path={base}", f"data.root={corpus}",
        "data.train=some.json", "data.test=some.json", "data.dev=few.json", "data.check=quick", "cluster.workers=0",
        f"storage_path={tmp_path}", "adapter.method=lora", "model.train_tower=false",
    ]  # fmt: skip
    found = CliRunner().invoke(app, line)
    assert found.exit_code == 2 and "leak" in found.output
