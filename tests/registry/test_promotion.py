"""`xmtl promote`, `rollback`, `models` with real models on a real server: who becomes champion, who is refused, why."""

import hashlib
import json
import shutil

import pytest
from registry_runs import adapter_run, base_model, conversations, xmtl_run
from typer.testing import CliRunner

from xmtl_ray.cli.main import app
from xmtl_ray.registry import decisions
from xmtl_ray.registry.promotion import Evaluation, promote
from xmtl_ray.registry.registration import register
from xmtl_ray.registry.server import registry

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def versions(server, world, tmp_path_factory):
    """Two versions of ``model``: the first tells much, the second is too calm to tell anything in the text."""
    runs = tmp_path_factory.mktemp("runs")
    for name, calm in (("first", 50), ("second", 500)):
        register(str(xmtl_run(world, runs / name, server, calm)), "model", tracking_uri=server)
    return "model"


@pytest.fixture(scope="module")
def data(world, tmp_path_factory):
    """The world's M2E2 files: gold, pictures, detections."""
    return world / "m2e2", world / "m2e2" / "image_entity.json"


def written(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def xmtl(server, *arguments):
    return CliRunner().invoke(app, [*map(str, arguments), "--tracking", server])


def aliases(server, name="model"):
    with registry(server, name) as client:
        return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}


def test_from_no_champion_to_a_rollback(server, versions, data, tmp_path):
    """Dry run, first champion by absolute rules, refusal, promotion, repeated request, lost race, rollback: statuses,
    aliases, the evidence with its hashes, and what `xmtl models` shows of it all."""
    gold, objects = data
    least = written(
        tmp_path / "least.yaml", "minimum: {text_event: 0, image_event: 0}\ncost: {size: 2, latency: 999}\n"
    )
    strict = written(
        tmp_path / "strict.yaml", "better: {metric: text_event}\nno_group_worse: {event_type: 5, gold: 1}\n"
    )
    given = ["--data", gold, "--objects", objects]

    done = xmtl(server, "promote", versions, "--version", 1, "--gate", least, *given, "--dry-run")
    assert done.exit_code == 0 and "would be promoted" in done.output and aliases(server) == {}

    too_much = written(tmp_path / "much.yaml", "minimum: {text_event: 100}\n")
    done = xmtl(server, "promote", versions, "--version", 1, "--gate", too_much, *given, "--request", "r0")
    assert done.exit_code == 3 and "refused" in done.output and aliases(server) == {}

    told = ["promote", versions, "--version", 1, "--gate", least, *given, "--by", "ci", "--request", "r1", "--json"]
    done = xmtl(server, *told)
    assert done.exit_code == 0, done.output
    outcome = json.loads(done.stdout)
    assert outcome["word"] == "promoted" and outcome["champion"] == "1" and not outcome["repeated"]
    assert [each["passed"] for each in outcome["verdicts"]] == [True, True, None, None]
    assert aliases(server) == {"champion": "1"}

    again = json.loads(xmtl(server, *told).stdout)
    assert again["repeated"] and again["word"] == "promoted" and again["run_id"] == outcome["run_id"]

    done = xmtl(server, "promote", versions, "--version", 2, "--gate", least, *given, "--request", "r1")
    assert done.exit_code == 2 and "promote of 1, by that id" in done.stderr

    done = xmtl(server, "promote", versions, "--gate", strict, *given)
    assert done.exit_code == 3 and "failed" in done.output and aliases(server) == {"champion": "1"}
    assert "no_group_worse.event_type" in done.output, "a rule's name is broken at 80 columns"

    done = xmtl(server, "promote", versions, "--gate", least, *given, "--note", "smaller")
    assert done.exit_code == 0 and aliases(server) == {"champion": "2", "previous": "1"}

    # Version 1 is measured against champion 2; meanwhile somebody rolls back to 1.
    def meanwhile(text):
        if text.startswith("writing"):
            assert xmtl(server, "rollback", versions).exit_code == 0

    outcome = promote(
        versions, least, Evaluation(gold, objects), version="1", tracking_uri=server, request="late", tell=meanwhile
    )
    assert outcome.word == "lost" and outcome.champion == "1"
    assert outcome.why == "the champion is version 1 by now, and version 2 was measured against"
    assert aliases(server) == {"champion": "1"}
    done = xmtl(server, "promote", versions, "--version", 1, "--gate", least, *given, "--request", "late")
    assert done.exit_code == 4

    done = xmtl(server, "rollback", versions)
    assert done.exit_code == 2 and "found no champion before 1" in done.stderr
    done = xmtl(server, "promote", versions, "--version", 1, "--gate", least, *given)
    assert done.exit_code == 2 and "found version 1 as champion already" in done.stderr

    shown = json.loads(xmtl(server, "models", versions, "--json").stdout)
    assert [(each["kind"], each["version"], each["against"], each["outcome"]) for each in shown["decisions"]] == [
        ("refuse", "1", None, "recorded"),
        ("promote", "1", None, "moved"),
        ("refuse", "2", "1", "recorded"),
        ("promote", "2", "1", "moved"),
        ("rollback", "1", "2", "moved"),
        ("promote", "1", "2", "lost"),
    ]
    assert shown["decisions"][1]["who"] == "ci" and shown["broken"] == []
    assert shown["decisions"][3]["why"].startswith("smaller: minimum.text_event: ")
    assert "better FAILED: found" in shown["decisions"][2]["why"]
    assert shown["versions"][1]["aliases"] == ["champion"] and shown["versions"][1]["teachers"] == {"td": "e" * 64}
    assert shown["versions"][0]["decision"].startswith("promoted")
    everything = json.loads(xmtl(server, "models", "--json").stdout)
    assert "model" in {each["name"] for each in everything}
    assert not [each for each in everything if each["name"].endswith(".decisions")]
    with registry(server, "model") as client:
        client.set_registered_model_alias("model", "champion", "2")
    done = xmtl(server, "promote", versions, "--version", 2, "--gate", least, *given)
    assert done.exit_code == 2 and "moved by other means than xmtl" in done.stderr
    assert xmtl(server, "models", versions, "--restore").exit_code == 0 and aliases(server) == {"champion": "1"}
    table = xmtl(server, "models", versions)
    assert table.exit_code == 0 and "champion" in table.output and "decisions" in table.output

    evidence(server, shown["decisions"][3], tmp_path / "evidence")


