"""`xmtl predict`: one document or many, here or on Ray, at once or after a stop: the same file."""

import json
import os
import shutil
from dataclasses import replace

import pytest
import torch
from random_xmtl import make_model
from typer.testing import CliRunner

from xmtl_ray.cli.main import app
from xmtl_ray.data import m2e2
from xmtl_ray.data.fingerprint import of_file
from xmtl_ray.events import event_lines, predictions
from xmtl_ray.inference.extract import Extractor
from xmtl_ray.models import weights
from xmtl_ray.serving.predict import predict
from xmtl_ray.serving.shards import ShardError

DOCUMENTS = 7


@pytest.fixture(scope="module")
def model(world, tmp_path_factory):
    return make_model(world, tmp_path_factory.mktemp("model") / "model")


@pytest.fixture(scope="module")
def documents(world, tmp_path_factory):
    """JSON documents made of the world's: their words, entities, images, and objects of every second."""
    root = tmp_path_factory.mktemp("documents")
    shutil.copytree(world / "m2e2" / "image", root / "image")
    read = m2e2.read(world / "m2e2", objects=world / "m2e2" / "image_entity.json")
    for number, document in enumerate(read[:DOCUMENTS]):
        body = {
            "sentences": [list(sentence.words) for sentence in document.sentences],
            "images": [f"image/{image.path.name}" for image in document.images],
            "entities": [
                {"sentence": at, "words": [entity.span.start, entity.span.end], "type": entity.type}
                for at, sentence in enumerate(document.sentences)
                for entity in sentence.entities
            ],
            "objects": {
                f"image/{image.path.name}": [
                    {"box": [item.box.x0, item.box.y0, item.box.x1, item.box.y1]} for item in image.objects
                ]
                for image in document.images[:: 1 + number % 2]
            },
        }
        (root / f"d{number}.json").write_text(json.dumps(body), encoding="utf-8")
    return root


@pytest.fixture(scope="module")
def whole(model, documents, tmp_path_factory):
    """The file of all documents, predicted in this process in shards of two, and the counts."""
    out = tmp_path_factory.mktemp("whole") / "events.jsonl"
    told = []
    counts = predict([model], documents, out, shard=2, progress=lambda done, of: told.append((done, of)))
    assert told == [(0, 7), (2, 7), (4, 7), (6, 7), (7, 7)]
    assert [path.name for path in out.parent.iterdir()] == ["events.jsonl"]
    return out, counts


def lines(path):
    return path.read_bytes().splitlines(keepends=True)


def test_the_counts_are_those_of_the_file(whole, documents):
    """All kinds of events and arguments are found, by confidences that are not all the same; who has no candidates."""
    out, counts = whole
    found = list(event_lines.read(out))
    assert [each.id for each in found] == [f"d{number}" for number in range(DOCUMENTS)]
    assert (counts.documents, counts.predicted, counts.refused, counts.resumed) == (7, 7, 0, 0)
    text = [event for each in found for events in each.text.values() for event in events]
    image = [event for each in found for events in each.image.values() for event in events]
    assert len(text) == counts.text_events and len(image) == counts.visual_events
    assert sum(len(each.multimedia) for each in found) == counts.multimedia_events > 0
    assert any(event.arguments for event in text) and any(event.arguments for event in image)
    assert len({event.confidence for event in text}) > 10
    assert counts.images == sum(len(each.images) for each in found)
    assert counts.without_objects == sum(image.objects == "none" for each in found for image in each.images) > 0
    assert counts.without_entities == counts.cut_words == 0 and counts.missing == ()


def test_a_document_alone_is_what_it_is_among_others(whole, model, documents, tmp_path):
    """Its line, byte for byte; whatever the size of a shard and the number of threads."""
    predict([model], documents / "d3.json", tmp_path / "one.jsonl")
    assert lines(tmp_path / "one.jsonl") == [lines(whole[0])[3]]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        predict([model], documents, tmp_path / "all.jsonl", shard=16)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert (tmp_path / "all.jsonl").read_bytes() == whole[0].read_bytes()


class Stopped(Exception):
    pass


def stop(done, of):
    """Ends a run after two shards of two documents."""
    if done == 4:
        raise Stopped


