"""Real sweeps: a killed driver loses nothing, trials that are stopped free their workers, populations change."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]

TEXT_ONLY = {
    "data.check": "none",
    "multitask.tasks": ["td"],
    "multitask.strategy": "single",
    "train.global_batch": 8,
    "train.learning_rate.text": 3e-3,
    "train.learning_rate.other": 3e-3,
    "train.epochs": 6,
}


@pytest.fixture(scope="module")
def cluster():
    """Two CPUs for all sweeps of this module that run in its process."""
    from xmtl_ray.cluster.connection import cluster

    with cluster(2, dashboard=True, quiet=True):
        yield


def made(folder, world, **parts):
    """A space of X-MTL's smallest recipe, trigger detection alone, as a file."""
    import yaml

    fixed = {"data.root": str(world), "storage_path": str(folder / "runs"), **TEXT_ONLY, **parts.pop("fixed", {})}
    fixed = {path: value for path, value in fixed.items() if path not in parts["space"]}
    body = {"recipe": "xmtl_smoke", "name": "tried", "metric": "dev/trigger_f1", "fixed": fixed, **parts}
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(body), encoding="utf-8")
    return path


def swept(path, then=lambda kind, trial: None):
    """The sweep run here: (its plan, its trials, events); ``then`` is called with each."""
    from xmtl_ray.tuning import plan, space, sweep

    events = []

    def happened(kind, trial, why):
        events.append((kind, trial.id, why))
        then(kind, trial)

    what = plan.prepare(space.load(str(path)))
    return what, sweep.sweep(what, sweep.Watcher(trial=happened)), events


def read(folder):
    return json.loads((folder / "runs/tried/sweep.json").read_text())


def test_a_driver_that_is_killed_loses_no_trial(world, tmp_path):
    """SIGKILL when one trial had finished and another was at work; --resume by the same command: the finished one is
    as it was, the other goes on from its checkpoint, and the third follows; MLflow has all under one run."""
    from mlflow import MlflowClient

    from xmtl_ray.config.load import load

    rates = {"train.learning_rate.text": {"choice": [1e-3, 2e-3, 4e-3]}}
    fixed = {"cluster.workers": 0}
    path = made(tmp_path, world, search="random", samples=3, concurrency=1, space=rates, fixed=fixed)
    command = [sys.executable, "-m", "xmtl_ray", "sweep", str(path)]
    killed = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    file, end = tmp_path / "runs/tried/sweep.json", time.monotonic() + 500
    second = tmp_path / "runs/tried/trials/tried-001"
    while not list(second.glob("checkpoints/checkpoint_*")):
        assert killed.poll() is None and time.monotonic() < end
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = json.loads(file.read_text())["trials"]
    assert [trial["state"] for trial in before] == ["finished", "running"]
    first = tmp_path / "runs/tried/trials/tried-000"
    written = {name: os.stat(first / name).st_mtime_ns for name in ("reports.jsonl", "summary.json", "config.yaml")}

    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 2 and "go on with --resume" in again.stderr
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    found = read(tmp_path)
    assert [trial["state"] for trial in found["trials"]] == ["finished"] * 3
    assert [trial["parameters"] for trial in found["trials"][:2]] == [trial["parameters"] for trial in before]
    assert found["trials"][0] == before[0], "a finished trial is not touched"
    assert written == {name: os.stat(first / name).st_mtime_ns for name in written}
    assert [epoch for epoch, _ in found["trials"][1]["history"]] == [1, 2, 3, 4, 5, 6]
    steps = [json.loads(line) for line in (second / "tracking.jsonl").read_text().splitlines()]
    trained = [line["step"] for line in steps if "train/loss" in line.get("metrics", {})]
    assert len(trained) - len(set(trained)) <= len(set(trained)) / 6, "at most one epoch was done twice"
    assert found["trials"][1]["metric"] == max(value for _, value in found["trials"][1]["history"])

    best = load(str(tmp_path / "runs/tried/best.yaml"))
    winner = max(found["trials"], key=lambda trial: trial["metric"])
    assert found["best"] in {trial["id"] for trial in found["trials"] if trial["metric"] == winner["metric"]}
    assert best.train.learning_rate.text in {1e-3, 2e-3, 4e-3} and best.data.test is not None
    client = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("xmtl").experiment_id])
    parent = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert len(parent) == 1 and len(runs) == 4 and parent[0].data.tags["sweep.best"] == found["best"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.data.tags.get("mlflow.parentRunId") for run in runs} == {None, parent[0].info.run_id}
    assert {trial["mlflow_run"] for trial in found["trials"]} == {run.info.run_id for run in runs} - {
        parent[0].info.run_id
    }


def test_trials_with_workers_of_their_own(world, tmp_path, cluster):
    """Each drives a Train worker. ASHA stops the poor ones, whose workers are free for those after them; one that
    cannot train is told, and stops no other."""
    import ray

    rates = {"train.learning_rate.other": {"grid": [3e-3, 1e30, 1e-8, 1e-9]}}
    path = made(
        tmp_path, world, search="grid", space=rates, scheduler={"asha": {"grace": 1, "reduction": 2}},
        fixed={"tracking.enabled": False, "train.clip_norm": 1e30, "train.epochs": 5},
    )  # fmt: skip
    what, trials, events = swept(path)
    assert not what.direct and what.need.workers == 1
    states = {trial.parameters["train.learning_rate.other"]: trial.state for trial in trials}
    assert states[3e-3] == "finished"
    assert states[1e30] == "failed" and "at step" in next(why for kind, _, why in events if kind == "failed")
    assert "stopped" in states.values()
    found = read(tmp_path)
    assert found["best"] == "000" and found["budget"]["epochs_run"] < found["budget"]["epochs_full"]
    assert found["budget"]["saved_worker_hours"] > 0
    for trial in trials:
        assert (trial.folder / "outcome.json").exists()
        assert (trial.folder / "model").exists() == (trial.state == "finished")
    end = time.monotonic() + 60
    while ray.available_resources().get("CPU", 0) < ray.cluster_resources()["CPU"]:
        assert time.monotonic() < end, "a stopped trial still holds its CPUs"
        time.sleep(0.5)


def test_a_population_changes_while_it_trains(world, tmp_path, cluster):
    """Of two members the worse goes on with the other's weights at other rates, between the ends; a member whose
    process is killed is begun again."""
    path = made(
        tmp_path, world, search="pbt", samples=2, pbt={"interval": 1, "quantile": 0.5, "resample": 1.0},
        space={"train.learning_rate.text": {"loguniform": [1e-5, 1e-2]}},
        fixed={"cluster.workers": 0, "tracking.enabled": False},
    )  # fmt: skip
    killed = []

    def kill_once(kind, trial):
        if kind == "reported" and not killed:
            processes = psutil.Process().children(recursive=True)
            killed.extend([one for one in processes if "ImplicitFunc" in " ".join(one.cmdline())][:1])
            killed[0].kill()

    what, trials, events = swept(path, kill_once)
    assert "again" in {kind for kind, _, _ in events}
    assert what.direct and [trial.state for trial in trials] == ["finished"] * 2
    assert max(trial.epochs for trial in trials) == 6  # one may have gone on from the other's last checkpoint
    begun = [identity for kind, identity, _ in events if kind == "begun"]
    assert len(begun) > 2, "none was replaced"
    for trial in trials:
        assert 1e-5 <= trial.parameters["train.learning_rate.text"] <= 1e-2
    from xmtl_ray.tuning.proposals import propose

    drawn = [propose("random", what.space.drawn, 0, number, [], "max") for number in range(2)]
    assert [trial.drawn for trial in trials] != drawn