def evidence(server, decision, folder):
    """The files of a decision, each with the hash that its run's tags have, and both models on the same documents."""
    from mlflow.artifacts import download_artifacts

    folder.mkdir()
    place = download_artifacts(
        run_id=decision["run_id"], artifact_path="decision", dst_path=str(folder), tracking_uri=server
    )
    with registry(server, "model") as client:
        tags = client.get_run(decision["run_id"]).data.tags
    found = folder / "decision"
    assert place and {path.name for path in found.iterdir()} == {
        *("decision.json", "evaluation.json", "gate.yaml", "version-1.jsonl", "version-2.jsonl")
    }
    for path in found.iterdir():
        if path.name != "decision.json":
            assert tags[f"sha256.{path.name}"] == hashlib.sha256(path.read_bytes()).hexdigest()
    told = json.loads((found / "evaluation.json").read_text())
    assert told["challenger"]["version"] == "2" and told["champion"]["version"] == "1"
    assert told["challenger"]["documents"].keys() == told["champion"]["documents"].keys()
    assert set(told["sha256"]) == {"data", "objects", "gate", "version.1", "version.2"}
    assert told["champion"]["metrics"]["image_event"] > 0 and told["champion"]["latency"]["median_s"] > 0
    assert told["champion"]["latency"]["measured"] == len(told["champion"]["documents"])


def test_changed_files_are_refused_and_written_down(server, mlflow_home, world, data, tmp_path, record_property):
    """Of the challenger: status 2, an entry that says why, and the alias stays; wrong data is nobody's refusal.

    The control: MLflow's own alias takes it without a word.
    """
    gold, objects = data
    register(str(xmtl_run(world, tmp_path / "run", server)), "spoilt", tracking_uri=server)
    gate = written(tmp_path / "gate.yaml", "minimum: {text_event: 0}\n")
    with registry(server, "spoilt") as client:
        source = client.get_model_version("spoilt", "1").source
        top = mlflow_home / "artifacts" / source.removeprefix("mlflow-artifacts:/")
        done = xmtl(server, "promote", "spoilt", "--gate", gate, "--data", tmp_path / "nowhere")
        assert done.exit_code == 2 and not decisions.read(client, "spoilt").decisions
        path = top / "artifacts" / "model" / "config.yaml"
        path.write_text(path.read_text() + "\n")
        done = xmtl(server, "promote", "spoilt", "--gate", gate, "--data", gold, "--objects", objects)
        assert done.exit_code == 2 and "they were changed since" in done.stderr
        (decision,) = decisions.read(client, "spoilt").decisions
        assert decision.entry.kind == "refuse" and "they were changed since" in decision.entry.why
        assert aliases(server, "spoilt") == {}
        assert client.get_model_version("spoilt", "1").tags["xmtl.decision"].startswith("refused")
        client.set_registered_model_alias("spoilt", "champion", "1")
        record_property("control.bad_candidates_promoted", int(aliases(server, "spoilt") == {"champion": "1"}))