def test_a_stopped_run_goes_on(whole, model, documents, tmp_path):
    """Two shards are there; the same again predicts the others and writes the same file. Another setting does not."""
    out = tmp_path / "events.jsonl"

    with pytest.raises(Stopped):
        predict([model], documents, out, shard=2, progress=stop)
    assert not out.exists() and len(list((tmp_path / "events.jsonl.parts").iterdir())) == 2
    kept = shutil.copytree(tmp_path / "events.jsonl.parts", tmp_path / "kept")
    counts = predict([model], documents, out, shard=2)
    assert (counts.resumed, counts.predicted) == (4, 7)
    assert out.read_bytes() == whole[0].read_bytes()
    assert not (tmp_path / "events.jsonl.parts").exists()

    shutil.copytree(kept, tmp_path / "events.jsonl.parts")
    spec = replace_inference(model, verb_threshold=0.5)
    assert predict([model], documents, out, spec, shard=2).resumed == 0


def test_a_changed_document_is_predicted_anew(model, documents, tmp_path):
    """And with it the other of its shard; those of other shards are kept."""
    root = shutil.copytree(documents, tmp_path / "documents")
    out = tmp_path / "events.jsonl"

    with pytest.raises(Stopped):
        predict([model], root, out, shard=2, progress=stop)
    body = json.loads((root / "d0.json").read_text())
    (root / "d0.json").write_text(json.dumps({**body, "sentences": body["sentences"][:1], "entities": []}))
    assert predict([model], root, out, shard=2).resumed == 2
    assert len(next(event_lines.read(out)).sentences) == 1


def replace_inference(model, **changes):
    return weights.config_of(model).inference.model_copy(update=changes)


@pytest.fixture
def broken(documents, tmp_path):
    """The same documents; two of them cannot be read, one has an image that is cut off."""
    root = shutil.copytree(documents, tmp_path / "broken")
    (root / "d1.json").write_text('{"text": ')
    (root / "d2.json").write_text(json.dumps({"text": "a", "id": "d0"}))
    body = json.loads((root / "d4.json").read_text())
    image = root / body["images"][0]
    cut = image.with_name("cut.jpg")
    cut.write_bytes(image.read_bytes()[:500])
    body["images"][0] = "image/cut.jpg"
    (root / "d4.json").write_text(json.dumps({**body, "objects": {}}))
    return root


def test_broken_documents_stop_or_are_left_out(whole, model, broken, tmp_path):
    """The first is told before anything is predicted; left out, all are counted with their reasons, the rest stays."""
    out = tmp_path / "events.jsonl"
    with pytest.raises(ValueError, match=r"d1\.json"):
        predict([model], broken, out)
    assert not list(tmp_path.glob("events*"))
    (broken / "d1.json").unlink()
    with pytest.raises(ValueError, match=r"d2\.json.*found 'd0', expected an id that d0\.json does not have"):
        predict([model], broken, out)
    (broken / "d1.json").write_text('{"text": ')
    counts = predict([model], broken, out, skip_bad=True, shard=2)
    assert (counts.documents, counts.predicted, counts.refused) == (7, 4, 3)
    every = lines(whole[0])
    assert lines(out) == [every[0], every[3], every[5], every[6]]
    told = [json.loads(line) for line in counts.quarantine.read_text().splitlines()]
    assert {row["document"] for row in told} == {"d1.json", "d2.json", "d4.json"}
    assert "cut.jpg" in next(row["reason"] for row in told if row["document"] == "d4.json")


def test_an_image_that_cannot_be_read_stops_each_time(model, broken, tmp_path):
    """Found only while predicting; a shard with it is not passed over by the next run either, until it is mended."""
    for name in ("d1", "d2"):
        (broken / f"{name}.json").unlink()
    out = tmp_path / "events.jsonl"
    for _ in range(2):
        with pytest.raises(ShardError, match=r"cut\.jpg.*--skip-bad leaves such documents out"):
            predict([model], broken, out, shard=1)
        assert not out.exists()
    image = next((broken / "image").glob("*_0.jpg"))
    shutil.copy(image, broken / "image" / "cut.jpg")
    counts = predict([model], broken, out, shard=1)
    assert (counts.predicted, counts.refused, counts.resumed) == (5, 0, 2)
    assert not counts.quarantine.exists()


