"""The contact sheet: what the model is given, of every source, and nothing that a record says gets loose."""

import base64
import io
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture
from tokenizers import Tokenizer
from typer.testing import CliRunner

from xmtl_ray.cli.main import app
from xmtl_ray.config.load import load
from xmtl_ray.data.prompts import entity_prompt
from xmtl_ray.events.ontology import verb_map
from xmtl_ray.events.records import (
    Annotation,
    Box,
    Conversation,
    DataError,
    DetectedObject,
    Entity,
    Image,
    Media,
    Pair,
    Region,
    Relation,
    Sentence,
    Span,
    TextArgument,
    TextEvent,
    Turn,
    VisualArgument,
    VisualEvent,
)
from xmtl_ray.report.sheet import image_px, tokens, write_sheet

WORDS = ("Police", "held", "two", "men", "in", "Rome")
ARREST = TextEvent("Justice:Arrest-Jail", Span(1, 2), (TextArgument("Person", Span(2, 4)),))
SENTENCE = Sentence(
    "D_7", WORDS, (Entity(Span(0, 1), "ORG"), Entity(Span(2, 4), "PER"), Entity(Span(5, 6), "GPE")), (ARREST,)
)


class Page(HTMLParser):
    """The page's text, its tags, and its pictures as arrays."""

    def __init__(self, path):
        super().__init__()
        self.words, self.tags, self.pictures = [], [], []
        self.feed(Path(path).read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "img":
            source = dict(attrs)["src"]
            assert source.startswith("data:image/jpeg;base64,")
            raw = base64.b64decode(source.partition(",")[2])
            self.pictures.append(np.asarray(Picture.open(io.BytesIO(raw)), dtype=int))

    def handle_data(self, data):
        self.words += data.split()

    @property
    def text(self):
        return " ".join(self.words)


def written(tmp_path, *records, overrides=(), **options):
    config = load("xmtl_smoke", ["data.root=/nowhere", *overrides])
    assert write_sheet(tmp_path / "sheet.html", records, config, "source", verb_map(), **options) == len(records)
    return Page(tmp_path / "sheet.html")


def red(picture):
    return np.argwhere(np.abs(picture - (255, 0, 0)).max(-1) < 60)


@pytest.fixture
def picture(tmp_path):
    """A green image of 200 × 100 pixels."""
    Picture.new("RGB", (200, 100), (0, 160, 0)).save(tmp_path / "green.jpg")
    return tmp_path / "green.jpg"


def test_each_entity_of_an_event_is_a_question(tmp_path):
    """The marked sentence, the event behind [SEP], and the right role; None for who takes no part."""
    text = written(tmp_path, SENTENCE).text
    assert (
        "two men in Arrest-Jail → Person [CLS] Police held $ two men $ in Rome [SEP] held justice arrest jail [SEP]"
        in text
    )
    assert "Rome in Arrest-Jail → None [CLS] Police held two men in $ Rome $ [SEP]" in text
    assert "Entities that are no argument: Police (ORG), Rome (GPE)." in text


@pytest.mark.parametrize(
    ("argument", "shaded"),
    [
        ("prompt", "[CLS] Police held $ two men $ in Rome [SEP] held justice arrest jail [SEP]"),
        ("span", "two men"),
        ("concat", "[CLS] Police held two men in Rome [SEP] two men $ held justice arrest jail [SEP]"),
    ],
)
def test_what_is_averaged_is_shaded(tmp_path, argument, shaded):
    """All of the prompt, the entity's words, or all of the sentence with the entity behind it."""
    written(tmp_path, SENTENCE, overrides=[f"model.argument={argument}"])
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    asked = page[page.index("two men in Arrest-Jail") :]
    line = asked[asked.index('<p class="tokens">') : asked.index("</p>", asked.index('<p class="tokens">'))]
    assert " ".join(re.findall(r'class="pooled[^>]*>([^<]+)<', line)) == shaded


@pytest.mark.parametrize("argument", ["prompt", "span", "concat"])
@pytest.mark.parametrize("max_tokens", [300, 14])
def test_word_pieces_are_those_of_a_batch(tmp_path, argument, max_tokens):
    """With a tokenizer: the pieces, where they are cut, and which are pooled, as a training batch has them."""
    from xmtl_ray.models.encoders import learn_tokenizer
    from xmtl_ray.models.inputs import TextCodec

    made = learn_tokenizer([WORDS], ["$", "justice", "arrest", "jail"], 60)
    made.save_pretrained(tmp_path)
    read = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    read.enable_truncation(max_tokens, strategy="only_first")
    prompt = entity_prompt(WORDS, Span(2, 4), Span(1, 2), ARREST.type, "$", True, appended=argument == "concat")
    batch = TextCodec(made, max_tokens, argument)([], [prompt])
    shown = tokens(prompt, argument, read)
    assert [token.text for token in shown] == made.convert_ids_to_tokens(batch.ids[0])
    assert [token.pooled for token in shown] == batch.pooled[0].tolist()
    assert "trigger detection [CLS]" in written(tmp_path, SENTENCE, tokenizer=tmp_path).text


def test_triggers_are_read_from_the_first_piece_of_each_word(tmp_path):
    """Those pieces are shaded, as many as there are words."""
    from xmtl_ray.models.encoders import learn_tokenizer

    learn_tokenizer([["a"]], list("PoliceheldtwomeninRome"), 60).save_pretrained(tmp_path)
    written(tmp_path, replace(SENTENCE, events=()), tokenizer=tmp_path)
    page = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    line = page[page.index("trigger detection") :].partition("</p></div>")[0]
    assert line.count('class="pooled') == len(WORDS) < line.count('class="apart')


def test_pictures_have_the_mark_and_the_encoders_size(tmp_path, picture):
    """The whole image without a mark; each object at its place on the squeezed canvas, with its role."""
    gold, other = Box(100, 50, 200, 100), Box(0, 0, 50, 50)
    image = Image(
        "D_0", picture, (VisualEvent("Life:Die", (VisualArgument("Victim", gold),)),),
        (DetectedObject(other, "car", 0.9), DetectedObject(other, "dog", 0.1)),
    )  # fmt: skip
    page = written(tmp_path, image, overrides=["inference.object_confidence=0.8"])
    whole, victim, car = page.pictures
    assert whole.shape == victim.shape == (96, 96, 3)
    assert len(red(whole)) == 0
    assert red(victim).min(0).tolist() == [48, 48] and red(victim).max(0).tolist() == [95, 95]
    assert red(car).max() < 48
    assert (
        "whole image → Die gold box → Victim car 0.90 Not shown: detections below 0.8, which are no candidates: 1."
        in page.text
    )
    (crop,) = written(tmp_path, replace(image, objects=()), overrides=["data.visual_prompt.kind=crop"]).pictures[1:]
    assert len(red(crop)) == 0


def test_what_has_no_gold_has_no_answer(tmp_path, picture):
    """A pair's caption and image are shown; nothing is claimed about roles."""
    found = Image("D_0", picture, objects=(DetectedObject(Box(0, 0, 9, 9), "car", 0.9),))
    text = written(tmp_path, Pair("D_0", replace(SENTENCE, events=()), found)).text
    assert "→" not in text and "Entities: Police (ORG), two men (PER), Rome (GPE)." in text


def test_an_image_that_cannot_be_read_is_told(tmp_path):
    """Missing, broken, none: the page says so and shows the rest."""
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    images = [Image("D_0", tmp_path / "gone.jpg"), Image("D_1", tmp_path / "broken.jpg"), Image("D_2", None)]
    page = written(tmp_path, *images)
    assert page.text.count("cannot be read") >= 3 and not page.pictures


def test_nothing_in_a_record_is_markup(tmp_path):
    """Words, ids and answers are text, whatever they look like."""
    evil = "<script>alert(1)</script><img src=x>"
    sentence = Sentence(evil, (evil, "x"), (Entity(Span(1, 2), evil),), (TextEvent("Life:Die", Span(0, 1)),))
    talk = Conversation("c", (Turn(evil, evil),), "en", Media("image", "a/b.jpg"))
    page = written(tmp_path, sentence, talk)
    assert not {"script", "img"} & set(page.tags)
    assert "read as malformed, 0 events" in page.text


def test_a_conversations_image_is_looked_for_in_its_folder_only(tmp_path, picture):
    """Below ``media``; a name that leads out of it is an error."""
    talk = Conversation("c", (Turn("Extract", '{"events": []}'),), "en", Media("image", picture.name))
    assert len(written(tmp_path, talk, media=tmp_path).pictures) == 1
    with pytest.raises(DataError, match="record 'c': image"):
        written(tmp_path, replace(talk, media=Media("image", "../green.jpg")), media=tmp_path)


def test_the_encoders_side(tmp_path):
    """Of a built encoder, of a folder's config.json, or CLIP's 224."""
    (tmp_path / "config.json").write_text(json.dumps({"vision_config": {"image_size": 336}}))
    assert image_px(load("xmtl_smoke")) == 96
    assert image_px(load("xmtl")) == 224
    assert image_px(load("xmtl", [f"model.image_encoder={tmp_path}"])) == 336


def test_a_folder_without_a_tokenizer_is_an_error(tmp_path):
    """It is named."""
    with pytest.raises(DataError, match=r"tokenizer\.json"):
        written(tmp_path, SENTENCE, tokenizer=tmp_path)


@pytest.mark.parametrize(
    ("source", "kind", "pictures"),
    [("m2e2", "document", True), ("voa", "image-text pair", True), ("ace/dev.json", "sentence", False),
     ("imsitu/dev.json", "situation", True)],
)  # fmt: skip
def test_the_command_finds_out_what_a_source_is(world, tmp_path, source, kind, pictures):
    """The first records of each layout, without being told which it is."""
    out = tmp_path / "sheet.html"
    arguments = ["data", "show", str(world / source), "--out", str(out), "--recipe", "xmtl_smoke", "--limit", "2"]
    done = CliRunner().invoke(app, arguments)
    assert (done.exit_code, done.stdout) == (0, f"{out}: 2 records\n"), done.output
    page = Page(out)
    assert page.tags.count("article") == 2 and kind in page.text
    assert bool(page.pictures) is pictures


def test_the_command_shows_one_record(world, tmp_path):
    """By its id; an id that is not there is an error, as is a source of no known format."""
    out = tmp_path / "sheet.html"
    source, common = str(world / "ace/dev.json"), ["--out", str(out), "--recipe", "xmtl_smoke"]
    done = CliRunner().invoke(app, ["data", "show", source, "--id", "dev_3", *common, "model.argument=span"])
    assert done.exit_code == 0 and "dev_3" in Page(out).text and Page(out).tags.count("article") == 1
    for arguments, message in ((["--id", "dev_x"], "found 'dev_x'"), (["data.nope=1"], "data.nope")):
        done = CliRunner().invoke(app, ["data", "show", source, *arguments, *common])
        assert done.exit_code == 2 and message in done.stderr
    done = CliRunner().invoke(app, ["data", "show", str(world / "world.json"), *common])
    assert done.exit_code == 2 and "expected the content of one of jmee" in done.stderr


def test_conversations(shared, tmp_path):
    """VideoLLaMA2's training format: prompt, answer, and how the answer is read."""
    source = shared / "data/format_samples/vl2_custom_sft.json"
    if not source.is_file():
        pytest.skip("the samples of the input formats are not at hand")
    out = tmp_path / "sheet.html"
    done = CliRunner().invoke(app, ["data", "show", str(source), "--out", str(out)])
    assert done.exit_code == 0, done.output
    text = Page(out).text
    assert "conversation · language zh, video videos/demo.mp4" in text and text.count("read as ok, 1 event") == 4


def test_an_annotation_is_shown_with_its_regions(tmp_path, picture):
    """Text, marked regions with their places, relations by the regions' words, and boxes drawn on the image."""
    regions = (
        Region("r1", ("launch",), "unveiled", Span(8, 16)),
        Region("r2", ("entity",), "Labs", Span(0, 4)),
        Region("r3", ("chip",), box=Box(100, 0, 200, 50)),
    )
    record = Annotation(
        "t1", "Labs unveiled it", Media("image", picture.name), "en", regions=regions,
        relations=(Relation("r1", "r2", "agent"),), choices=("launch",),
    )  # fmt: skip
    page = written(tmp_path, record, media=tmp_path)
    assert "text Labs unveiled it launch unveiled (8, 16) entity Labs (0, 4) chip (100, 0, 200, 50)" in page.text
    assert "agent unveiled → Labs choice launch" in page.text
    assert len(page.pictures) == 2 and len(red(page.pictures[1])) > 0
