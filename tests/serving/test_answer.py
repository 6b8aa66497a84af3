"""`xmtl generate`, `xmtl merge`: here or on Ray, at once or after a stop, by an adapter or a whole model: the same."""

import json
import os
import shutil
from collections import Counter
from dataclasses import replace

import processes
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from xmtl_ray.cli.main import app
from xmtl_ray.config.finetune import FinetuneConfig
from xmtl_ray.config.load import changed, load_as
from xmtl_ray.data import videollama2
from xmtl_ray.events.answers import read_samples
from xmtl_ray.events.json_format import dumps, parse
from xmtl_ray.events.ontology import m2e2
from xmtl_ray.events.records import Conversation, GenerativeArgument, GenerativeEvent, Media, Turn
from xmtl_ray.generative import folders
from xmtl_ray.generative.answering import answers
from xmtl_ray.serving.answer import answer
from xmtl_ray.serving.shards import ShardError

TEXTS = {
    "en": ("Rebels killed a guard in Rome.", "Guards met the mayor.", "Nothing new today.", "A bomb killed two men."),
    "es": ("Los rebeldes mataron a un guardia en Roma.", "Hoy no hay nada.", "Una bomba.", "El alcalde vino ayer."),
}
DIE = GenerativeEvent("Life:Die", "killed", (GenerativeArgument("Place", "Rome"),))
MEET = GenerativeEvent("Contact:Meet", "met", ())
GREEDY = ["generation.greedy=true", "generation.max_new_tokens=8", "generation.batch=2"]
LONG = ["--greedy", "generation.max_new_tokens=150"]


def conversation(language, place, media=None):
    """About one of the texts; the first two tell an event."""
    events = (DIE, MEET)[place : place + 1]
    turn = Turn(videollama2.prompt(language, TEXTS[language][place]), dumps(events))
    return Conversation(f"{language}{place}{media.kind if media else ''}", (turn,), language, media)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Twelve conversations: text in two languages, an image twice, two videos; one answer is no event JSON."""
    root = tmp_path_factory.mktemp("data")
    for number in range(4):
        folder = root / f"video{number // 2}"
        folder.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), (60 * number, 200, 90)).save(folder / f"{number}.png")
    Image.linear_gradient("L").convert("RGB").save(root / "image.jpg")
    found = []
    for number, language in enumerate(TEXTS):
        texts = [conversation(language, place) for place in range(4)]
        seen = (Media("image", "image.jpg"), Media("video", f"video{number}"))
        found += [texts[0], conversation(language, 0, seen[0]), *texts[1:], conversation(language, 1, seen[1])]
    found[4] = replace(found[4], turns=(Turn("Who?", "Nobody."), Turn("Why?", "So.")))
    videollama2.write(root / "test.json", found)
    return root


@pytest.fixture(scope="module")
def model(data, tmp_path_factory):
    """Random weights, whole, as training leaves them."""
    folder = tmp_path_factory.mktemp("model") / "model"
    sizes = ["vocabulary=400", "width=32", "heads=2", "key_value_heads=1", "hidden=48", "vision_width=16"]
    sizes += ["vision_heads=2", "image_px=24", "frames=2"]
    config = load_as(FinetuneConfig, "videollama2_smoke", [f"model.built.{size}" for size in sizes])
    conversations = videollama2.read(data / "test.json")
    schema = {"Life:Die": ("Place",), "Contact:Meet": ()}
    loaded = folders.create(config, conversations, torch.float32, schema)
    move(loaded.chat.module, 0.3)
    folders.save(folder, loaded, loaded.chat.module.state_dict())
    return folder


def move(module, much):
    """What learns, somewhere else: random weights as they are begun say the same whatever they are asked."""
    generator = torch.Generator().manual_seed(0)
    for name, value in module.named_parameters():
        if value.requires_grad and "norm" not in name and ".bn." not in name:
            value.data += much * torch.randn(value.shape, generator=generator)


def settings(model, *overrides):
    return changed(folders.saved_config(model), [*GREEDY, *overrides])


def outputs(path):
    return {row["id"]: row["output"] for row in map(json.loads, path.read_text(encoding="utf-8").splitlines())}


@pytest.fixture(scope="module")
def whole(model, data, tmp_path_factory):
    """The file of all answers, made in this process in shards of two, and the counts."""
    out = tmp_path_factory.mktemp("whole") / "answers.jsonl"
    told = []
    counts = answer(
        model, data / "test.json", out, settings(model), shard=2, progress=lambda done, of: told.append((done, of))
    )
    assert told == [(done, 12) for done in range(0, 13, 2)]
    assert sorted(path.name for path in out.parent.iterdir()) == ["answers.jsonl", "answers.jsonl.gold.jsonl"]
    return out, counts


def test_the_file_has_the_models_answers(whole, model, data):
    """In the file's order, what the model says to each alone; and the counts are those of the file."""
    out, counts = whole
    conversations = videollama2.read(data / "test.json")
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == [one.id for one in conversations]
    assert {tuple(row) for row in rows} == {("id", "output", "cut")}
    loaded = folders.load(model, media=data)
    alone = settings(model).generation
    expected = [
        next(answers(loaded.chat, [loaded.chat.encode(one)], alone, torch.device("cpu"))) for one in conversations
    ]
    assert [(row["output"], row["cut"]) for row in rows] == [(one.text, one.cut) for one in expected]
    assert len({row["output"] for row in rows}) > 4
    assert (counts.conversations, counts.answered, counts.refused, counts.resumed) == (12, 12, 0, 0)
    states = Counter(parse(row["output"]).state for row in rows)
    assert counts.states == {state: states[state] for state in ("ok", "repaired", "malformed")}
    assert counts.cut == sum(row["cut"] for row in rows) and counts.tokens == sum(one.tokens for one in expected)
    assert counts.shortened == 0 and not counts.reasoned and not counts.quarantine.exists()


