"""The model folder: bit for bit, complete, without pickles; and pretrained encoders whose weights really come over."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel

from xmtl_ray.config.load import load
from xmtl_ray.events.records import Span
from xmtl_ray.models import weights
from xmtl_ray.models.encoders import EncoderError, learn_tokenizer
from xmtl_ray.models.inputs import Inputs
from xmtl_ray.models.weights import ModelFolderError

SENTENCES = [["Troops", "shot", "two", "men"], ["Ministers", "met", "in", "Rome"]]
PROMPT = (["$", "Troops", "$", "shot"], ["shot", "conflict", "attack"], Span(1, 2))
MANY = [[f"{word}{ending}" for word in ("mit", "ter", "sol", "nar")] for ending in ("en", "in", "ar", "s", "er") * 9]
FILES = {".safetensors", ".json", ".yaml", ".txt"}


def build(*overrides):
    """A small model with random weights; no data is read."""
    torch.set_num_threads(1)
    config = load("xmtl_smoke", ["data.root=/nowhere", *overrides])
    return weights.create(config, weights.make_tokenizer(config, SENTENCES))


@torch.no_grad()
def scores(loaded):
    """What the model says of two sentences, a prompt and three images."""
    model = loaded.model.eval()
    text = None if loaded.codec is None else loaded.codec(
        SENTENCES if "td" in model.tasks else [], [PROMPT] if "ae" in model.tasks else [])  # fmt: skip
    pixels = None
    if model.image_encoder is not None:
        pixels = torch.linspace(-2, 2, 9 * model.image_px**2).view(3, 3, model.image_px, model.image_px)
    return model(Inputs(text, pixels, 2 if {"vc", "rc"} <= set(model.tasks) else 3 * ("vc" in model.tasks)))


def same(first, second):
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert value.dtype == second[name].dtype and torch.equal(value, second[name]), name


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model of four tasks and the folder it was saved to."""
    made, folder = build(), tmp_path_factory.mktemp("models") / "model"
    weights.save(folder, made)
    return made, folder


@pytest.mark.parametrize("tasks", ["[td,ae,vc,rc]", "[td]", "[vc]", "[ae,rc]"])
def test_load_gives_back_what_was_saved(tmp_path, tasks):
    """Every weight bit for bit, the config, the tokenizer, the same scores; in evaluation mode."""
    made = build(f"multitask.tasks={tasks}", "model.argument=span", "model.max_tokens=99")
    weights.save(tmp_path / "deep" / "model", made)
    again = weights.load(tmp_path / "deep" / "model")
    same(again.model.state_dict(), made.model.state_dict())
    assert again.config == made.config and not again.model.training
    same(scores(again), scores(made))
    if made.codec is None:
        assert again.codec is None
    else:
        assert (again.codec.max_tokens, again.codec.argument) == (99, "span")
        assert again.codec.tokenizer.get_vocab() == made.codec.tokenizer.get_vocab()


def test_the_same_seed_makes_the_same_model():
    """``train.seed`` decides the weights before the first step."""
    first, second, other = (build(f"train.seed={seed}").model.state_dict() for seed in (3, 3, 4))
    same(first, second)
    assert not torch.equal(first["vc.scores.weight"], other["vc.scores.weight"])


def test_a_state_from_elsewhere_is_saved_instead_of_the_models_own(saved, tmp_path):
    """An engine that shards weights gathers them and hands them over; views and other layouts are written whole."""
    made, _ = saved
    state = {name: value + 1 for name, value in made.model.state_dict().items()}
    state["vc.scores.weight"] = state["vc.scores.weight"].T.contiguous().T
    weights.save(tmp_path, made, state)
    same(weights.load(tmp_path).model.state_dict(), state)


def test_only_plain_files_are_in_the_folder(saved):
    """Weights as safetensors, the rest as text that can be read: nothing that is executed when loaded."""
    made, folder = saved
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= FILES
    assert {"model.safetensors", "config.yaml", "labels.json", "text_encoder/tokenizer.json"} <= {
        str(path.relative_to(folder)) for path in files
    }
    for path in files:
        if path.suffix == ".json":
            json.loads(path.read_text(encoding="utf-8"))
    assert load_file(folder / "model.safetensors").keys() == made.model.state_dict().keys()


