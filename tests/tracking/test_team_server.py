"""Tracking for a team: MLflow before a real PostgreSQL, eight trials at once, one of them killed; and on SQLite."""

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from xmtl_ray.tracking.run import STATE, Run, settle, sync

TRIALS, STEPS = 8, 100
PASSWORD = "not-for-logs-7f"
FORKS = """
import os, sys, time
from pathlib import Path
from mlflow import MlflowClient  # once: it takes longer than all that the processes do with it
from xmtl_ray.tracking.run import Run

def trial(number, steps, killed):
    run = Run(Path(home) / f"trial-{number}", uri, "sweep", f"trial-{number}", interval_s=0.2)
    run.journal.tags({"mlflow.parentRunId": parent})
    run.journal.parameters({f"p{place}": number for place in range(20)})
    for step in range(steps):
        run.journal.metrics(step, {"train/loss": 1.0 / (step + 1), "dev/mean_f1": float(step), "number": float(number)})
    if killed:
        while run.sender.state.sent_bytes == 0:
            time.sleep(0.05)
        run._closing.set()  # what follows is in the journal alone
        run._thread.join()
        run.journal.metrics(steps, {"train/loss": 0.0, "dev/mean_f1": 0.0, "number": float(number)})
        print("ready", os.getpid(), flush=True)
        time.sleep(600)
    run.journal.status("FINISHED")
    run.close(grace_s=240)

home, uri, parent, count, steps, killed = *sys.argv[1:4], *map(int, sys.argv[4:])
begin, go = os.pipe()
children = []
for number in range(count):
    if (child := os.fork()) == 0:
        status = 1
        try:
            os.close(go)
            os.read(begin, 1)  # until the other end is closed: all begin together
            if parent == "plain":
                MlflowClient(uri).search_experiments()
            else:
                trial(number, steps, killed and number == count - 1)
            status = 0
        finally:
            os._exit(status)
    children.append(child)
os.close(go)
print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children), flush=True)
"""


def free_port():
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def postgres_programs():
    """The folder with Debian's initdb and postgres, the newest version; None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    return found[-1].parent if found else None


@pytest.fixture(scope="module")
def database():
    """A PostgreSQL of this test's own on loopback, with a password: its address without that."""
    programs = postgres_programs()
    if programs is None:
        pytest.skip("no PostgreSQL here: apt-get install postgresql")
    home = Path(tempfile.mkdtemp(prefix="xmtl-postgres-"))  # pytest's own folders are closed to other users
    as_user, user = [], None
    if os.geteuid() == 0:  # postgres refuses to run as root
        try:
            user = pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("PostgreSQL cannot be run by root, and there is no user postgres")
        as_user = [shutil.which("runuser") or "runuser", "-u", "postgres", "--"]
        os.chown(home, user.pw_uid, user.pw_gid)
    secret = home / "password"
    secret.write_text(PASSWORD)
    if user is not None:
        os.chown(secret, user.pw_uid, user.pw_gid)
    data, port = home / "data", free_port()
    make = ["--username", "mlflow", "--pwfile", str(secret), "--auth", "scram-sha-256", "--no-sync", "-D", str(data)]
    subprocess.run([*as_user, str(programs / "initdb"), *make], check=True, capture_output=True, cwd=home)
    secret.unlink()
    settings = {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "off", "max_connections": "60"}
    flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [*as_user, str(programs / "postgres"), "-D", str(data), "-p", str(port), *flags],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=home,
            start_new_session=True,
        )
    try:
        yield wait_for_database(port, process, home / "log")
    finally:
        stop(process, signal.SIGINT)
        shutil.rmtree(home)


def stop(process, how):
    """End a program with all that it has started."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, how)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(60)


def wait_for_database(port, process, log):
    import psycopg2

    until = time.monotonic() + 60
    while True:
        try:
            psycopg2.connect(host="127.0.0.1", port=port, user="mlflow", dbname="postgres", password=PASSWORD).close()
            return f"postgresql+psycopg2://mlflow@127.0.0.1:{port}/postgres"
        except psycopg2.OperationalError:
            if process.poll() is not None or time.monotonic() > until:
                pytest.fail(f"no PostgreSQL: {log.read_text()[-2000:]}")
            time.sleep(0.2)


@pytest.fixture(scope="module")
def server(database, tmp_path_factory):
    """``mlflow server`` before that database, as cluster/mlflow starts it: its address, and its log."""
    home, port = tmp_path_factory.mktemp("mlflow"), free_port()
    command = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", database, "--artifacts-destination", str(home / "artifacts")]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command],
            env={**os.environ, **quiet, "PGPASSWORD": PASSWORD},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    uri, until = f"http://127.0.0.1:{port}", time.monotonic() + 300
    try:
        while True:
            try:
                with urllib.request.urlopen(f"{uri}/health", timeout=2):
                    break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    pytest.fail(f"no MLflow server: {(home / 'log').read_text()[-2000:]}")
                time.sleep(0.2)
        yield uri, home / "log"
    finally:
        stop(process, signal.SIGTERM)


def trials(home, uri, parent, killed=False, count=TRIALS):
    """Processes that begin together, forked by one; with ``killed`` the last does not end by itself."""
    arguments = [str(home), uri, parent, str(count), str(STEPS), str(int(killed))]
    return subprocess.Popen(
        [sys.executable, "-c", FORKS, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
        start_new_session=True,
    )


def ended(forks):
    """The processes' exit statuses, and what they said on the error stream."""
    try:
        said, errors = forks.communicate(timeout=300)
    finally:
        stop(forks, signal.SIGKILL)
    return [int(status) for status in said.split()], errors