def test_gold_stands_beside(whole):
    """Of all records but the one whose answer is no event JSON: source, events, modality, as the scorer takes them."""
    _, counts = whole
    samples = read_samples(counts.gold)
    assert counts.samples == len(samples) == 11 and "en3" not in {sample.id for sample in samples}
    assert Counter(sample.modality for sample in samples) == {"text": 7, "image": 2, "video": 2}
    first = samples[0]
    assert (first.source, first.events) == (TEXTS["en"][0], (DIE,))


def test_an_adapter_whose_base_was_moved(model, data, tmp_path):
    """Where it lay it is not: told; where it lies now it answers as before, merged as well, and not as its base."""
    base = shutil.copytree(model, tmp_path / "base")
    learning = [
        "adapter.method=lora",
        "adapter.r=4",
        "adapter.alpha=8",
        f"model.path={base}",
        "model.train_tower=false",
    ]
    config = changed(folders.saved_config(model), learning)
    loaded = folders.create(config, (), torch.float32, folders.saved_schema(model))
    move(loaded.chat.module, 0.1)
    learnt = {name: value for name, value in loaded.chat.module.named_parameters() if value.requires_grad}
    adapter, file, given = tmp_path / "adapter", data / "test.json", settings(model)
    folders.save(adapter, loaded, learnt)
    answer(adapter, file, tmp_path / "before.jsonl", given)
    moved = base.rename(tmp_path / "moved")
    done = invoke(adapter, file, "--out", tmp_path / "after.jsonl", *GREEDY)
    assert (
        done.exit_code == 2
        and f"its base {base} is not here; name the folder where it lies now (--base)" in done.stderr
    )
    done = invoke(adapter, file, "--out", tmp_path / "after.jsonl", "--base", moved, *GREEDY)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "after.jsonl").read_bytes() == (tmp_path / "before.jsonl").read_bytes()

    merged = tmp_path / "merged"
    told = ["merge", str(adapter), "--out", str(merged), "--base", str(moved), "--dtype", "float32"]
    done = CliRunner().invoke(app, told)
    assert done.exit_code == 0 and f"next: xmtl generate {merged} " in done.output
    assert not list(tmp_path.glob(".merged*"))
    shutil.rmtree(moved)
    done = invoke(merged, file, "--out", tmp_path / "merged.jsonl", *GREEDY)
    assert done.exit_code == 0, done.output
    assert outputs(tmp_path / "merged.jsonl") == outputs(tmp_path / "before.jsonl")
    answer(model, file, tmp_path / "base.jsonl", given)
    assert outputs(tmp_path / "base.jsonl") != outputs(tmp_path / "before.jsonl")
    done = CliRunner().invoke(app, told)
    assert done.exit_code == 2 and "expected a new or empty folder" in done.stderr
    done = CliRunner().invoke(app, ["merge", str(merged), "--out", str(tmp_path / "twice")])
    assert done.exit_code == 2 and "expected an adapter's folder" in done.stderr


