"""Real Ray workers: the same losses as one process, by either engine; a killed worker; a killed driver."""

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import test_loop
from ray_runs import (
    command,
    committed,
    differing,
    journal,
    losses,
    recovery_s,
    redone,
    settings_of,
    starts,
    statuses,
    wait_for,
    workers_at_work,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow]

METHODS = {
    "joint": ["multitask.weighting.name=fixed"],
    "dwa": ["multitask.weighting.name=dwa", "multitask.weighting.interval=steps:2"],
    "uncertainty": ["multitask.weighting.name=uncertainty", "multitask.weighting.learning_rate=0.2"],
    "famo": ["multitask.weighting.name=famo", "multitask.weighting.learning_rate=0.2"],
    "upgrad": ["multitask.weighting.name=upgrad"],
    "alternating": ["multitask.strategy=alternating", "multitask.cycle=steps:2"],
    "ark": ["multitask.strategy=ark", "multitask.ark.momentum=0.8"],
}
ENGINES = {
    "ddp": [],
    "ddp, two micro-batches": ["train.accumulation=2"],
    "deepspeed, ZeRO 0": ["engine.name=deepspeed", "engine.zero_stage=0"],
    "deepspeed, ZeRO 1": ["engine.name=deepspeed", "engine.zero_stage=1"],
    "deepspeed, ZeRO 1, two micro-batches": ["engine.name=deepspeed", "engine.zero_stage=1", "train.accumulation=2"],
    "deepspeed, ZeRO 2": ["engine.name=deepspeed", "engine.zero_stage=2"],
    "deepspeed, ZeRO 3": ["engine.name=deepspeed", "engine.zero_stage=3"],
}
RUNS = [
    *(("joint", engine) for engine in ENGINES if engine != "deepspeed, ZeRO 1"),
    *((method, "ddp") for method in METHODS if method != "joint"),
    ("dwa", "deepspeed, ZeRO 2"),
    ("uncertainty", "deepspeed, ZeRO 3"),
    ("famo", "deepspeed, ZeRO 3"),
    ("upgrad", "ddp, two micro-batches"),
    ("upgrad", "deepspeed, ZeRO 1"),
    ("alternating", "deepspeed, ZeRO 2"),
    ("ark", "deepspeed, ZeRO 2"),
]
TWO_EPOCHS = ["train.epochs=2", "multitask.tasks=[td,ae,vc,rc]"]


def common(world: Path) -> list[str]:
    """Settings of every run that is compared: nothing at random but the order of the data."""
    return [
        f"data.root={world}", "data.test=null", "model.built_text.dropout=0", "model.shared.dropout=0",
        "train.global_batch=160", "multitask.rate.ae=0.2", "train.schedule=constant", "train.warmup_fraction=0",
        "tracking.enabled=false", *TWO_EPOCHS,
    ]  # fmt: skip