def begin_parent(folder, uri):
    """The sweep's own run, and its id."""
    run = Run(folder, uri, "sweep", "the sweep", interval_s=0.2)
    until = time.monotonic() + 120
    while run.sender.state.run_id is None and time.monotonic() < until:
        time.sleep(0.05)
    return run, run.sender.state.run_id


def points(client, run_id):
    """All points of a run that MLflow has."""
    return sum(len(client.get_metric_history(run_id, name)) for name in ("train/loss", "dev/mean_f1", "number"))


def children(client, parent):
    experiment = client.get_experiment_by_name("sweep").experiment_id
    found = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    return {run.info.run_name: run for run in found}


@pytest.mark.slow
def test_eight_trials_at_once_lose_nothing_and_a_killed_one_is_told(server, tmp_path, record_property):
    """Through a server before PostgreSQL: eight runs under their sweep's, every parameter and every point.

    The eighth is killed by SIGKILL. It says nothing more, so MLflow has it RUNNING; whoever looks after it (`xmtl
    sync`, a sweep, a pipeline) ends it as KILLED and sends what was only in its journal.
    """
    from mlflow import MlflowClient

    uri, log = server
    parent, parent_id = begin_parent(tmp_path / "sweep", uri)
    forks = trials(tmp_path, uri, parent_id, killed=True)
    ready, pid = forks.stdout.readline().split()
    assert ready == "ready"
    assert not settle(tmp_path / f"trial-{TRIALS - 1}")  # it lives
    os.kill(int(pid), signal.SIGKILL)
    statuses, said = ended(forks)
    assert statuses == [0] * (TRIALS - 1) + [-signal.SIGKILL] and said == ""

    client = MlflowClient(uri)
    dead = json.loads((tmp_path / f"trial-{TRIALS - 1}" / STATE).read_text())["run_id"]
    assert client.get_run(dead).info.status == "RUNNING"
    sync(tmp_path / f"trial-{TRIALS - 1}")
    parent.journal.status("FINISHED")
    parent.close()

    found = children(client, parent_id)
    assert sorted(found) == [f"trial-{number}" for number in range(TRIALS)]
    assert {name: run.info.status for name, run in found.items()} == {
        f"trial-{number}": "KILLED" if number == TRIALS - 1 else "FINISHED" for number in range(TRIALS)
    }
    assert client.get_run(parent_id).info.status == "FINISHED"
    there = sum(points(client, run.info.run_id) for run in found.values())
    record_property("tried", TRIALS)
    record_property("survived", len(found))
    record_property("metric_points_lost", 3 * (TRIALS * STEPS + 1) - there)
    record_property("runs_left_running", sum(run.info.status == "RUNNING" for run in found.values()))
    for number in range(TRIALS):
        run = found[f"trial-{number}"]
        assert run.data.params == {f"p{place}": str(number) for place in range(20)}
        assert points(client, run.info.run_id) == 3 * (STEPS + (number == TRIALS - 1))
    assert sync(tmp_path / f"trial-{TRIALS - 1}") == 0 and client.get_run(dead).info.status == "KILLED"
    assert PASSWORD not in log.read_text()


@pytest.mark.slow
def test_a_database_needs_no_server_and_its_password_is_nowhere(database, tmp_path, monkeypatch):
    """The address with its password is in the environment only: runs arrive, and no file or message has it."""
    from mlflow import MlflowClient

    uri = database.replace("mlflow@", f"mlflow:{PASSWORD}@")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    run = Run(tmp_path / "run", uri, "direct", "some run", interval_s=0.2)
    run.journal.metrics(1, {"train/loss": 1.0})
    run.journal.status("FINISHED")
    run.close()
    state = json.loads((tmp_path / "run" / STATE).read_text())
    assert state["uri"] == database and PASSWORD not in "".join(
        path.read_text() for path in (tmp_path / "run").iterdir()
    )
    assert MlflowClient(uri).get_run(state["run_id"]).info.status == "FINISHED"


@pytest.mark.slow
def test_eight_processes_make_one_fresh_sqlite_file(tmp_path, record_property):
    """The schema is made once, beside its place: nobody fails, nothing is lost."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    statuses, said = ended(trials(tmp_path, uri, "none"))
    assert statuses == [0] * TRIALS and said == ""
    for number in range(TRIALS):
        sync(tmp_path / f"trial-{number}")
    found = children(MlflowClient(uri), "none")
    record_property("tried", TRIALS)
    record_property("survived", len(found))
    there = sum(points(MlflowClient(uri), run.info.run_id) for run in found.values())
    record_property("metric_points_lost", 3 * STEPS * TRIALS - there)
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert [points(MlflowClient(uri), run.info.run_id) for run in found.values()] == [3 * STEPS] * TRIALS


@pytest.mark.slow
def test_processes_of_plain_mlflow_do_not(tmp_path, record_property):
    """Negative control: what the test above would find without our making of the schema."""
    statuses, _ = ended(trials(tmp_path, f"sqlite:///{tmp_path / 'mlflow.db'}", "plain", count=4))
    record_property("control.processes_failed", sum(map(bool, statuses)))
    assert any(statuses)
