"""``xmtl report``: of a folder and of a model; pages reach MLflow, and a run is made again from what MLflow has."""

import json

import pytest
from test_judged import run as finished_run
from test_sweep_page import SWEEP
from typer.testing import CliRunner

from xmtl_ray.cli.main import app
from xmtl_ray.report.run_folder import journal_of
from xmtl_ray.tracking.run import Run, log_artifacts

finished = finished_run


def invoke(*arguments):
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_a_sweep_and_a_copy_elsewhere(tmp_path):
    """The page lies in the folder; with --out there are copies of it and of the card."""
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "sweep.json").write_text(json.dumps(SWEEP))
    done = invoke(tmp_path / "sweep", "--out", tmp_path / "deep" / "page.html")
    assert done.exit_code == 0, done.output
    assert done.stdout.split() == [str(tmp_path / "deep" / "page.html"), str(tmp_path / "deep" / "SWEEP_CARD.md")]
    for copy, own in (("page.html", "report.html"), ("SWEEP_CARD.md", "SWEEP_CARD.md")):
        assert (tmp_path / "deep" / copy).read_text() == (tmp_path / "sweep" / own).read_text()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("empty", "found nothing, expected config.yaml of a run or a pipeline, or sweep.json of a sweep"),
        ("no/such", "found no such folder, expected one of a run, a pipeline or a sweep, or a model"),
        ("models:/some/1", "found no tracking server to ask"),
        ("some_model", "models:/some_model@champion: found no tracking server to ask"),
    ],
)
def test_what_has_no_page_is_told(tmp_path, monkeypatch, what, said):
    """In a sentence, with exit status 2."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "empty").mkdir()
    done = invoke(what)
    assert done.exit_code == 2 and said in done.stderr.replace("\n", " "), done.stderr


def test_a_run_that_goes_on_logs_its_page_itself(tmp_path):
    """Its journal is its own as long as it lives."""
    run = Run(tmp_path, None, "experiment", "name")
    assert not log_artifacts(tmp_path, ["report.html"])
    run.journal.status("FINISHED")
    run.close()
    assert "report.html" not in (tmp_path / "tracking.jsonl").read_text()


@pytest.mark.slow
def test_page_and_card_reach_mlflow_and_a_models_page_is_of_its_run(finished, tmp_path_factory, monkeypatch):
    """Logged to the run, which stays FINISHED. Of the registered model a folder is made with the same numbers."""
    from mlflow import MlflowClient

    home = tmp_path_factory.mktemp("elsewhere")
    uri = f"sqlite:///{home / 'mlflow.db'}"
    (finished / "mlflow.json").unlink()
    lines = [json.loads(line) for line in (finished / "tracking.jsonl").read_text().splitlines()]
    (finished / "tracking.jsonl").unlink()
    tracked = Run(finished, uri, "xmtl", "run-7", interval_s=0.1)
    for line in lines:
        if "tags" in line:
            tracked.journal.tags(line["tags"])
        elif "metrics" in line:
            tracked.journal.metrics(line["step"], line["metrics"])
    for name in ("config.yaml", "scores.json", "predictions.json"):
        tracked.journal.artifact(name)
    tracked.journal.status("FINISHED")
    tracked.close()

    done = invoke(finished)
    assert done.exit_code == 0, done.output
    client = MlflowClient(uri, uri)
    run_id = json.loads((finished / "mlflow.json").read_text())["run_id"]
    assert {"report.html", "MODEL_CARD.md"} <= {item.path for item in client.list_artifacts(run_id)}
    assert client.get_run(run_id).info.status == "FINISHED"

    client.create_registered_model("events")
    client.create_model_version("events", f"runs:/{run_id}/model", run_id, tags={"xmtl.sha256": "5" * 64})
    client.set_registered_model_alias("events", "champion", "1")
    monkeypatch.chdir(home)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    done = invoke("events")
    assert done.exit_code == 0, done.output
    made, first = journal_of(home / "events-v1" / "tracking.jsonl"), journal_of(finished / "tracking.jsonl")
    assert made.metrics == first.metrics and made.status == "FINISHED"
    assert first.tags.items() <= made.tags.items()
    card = (home / "events-v1" / "MODEL_CARD.md").read_text()
    assert f"| registered as | events, version 1 | `{'5' * 64}` |" in card and "| text event | 66.7 |" in card
