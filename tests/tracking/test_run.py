"""The journal, and MLflow with and without its server: nothing is lost, nothing sent twice, nobody waits."""

import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing

import pytest

from xmtl_ray.tracking.journal import JOURNAL, Journal, read_from
from xmtl_ray.tracking.run import STATE, Run, Sender, Unsent, environment_tags, sync


def lines(folder):
    return [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]


def test_a_journal_is_one_object_a_line(tmp_path):
    """Values become text, metrics keep step and time, the order is that of the calls; another journal appends."""
    journal = Journal(tmp_path / "deep" / "run")
    journal.parameters({"train.epochs": 3, "data.train": None, "x": (1, 2)})
    journal.tags({"python": "3"})
    journal.metrics(7, {"train/loss": 0.5, "dev/x": 1.0})
    journal.artifact("config.yaml")
    journal.close()
    again = Journal(tmp_path / "deep" / "run")
    again.status("FINISHED")
    again.close()
    first, second, third, fourth, last = lines(tmp_path / "deep" / "run")
    assert first == {"parameters": {"train.epochs": "3", "data.train": "None", "x": "(1, 2)"}}
    assert second == {"tags": {"python": "3"}} and fourth == {"artifact": "config.yaml"}
    assert third["step"] == 7 and third["metrics"] == {"train/loss": 0.5, "dev/x": 1.0}
    assert isinstance(third["time_ms"], int) and last["time_ms"] >= third["time_ms"]
    assert last["status"] == "FINISHED"


@pytest.mark.parametrize("torn", [b'{"status": "RUN', b"{", b'{"artifact": "x"}'])
def test_a_torn_last_line_is_cut_off(tmp_path, torn):
    """What a killed process left unfinished is not read, and the next line starts a line of its own."""
    journal = Journal(tmp_path)
    journal.artifact("a")
    journal.close()
    whole = (tmp_path / JOURNAL).read_bytes()
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(torn)
    assert read_from(tmp_path / JOURNAL, 0, 100) == ([{"artifact": "a"}], len(whole))
    journal = Journal(tmp_path)
    journal.artifact("b")
    journal.close()
    assert lines(tmp_path) == [{"artifact": "a"}, {"artifact": "b"}]


def test_a_journal_on_a_full_disk_waits_for_room(tmp_path, caplog):
    """Nothing is raised and nothing torn; told once; once there is room, all lines are there in their order."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    journal = Journal(tmp_path)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        for step in range(40):
            journal.metrics(step, {"loss": 1.0})
        there, _ = read_from(tmp_path / JOURNAL, 0, 100)
        assert 5 < len(there) < 20
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    journal.metrics(40, {"loss": 1.0})
    journal.close()
    assert [line["step"] for line in lines(tmp_path)] == list(range(41))
    assert caplog.text.count("waits in memory") == 1


def test_a_journal_of_one_torn_line_begins_anew(tmp_path):
    """The process died within its very first line."""
    (tmp_path / JOURNAL).write_text('{"stat')
    Journal(tmp_path).close()
    assert (tmp_path / JOURNAL).read_bytes() == b""


def test_reading_goes_on_where_it_stopped(tmp_path):
    """In pieces of two lines of different lengths, to the end, and from there when there is more."""
    journal = Journal(tmp_path)
    names = ["a", "bb" * 50, "ü", "d", "e"]
    for name in names:
        journal.artifact(name)
    seen, offset, sizes = [], 0, []
    while True:
        some, offset = read_from(tmp_path / JOURNAL, offset, 2)
        if not some:
            break
        sizes.append(len(some))
        seen += [line["artifact"] for line in some]
    assert seen == names and sizes == [2, 2, 1]
    assert offset == (tmp_path / JOURNAL).stat().st_size
    journal.artifact("f")
    journal.close()
    assert read_from(tmp_path / JOURNAL, offset, 2)[0] == [{"artifact": "f"}]


def test_a_run_without_mlflow_keeps_its_journal(tmp_path):
    """With no URI everything stays in the folder, and there is nothing to sync."""
    run = Run(tmp_path, None, "experiment", "name")
    run.journal.metrics(1, {"x": 1.0})
    run.journal.status("FINISHED")
    run.close()
    assert [line.get("status") for line in lines(tmp_path)] == ["RUNNING", None, "FINISHED"]
    with pytest.raises(FileNotFoundError, match=r"mlflow\.json: not there; expected the folder of a tracked run"):
        sync(tmp_path)


def test_environment_tags_say_what_ran():
    """Python, the package's version, and what else the caller knows."""
    from xmtl_ray import __version__

    tags = environment_tags({"sha256.data": "ab"})
    assert tags["python"] == sys.version.split()[0]
    assert tags["version.xmtl_ray"] == __version__ and tags["sha256.data"] == "ab"
    assert set(map(type, tags.values())) == {str}


