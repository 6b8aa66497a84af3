"""Pairs by type and similarity, CLIP's cosine against transformers' own, and what a prediction file says of it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Picture
from transformers import CLIPConfig, CLIPModel
from typer.testing import CliRunner

from xmtl_ray.cli.main import app
from xmtl_ray.config.load import load
from xmtl_ray.data.fingerprint import of_file
from xmtl_ray.events.records import Document, Image, MultimediaEvent, Sentence, Span, TextEvent, VisualEvent
from xmtl_ray.inference.coreference import TYPE_ONLY, Similarity, clip_similarity, pairs
from xmtl_ray.models import weights
from xmtl_ray.models.encoders import EncoderError, learn_tokenizer

ATTACK, DIE, MEET = "Conflict:Attack", "Life:Die", "Contact:Meet"
DOCUMENT = Document(
    "D",
    (Sentence("D_0", ("a",)), Sentence("D_1", ("b",)), Sentence("D_2", ("c",))),
    (Image("D_0", Path("x.jpg")), Image("D_1", Path("y.jpg")), Image("D_2", None)),
)
WORD = Span(0, 1)
TEXT = {
    "D_0": (TextEvent(MEET, WORD), TextEvent(ATTACK, WORD), TextEvent(ATTACK, WORD)),
    "D_1": (TextEvent(DIE, WORD),),
}
IMAGE = {"D_0": (VisualEvent(ATTACK), VisualEvent(MEET)), "D_1": (VisualEvent(ATTACK), VisualEvent(DIE))}


def test_events_of_one_type_in_one_document_are_pairs():
    """Without a similarity: all of the same type, each (sentence, image, type) once, though told twice."""
    assert pairs(DOCUMENT, TEXT, IMAGE, None) == [
        MultimediaEvent("D_0", "D_0", ATTACK),
        MultimediaEvent("D_0", "D_0", MEET),
        MultimediaEvent("D_0", "D_1", ATTACK),
        MultimediaEvent("D_1", "D_1", DIE),
    ]


def test_events_of_other_documents_are_no_pairs():
    """Only this document's sentences and images are looked at."""
    text = {"E_0": TEXT["D_0"], "D_1": (TextEvent(DIE, WORD),)}
    assert pairs(DOCUMENT, text, {"D_0": IMAGE["D_0"], "E_0": (VisualEvent(DIE),)}, None) == []


@pytest.mark.parametrize(("cosine", "expected"), [(0.2, 0), (float(np.nextafter(0.2, 1)), 4), (-1.0, 0), (1.0, 4)])
def test_the_similarity_must_exceed_the_threshold(cosine, expected):
    """Exactly 0.2 is not enough; the next larger number is."""
    similarity = Similarity(lambda path, words: cosine, 0.2, "a number")
    assert len(pairs(DOCUMENT, TEXT, IMAGE, similarity)) == expected


def test_only_candidates_of_one_type_are_compared():
    """The similarity is asked for (image, sentence) with a type in common, and decides for each by itself."""
    asked = []

    def cosine(path, words):
        asked.append((path.name, *words))
        return float(path.name == "x.jpg")

    assert pairs(DOCUMENT, TEXT, IMAGE, Similarity(cosine, 0.5, "names")) == [
        MultimediaEvent("D_0", "D_0", ATTACK),
        MultimediaEvent("D_0", "D_0", MEET),
    ]
    assert asked == [("x.jpg", "a"), ("y.jpg", "a"), ("y.jpg", "b")]


SENTENCES = [["rebels", "opened", "fire"], ["ministers", "met"], ["rebels"] * 40]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A Hugging Face folder with a tiny CLIP of random weights and its tokenizer; two pictures."""
    torch.set_num_threads(1)
    torch.manual_seed(4)
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = learn_tokenizer(SENTENCES, [], 60)
    layers = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    ends = {"bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id, "pad_token_id": 0}
    text = {"vocab_size": len(tokenizer), "hidden_size": 16, "max_position_embeddings": 12, **layers, **ends}
    vision = {"image_size": 32, "patch_size": 8, "hidden_size": 16, **layers}
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)).eval()
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    noise = np.random.default_rng(0)
    pictures = []
    for name, size in (("square.png", (32, 32)), ("wide.png", (20, 60))):
        Picture.fromarray(noise.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
        pictures.append(folder / name)
    return folder, model, tokenizer, pictures


@torch.no_grad()
def expected_cosine(model, tokenizer, path, words):
    """transformers' own forward pass: its logit divided by its scale; pixels prepared with numpy and Pillow."""
    with Picture.open(path) as picture:
        array = np.asarray(picture.resize((32, 32), Picture.Resampling.BICUBIC), np.float64) / 255
    mean, deviation = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    pixels = torch.tensor((array - mean) / deviation, dtype=torch.float32).permute(2, 0, 1)[None]
    ids = tokenizer(" ".join(words))["input_ids"]
    ids = ids if len(ids) <= 12 else [*ids[:11], ids[-1]]
    output = model(input_ids=torch.tensor([ids]), pixel_values=pixels)
    return float(output.logits_per_image / model.logit_scale.exp())


