"""Fine-tuning on real Ray workers: DDP and DeepSpeed, ZeRO 0-3, adapters on 4 bits, on 16, and whole."""

import json
import os
from pathlib import Path

import finetune_runs
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

RUNS = [
    ("qlora", ""),
    ("full", ""),
    ("qlora", "0"),
    ("qlora", "1"),
    ("qlora", "2"),
    ("lora", "3"),
    ("full", "3"),
    ("qlora", "3"),
]
"""Method and ZeRO stage; none is DDP."""


def engine(stage: str) -> list[str]:
    return [] if not stage else ["engine.name=deepspeed", f"engine.zero_stage={stage}"]


def in_turn(settings):
    """Runs in each worker: each run's losses before and after a resumption from its first epoch's checkpoint.

    What has test conversations also answers them with the model it keeps; its own weights are lost before.
    """
    import ray.train
    import torch
    from in_halves import Folder, in_halves

    from xmtl_ray.config.finetune import FinetuneConfig
    from xmtl_ray.generative import folders
    from xmtl_ray.training import finetune
    from xmtl_ray.training.engine import put
    from xmtl_ray.training.loop import MODEL

    results = {}
    for name, tree in settings["configs"].items():
        config, folder = FinetuneConfig.model_validate(tree), Path(settings["folder"]) / name

        def learn(context: Folder, part: FinetuneConfig, track, config=config, folder=folder) -> None:
            position, made = finetune_runs.learn(context, part, track)
            if part is config and config.data.test is not None:
                out = folder / "out"
                out.mkdir(exist_ok=True)
                kept = folders.read_state(folder / MODEL, made.loaded)
                put(made.loaded.chat.module, {name: torch.zeros_like(value) for name, value in kept.items()})
                finetune.finish(context, config, made, position, out, track)

        results[name] = in_halves(folder, config, learn)
    return results if ray.train.get_context().get_world_rank() == 0 else None


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Corpus and base."""
    return finetune_runs.prepare(tmp_path_factory.mktemp("finetune"))


@pytest.fixture(scope="module")
def two_workers(made, tmp_path_factory):
    """Losses of two Ray workers by run, all in one Ray Train run: starting workers costs more than training."""
    import ray
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from xmtl_ray.cluster.connection import ENVIRONMENT

    os.environ.update(ENVIRONMENT)
    environment = ENVIRONMENT | {"PYTHONPATH": str(Path(__file__).parent)}
    ray.init(num_cpus=4, include_dashboard=False, runtime_env={"env_vars": environment})
    folder = tmp_path_factory.mktemp("engines")
    configs = {
        f"{method} {stage}": finetune_runs.config(
            *made, method, "cluster.workers=2", *engine(stage), *(["data.test=few.json"] if stage == "3" else [])
        ).model_dump(mode="json")
        for method, stage in RUNS
    }
    trainer = TorchTrainer(
        in_turn,
        train_loop_config={"configs": configs, "folder": str(folder)},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=2),
        run_config=RunConfig(name="engines", storage_path=str(folder)),
    )
    yield trainer.fit().return_value, folder
    ray.shutdown()


@pytest.fixture(scope="module")
def one_process(made, tmp_path_factory):
    """What the same run gives in this process, by method; each runs once."""
    found = {}

    def losses(method):
        if method not in found:
            found[method], _, _ = finetune_runs.run(finetune_runs.config(*made, method), tmp_path_factory.mktemp("one"))
        return found[method]

    return losses


@pytest.mark.parametrize(("method", "stage"), RUNS)
def test_two_workers_equal_one_process(two_workers, one_process, method, stage):
    """Same global batches, same losses at every step, to float tolerance, also after a resumption.

    Batches hold text, images and videos; some workers' parts have no medium at all.
    """
    first, second = two_workers[0][f"{method} {stage}"]
    expected = one_process(method)
    assert set(first) | set(second) == set(expected) and not set(first) & set(second)
    for step, metrics in expected.items():
        found = (first | second)[step]
        assert found["train/loss"] == pytest.approx(metrics["train/loss"], rel=2e-3), step
        if "dev/loss_lm" in metrics:
            assert found["dev/loss_lm"] == pytest.approx(metrics["dev/loss_lm"], rel=2e-3), step


@pytest.mark.parametrize("method", ["lora", "full", "qlora"])
def test_sharded_weights_answer_as_the_folder_does(two_workers, made, method):
    """Under ZeRO-3 the kept checkpoint goes back into weights that are sharded: the answers are those of its folder."""
    import torch

    from xmtl_ray.config.finetune import Generation
    from xmtl_ray.data import videollama2
    from xmtl_ray.generative import folders
    from xmtl_ray.generative.answering import answers

    corpus, _ = made
    out = two_workers[1] / f"{method} 3" / "out"
    written = [json.loads(line) for line in (out / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    loaded = folders.load(out / "model", media=corpus)
    asked = [loaded.chat.encode(one) for one in videollama2.read(corpus / "few.json")]
    spec = Generation(greedy=True, max_new_tokens=4)
    expected = {one.id: one.text for one in answers(loaded.chat, asked, spec, torch.device("cpu"))}
    assert {row["id"]: row["output"] for row in written} == expected
    assert all(row["output"] for row in written)
