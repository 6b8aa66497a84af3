"""Addresses with passwords: used for connecting, told without; and runs whose process is gone."""

import json
import subprocess
import sys

import pytest

from xmtl_ray.config.load import ConfigError, build
from xmtl_ray.config.schema import Config
from xmtl_ray.tracking.journal import JOURNAL, Journal
from xmtl_ray.tracking.run import LOCK, STATE, Run, Sender, Unsent, settle
from xmtl_ray.tracking.server import masked, tracking_uri, with_password, without_password

SECRET = "p%40ss-7f"
TREE = {"name": "x", "data": {"train": "/d"}, "multitask": {"tasks": ["td", "ae"]}}


@pytest.mark.parametrize(
    ("uri", "bare"),
    [
        (f"postgresql+psycopg2://me:{SECRET}@db:5432/m?sslmode=require", "postgresql+psycopg2://me@db:5432/m?sslmode=require"),
        (f"https://me:{SECRET}@host/path", "https://me@host/path"),
        (f"postgresql://host/m?user=me&password={SECRET}&sslmode=require", "postgresql://host/m?user=me&sslmode=require"),
        (f"postgresql://host/m?password={SECRET}", "postgresql://host/m"),
        ("sqlite:////data/a:b@c/mlflow.db", "sqlite:////data/a:b@c/mlflow.db"),
        ("http://localhost:5000", "http://localhost:5000"),
        ("file:///runs", "file:///runs"),
    ],
)  # fmt: skip
def test_a_password_is_taken_out_and_nothing_else(uri, bare):
    """Of the authority or of the query; a colon in a port or a path is none."""
    assert without_password(uri) == bare == without_password(bare)
    assert SECRET not in masked(f"cannot reach {uri} today")


def test_messages_hold_no_secret_of_the_environment(monkeypatch):
    """As it stands in the address, decoded, and those of variables."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"postgresql://me:{SECRET}@db/m")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "other-9k")
    assert masked("FATAL p@ss-7f and p%40ss-7f and other-9k") == "FATAL *** and *** and ***"


def test_the_environment_gives_the_address_and_its_password(monkeypatch):
    """The setting goes first, then the variable, then the file; the password comes back for the same address only."""
    uri = f"postgresql://me:{SECRET}@db/m"
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_uri(None, "/runs") == "sqlite:////runs/mlflow.db" and tracking_uri(None, None) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert tracking_uri(None, "/runs") == "postgresql://me@db/m"
    assert tracking_uri("http://other", "/runs") == "http://other"
    assert with_password("postgresql://me@db/m") == uri and with_password("http://other") == "http://other"


def test_a_file_here_is_the_same_file_for_workers_elsewhere(tmp_path, monkeypatch):
    """A relative path, of the environment or a setting, is told whole: workers run in folders of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs/mlflow.db")
    whole = f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert (
        tracking_uri(None, "/runs")
        == whole
        == tracking_uri("sqlite:///runs/mlflow.db", None)
        == tracking_uri(whole, None)
    )


@pytest.mark.parametrize("uri", [f"http://me:{SECRET}@host:5000", f"postgresql://host/m?password={SECRET}"])
def test_a_setting_with_a_password_is_refused_without_saying_it(uri):
    """Settings are saved, logged and shown."""
    with pytest.raises(ConfigError, match=r"tracking.*found a password in the address, expected none") as told:
        build({**TREE, "tracking": {"uri": uri}}, Config)
    assert SECRET not in str(told.value)
    assert build({**TREE, "tracking": {"uri": "http://me@host:5000"}}, Config).tracking.uri == "http://me@host:5000"


def test_what_cannot_be_sent_is_told_without_the_password(tmp_path, monkeypatch):
    """Neither the error nor its cause nor the state has it."""
    uri = f"http://me:{SECRET}@127.0.0.1:9"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    Journal(tmp_path).status("RUNNING")
    with pytest.raises(Unsent) as told:
        Sender(tmp_path, uri, "experiment", "name").send()
    assert SECRET not in repr(told.value) and "p@ss-7f" not in repr(told.value)
    assert told.value.__suppress_context__
    assert json.loads((tmp_path / STATE).read_text())["uri"] == "http://me@127.0.0.1:9"


def test_a_run_that_lives_is_left_alone_and_one_that_is_gone_is_ended(tmp_path):
    """By the lock alone: SIGKILL leaves no word. The end is the last sign of life, and it is said once."""
    code = (
        "import os, pathlib, signal, sys; from xmtl_ray.tracking.run import Run;"
        "run = Run(pathlib.Path(sys.argv[1]), None, 'e', 'n'); run.journal.metrics(3, {'x': 1.0});"
        "print('up', flush=True); sys.stdin.readline(); os.kill(os.getpid(), signal.SIGKILL)"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout.readline() == "up\n"
    assert not settle(tmp_path) and (tmp_path / LOCK).exists()
    other.communicate("die\n", timeout=60)
    assert settle(tmp_path) and not settle(tmp_path)
    *_, metric, last = [json.loads(line) for line in (tmp_path / JOURNAL).read_text().splitlines()]
    assert last == {"status": "KILLED", "time_ms": metric["time_ms"]}
    assert not (tmp_path / LOCK).exists()


def test_a_run_that_has_ended_stays_as_it_is(tmp_path):
    """Its lock is gone with it, and a folder without a journal is none of a run."""
    run = Run(tmp_path, None, "e", "n")
    assert (tmp_path / LOCK).exists() and not settle(tmp_path)
    run.journal.status("FAILED")
    run.close()
    assert not (tmp_path / LOCK).exists() and not settle(tmp_path)
    assert not settle(tmp_path / "nothing")
