"""Model folders out of a real MLflow, on a database file: of runs and of versions in the registry."""

import os

import pytest

from xmtl_ray.tracking.artifacts import ArtifactError, fetch, is_uri

HOLDS = ("model.safetensors", "config.yaml")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A finished run with model folders; two of them are versions of a registered model: (client, uri, run)."""
    from mlflow import MlflowClient

    home = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{home / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.create_experiment("x", artifact_location=(home / "artifacts").as_uri())
    run = client.create_run(experiment).info.run_id
    for name in ("model", "other", "two/a", "two/b", "nothing"):
        folder = home / name
        folder.mkdir(parents=True)
        (folder / "labels.json").write_text("[]")
        for file in HOLDS if name != "nothing" else ():
            (folder / file).write_text(f"{name} {file}")
    for name in ("model", "other", "two", "nothing"):
        client.log_artifacts(run, str(home / name), name)
    client.set_terminated(run)
    client.create_registered_model("xmtl")
    place = client.get_run(run).info.artifact_uri
    for name in ("model", "other"):
        version = client.create_model_version("xmtl", f"{place}/{name}", run_id=run)
    client.set_registered_model_alias("xmtl", "champion", version.version)
    return client, uri, run


def content(folder):
    return (folder / "model.safetensors").read_text()


@pytest.mark.slow
def test_what_a_uri_names_is_fetched_once(server, tmp_path, monkeypatch):
    """Of a run, a version, an alias; again it is the same folder; an alias that has moved gives the other version."""
    client, uri, run = server
    monkeypatch.chdir(tmp_path)
    cache = tmp_path / "cache"
    assert content(fetch(f"runs:/{run}/model", uri, HOLDS, cache)) == "model model.safetensors"
    first = fetch("models:/xmtl/1", uri, HOLDS, cache)
    assert content(first) == "model model.safetensors"
    champion = fetch("models:/xmtl@champion", uri, HOLDS, cache)
    assert content(champion) == "other model.safetensors"
    (champion / "mark").touch()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    again = fetch("models:/xmtl@champion", None, HOLDS, cache)
    assert again == champion and (again / "mark").exists()
    client.set_registered_model_alias("xmtl", "champion", "1")
    assert fetch("models:/xmtl@champion", uri, HOLDS, cache) == first
    client.set_registered_model_alias("xmtl", "champion", "2")
    assert {path.name for path in tmp_path.iterdir()} == {"cache"}
    assert not [path for path in cache.iterdir() if path.name.startswith(".")]


@pytest.mark.slow
def test_a_run_that_goes_on_is_fetched_anew(server, tmp_path):
    """Its artifacts may still change."""
    client, uri, run = server
    running = client.create_run(client.get_run(run).info.experiment_id).info.run_id
    for text in ("old", "new"):
        (tmp_path / "model").mkdir(exist_ok=True)
        for file in HOLDS:
            (tmp_path / "model" / file).write_text(text)
        client.log_artifacts(running, str(tmp_path / "model"), "model")
        assert content(fetch(f"runs:/{running}/model", uri, HOLDS, tmp_path / "cache")) == text


@pytest.mark.slow
@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("runs:/{run}/modle", r"runs:/\w+/modle: sqlite.* does not give it: "),
        ("runs:/0000/model", "does not give it: .*0000"),
        ("models:/xmtl/9", "does not give it: .*version=9"),
        ("models:/xmtl@challenger", "does not give it: .*challenger"),
        ("models:/xlmt/1", "does not give it: .*xlmt"),
        ("models:/xmtl", r"models:/xmtl: expected models:/NAME@ALIAS, models:/NAME/VERSION or runs:/RUN_ID/model"),
        ("runs:/{run}/two", r"found 2 model folders among 6 files \(two/a/config\.yaml, .*expected one folder with"),
        ("runs:/{run}/nothing", r"found no model folder among 1 files \(nothing/labels\.json\)"),
    ],
)
def test_what_is_not_there_is_told(server, tmp_path, asked, message):
    """The URI, the server that was asked, and what is in the way; nothing half fetched stays."""
    _, uri, run = server
    with pytest.raises(ArtifactError, match=message):
        fetch(asked.format(run=run), uri, HOLDS, tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_without_a_server_nothing_is_asked(tmp_path, monkeypatch):
    """No URI is an error with what to do; a database file that is not there is not made."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ArtifactError, match="expected --tracking URI or MLFLOW_TRACKING_URI"):
        fetch("models:/xmtl/1", None, HOLDS, tmp_path)
    with pytest.raises(ArtifactError, match=r"found no such file, expected the mlflow\.db of some runs"):
        fetch("models:/xmtl/1", f"sqlite:///{tmp_path}/mlflow.db", HOLDS, tmp_path)
    assert os.listdir(tmp_path) == []


def test_folders_are_no_uris():
    assert [is_uri(text) for text in ("models:/x/1", "runs:/x/model", "runs/x/model", "/models", "C:/runs")] == [
        *(True, True),
        *(False, False, False),
    ]
