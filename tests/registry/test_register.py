"""A registered X-MTL model: elsewhere, by MLflow alone and over HTTP it predicts what it predicted before."""

import base64
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import yaml
from mlflow_processes import free_port, stop, wait_for
from registry_runs import xmtl_run
from typer.testing import CliRunner

from xmtl_ray.cli.main import app
from xmtl_ray.data import m2e2
from xmtl_ray.events.ontology import m2e2 as ontology
from xmtl_ray.registry.registration import register, requirements
from xmtl_ray.registry.server import checked_out, model_folder, registry
from xmtl_ray.serving.predict import predict
from xmtl_ray.tracking.artifacts import fetch
from xmtl_ray.tracking.registry import RegistryError, Tampered, tree_sha256

pytestmark = pytest.mark.slow
HOLDS = ("model.safetensors", "config.yaml")


@pytest.fixture(scope="module")
def run(server, world, tmp_path_factory):
    return xmtl_run(world, tmp_path_factory.mktemp("runs") / "one", server)


@pytest.fixture(scope="module")
def registered(server, run):
    """Version 1 of ``served``, made champion by hand, as before any decision one may."""
    done = register(str(run), "served", tracking_uri=server)
    assert done.new and done.version == "1" and done.family == "xmtl"
    with registry(server, "served") as client:
        client.set_registered_model_alias("served", "champion", done.version)
    return done


