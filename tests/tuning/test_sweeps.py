"""Real sweeps: a killed driver loses nothing, trials that are stopped free their workers, populations change."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import processes
import pytest
from typer.testing import CliRunner

from xmtl_ray.cli.main import app

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
    """Two CPUs for all sweeps of this module, those of drivers that are killed too; gives its address."""
    import ray

    from xmtl_ray.cluster.connection import cluster

    with cluster(2, dashboard=True, quiet=True):
        yield ray.get_runtime_context().gcs_address


def made(folder, world, **parts):
    """A space of X-MTL's smallest recipe, trigger detection alone, as a file."""
    import yaml

    fixed = {"data.root": str(world), "storage_path": str(folder / "runs"), **TEXT_ONLY, **parts.pop("fixed", {})}
    fixed = {path: value for path, value in fixed.items() if path not in parts["space"]}
    body = {"recipe": "xmtl_smoke", "name": "tried", "metric": "dev/trigger_f1", "fixed": fixed, **parts}
    path = folder / "space.yaml"
    path.write_text(yaml.safe_dump(body), encoding="utf-8")
    return path


def swept(path, resume=False):
    """The sweep run here: its plan, its trials, events."""
    from xmtl_ray.tuning import plan, space, sweep

    events = []

    def happened(kind, trial, why):
        events.append((kind, trial.id, why))

    what = plan.prepare(space.load(str(path)))
    return what, sweep.sweep(what, sweep.Watcher(trial=happened), resume), events


def killed(path, address, when):
    """`xmtl sweep` in a process of its own, on the cluster of this module, ended by SIGKILL when ``when()`` holds.

    Returns what it had printed, once the cluster has noticed.
    """
    with (path.parent / "output").open("w") as output:
        command = [sys.executable, "-m", "xmtl_ray", "sweep", str(path)]
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "RAY_ADDRESS": address}
        )
    try:
        end = time.monotonic() + 500
        while not when():
            assert process.poll() is None and time.monotonic() < end, Path(output.name).read_text()
            time.sleep(0.05)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    freed()
    return Path(output.name).read_text()


def freed():
    """Waits until nothing holds a CPU of the cluster any more."""
    import ray

    end = time.monotonic() + 60
    while ray.available_resources().get("CPU", 0) < ray.cluster_resources()["CPU"]:
        assert time.monotonic() < end, "a trial that is over still holds its CPUs"
        time.sleep(0.2)


def read(folder):
    return json.loads((folder / "runs/tried/sweep.json").read_text())


def times(folder):
    """When the files of a trial were written that would be written anew if it ran again."""
    return {name: os.stat(folder / name).st_mtime_ns for name in ("reports.jsonl", "summary.json", "config.yaml")}


def test_a_driver_that_is_killed_loses_no_trial(world, tmp_path, cluster, record_property):
    """SIGKILL when one trial had finished and another was at work; --resume by the same command: the finished one is
    as it was, the other goes on from its checkpoint, and the third follows; MLflow has all under one run."""
    from mlflow import MlflowClient

    from xmtl_ray.config.load import load

    rates = {"train.learning_rate.text": {"choice": [1e-3, 2e-3, 4e-3]}}
    fixed = {"cluster.workers": 0}
    path = made(tmp_path, world, search="random", samples=3, concurrency=1, space=rates, fixed=fixed)
    first, second = (tmp_path / f"runs/tried/trials/tried-00{number}" for number in range(2))
    killed(path, cluster, lambda: list(second.glob("checkpoints/checkpoint_*")))
    before = read(tmp_path)["trials"]
    assert [trial["state"] for trial in before] == ["finished", "running"]
    written = times(first)

    again = CliRunner().invoke(app, ["sweep", str(path)])
    assert again.exit_code == 2 and "go on with --resume" in again.stderr
    # More at a time are the same sweep.
    done = CliRunner().invoke(app, ["sweep", str(path), "--resume", "--concurrency", "2"])
    assert done.exit_code == 0, done.output

    found = read(tmp_path)
    states = [trial["state"] for trial in found["trials"]]
    record_property("trials_lost", 3 - states.count("finished"))
    assert states == ["finished"] * 3
    assert [trial["parameters"] for trial in found["trials"][:2]] == [trial["parameters"] for trial in before]
    assert found["trials"][0] == before[0], "a finished trial is not touched"
    assert written == times(first)
    assert [epoch for epoch, _ in found["trials"][1]["history"]] == [1, 2, 3, 4, 5, 6]
    steps = [json.loads(line) for line in (second / "tracking.jsonl").read_text().splitlines()]
    trained = [line["step"] for line in steps if "train/loss" in line.get("metrics", {})]
    record_property("epochs_redone", round(6 * (len(trained) - len(set(trained))) / len(set(trained)), 2))
    record_property("trials_from_zero", trained.count(1) - 1)
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
    """Each drives a Train worker. One that cannot train is told and stops no other; ASHA stops the poor one, whose
    worker is free then."""
    rates = {"train.learning_rate.other": {"grid": [3e-3, 1e30, 1e-9]}}
    path = made(
        tmp_path, world, search="grid", space=rates, scheduler={"asha": {"grace": 1, "reduction": 2}}, concurrency=2,
        fixed={"tracking.enabled": False, "train.clip_norm": 1e30, "train.epochs": 5},
    )  # fmt: skip
    what, trials, events = swept(path)
    assert not what.direct and what.need.workers == 1
    assert [trial.state for trial in trials] == ["finished", "failed", "stopped"]
    assert "at step" in next(why for kind, _, why in events if kind == "failed")
    found = read(tmp_path)
    assert found["best"] == "000" and found["budget"]["epochs_run"] < found["budget"]["epochs_full"]
    assert found["budget"]["saved_worker_hours"] > 0
    for trial in trials:
        assert (trial.folder / "outcome.json").exists()
        assert (trial.folder / "model").exists() == (trial.state == "finished")
    freed()