# --- Shards -----------------------------------------------------------------------------------------------------------


class Stopped(Exception):
    pass


def stop(done, of):
    """Ends a run after two shards of two conversations."""
    if done == 4:
        raise Stopped


def test_a_stopped_run_goes_on(whole, model, data, tmp_path):
    """Two shards are there; the same again answers the others and writes the same file. Another setting does not."""
    out, parts = tmp_path / "answers.jsonl", tmp_path / "answers.jsonl.parts"
    with pytest.raises(Stopped):
        answer(model, data / "test.json", out, settings(model), shard=2, progress=stop)
    assert not out.exists() and len(list(parts.iterdir())) == 2
    kept = shutil.copytree(parts, tmp_path / "kept")
    counts = answer(model, data / "test.json", out, settings(model), shard=2)
    assert (counts.resumed, counts.answered) == (4, 12)
    assert out.read_bytes() == whole[0].read_bytes() and not parts.exists()
    assert replace(counts, resumed=0, gold=None, quarantine=out) == replace(whole[1], gold=None, quarantine=out)
    for changes in ({"seed": 1}, {"bits": 8}, {"config": settings(model, "generation.max_new_tokens=9")}):
        shutil.copytree(kept, parts)
        given = {"config": settings(model), "shard": 2} | changes
        with pytest.raises(Stopped):
            answer(model, data / "test.json", out, progress=stop, **given)
        assert len(list(parts.iterdir())) == 4
        shutil.rmtree(parts)


def test_a_changed_picture_is_answered_anew(model, data, tmp_path):
    """And with it the other of its shard; shards of other media are kept."""
    root = shutil.copytree(data, tmp_path / "data")
    out = tmp_path / "answers.jsonl"
    with pytest.raises(Stopped):  # two videos, two images
        answer(model, root / "test.json", out, settings(model), shard=2, progress=stop)
    Image.new("RGB", (30, 30), "red").save(root / "image.jpg")
    assert answer(model, root / "test.json", out, settings(model), shard=2).resumed == 2


def test_sampling_hangs_on_the_seed_alone(model, data, tmp_path):
    """Stopped or not, the same seed says the same; another one something else."""
    sampled = ["generation.greedy=false", "generation.temperature=1"]
    given = {"config": settings(model, *sampled), "shard": 2}
    names = [tmp_path / name for name in ("a", "b", "c")]
    answer(model, data / "test.json", names[0], **given)
    with pytest.raises(Stopped):
        answer(model, data / "test.json", names[1], progress=stop, **given)
    answer(model, data / "test.json", names[1], **given)
    answer(model, data / "test.json", names[2], seed=1, **given)
    assert names[0].read_bytes() == names[1].read_bytes() != names[2].read_bytes()


@pytest.mark.ray
@pytest.mark.slow
def test_actors_write_the_same_file(whole, model, data, broken, tmp_path):
    """Two of them, byte for byte, though one is killed; and a broken record is left out as without them."""
    import ray

    from xmtl_ray.cluster.connection import ENVIRONMENT

    os.environ.update(ENVIRONMENT)
    ray.init(num_cpus=2, include_dashboard=False, runtime_env={"env_vars": ENVIRONMENT})
    killed = []
    try:

        def kill_one(done, of):
            if done and not killed:
                killed.append(processes.named("MapWorker")[0])
                processes.kill(killed)

        out = tmp_path / "a.jsonl"
        answer(model, data / "test.json", out, settings(model), shard=2, actors=2, progress=kill_one)
        assert killed and out.read_bytes() == whole[0].read_bytes()
        for name, actors in (("b", 2), ("c", 0)):
            given = {"shard": 2, "skip_bad": True, "media": broken}
            answer(model, data / "test.json", tmp_path / name, settings(model), actors=actors, **given)
        for end in ("", ".quarantine.jsonl"):
            assert (tmp_path / f"b{end}").read_bytes() == (tmp_path / f"c{end}").read_bytes()
    finally:
        ray.shutdown()


# --- Broken records ---------------------------------------------------------------------------------------------------


@pytest.fixture
def broken(data, tmp_path):
    """The media: an image is cut off, which its header does not tell, and a video is not there."""
    root = shutil.copytree(data, tmp_path / "broken")
    image = root / "image.jpg"
    image.write_bytes(image.read_bytes()[:-150])
    shutil.rmtree(root / "video1")
    return root