def in_workers(loop, workers: int, configs: dict[str, dict], folder: Path, name: str):
    """What rank 0 of so many Ray workers gives, each of which runs ``loop`` on ``configs`` and ``folder``."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    trainer = TorchTrainer(
        loop,
        train_loop_config={"configs": configs, "folder": str(folder)},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ScalingConfig(num_workers=workers),
        run_config=RunConfig(name=name, storage_path=str(folder)),
    )
    return trainer.fit().return_value


def engines_in_turn(settings):
    """Runs in each worker: training by each engine; its losses before and after a resumption."""
    import ray.train
    from in_halves import in_halves

    from xmtl_ray.config.schema import Config

    def learn(context, config, track) -> None:
        test_loop.learn(context, config, *test_loop.build(config), track)

    results = {
        name: in_halves(Path(settings["folder"]) / name, Config.model_validate(tree), learn)
        for name, tree in settings["configs"].items()
    }
    return results if ray.train.get_context().get_world_rank() == 0 else None


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    """Folder of the runs by each engine. (Not looked for by its name: another file's may have the same.)"""
    return tmp_path_factory.mktemp("engines")


@pytest.fixture(scope="module")
def two_workers(cluster, world, engines):
    """Losses of two Ray workers by engine, all in one Ray Train run: starting workers costs more than training."""
    from xmtl_ray.config.load import load

    configs = {
        f"{method}, {engine}": load(
            "xmtl_smoke", [*common(world), "cluster.workers=2", *METHODS[method], *ENGINES[engine]]
        ).model_dump(mode="json")
        for method, engine in RUNS
    }
    return in_workers(engines_in_turn, 2, configs, engines, "engines")


def engines_resumed(settings):
    """Runs in a single worker: what follows from the checkpoints that two workers have left after one epoch."""
    from in_halves import Folder, half_of

    from xmtl_ray.config.schema import Config

    found = {}
    for name, tree in settings["configs"].items():
        metrics = found.setdefault(name, {})
        config, folder = Config.model_validate(tree), half_of(Path(settings["folder"]) / name)

        def track(step, seen, metrics=metrics) -> None:
            metrics.setdefault(step, {}).update(seen)

        test_loop.learn(Folder(folder), config, *test_loop.build(config), track)
    return found


@pytest.fixture(scope="module")
def one_worker_after_two(two_workers, world, engines):
    """Losses by engine of a single worker that goes on where two have stopped."""
    from xmtl_ray.config.load import load

    configs = {
        f"joint, {engine}": load("xmtl_smoke", [*common(world), "cluster.workers=1", *ENGINES[engine]]).model_dump(
            mode="json"
        )
        for method, engine in RUNS
        if method == "joint"
    }
    return in_workers(engines_resumed, 1, configs, engines, "resumed")


@pytest.fixture(scope="module")
def one_process(world, tmp_path_factory):
    """What the same run gives in this process, by method; each runs once."""
    from xmtl_ray.config.load import load

    found = {}

    def losses(method):
        if method not in found:
            config = load("xmtl_smoke", [*common(world), "cluster.workers=0", *METHODS[method]])
            found[method], _, _ = test_loop.run(config, tmp_path_factory.mktemp("one"))
        return found[method]

    return losses


@pytest.mark.parametrize(("method", "engine"), RUNS)
def test_two_workers_equal_one_process(two_workers, one_process, method, engine):
    """Same global batches, same losses and weights at every step, to float tolerance; so DDP equals DeepSpeed too.

    Each run was stopped after its first epoch and begun again from its checkpoint, so this covers each engine's
    resumption as well.
    """
    first, second = two_workers[f"{method}, {engine}"]
    assert not set(first) & set(second)
    found, expected = first | second, one_process(method)
    assert set(found) == set(expected)
    weights = set()
    for step, metrics in expected.items():
        for name, value in metrics.items():
            if name.startswith(("train/loss", "train/weight")):
                assert found[step][name] == pytest.approx(value, rel=2e-3, abs=2e-3), (step, name)
                weights |= {value} if name.startswith("train/weight") else set()
    if method in {"dwa", "uncertainty", "famo", "upgrad"}:
        assert max(weights) > 1.05 * min(weights), "the weights do walk"


@pytest.mark.parametrize("engine", [engine for method, engine in RUNS if method == "joint"])
def test_one_worker_goes_on_where_two_stopped(one_worker_after_two, one_process, engine):
    """Same global batches in the same order: the second epoch's losses are those of one process, to float tolerance."""
    found, expected = one_worker_after_two[f"joint, {engine}"], one_process("joint")
    steps = sorted(step for step, metrics in expected.items() if "train/loss" in metrics)
    assert [step for step in sorted(found) if "train/loss" in found[step]] == steps[len(steps) // 2 :]
    for step, metrics in found.items():
        for name, value in metrics.items():
            if name.startswith("train/loss"):
                assert value == pytest.approx(expected[step][name], rel=2e-3, abs=2e-3), (step, name)


def test_a_killed_driver_run_again_follows_the_unbroken_run(world, tmp_path, record_property):
    """SIGKILL to a run in local mode; the same command goes on and every loss is that of a run never killed."""
    subprocess.run(command(world, tmp_path / "whole", "cluster.workers=0"), check=True)
    whole = losses(tmp_path / "whole")
    steps = max(whole) // 4
    broken = subprocess.Popen(command(world, tmp_path / "broken", "cluster.workers=0"))
    wait_for(lambda: max(losses(tmp_path / "broken"), default=0) > 2 * steps + 1, 300)
    broken.send_signal(signal.SIGKILL)
    struck = time.time()
    broken.wait()
    assert max(losses(tmp_path / "broken")) < max(whole), "it was killed before its end"
    done = subprocess.run(command(world, tmp_path / "broken", "cluster.workers=0"), check=True, capture_output=True)
    assert b"resumed after epoch" in done.stdout + done.stderr
    record_property("losses_differing", differing(losses(tmp_path / "broken"), whole))
    record_property("steps_redone", max(redone(tmp_path / "broken")))
    record_property("recovery_s", recovery_s(tmp_path / "broken", [struck]))
    assert losses(tmp_path / "broken") == whole
    for name in ("predictions.json", "model/model.safetensors"):
        assert (tmp_path / "broken/run" / name).read_bytes() == (tmp_path / "whole/run" / name).read_bytes(), name


@pytest.mark.long
def test_a_killed_driver_of_two_workers_goes_on(world, tmp_path, cluster, whole, nothing_stays, record_property):
    """SIGKILL to the driver on a standing cluster: its workers go, what it held is free, and the same command goes on
    from the newest checkpoint, with the losses of a run that nothing happened to; the run is FINISHED once."""
    environment = os.environ | {"RAY_ADDRESS": cluster["gcs_address"]}
    line = command(world, tmp_path, "cluster.workers=2", "tracking.enabled=false", "train.checkpoint_every_steps=5")
    driver = subprocess.Popen(line, env=environment)
    wait_for(lambda: max(losses(tmp_path), default=0) > 33, 600)
    driver.send_signal(signal.SIGKILL)
    struck = time.time()
    driver.wait()
    wait_for(lambda: not workers_at_work(), 180)
    at = committed(tmp_path)
    subprocess.run(line, env=environment, check=True)
    begins = [lines[0]["step"] for lines in starts(tmp_path)]
    record_property("committed_steps_lost", max(0, at - begins[1] + 1))
    record_property("losses_differing", differing(losses(tmp_path), whole))
    record_property("steps_redone", max(redone(tmp_path)))
    record_property("recovery_s", recovery_s(tmp_path, [struck]))
    assert begins == [1, at + 1] and losses(tmp_path) == whole
    assert statuses(tmp_path) == ["RUNNING", "RUNNING", "FINISHED"]


def test_a_uri_as_storage_holds_the_whole_run_and_resumes_it(world, tmp_path, cluster):
    """Two workers, everything behind a URI: stopped after two epochs, gone on with, refused under other settings."""
    environment = os.environ | {"RAY_ADDRESS": cluster["gcs_address"]}
    there = (tmp_path / "bucket").as_uri()

    def run(*settings: str) -> subprocess.CompletedProcess[str]:
        line = [*command(world, there, "cluster.workers=2", "tracking.enabled=false", "train.patience=1"), *settings]
        return subprocess.run(line, env=environment, capture_output=True, text=True, check=False)

    done = run()
    assert done.returncode == 0, done.stderr
    assert f"report: {there}/run/report.html" in done.stdout
    folder = tmp_path / "bucket" / "run"
    found = {path.name for path in folder.iterdir()}
    assert {"model", "config.yaml", "tracking.jsonl", "predictions.json", "scores.json", "report.html"} <= found
    before = losses(tmp_path / "bucket")
    assert before

    again = run()
    assert again.returncode == 0, again.stderr
    assert "resumed after epoch" in again.stdout + again.stderr
    assert losses(tmp_path / "bucket") == before
    assert [line["status"] for line in journal(tmp_path / "bucket") if "status" in line].count("RUNNING") == 2

    other = run("train.seed=7")
    assert other.returncode == 2 and "train.seed: was 0, is 7" in other.stderr


@pytest.mark.long
def test_a_driver_stopped_an_index_emptied_a_machine_taken_away(
    world, tmp_path, cluster, whole, nothing_stays, record_property
):
    """SIGTERM to the driver, Ray's index left empty, SIGTERM to a worker: each time a checkpoint of that very step is
    left, no step is done twice, and the losses are those of a run that nothing happened to."""
    environment = os.environ | {"RAY_ADDRESS": cluster["gcs_address"]}
    line = command(world, tmp_path, "cluster.workers=2", "tracking.enabled=false")
    driver = subprocess.Popen(line, env=environment)
    wait_for(lambda: max(losses(tmp_path), default=0) > 2, 180)
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(180) == 128 + signal.SIGTERM
    assert statuses(tmp_path) == ["RUNNING", "KILLED"]
    stopped = max(losses(tmp_path))
    (tmp_path / "run/checkpoint_manager_snapshot.json").write_text("")

    driver = subprocess.Popen(line, env=environment)
    wait_for(lambda: max(losses(tmp_path), default=0) > stopped + 2, 180)
    workers_at_work()[-1].send_signal(signal.SIGTERM)
    struck = time.time()
    assert driver.wait(300) == 0
    names = [path.name for path in (tmp_path / "run/checkpoints").glob("checkpoint_*")]
    assert {name[:16] for name in names} <= {"checkpoint_a0001", "checkpoint_a0002", "checkpoint_a0003"}
    assert statuses(tmp_path) == ["RUNNING", "KILLED", "RUNNING", "KILLED", "RUNNING", "FINISHED"]
    found = [line["step"] for line in journal(tmp_path) if "train/loss" in line.get("metrics", {})]
    record_property("losses_differing", differing(losses(tmp_path), whole))
    record_property("steps_redone", len(found) - len(set(found)))
    record_property("recovery_s", recovery_s(tmp_path, [struck]))
    assert len(found) == len(set(found))
    assert losses(tmp_path) == whole


def poisoned(settings):
    """Runs in each worker: ours, whose loss makes it die in the second epoch, whenever it comes there."""
    from xmtl_ray.training import loop, worker

    def explode(means, step) -> None:
        if step > 30:
            raise MemoryError("poison")

    loop._check_finite = explode
    return worker.train_worker(settings)


@pytest.mark.long
def test_a_worker_that_fails_each_time_ends_the_run(
    world, tmp_path, cluster, nothing_stays, monkeypatch, record_property
):
    """After max_failures it is an error; the run is FAILED, and the last good checkpoint is there."""
    from pyarrow import fs

    from xmtl_ray.config.load import load
    from xmtl_ray.training import launch, worker
    from xmtl_ray.training.checkpoints import CheckpointStore

    monkeypatch.setattr(worker, "train_worker", poisoned)
    settings = settings_of(world, tmp_path, "cluster.workers=1", "cluster.max_failures=1", "tracking.enabled=false")
    with pytest.raises(launch.TrainingError, match=r"worker 0: .*poison"):
        launch.launch(load("xmtl_smoke", settings))
    record_property("wrongly_finished", statuses(tmp_path).count("FINISHED"))
    record_property("starts", statuses(tmp_path).count("RUNNING"))
    assert statuses(tmp_path) == ["RUNNING", "FAILED", "RUNNING", "FAILED"]
    store = CheckpointStore(fs.LocalFileSystem(), str(tmp_path / "run/checkpoints"), "", 1)
    assert store.newest().endswith("_s00000025")


@pytest.mark.long
def test_a_worker_that_fails_each_time_without_a_bound_is_begun_for_ever(world, tmp_path, cluster, record_property):
    """The control of the test before: with failures without number it is begun until somebody stops it."""
    program = f"{inspect.getsource(poisoned)}\nfrom xmtl_ray.training import worker\nworker.train_worker = poisoned\n"
    program += "from xmtl_ray.cli.main import main\nmain()"  # workers get what __main__ has, and do not find this file
    settings = settings_of(world, tmp_path, "cluster.workers=1", "cluster.max_failures=1000000")
    line = [sys.executable, "-c", program, "train", "xmtl_smoke", *settings, "tracking.enabled=false"]
    driver = subprocess.Popen(line, env=os.environ | {"RAY_ADDRESS": cluster["gcs_address"]})
    wait_for(lambda: statuses(tmp_path).count("FAILED") >= 4 or driver.poll() is not None, 900)
    record_property("control.needless_starts", statuses(tmp_path).count("RUNNING") - 2)
    assert driver.poll() is None, "it ended by itself"
    driver.send_signal(signal.SIGINT)
    driver.wait(300)


def test_a_cluster_that_has_no_room_is_told_in_time(world, tmp_path, cluster, nothing_stays):
    """Five workers on four CPUs: an error with both numbers after the time that was given, not for ever."""
    environment = os.environ | {"RAY_ADDRESS": cluster["gcs_address"]}
    line = command(world, tmp_path, "cluster.workers=5", "cluster.capacity_timeout_s=4", "tracking.enabled=false")
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 2
    assert "the cluster has 4 of 5 CPU that the run needs; it waits up to 4 s for more" in done.stderr
    assert "cluster.workers: 5 with 1 CPU each could not be started within 4 s" in done.stderr
    assert "the cluster has 4 CPU (4 free)" in done.stderr


def test_ray_replaces_a_killed_worker_without_help(world, tmp_path, cluster, whole, nothing_stays, record_property):
    """SIGKILL to one of two workers in the third epoch: the run ends well, with the losses of a run never killed."""
    environment = os.environ | {"RAY_ADDRESS": cluster["gcs_address"]}
    steps = max(whole) // 4
    broken = subprocess.Popen(command(world, tmp_path / "broken", "cluster.workers=2"), env=environment)
    wait_for(lambda: max(losses(tmp_path / "broken"), default=0) > 2 * steps + 1, 180)
    workers = workers_at_work()
    assert len(workers) == 2
    workers[0].kill()
    struck = time.time()
    assert broken.wait(300) == 0
    record_property("losses_differing", differing(losses(tmp_path / "broken"), whole))
    record_property("steps_redone", max(redone(tmp_path / "broken")))
    record_property("recovery_s", recovery_s(tmp_path / "broken", [struck]))
    assert losses(tmp_path / "broken") == whole
    state = json.loads((tmp_path / "broken/run/mlflow.json").read_text())
    from mlflow import MlflowClient

    client = MlflowClient(state["uri"])
    run = client.get_run(state["run_id"])
    assert run.info.status == "FINISHED"
    points = [point.step for point in client.get_metric_history(state["run_id"], "train/loss/td")]
    record_property("metric_points_lost", len(whole) - len(set(points)))
    assert len(set(points)) == len(whole)