def test_a_population_changes_while_it_trains_and_survives_its_driver(world, tmp_path, cluster, record_property):
    """Of two members the worse goes on with the other's weights at other rates, between the ends; a member whose
    process is killed is begun again. SIGKILL of the driver when one member was at its end: --resume leaves that one
    as it is; the other goes on at its last settings, from its last checkpoint."""
    path = made(
        tmp_path, world, search="pbt", samples=2, pbt={"interval": 1, "quantile": 0.5, "resample": 1.0},
        space={"train.learning_rate.text": {"loguniform": [1e-5, 1e-2]}},
        fixed={"cluster.workers": 0, "tracking.enabled": False},
    )  # fmt: skip
    from xmtl_ray.tuning import space
    from xmtl_ray.tuning.ledger import read_outcome, read_reports
    from xmtl_ray.tuning.proposals import propose

    folders = [tmp_path / f"runs/tried/trials/tried-00{number}" for number in range(2)]
    domains = space.load(str(path)).drawn
    begun_with = [propose("random", domains, 0, number, [], "max") for number in range(2)]
    members = []

    def drawn():
        return [trial["drawn"] for trial in read(tmp_path)["trials"]]

    def one_is_replaced_and_one_is_over():
        if not members and any(map(read_reports, folders)):
            members.extend(processes.named("ImplicitFunc"))
            processes.kill(members[:1])
        return any(map(read_outcome, folders)) and drawn() != begun_with

    output = killed(path, cluster, one_is_replaced_and_one_is_over)
    assert "died and begins again" in output
    over = [read_outcome(folder) is not None for folder in folders].index(True)
    left = 1 - over
    assert read_outcome(folders[left]) is None, "both were at their end: nothing is left to resume"
    known, written, at = read_reports(folders[left]), times(folders[over]), drawn()

    what, trials, events = swept(path, resume=True)
    assert what.direct and [trial.state for trial in trials] == ["finished"] * 2
    assert {identity for _, identity, _ in events} == {trials[left].id}
    assert times(folders[over]) == written and [trial.drawn for trial in trials] == at
    after = read_reports(folders[left])
    assert after[: len(known)] == known
    assert [one.epoch for one in after] == sorted({one.epoch for one in after}) and after[-1].epoch == 6, (
        "who goes on with the other's weights goes on from its epoch"
    )
    epochs = [json.loads(line)["epoch"] for line in (folders[left] / "reports.jsonl").read_text().splitlines()]
    record_property("trials_lost", sum(trial.state != "finished" for trial in trials))
    record_property("trials_from_zero", epochs.count(1) - 1)
    assert epochs.count(1) == 1, "it began anew"
    for trial in trials:
        assert trial.epochs == 6 and 1e-5 <= trial.parameters["train.learning_rate.text"] <= 1e-2