@pytest.fixture(scope="module")
def elsewhere(saved, tmp_path_factory):
    """What a fresh process says: another folder, no hub, home or data, another hash seed, other thread numbers."""
    away = tmp_path_factory.mktemp("away")
    shutil.copytree(saved[1], away / "moved")
    code = f"""
import json, sys
sys.path[:0] = [{str(Path(__file__).parent)!r}]
import test_weights
from pathlib import Path
from xmtl_ray.models import weights
loaded = weights.load(Path("moved"))
heavy = sorted({{"ray", "mlflow", "deepspeed", "bitsandbytes"}} & set(sys.modules))
found = {{name: values.tolist() for name, values in test_weights.scores(loaded).items()}}
print(json.dumps([found, heavy, weights.make_tokenizer(loaded.config, test_weights.MANY).backend_tokenizer.to_str()]))
"""
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(away / "hub"), "HOME": str(away), "PYTHONHASHSEED": "12345"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=away,
        env={**os.environ, **environment, "RAYON_NUM_THREADS": "3"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_folder_needs_nothing_else(saved, elsewhere):
    """The fresh process has the same scores, and no Ray or MLflow was imported to get them."""
    found, heavy, _ = elsewhere
    assert heavy == []
    for name, values in scores(saved[0]).items():
        assert torch.allclose(torch.tensor(found[name]), values, atol=1e-5), name


def test_every_process_learns_the_same_tokenizer(saved, elsewhere):
    """Each worker learns its own from the same sentences: the bytes are equal in both processes."""
    assert elsewhere[2] == weights.make_tokenizer(saved[0].config, MANY).backend_tokenizer.to_str()


@pytest.mark.parametrize("missing", ["model.safetensors", "config.yaml"])
def test_a_folder_that_is_no_model_says_so(saved, tmp_path, missing):
    """Without weights or config, or not there at all: the folder and what it lacks."""
    shutil.copytree(saved[1], tmp_path / "model")
    (tmp_path / "model" / missing).unlink()
    for folder in (tmp_path / "model", tmp_path / "nothing"):
        with pytest.raises(ModelFolderError, match=r"no config\.yaml and model\.safetensors in it, expected a model"):
            weights.load(folder)


@pytest.mark.parametrize("kind", ["tags", "roles"])
def test_labels_of_another_ontology_are_refused(saved, tmp_path, kind):
    """Two labels in another order would change the meaning of every score: both versions are named."""
    shutil.copytree(saved[1], tmp_path / "model")
    labels = json.loads((tmp_path / "model/labels.json").read_text())
    labels[kind][1:3] = reversed(labels[kind][1:3])
    (tmp_path / "model/labels.json").write_text(json.dumps({**labels, "version": "other-7"}))
    with pytest.raises(ModelFolderError, match=r"labels\.json: labels of ontology 'other-7' found, 'm2e2-1' expected"):
        weights.load(tmp_path / "model")


def test_weights_that_do_not_fit_are_no_model(saved, tmp_path):
    """A weight fewer is an error, never a layer that silently keeps its random start."""
    shutil.copytree(saved[1], tmp_path / "model")
    state = load_file(tmp_path / "model/model.safetensors")
    del state["vc.scores.bias"]
    save_file(state, tmp_path / "model/model.safetensors")
    with pytest.raises(weights.ModelFolderError, match=r"safetensors: found .*vc\.scores\.bias.*, expected this model"):
        weights.load(tmp_path / "model")


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Hugging Face folders with a tiny BERT (and tokenizer) and a tiny CLIP, and their weights."""
    folder = tmp_path_factory.mktemp("hub")
    torch.manual_seed(11)
    tokenizer = learn_tokenizer(SENTENCES * 3, ["$"], 80)
    bert = BertModel(BertConfig(vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                                intermediate_size=24, max_position_embeddings=64))  # fmt: skip
    clip = CLIPModel(CLIPConfig(
        text_config={"vocab_size": 30, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
                     "intermediate_size": 16},
        vision_config={"image_size": 32, "patch_size": 8, "hidden_size": 20, "num_hidden_layers": 1,
                       "num_attention_heads": 2, "intermediate_size": 24},
        projection_dim=6,
    ))  # fmt: skip
    tokenizer.save_pretrained(folder / "bert")
    tokenizer.save_pretrained(folder / "clip")
    bert.save_pretrained(folder / "wordless")
    bert.save_pretrained(folder / "bert")
    clip.save_pretrained(folder / "clip")
    return folder, bert.state_dict(), clip.vision_model.state_dict()


def renamed(state):
    """Names after their last module path, whatever the library calls the outer modules."""
    return {name.removeprefix("vision_model."): value for name, value in state.items()}


def test_pretrained_encoders_are_taken_over(pretrained, tmp_path):
    """Every weight of BERT and of CLIP's vision half but pooler and output norm; the model then stands alone."""
    folder, bert, vision = pretrained
    names = [f"model.text_encoder={folder / 'bert'}", f"model.image_encoder={folder / 'clip'}"]
    made = build(*names)
    same(made.model.text_encoder.state_dict(), {k: v for k, v in bert.items() if not k.startswith("pooler.")})
    own, expected = renamed(made.model.image_encoder.state_dict()), renamed(vision)
    same(own, {k: v for k, v in expected.items() if not k.startswith("post_layernorm.")})
    assert made.model.image_px == 32
    assert (made.model.align_text.in_features, made.model.align_image.in_features) == (16, 20)
    assert made.codec.tokenizer.get_vocab()["[PAD]"] == 0

    copy = tmp_path / "hub"
    shutil.copytree(folder, copy)
    made = build(*(name.replace(str(folder), str(copy)) for name in names))
    weights.save(tmp_path / "model", made)
    shutil.rmtree(copy)
    again = weights.load(tmp_path / "model")
    same(again.model.state_dict(), made.model.state_dict())
    same(scores(again), scores(made))


@pytest.mark.parametrize(
    ("field", "name", "message"),
    [
        ("text_encoder", "/no/such/folder", r"model\.text_encoder: .*'/no/such/folder'"),
        ("image_encoder", "/no/such/folder", r"model\.image_encoder: found '/no/such/folder', expected a Hugging"),
        ("text_encoder", "no-such-name-here", r"model\.text_encoder: .*'no-such-name-here'"),
        ("image_encoder", "no-such-name-here", r"model\.image_encoder: found 'no-such-name-here', expected"),
        ("image_encoder", "bert", r"model\.image_encoder: found a bert, expected a CLIP model"),
        ("text_encoder", "clip", r"model\.text_encoder: found a clip, expected BERT or the like"),
        ("text_encoder", "wordless", r"model\.text_encoder: no tokenizer in '.*wordless': it knows no word"),
    ],
)
def test_a_folder_or_name_without_an_encoder_names_the_field(pretrained, field, name, message):
    """Missing, unknown while offline, of another kind, without a tokenizer: what to mend and what was found."""
    path = pretrained[0] / name
    with pytest.raises(EncoderError, match=message):
        build(f"model.{field}={path if path.is_dir() else name}")