def history(client, run_id, names):
    """Every point of these metrics: (step, time, value), sorted."""
    return {
        name: sorted((point.step, point.timestamp, point.value) for point in client.get_metric_history(run_id, name))
        for name in names
    }


def logged(folder):
    """The same, from the journal."""
    found = {}
    for line in lines(folder):
        for name, value in line.get("metrics", {}).items():
            found.setdefault(name, []).append((line["step"], line["time_ms"], value))
    return {name: sorted(points) for name, points in found.items()}


def write_run(folder, uri, steps, grace_s, status="FINISHED"):
    """What a training run does; more lines than one request takes."""
    run = Run(folder, uri, "experiment", "some run", interval_s=0.01)
    (folder / "config.yaml").write_text("name: x\n")
    (folder / "model").mkdir()
    (folder / "model" / "labels.json").write_text("[]")
    run.journal.parameters({"train.epochs": 3, **{f"p{number}": number for number in range(150)}})
    run.journal.tags({"python": "3.11", **{f"t{number}": "x" for number in range(120)}})
    for step in range(steps):
        run.journal.metrics(step, {"train/loss": 1 / (step + 1), "train/loss/td": float(step)})
    run.journal.metrics(steps - 1, {"dev/mean_f1": 50.0})
    for name in ("config.yaml", "model", "gone.json"):
        run.journal.artifact(name)
    run.journal.status(status)
    run.close(grace_s)
    return run


def assert_all_arrived(client, folder, status="FINISHED"):
    run_id = json.loads((folder / STATE).read_text())["run_id"]
    run = client.get_run(run_id)
    assert history(client, run_id, logged(folder)) == logged(folder)
    assert set(run.data.metrics) == set(logged(folder))
    assert (run.info.run_name, run.info.status) == ("some run", status)
    assert run.info.end_time == lines(folder)[-1]["time_ms"]
    assert run.data.params == {"train.epochs": "3", **{f"p{number}": str(number) for number in range(150)}}
    assert run.data.tags["python"] == "3.11" and sum(name.startswith("t") for name in run.data.tags) == 120
    assert {item.path for item in client.list_artifacts(run_id)} == {"config.yaml", "model"}
    assert [item.path for item in client.list_artifacts(run_id, "model")] == ["model/labels.json"]


def test_a_server_that_never_answers_holds_nothing_up(tmp_path, record_property):
    """The sender is stuck in a request; every journal call returns, and all lines are there before any was sent."""
    with closing(socket.socket()) as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.settimeout(60)
        run = Run(tmp_path, f"http://127.0.0.1:{silent.getsockname()[1]}", "experiment", "name", interval_s=0)
        connection, _ = silent.accept()  # the sender is in its request from here on
        longest = 0.0
        for step in range(1000):
            begun = time.monotonic()
            run.journal.metrics(step, {"train/loss": 1.0})
            longest = max(longest, time.monotonic() - begun)
        record_property("longest_stall_s", [round(longest, 3)])
        run.journal.status("FAILED")
        run.close(grace_s=0)
        found = lines(tmp_path)
        assert [line["step"] for line in found[1:-1]] == list(range(1000))
        assert (found[0]["status"], found[-1]["status"]) == ("RUNNING", "FAILED")
        state = json.loads((tmp_path / STATE).read_text())
        assert (state["sent_bytes"], state["run_id"]) == (0, None)
        connection.close()


def free_port():
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_an_unreachable_server_is_told_with_what_to_do(tmp_path, caplog):
    """`send` says what is left; a run says it once while it goes on, and at its end how to send the rest."""
    uri = f"http://127.0.0.1:{free_port()}"
    run = Run(tmp_path, uri, "experiment", "name", interval_s=0.01)
    run.journal.metrics(1, {"x": 1.0})
    run.journal.status("FINISHED")
    run.close(grace_s=60)
    assert f"later: xmtl sync {tmp_path}" in caplog.text
    assert caplog.text.count("training goes on") <= 1
    size = (tmp_path / JOURNAL).stat().st_size
    with pytest.raises(Unsent, match=rf"127\.0\.0\.1:\d+ did not take {size} bytes of .*tracking\.jsonl"):
        sync(tmp_path)