@pytest.mark.ray
@pytest.mark.slow
def test_actors_write_the_same_file(whole, model, documents, broken, tmp_path):
    """Two of them, byte for byte; and a broken document is told or left out as without them."""
    import ray

    from xmtl_ray.cluster.connection import ENVIRONMENT

    os.environ.update(ENVIRONMENT)
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": ENVIRONMENT})
    try:
        told = []
        counts = predict(
            [model], documents, tmp_path / "a.jsonl", shard=2, actors=2, progress=lambda *done: told.append(done)
        )
        assert (tmp_path / "a.jsonl").read_bytes() == whole[0].read_bytes()
        assert replace(counts, quarantine=whole[1].quarantine) == whole[1]
        assert told[0] == (0, 7) and told[-1] == (7, 7)
        predict([model], broken, tmp_path / "b.jsonl", skip_bad=True, actors=2, shard=2)
        predict([model], broken, tmp_path / "c.jsonl", skip_bad=True, shard=2)
        for end in ("", ".quarantine.jsonl"):
            assert (tmp_path / f"b.jsonl{end}").read_bytes() == (tmp_path / f"c.jsonl{end}").read_bytes()
    finally:
        ray.shutdown()


def test_m2e2s_format_is_what_the_extractor_says(world, model, tmp_path):
    """The same events and pairs, in the file that is scored, though it sees all sentences at once."""
    objects = world / "m2e2" / "image_entity.json"
    out = tmp_path / "predictions.json"
    predict([model], world / "m2e2", out, format="m2e2", objects=objects)
    loaded = weights.load(model)
    expected = Extractor([loaded], loaded.config.inference)(m2e2.read(world / "m2e2", objects=objects))
    found = predictions.read(out)
    assert without_confidence(found) == without_confidence(expected) and found.text and found.image
    assert json.loads(out.read_text())["models"] == [of_file(model / weights.WEIGHTS)]


def without_confidence(found):
    def bare(event):
        arguments = tuple(replace(argument, confidence=None) for argument in event.arguments)
        return replace(event, arguments=arguments, confidence=None)

    sides = ({key: tuple(map(bare, events)) for key, events in side.items()} for side in (found.text, found.image))
    return (*sides, found.multimedia)


def test_a_detector_finds_what_was_not_given(whole, model, documents, yolo, tmp_path):
    """Objects of images without given ones; the others keep theirs."""
    path, _ = yolo
    spec = replace_inference(model, object_confidence=0.3)
    predict([model], documents, tmp_path / "events.jsonl", spec, detector=f"yolo:{path}")
    origins = {"none": "found", "given": "given"}
    for before, after in zip(event_lines.read(whole[0]), event_lines.read(tmp_path / "events.jsonl"), strict=True):
        assert [image.objects for image in after.images] == [origins[image.objects] for image in before.images]
        given = {image.id for image in before.images if image.objects == "given"}
        assert {key: before.image.get(key) for key in given} == {key: after.image.get(key) for key in given}


def test_named_entities_are_candidates_where_none_were_given(model, tagger, tmp_path):
    """Of the document without entities; one with an empty list has said that there are none."""
    text = "Anna Kovel saw Rome. " * 3
    for name, given in (("a", {}), ("b", {"entities": []})):
        (tmp_path / "docs").mkdir(exist_ok=True)
        (tmp_path / "docs" / f"{name}.json").write_text(json.dumps({"text": text, **given}))
    spec = replace_inference(model, trigger_bias=20.0, schema_filter=False)
    counts = predict([model], tmp_path / "docs", tmp_path / "e.jsonl", spec, ner_model=f"hf:{tagger}")
    assert counts.without_entities == 0 and counts.text_events > 0
    found, none = event_lines.read(tmp_path / "e.jsonl")
    assert (found.entities, none.entities) == ("found", "given")
    names = [
        sentence.quote(argument.span)
        for sentence in found.sentences
        for event in found.text[sentence.id]
        for argument in event.arguments
    ]
    assert names and set(names) <= {"Anna Kovel", "Rome"}
    assert not any(event.arguments for events in none.text.values() for event in events)


def invoke(*arguments):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


def said(done):
    return " ".join(done.output.split())


