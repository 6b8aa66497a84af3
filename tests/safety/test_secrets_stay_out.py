"""S7: secrets of the environment, and those put into a setting, stand in nothing that is kept or shown."""

import json
import logging
import os

import pytest
from typer.testing import CliRunner

from xmtl_ray.cli.main import app
from xmtl_ray.cluster import job, submission
from xmtl_ray.config.load import ConfigError, dump, flatten, load
from xmtl_ray.report.page import write_report
from xmtl_ray.tracking import run as tracked
from xmtl_ray.tracking.server import masked, tracking_uri

MARK = "m4rk-7f3a9c"
VARIABLES = (
    "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN",
    "RAY_AUTH_TOKEN", "OUR_API_KEY",
)  # fmt: skip


@pytest.fixture
def secret(monkeypatch):
    """An environment that is full of them; the tracking server is not there."""
    for name in VARIABLES:
        monkeypatch.setenv(name, f"{MARK}-{name}")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:{MARK}@127.0.0.1:9/?token={MARK}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


def hits(folder):
    """Files below a folder that the mark is in."""
    return [str(path) for path in folder.rglob("*") if path.is_file() and MARK.encode() in path.read_bytes()]


def test_a_run_leaves_none(secret, world, tmp_path, caplog):
    """Config, journal, state of the tracking, page, card, and what is logged while the server cannot be reached.

    The control: the mark is found where it stands.
    """
    caplog.set_level(logging.DEBUG)
    config = load("xmtl_smoke", [f"data.root={world}", f"storage_path={tmp_path}", "name=run"])
    folder = tmp_path / "run"
    uri = tracking_uri(config.tracking.uri, config.storage_path)
    run = tracked.Run(folder, uri, config.tracking.experiment, config.name)
    (folder / "config.yaml").write_text(dump(config), encoding="utf-8")
    run.journal.parameters(flatten(config))
    run.journal.tags(tracked.environment_tags({}))
    run.journal.metrics(1, {"train/loss": 1.0})
    run.journal.artifact("config.yaml")
    run.journal.status("FINISHED")
    run.close()
    page = write_report(folder, None)
    assert page.exists() and len(list(folder.iterdir())) >= 5
    assert "did not take" in caplog.text and json.loads((folder / "mlflow.json").read_text())["run_id"] is None
    assert not hits(tmp_path) and MARK not in caplog.text
    (tmp_path / "control").write_text(f"x{MARK}x")
    assert hits(tmp_path) == [str(tmp_path / "control")]


@pytest.mark.parametrize(
    "setting",
    [
        f"tracking.uri=http://me:{MARK}@host:5000",
        f"tracking.uri=postgresql://host/m?password={MARK}",
        f"storage_path=s3://key:{MARK}@bucket/runs",
        f"storage_path=s3://bucket/runs?secret_key={MARK}",
        f"storage_path=s3://bucket/runs?access_key=a&session_token={MARK}",
    ],
)
def test_settings_take_none(setting):
    """They are saved, logged, shown and sent to MLflow; the error that says so does not repeat it."""
    with pytest.raises(ConfigError, match=r"found (a password|keys) in the address, expected none") as told:
        load("xmtl", [setting])
    assert MARK not in str(told.value)
    load("xmtl", ["storage_path=s3://bucket/runs?region=eu-west-1&scheme=https"])


def test_a_job_is_sent_none(secret, tmp_path):
    """Its runtime environment holds names; a value given all the same is refused unseen."""
    order = submission.Order(("python",), tmp_path, "id", {"A": "b"}, submission.secret_names(VARIABLES))
    assert MARK not in json.dumps(order.runtime_env()) and all(
        name in order.runtime_env()["env_vars"][job.SECRETS] for name in VARIABLES
    )
    for name in (*VARIABLES, "MLFLOW_TRACKING_URI"):
        for asked in (name, f"{name}={os.environ[name]}"):
            with pytest.raises(submission.SubmissionError, match=rf"--env {name}: .*--secret {name}") as told:
                submission.variables([asked], os.environ)
            assert MARK not in str(told.value)
    with pytest.raises(submission.SubmissionError) as told:
        submission.secret_names([f"HF_TOKEN={MARK}"])
    assert MARK not in str(told.value)


def test_commands_print_none(secret, world, tmp_path):
    """What is resolved, and what would be submitted."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "a.py").write_text("")
    given = ["train", "xmtl_smoke", f"data.root={world}", "storage_path=s3://bucket/runs"]
    sent = ["submit", "--dry-run", "--working-dir", str(tmp_path / "code"), "--secret", "HF_TOKEN"]
    for arguments in (["config", "xmtl_smoke"], [*sent, *given]):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        assert MARK not in done.output + done.stderr


def test_messages_of_others_are_masked(secret):
    """Errors of MLflow and of databases repeat the address."""
    assert MARK not in masked(f"cannot reach http://me:{MARK}@127.0.0.1:9/?token={MARK}; {MARK}-PGPASSWORD is wrong")