@pytest.fixture(scope="module")
def documents(world, tmp_path_factory):
    """Documents of the world as files, with images, objects and entities."""
    root = tmp_path_factory.mktemp("documents")
    for number, document in enumerate(m2e2.read(world / "m2e2", objects=world / "m2e2" / "image_entity.json")[:3]):
        for image in document.images:
            shutil.copy(image.path, root / image.path.name)
        body = {
            "id": document.id,
            "sentences": [list(sentence.words) for sentence in document.sentences],
            "images": [image.path.name for image in document.images],
            "entities": [
                {"sentence": at, "words": [entity.span.start, entity.span.end], "type": entity.type}
                for at, sentence in enumerate(document.sentences)
                for entity in sentence.entities
            ],
            "objects": {
                image.path.name: [{"box": [b.box.x0, b.box.y0, b.box.x1, b.box.y1]} for b in image.objects]
                for image in document.images
            },
        }
        (root / f"d{number}.json").write_text(json.dumps(body), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def before(run, documents, tmp_path_factory):
    """What the run's own folder predicts, byte for byte."""
    out = tmp_path_factory.mktemp("before") / "events.jsonl"
    counts = predict([run / "model"], documents, out)
    assert counts.text_events and counts.visual_events and counts.multimedia_events
    return out.read_bytes()


@pytest.fixture(scope="module")
def asked(documents):
    """The same documents with their images' bytes, as a server takes them."""
    found = []
    for path in sorted(documents.glob("*.json")):
        body = json.loads(path.read_text())
        images = {name: base64.b64encode((documents / name).read_bytes()).decode() for name in body["images"]}
        found.append({**body, "media": images})
    return found


def as_lines(found):
    return "".join(f"{json.dumps(each, ensure_ascii=False)}\n" for each in found).encode()


LOAD = """
import json, sys
import mlflow.pyfunc
model = mlflow.pyfunc.load_model("models:/served@champion")
example = json.load(open(sys.argv[1]))
print(json.dumps([model.predict(example), model.metadata.signature.to_dict(), str(model.metadata.get_input_schema())]))
"""


def test_another_process_predicts_the_same_by_mlflow_alone(
    registered, server, before, asked, tmp_path, quiet_environment
):
    """``mlflow.pyfunc.load_model`` in another folder, in a process that has read nothing else of this package."""
    (tmp_path / "asked.json").write_text(json.dumps(asked))
    environment = {**quiet_environment, "MLFLOW_TRACKING_URI": server, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", LOAD, tmp_path / "asked.json"], env=environment, cwd=tmp_path, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found, signature, _ = json.loads(done.stdout.splitlines()[-1])
    assert as_lines(found) == before
    assert '"media"' in signature["inputs"] and signature["outputs"]


def test_xmtl_predict_uses_it(registered, server, before, documents, tmp_path, monkeypatch):
    """By alias; the folder of the model is found within MLflow's."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    told = ["predict", "models:/served@champion", str(documents), "--out", str(tmp_path / "o"), "--tracking", server]
    done = CliRunner().invoke(app, told)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "o").read_bytes() == before


def test_mlflow_serves_it(registered, server, before, asked, tmp_path, quiet_environment):
    """``mlflow models serve``: the same events by HTTP; a wrong question is told what is wrong, with status 400."""
    port, log = free_port(), tmp_path / "log"
    environment = {**quiet_environment, "MLFLOW_TRACKING_URI": server, "HF_HUB_OFFLINE": "1"}
    command = [
        *(sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/served@champion"),
        *("--env-manager", "local", "-h", "127.0.0.1", "-p", str(port), "--workers", "1"),
    ]
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, env={**environment, "PATH": path}, cwd=tmp_path,
            start_new_session=True,
        )  # fmt: skip
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", process, log)

        def post(body):
            headers = {"Content-Type": "application/json"}
            url = f"http://127.0.0.1:{port}/invocations"
            request = urllib.request.Request(url, json.dumps(body).encode(), headers)
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)

        assert as_lines(post({"inputs": asked})["predictions"]) == before
        for wrong, message in (
            ({"text": "A.", "images": ["/etc/hostname"]}, "expected a relative path"),
            ({"text": "A.", "images": ["1.png"]}, "expected its bytes in media"),
            ({"txt": "A."}, "Extra inputs are not permitted"),
        ):
            with pytest.raises(urllib.error.HTTPError) as refused:
                post({"inputs": [wrong]})
            assert refused.value.code == 400 and message in refused.value.read().decode()
    finally:
        stop(process)


def test_what_is_registered(registered, server, run, tmp_path):
    """No pickle, no path of this machine; pinned requirements; tags of lineage; the same again is the same version."""
    with registry(server, "served") as client:
        version = client.get_model_version("served", "1")
        tags = version.tags
        assert tags["data.sha256.data.test"] == "d" * 64 and tags["teacher.td"] == "e" * 64
        assert tags["ontology"] == ontology().version and tags["score.table.text_event"] == "31.25"
        assert tags["dev.mean_f1"] == "12.5" and tags["xmtl.sha256"] == registered.sha256
        if (Path(__file__).parents[2] / ".git").exists():
            assert len(tags["git.commit"]) == 40
        assert version.run_id == json.loads((run / "mlflow.json").read_text())["run_id"]
        place = fetch("models:/served/1", server, HOLDS, tmp_path / "cache")
        top = place.parents[1]
        names = {path.relative_to(top).as_posix() for path in top.rglob("*") if path.is_file()}
        assert {"MLmodel", "document_model.py", "requirements.txt", "constraints.txt", "input_example.json"} <= names
        assert not [name for name in names if name.endswith((".pkl", ".pt", ".bin", ".pth"))]
        assert (top / "requirements.txt").read_text().splitlines()[-1] == "-c constraints.txt"
        assert str(Path(__file__).parents[2]) not in (top / "MLmodel").read_text()
        pinned = (top / "requirements.txt").read_text().splitlines()[:-1]
        assert set(requirements()) <= set(pinned) and all("==" in line for line in pinned)
        again = register(f"runs:/{version.run_id}", "served", tracking_uri=server)
        assert not again.new and again.version == "1"
        assert len(client.search_model_versions("name='served'")) == 1


def broken(top, how):
    """One change to a registered folder."""
    if how == "weights":
        path = top / "artifacts" / "model" / "model.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    elif how == "more":
        (top / "artifacts" / "model" / "extra.json").write_text("{}")
    elif how == "code":
        (top / "document_model.py").write_text("raise SystemExit('run')")
    elif how == "link":
        (top / "artifacts" / "model" / "labels.json").unlink()
        (top / "artifacts" / "model" / "labels.json").symlink_to("/etc/hostname")


def test_changed_files_are_refused(server, mlflow_home, run, tmp_path):
    """By everything of ours that reads the version: what would be promoted, and what `xmtl predict` would fetch."""
    register(str(run), "changed", tracking_uri=server)

    def read():
        with registry(server, "changed") as client, checked_out(client, "changed", "1") as folder:
            return (folder / "model.safetensors").stat().st_size

    assert read() > 0
    with registry(server, "changed") as client:
        source = client.get_model_version("changed", "1").source
    top = mlflow_home / "artifacts" / source.removeprefix("mlflow-artifacts:/")
    whole = shutil.copytree(top, tmp_path / "whole")
    for how in ("weights", "more", "code", "link"):
        broken(top, how)
        # MLflow's server does not give a link in the first place.
        with pytest.raises(RegistryError, match="failures occurred" if how == "link" else "they were changed since"):
            read()
        if how != "link":
            with pytest.raises(Tampered, match="they were changed since"):
                fetch("models:/changed/1", server, HOLDS, tmp_path / "cache")
        shutil.rmtree(top)
        shutil.copytree(whole, top)
    assert read() > 0
    broken(whole, "link")
    with pytest.raises(Tampered, match=r"found the link artifacts/model/labels\.json"):
        tree_sha256(whole)


@pytest.mark.parametrize(
    ("flavors", "message"),
    [
        ({"sklearn": {"pickled_model": "model.pkl"}}, "found the flavours sklearn"),
        (
            {"python_function": {"loader_module": "mlflow.pyfunc.model", "python_model": "python_model.pkl"}},
            "found the",
        ),
        (
            {"python_function": {"loader_module": "mlflow.pyfunc.loaders.code_model", "model_code_path": "x.py"}},
            "found",
        ),
    ],
)
def test_flavours_of_others_are_refused_unread(tmp_path, flavors, message):
    (tmp_path / "MLmodel").write_text(yaml.safe_dump({"flavors": flavors}))
    with pytest.raises(RegistryError, match=message):
        model_folder(tmp_path, "models:/x/1")


def test_what_cannot_be_registered(run, server, tmp_path):
    """A pickle beside the weights, a folder that is no run, a name that would be a log."""
    copied = shutil.copytree(run, tmp_path / "run")
    (copied / "model" / "optimizer.pt").write_bytes(b"x")
    for folder, name, message in (
        (copied, "x", "found optimizer.pt, expected safetensors and text files alone"),
        (tmp_path, "x", r"found no model/config\.yaml, expected the folder of a finished run"),
        (run, "x.decisions", "expected letters, digits"),
    ):
        with pytest.raises(ValueError, match=message):
            register(str(folder), name, tracking_uri=server)