def test_the_command_says_what_a_user_must_know(model, documents, tmp_path):
    """Counts, how pairs were decided, missing candidates; settings of inference can be changed, others cannot."""
    (tmp_path / "docs" / "raid").mkdir(parents=True)
    (tmp_path / "docs" / "raid" / "a.txt").write_text("Rebels attacked a village. " + "very " * 600 + "late.")
    shutil.copy(next((documents / "image").glob("*.jpg")), tmp_path / "docs" / "raid" / "1.jpg")
    out, page = tmp_path / "events.jsonl", tmp_path / "page.html"
    done = invoke(model, tmp_path / "docs", "--out", out, "--html", page, "inference.verb_threshold=0")
    assert done.exit_code == 0, done.output
    text = said(done)
    assert f"{out}: 1 of 1 document, 2 sentences, 1 image: " in text
    assert " 8 visual events" in text and "(same type in one document; no image-text similarity)" in text
    assert "without entities, so without arguments in the text: 1 document; --ner finds them" in text
    assert "without objects, so without arguments: 1 image; --detector finds them" in text
    assert "beyond the model's longest input, so without triggers: " in text and f"look at it: {page}" in text
    done = invoke(model, tmp_path / "docs", "--out", out, "train.epochs=3")
    assert done.exit_code == 2 and "expected inference.FIELD=value" in done.stderr
    done = invoke(model, tmp_path / "docs", "--out", out, "inference.verb_treshold=3")
    assert done.exit_code == 2 and "did you mean 'verb_threshold'?" in done.stderr
    done = invoke(tmp_path / "docs", tmp_path / "docs", "--out", out)
    assert done.exit_code == 2 and "expected a model folder" in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there_is_told(model, documents, tmp_path):
    """In this process, before the model is loaded."""
    done = invoke(model, documents, "--out", tmp_path / "events.jsonl", "--gpu")
    assert done.exit_code == 2 and "GPU: found none on this machine" in done.stderr


def test_broken_documents_and_the_command(model, broken, tmp_path):
    """Status 2 and the file's name; with --skip-bad where to read why."""
    out = tmp_path / "events.jsonl"
    done = invoke(model, broken, "--out", out)
    assert done.exit_code == 2 and "d1.json" in done.stderr and not out.exists()
    done = invoke(model, broken, "--out", out, "--skip-bad")
    assert done.exit_code == 0, done.output
    assert f"left out: 3 broken documents, see {out}.quarantine.jsonl" in said(done)


def test_models_of_single_tasks_complete_each_other(world, documents, tmp_path):
    """Alone, one says what it lacks; together they have all."""
    folders = {}
    for tasks in ("td", "ae", "vc,rc"):
        strategy = "single" if "," not in tasks else "joint"
        own = [f"multitask.tasks=[{tasks}]", f"multitask.strategy={strategy}"]
        folders[tasks] = make_model(world, tmp_path / tasks, *own, calm=20)
    done = invoke(folders["td"], documents, "--out", tmp_path / "td.jsonl")
    assert done.exit_code == 0, done.output
    for task, what in (("ae", "no arguments in text"), ("vc", "no visual events"), ("rc", "no arguments in images")):
        assert f"no model here has the task {task}: {what}; --model adds one that has" in said(done)
    alone = list(event_lines.read(tmp_path / "td.jsonl"))
    more = ["--model", folders["ae"], "--model", folders["vc,rc"]]
    done = invoke(folders["td"], documents, "--out", tmp_path / "all.jsonl", *more)
    assert done.exit_code == 0 and "no model here" not in said(done), done.output
    found = list(event_lines.read(tmp_path / "all.jsonl"))
    assert [triggers(each) for each in found] == [triggers(each) for each in alone]
    assert all(len(each.models) == 3 for each in found) and any(each.image for each in found)
    assert any(event.arguments for each in found for events in each.text.values() for event in events)


def triggers(found):
    return {key: [(event.type, event.trigger) for event in events] for key, events in found.text.items()}


@pytest.mark.slow
def test_a_model_in_mlflow(whole, model, documents, tmp_path, monkeypatch):
    """By its run and by an alias of the registry: the same line as from the folder."""
    from mlflow import MlflowClient

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.create_experiment("x", artifact_location=(tmp_path / "artifacts").as_uri())
    run = client.create_run(experiment).info.run_id
    client.log_artifacts(run, str(model), "model")
    client.set_terminated(run)
    client.create_registered_model("xmtl")
    client.create_model_version("xmtl", client.get_run(run).info.artifact_uri + "/model", run_id=run)
    client.set_registered_model_alias("xmtl", "champion", "1")
    for asked in (f"runs:/{run}/model", "models:/xmtl@champion"):
        out = tmp_path / "one.jsonl"
        done = invoke(asked, documents / "d3.json", "--out", out, "--tracking", uri)
        assert done.exit_code == 0, done.output
        assert lines(out) == [lines(whole[0])[3]]