def test_clip_similarity_is_transformers_own_cosine(clip):
    """Every picture with every sentence, one cut to the longest input; asked again it is the same number."""
    folder, model, tokenizer, pictures = clip
    similarity = clip_similarity(str(folder), 0.2, torch.device("cpu"))
    found = {
        (path, number): similarity.cosine(path, words) for path in pictures for number, words in enumerate(SENTENCES)
    }
    for (path, number), value in found.items():
        assert value == pytest.approx(expected_cosine(model, tokenizer, path, SENTENCES[number]), abs=1e-5)
        assert similarity.cosine(path, list(SENTENCES[number])) == value
    assert max(found.values()) - min(found.values()) > 0.05, "the cases differ, else the comparison shows little"


def test_each_image_is_decoded_once(clip, tmp_path):
    """After the first question the file may be gone: its vector is kept."""
    folder, _, _, pictures = clip
    copy = tmp_path / "copy.png"
    copy.write_bytes(pictures[0].read_bytes())
    similarity = clip_similarity(str(folder), 0.2, torch.device("cpu"))
    first = similarity.cosine(copy, SENTENCES[0])
    copy.unlink()
    assert similarity.cosine(copy, SENTENCES[0]) == first
    assert similarity.cosine(copy, SENTENCES[1]) == similarity.cosine(pictures[0], SENTENCES[1])


@pytest.mark.parametrize("name", ["/no/such/folder", "no-such-name-here"])
def test_a_missing_clip_names_the_setting(name):
    """A folder that is not there, a name that is not at hand while offline."""
    with pytest.raises(EncoderError, match=rf"inference\.coreference\.encoder: found '{name}', expected a CLIP folder"):
        clip_similarity(name, 0.2, torch.device("cpu"))


def test_the_description_says_what_decides():
    similarity = Similarity(lambda path, words: 0.0, 0.25, "some-clip")
    assert similarity.describe() == "same type in one document and cosine > 0.25 by some-clip"


def test_a_prediction_file_says_how_pairs_were_decided(clip, world, tmp_path):
    """`xmtl predict --format m2e2` with and without a CLIP: the note, and no pair with it that is not there without."""
    config = load(
        "xmtl_smoke", [f"data.root={world}", "inference.verb_threshold=0.4", "inference.coreference.threshold=0"]
    )
    loaded = weights.create(config, weights.make_tokenizer(config, SENTENCES))
    loaded.model.td.scores.bias.data[:3] = torch.tensor([0.0, 50.0, 0.0])
    loaded.model.vc.scores.bias.data[0] = 5
    weights.save(tmp_path / "model", loaded)
    notes, found = {}, {}
    for name, more in (("type", []), ("clip", ["--similarity", str(clip[0])])):
        out = tmp_path / f"{name}.json"
        arguments = [
            "predict",
            str(tmp_path / "model"),
            str(world / "m2e2"),
            "--format",
            "m2e2",
            "--out",
            str(out),
            *more,
        ]
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
        content = json.loads(out.read_text())
        notes[name], found[name] = content["coreference"], {tuple(pair.values()) for pair in content["coref"]}
        assert content["models"] == [of_file(tmp_path / "model" / weights.WEIGHTS)]
        assert notes[name] in done.output.replace("\n", "")
    assert notes["type"] == TYPE_ONLY
    assert notes["clip"] == f"same type in one document and cosine > 0.0 by {clip[0]}"
    assert found["clip"] < found["type"]


def test_an_image_without_a_file_has_no_event_to_pair():
    """Nothing is asked of a picture that is not at hand."""
    lone = replace(DOCUMENT, images=DOCUMENT.images[2:])
    assert pairs(lone, TEXT, IMAGE | {"D_2": ()}, Similarity(lambda path, words: 1.0, 0.2, "one")) == []
