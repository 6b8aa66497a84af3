"""F12: an MLflow server that is killed while a run logs to it, and comes back: what it has then, and who waited."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import pytest
from test_run import STATE, Run, free_port, history, lines, logged

pytestmark = [pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1200)]

STEPS = 300


@contextmanager
def serving(home, port):
    """``mlflow server`` on that port, until it is killed within or left."""
    stores = ["--backend-store-uri", f"sqlite:///{home}/mlflow.db", "--artifacts-destination", str(home / "artifacts")]
    command = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *stores]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (home / "log").open("a") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command], env={**os.environ, **quiet}, stdout=log, stderr=log,
            start_new_session=True,
        )  # fmt: skip
    try:
        end = time.monotonic() + 240
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2):
                    break
            except OSError:
                assert server.poll() is None and time.monotonic() < end, (home / "log").read_text()[-2000:]
                time.sleep(0.2)
        yield server
    finally:
        kill(server)


def kill(server):
    """SIGKILL to it and to its workers."""
    if server.poll() is None:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def test_a_server_killed_in_the_middle_loses_nothing_and_holds_nobody_up(tmp_path, record_property):
    """SIGKILL after a third of the steps, back after two thirds: every point is there once, in order."""
    from mlflow import MlflowClient

    home, folder, port = tmp_path / "server", tmp_path / "run", free_port()
    home.mkdir()
    uri, longest = f"http://127.0.0.1:{port}", 0.0

    def log(run, steps):
        nonlocal longest
        for step in steps:
            begun = time.monotonic()
            run.journal.metrics(step, {"train/loss": 1 / (step + 1), "train/loss/td": float(step)})
            longest = max(longest, time.monotonic() - begun)
            time.sleep(0.01)

    with serving(home, port) as server:
        run = Run(folder, uri, "experiment", "some run", interval_s=0.1)
        log(run, range(STEPS // 3))
        end = time.monotonic() + 120
        while json.loads((folder / STATE).read_text())["sent_bytes"] == 0:
            assert time.monotonic() < end
            time.sleep(0.05)
        kill(server)
    log(run, range(STEPS // 3, 2 * STEPS // 3))
    sent = json.loads((folder / STATE).read_text())["sent_bytes"]
    assert 0 < sent < (folder / "tracking.jsonl").stat().st_size
    with serving(home, port):
        log(run, range(2 * STEPS // 3, STEPS))
        run.journal.status("FINISHED")
        run.close(grace_s=240)
        run_id = json.loads((folder / STATE).read_text())["run_id"]
        client = MlflowClient(uri)
        found, expected = history(client, run_id, logged(folder)), logged(folder)
        status = client.get_run(run_id).info.status
    points = {name: [step for step, _, _ in some] for name, some in found.items()}
    record_property("metric_points_lost", sum(STEPS - len(set(steps)) for steps in points.values()))
    record_property("metric_points_doubled", sum(len(steps) - len(set(steps)) for steps in points.values()))
    record_property("longest_stall_s", [round(longest, 3)])
    assert found == expected and status == "FINISHED"
    assert [line["step"] for line in lines(folder) if "metrics" in line] == list(range(STEPS))


def test_without_a_journal_points_are_lost(tmp_path, record_property):
    """The control: MLflow's client in the step itself, told to wait for nobody; what it could not send is gone."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    home, port = tmp_path / "server", free_port()
    home.mkdir()
    uri = f"http://127.0.0.1:{port}"

    def log(steps):
        for step in steps:
            try:
                client.log_metric(run_id, "train/loss", 1 / (step + 1), step=step)
            except MlflowException:
                continue

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with serving(home, port) as server:
            client = MlflowClient(uri)
            run_id = client.create_run(client.create_experiment("plain")).info.run_id
            log(range(10))
            kill(server)
        log(range(10, 20))
        with serving(home, port):
            log(range(20, 30))
            there = len(client.get_metric_history(run_id, "train/loss"))
            status = client.get_run(run_id).info.status
    record_property("control.metric_points_lost", 30 - there)
    record_property("control.runs_left_running", int(status == "RUNNING"))
    assert there < 30