def test_media_that_cannot_be_read(whole, model, data, broken, tmp_path):
    """What headers show is told before anything is answered, the rest when it is read; or both are left out."""
    out, file = tmp_path / "answers.jsonl", data / "test.json"
    with pytest.raises(ShardError, match=r"record 'es1video': .*video1.*--skip-bad leaves such records out"):
        answer(model, file, out, settings(model), media=broken)
    assert not list(tmp_path.glob("answers*"))
    counts = answer(model, file, out, settings(model), media=broken, skip_bad=True)
    assert (counts.conversations, counts.answered, counts.refused) == (12, 9, 3)
    lost = {"es1video", "en0image", "es0image"}
    assert outputs(out) == {name: text for name, text in outputs(whole[0]).items() if name not in lost}
    told = {row["id"]: row["reason"] for row in map(json.loads, counts.quarantine.read_text().splitlines())}
    assert told.keys() == lost and "video1" in told["es1video"] and "image.jpg" in told["en0image"]
    shutil.copytree(data / "video1", broken / "video1")
    for _ in range(2):
        with pytest.raises(ShardError, match=r"image\.jpg.*--skip-bad leaves such records out"):
            answer(model, file, out, settings(model), media=broken)
    shutil.copy(data / "image.jpg", broken)
    assert answer(model, file, out, settings(model), media=broken).refused == 0
    assert outputs(out) == outputs(whole[0]) and not counts.quarantine.exists()


def test_records_that_are_none(model, data, tmp_path):
    """One of another layout and an id that comes twice: refused by place, or left out and told."""
    rows = json.loads((data / "test.json").read_text(encoding="utf-8"))
    file = data / "bad.json"
    file.write_text(json.dumps([*rows[:2], {"id": "x"}, rows[0]]), encoding="utf-8")
    done = invoke(model, file, "--out", tmp_path / "a.jsonl", *GREEDY)
    assert done.exit_code == 2 and "bad.json: record 2: conversations: " in done.stderr
    done = invoke(model, file, "--out", tmp_path / "a.jsonl", "--skip-bad", *GREEDY)
    assert done.exit_code == 0 and "2 of 4 conversations" in done.output
    assert f"left out: 2 broken records, see {tmp_path / 'a.jsonl.quarantine.jsonl'}" in done.output
    file.write_text(json.dumps([rows[0], rows[0]]), encoding="utf-8")
    done = invoke(model, file, "--out", tmp_path / "b.jsonl", *GREEDY)
    assert done.exit_code == 2 and "record 'en0': id: found 'en0'" in done.stderr
    file.write_text("[]", encoding="utf-8")
    done = invoke(model, file, "--out", tmp_path / "b.jsonl", *GREEDY)
    assert done.exit_code == 2 and "found no conversation" in done.stderr


# --- The command ------------------------------------------------------------------------------------------------------


def invoke(*arguments):
    return CliRunner().invoke(app, ["generate", *map(str, arguments)])


def test_answers_held_to_the_text_are_all_of_the_form(model, data, tmp_path):
    """By random weights: event JSON of the schema, triggers and arguments in the text; the next command scores it."""
    out, page = tmp_path / "answers.jsonl", tmp_path / "page.html"
    done = invoke(model, data / "test.json", "--out", out, "--html", page, *LONG, "generation.constrained=spans")
    assert done.exit_code == 0, done.output
    assert (
        f"{out}: 12 of 12 conversations, " in done.output and "answers: 12 ok, 0 repaired, 0 malformed; " in done.output
    )
    assert f"look at it: {page}" in done.output and "Life:Die" in page.read_text(encoding="utf-8")
    sources = {one.id: videollama2.source(one) for one in videollama2.read(data / "test.json")}
    found = [(sources[name], event) for name, text in outputs(out).items() for event in parse(text).events]
    assert found and {event.event_type for _, event in found} <= {"Life:Die", "Contact:Meet"}
    assert all(event.trigger in source for source, event in found)
    assert all(argument.text in source for source, event in found for argument in event.arguments)
    (told,) = [line for line in done.output.splitlines() if line.startswith("next: xmtl ")]
    assert "without gold: 1 answer" in done.output
    command = told.removeprefix("next: xmtl ").split()
    refused = CliRunner().invoke(app, [each for each in command if each != "--only-gold"])
    assert refused.exit_code == 2 and "found 'en3', expected the id of one of the 11 samples" in refused.stderr
    scored = CliRunner().invoke(app, command)
    assert scored.exit_code == 0 and "11 samples: 11 ok" in scored.output