@pytest.fixture(scope="module")
def late_server(tmp_path_factory):
    """A run that began and ended while its server was down; then the server comes up: (client, run folder, facts)."""
    from mlflow import MlflowClient

    home, folder = tmp_path_factory.mktemp("mlflow"), tmp_path_factory.mktemp("late") / "run"
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    write_run(folder, uri, steps=400, grace_s=30)
    before = {"lines": len(lines(folder)), **json.loads((folder / STATE).read_text())}
    stores = ["--backend-store-uri", f"sqlite:///{home}/mlflow.db", "--artifacts-destination", str(home / "artifacts")]
    command = ["server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *stores]
    with (home / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *command],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        until = time.monotonic() + 180
        while time.monotonic() < until and server.poll() is None:
            try:
                with urllib.request.urlopen(f"{uri}/health", timeout=2) as answer:
                    if answer.status == 200:
                        break
            except OSError:
                time.sleep(0.2)
        else:
            pytest.fail(f"no MLflow server: {(home / 'log').read_text()[-2000:]}")
        before["sent"] = sync(folder)
        yield MlflowClient(uri), folder, before
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


@pytest.mark.slow
def test_what_a_run_wrote_without_its_server_arrives_once_it_is_up(late_server, record_property):
    """All was in the journal and nothing sent; `sync` sends every line, and MLflow then holds exactly those."""
    client, folder, before = late_server
    assert (before["sent_bytes"], before["run_id"]) == (0, None)
    run_id = json.loads((folder / STATE).read_text())["run_id"]
    found, expected = history(client, run_id, logged(folder)), logged(folder)
    record_property("metric_points_lost", sum(len(set(expected[one]) - set(found[one])) for one in expected))
    record_property("metric_points_doubled", sum(len(found[one]) - len(set(found[one])) for one in expected))
    assert before["lines"] == before["sent"] == len(lines(folder)) == 400 + 8
    assert_all_arrived(client, folder)
    experiment = client.get_experiment_by_name("experiment").experiment_id
    assert len(client.search_runs([experiment], "attributes.run_name = 'some run'")) == 1


@pytest.mark.slow
def test_sending_again_changes_nothing(late_server, record_property):
    """`sync` has nothing left; even a sender that forgot how far it was leaves the same points, parameters and tags."""
    client, folder, _ = late_server
    assert sync(folder) == 0
    state = json.loads((folder / STATE).read_text())
    (folder / STATE).write_text(json.dumps({**state, "sent_bytes": 0}))
    assert sync(folder) == len(lines(folder))
    found = history(client, state["run_id"], logged(folder))
    record_property("metric_points_doubled", sum(len(some) - len(set(some)) for some in found.values()))
    assert_all_arrived(client, folder)
    assert json.loads((folder / STATE).read_text()) == state


@pytest.mark.slow
def test_a_run_beside_its_server_ends_with_everything_sent(late_server, tmp_path):
    """Sent while it goes on and at its end; FAILED is FAILED."""
    client, folder, _ = late_server
    uri = json.loads((folder / STATE).read_text())["uri"]
    write_run(tmp_path / "run", uri, steps=30, grace_s=120, status="FAILED")
    assert_all_arrived(client, tmp_path / "run", "FAILED")
    assert sync(tmp_path / "run") == 0


@pytest.mark.slow
def test_a_database_file_needs_no_server(tmp_path):
    """sqlite in the storage folder: everything arrives, artifacts beside the database and not in the current folder."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    write_run(tmp_path / "run", uri, steps=20, grace_s=120)
    client = MlflowClient(uri)
    assert_all_arrived(client, tmp_path / "run")
    assert list((tmp_path / "mlartifacts").rglob("labels.json"))

    # Begun again: it goes on in the same MLflow run. A setting that was changed (resources may be) is a tag, since
    # MLflow takes a parameter once; what was not changed is no tag.
    first = json.loads((tmp_path / "run" / STATE).read_text())
    again = Run(tmp_path / "run", uri, "experiment", "some run", interval_s=0.01)
    again.journal.parameters({"train.epochs": 3, "p1": 99, "new": 1})
    again.journal.metrics(20, {"train/loss": 0.01})
    again.journal.status("FINISHED")
    again.close()
    assert json.loads((tmp_path / "run" / STATE).read_text())["run_id"] == first["run_id"]
    run = client.get_run(first["run_id"])
    assert (run.data.params["p1"], run.data.params["new"]) == ("1", "1")
    assert {name: value for name, value in run.data.tags.items() if name.startswith("resumed.")} == {"resumed.p1": "99"}
    assert run.data.metrics["train/loss"] == 0.01 and run.info.status == "FINISHED"
    assert history(client, first["run_id"], logged(tmp_path / "run")) == logged(tmp_path / "run")

    # Told to go elsewhere, it is sent there whole.
    sender = Sender(tmp_path / "run", uri, "another experiment", "some run")
    assert sender.send() == len(lines(tmp_path / "run"))
    assert sender.state.run_id != first["run_id"]
    assert history(client, sender.state.run_id, logged(tmp_path / "run")) == logged(tmp_path / "run")