def test_an_adapter_is_served_and_promoted_without_its_base(server, tmp_path, monkeypatch):
    """Its base is not sent, and elsewhere it is named; another base is refused, written down; JSON validity counts."""
    import mlflow.pyfunc

    from xmtl_ray.serving.answer import answer

    data = conversations(tmp_path / "data.json")
    base = base_model(data, tmp_path / "base")
    run = adapter_run(base, data, tmp_path / "adapter", server)
    answer(run / "model", data, tmp_path / "before.jsonl", shard=1)
    before = {row["id"]: row["output"] for row in map(json.loads, (tmp_path / "before.jsonl").read_text().splitlines())}
    assert len(set(before.values())) > 1

    moved = base.rename(tmp_path / "moved")
    done = xmtl(server, "register", run, "--name", "chat")
    assert done.exit_code == 2 and "its base" in done.stderr
    done = xmtl(server, "register", run, "--name", "chat", "--base", moved)
    assert done.exit_code == 0, done.output
    with registry(server, "chat") as client:
        tags = client.get_model_version("chat", "1").tags
        assert tags["xmtl.base_sha256"] == json.loads((run / "model" / "base.json").read_text())["sha256"]
        assert int(tags["xmtl.size_bytes"]) < sum(path.stat().st_size for path in moved.rglob("*") if path.is_file())

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    mlflow.set_tracking_uri(server)
    loaded = mlflow.pyfunc.load_model("models:/chat/1", model_config={"base": str(moved)})
    asked = [
        {"id": row["id"], "language": "en", "prompt": row["conversations"][0]["value"]}
        for row in json.loads(data.read_text())
    ]
    found = loaded.predict(asked)
    assert {each["id"]: each["output"] for each in found} == before
    assert {each["state"] for each in found} == {"malformed"} and [each["events"] for each in found] == [[]] * 3

    valid = written(tmp_path / "valid.yaml", "json: {valid: 1}\n")
    any_json = written(tmp_path / "gate.yaml", "json: {valid: 0}\nminimum: {trigger: 0, argument_accuracy: 0}\n")
    given = ["promote", "chat", "--gate", any_json, "--data", data]
    other = shutil.copytree(moved, tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "x": 1}))
    done = xmtl(server, *given, "--base", other)
    assert done.exit_code == 2 and "an adapter on another base answers wrongly" in done.stderr
    done = xmtl(server, "promote", "chat", "--gate", valid, "--data", data, "--base", moved)
    assert done.exit_code == 3 and "0.00 %" in done.output
    done = xmtl(server, *given, "--base", moved)
    assert done.exit_code == 0, done.output
    with registry(server, "chat") as client:
        kinds = [each.entry.kind for each in decisions.read(client, "chat").decisions]
    assert kinds == ["refuse", "refuse", "promote"] and aliases(server, "chat") == {"champion": "1"}
    mlflow.set_tracking_uri(None)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    told = ["generate", "models:/chat@champion", data, "--base", moved, "--out", tmp_path / "after.jsonl"]
    done = xmtl(server, *told)
    assert done.exit_code == 0, done.output
    after = [json.loads(line) for line in (tmp_path / "after.jsonl").read_text().splitlines()]
    assert {row["id"]: row["output"] for row in after} == before

    foreign = written(tmp_path / "foreign.yaml", "minimum: {image_event: 1}\n")
    done = xmtl(server, "promote", "chat", "--version", 1, "--gate", foreign, "--data", data, "--dry-run")
    assert done.exit_code == 2