@pytest.mark.parametrize(
    "asked",
    [
        ["prompt.shots=1", "prompt.schema_text=false", "--examples", "test.json"],
        ["prompt.reason=true", "--schema", "m2e2"],
        ["prompt.shots=1", "prompt.reason=true", "--examples", "test.json", "--schema", "examples"],
    ],
)
def test_prompts_of_other_styles(whole, model, data, tmp_path, asked):
    """Examples, the schema, a call to reason: taken, and answered otherwise than plain prompts."""
    rows = json.loads((data / "test.json").read_text(encoding="utf-8"))
    file, out = data / f"{len(asked)}.json", tmp_path / "answers.jsonl"
    file.write_text(json.dumps([row for row in rows if row["id"] != "en3"]), encoding="utf-8")
    given = [data / each if each == "test.json" else each for each in asked]
    done = invoke(model, file, "--out", out, "prompt.instruction=ours", *GREEDY, *given)
    assert done.exit_code == 0, done.output
    plain, found = outputs(whole[0]), outputs(out)
    assert len(found) == 11 and sum(found[name] != plain[name] for name in found) > 5
    assert ("--reasoned" in done.output) == ("prompt.reason=true" in asked) and "--only-gold" not in done.output


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (["train.seed=3"], "'train.seed=3': expected generation.FIELD=value or prompt.FIELD=value"),
        (["generation.constrined=spans"], "did you mean 'constrained'?"),
        (["prompt.shots=2"], "prompt.shots=2: has no effect on the conversations' own prompts"),
        (["prompt.instruction=ours", "prompt.shots=2"], "prompt.shots: found 2, expected 0, or --examples FILE"),
        (["--greedy", "generation.temperature=1"], "generation.temperature=1: has no effect on greedy answers"),
        (["prompt.instruction=ours", "prompt.reason=true", "generation.constrained=schema"], "cannot reason first"),
        (["--schema", "examples"], "--schema examples: found no --examples"),
        (["--base", "elsewhere"], "it is no adapter and takes no base"),
        pytest.param(
            ["--gpu"],
            "GPU: found none on this machine",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here"),
        ),
    ],
)
def test_what_cannot_be_asked(model, data, tmp_path, asked, message):
    """Told in a sentence, with nothing written."""
    done = invoke(model, data / "test.json", "--out", tmp_path / "answers.jsonl", *asked)
    assert done.exit_code == 2 and message in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_base_knows_no_schema_until_one_is_named(model, data, tmp_path):
    """A checkpoint from elsewhere, without what training leaves beside it: M2E2's types, or the examples'."""
    base = shutil.copytree(model, tmp_path / "base", ignore=shutil.ignore_patterns("config.yaml", "schema.json"))
    out = tmp_path / "answers.jsonl"
    asked = [base, data / "test.json", "--out", out, "generation.constrained=schema", *LONG]
    done = invoke(*asked)
    assert done.exit_code == 2 and "knows no event schema; name one: --schema m2e2, or --examples FILE" in done.stderr
    turn = Turn("Extract.", dumps([GenerativeEvent("launch", "unveiled", ())]))
    videollama2.write(tmp_path / "train.json", [Conversation("0", (turn,), "en")])
    types = {}
    for name, more in (("m2e2", ["--schema", "m2e2"]), ("examples", ["--examples", tmp_path / "train.json"])):
        done = invoke(*asked, *more)
        assert done.exit_code == 0 and "answers: 12 ok" in done.output
        types[name] = {event.event_type for text in outputs(out).values() for event in parse(text).events}
    assert types["examples"] == {"launch"} and types["m2e2"] and types["m2e2"] <= {*m2e2().types}


@pytest.mark.slow
def test_a_model_in_mlflow(whole, model, data, tmp_path, monkeypatch):
    """As a run's artifacts: the same answers as from the folder."""
    from mlflow import MlflowClient

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    uri, out = f"sqlite:///{tmp_path / 'mlflow.db'}", tmp_path / "answers.jsonl"
    client = MlflowClient(uri)
    experiment = client.create_experiment("x", artifact_location=(tmp_path / "artifacts").as_uri())
    run = client.create_run(experiment).info.run_id
    client.log_artifacts(run, str(model), "model")
    client.set_terminated(run)
    done = invoke(f"runs:/{run}/model", data / "test.json", "--out", out, "--tracking", uri, *GREEDY)
    assert done.exit_code == 0, done.output
    assert outputs(out) == outputs(whole[0])
