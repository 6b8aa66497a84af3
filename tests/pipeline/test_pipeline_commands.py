"""`xmtl run` and `xmtl reproduce` by the real command line, on a small world."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def command(*arguments):
    return [sys.executable, "-m", "xmtl_ray", *map(str, arguments)]


def xmtl(*arguments):
    environment = os.environ | {"COLUMNS": "200"}
    return subprocess.run(command(*arguments), capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def piped(world, tmp_path_factory):
    """A whole pipeline that was killed in its first training, and then run to its end: (settings, storage, output)."""
    storage = tmp_path_factory.mktemp("piped")
    settings = ["xmtl_full_smoke", f"data.root={world}", f"storage_path={storage}", "data.check=quick"]
    killed = subprocess.Popen(command("run", *settings), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not list(storage.glob("stages/teacher_*/checkpoints/checkpoint_*")):
        assert time.monotonic() < end and killed.poll() is None
        time.sleep(0.1)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    done = xmtl("run", *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    return settings, storage, done.stdout


def test_a_pipeline_that_was_killed_goes_on_and_leaves_everything_in_one_folder(piped):
    _, storage, output = piped
    assert "was begun and not finished; goes on" in output
    folder = storage / "xmtl_full_smoke"
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "predictions.json", "scores.json", "report.html", "pipeline.json"} <= names
    assert set(json.loads((folder / "scores.json").read_text())) == {"table", "strict"}
    stages = json.loads((folder / "pipeline.json").read_text())["stages"]
    assert list(stages) == [*(f"teacher {task}" for task in ("td", "ae", "vc", "rc")), "pseudo-labels", "train",
                            "extract", "score"]  # fmt: skip
    assert {stage["state"] for stage in stages.values()} <= {"done", "before"}


def test_its_runs_are_tied_to_one_and_know_where_they_come_from(piped):
    """Parent and children in MLflow; X-MTL's run has hashes of data, teachers, pseudo-labels and the selection."""
    from mlflow import MlflowClient

    _, storage, _ = piped
    client = MlflowClient(f"sqlite:///{storage}/mlflow.db")
    state = json.loads((storage / "xmtl_full_smoke/mlflow.json").read_text())
    parent = client.get_run(state["run_id"])
    assert parent.info.status == "FINISHED"
    stages = json.loads((storage / "xmtl_full_smoke/pipeline.json").read_text())["stages"]
    for name, stage in stages.items():
        run = client.get_run(stage["mlflow_run"])
        assert run.info.status == "FINISHED"
        assert run.data.tags["mlflow.parentRunId"] == state["run_id"]
        assert run.data.tags["stage.key"] == stage["key"]
        assert parent.data.tags[f"stage.{name.replace(' ', '_')}.run"] == stage["mlflow_run"]
    trained = client.get_run(stages["train"]["mlflow_run"]).data
    assert {"sha256.data.ace.train", "sha256.pseudo.store", "sha256.pseudo.teacher.td"} <= set(trained.tags)
    assert trained.tags["stage.before.pseudo_labels"] == stages["pseudo-labels"]["key"]
    assert trained.params["multitask.pseudo.threshold.td"] == "0.3"


def test_the_same_command_again_does_nothing_and_a_dry_run_says_why(piped):
    """No stage begins; then the plan of other settings, and of an output that was edited."""
    settings, storage, _ = piped
    again = xmtl("run", *settings)
    assert again.returncode == 0 and "begins" not in again.stdout
    assert again.stdout.count("was done before") == 8

    def plan(*overrides):
        done = xmtl("run", *settings, *overrides, "--dry-run")
        assert done.returncode == 0, done.stderr
        return [re.split(r" {2,}", line.strip()) for line in done.stdout.splitlines()]

    rows = plan("multitask.pseudo.threshold.td=0.4")
    assert [row[0] for row in rows[:8]] == ["done"] * 5 + ["runs", "waits", "waits"]
    assert rows[5] == ["runs", "train", "setting multitask.pseudo.threshold.td was 0.3, is 0.4"]
    assert rows[6] == ["waits", "extract", "another train; depends on train"]
    assert rows[8] == ["5 done, 1 runs, 2 waits"]
    (scores,) = storage.glob("stages/score-*/scores.json")
    whole = scores.read_text()
    scores.write_text(whole.replace("F1", "f1"))
    assert plan()[7] == ["runs", "score", "output scores.json was altered"]
    scores.write_text(whole)


def test_a_failed_stage_is_told_with_its_cause_and_log_and_what_needs_it_is_left_out(piped):
    """No pair is sure enough: the training says so; the exit status is 1, and the stages before stay done."""
    settings, _, _ = piped
    done = xmtl("run", *settings, "multitask.pseudo.threshold={td: 1, ae: 1, vc: 1, rc: 1}", "tracking.enabled=false")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "train failed: multitask.pseudo.threshold: found td 1 and vc 1, which keep none" in done.stdout
    log = re.search(r"log: (\S+)", done.stdout)[1]
    assert "Traceback" in Path(log).read_text()
    assert "extract left out: train failed" in done.stdout and "score left out" in done.stdout
    assert "teacher td was done before" in done.stdout


@pytest.mark.long
def test_table_2_shares_the_stages_of_a_storage_and_checks_its_claims(piped, world, tmp_path):
    """Two rows, one seed: each cell beside the paper's, claims of those rows alone; X-MTL's teachers are Separate's."""
    rows = ["--row", "separate", "--row", "joint", "--seeds", 1]
    settings = ["--data", world, "--recipe", "xmtl_full_smoke", "--out", tmp_path, "data.check=none"]
    settings += [f"storage_path={piped[1]}", "tracking.enabled=false"]
    planned = xmtl("reproduce", "table2", *rows, *settings, "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.count("nothing has changed") == 4 and "5 runs" not in planned.stdout
    done = xmtl("reproduce", "table2", *rows, *settings)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("was done before") == 4
    body = json.loads((tmp_path / "table2.json").read_text())
    assert list(body["rows"]) == ["separate", "joint"]
    joint = body["rows"]["joint"]
    assert joint["paper"]["text_event"] == 55.6
    assert joint["ours"]["strict"]["mean"]["low"] <= joint["ours"]["strict"]["mean"]["mean"]
    assert [claim["claim"] for claim in body["claims"]] == ["Joint does not reach Separate"]
    assert "| Joint | ours |" in (tmp_path / "table2.md").read_text()
    assert "<svg" in (tmp_path / "table2.html").read_text()
