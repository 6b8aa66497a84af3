"""The page about pseudo-labels: its numbers are the selection's, the truth is the world's, and nothing gets loose."""

import json
import re
from dataclasses import replace

import pytest
from PIL import Image as Picture
from typer.testing import CliRunner

from xmtl_ray.cli.main import app
from xmtl_ray.config.schema import Thresholds
from xmtl_ray.data.pseudo_labels import LabelledArgument, LabelledObject, LabelledPair
from xmtl_ray.data.pseudo_selection import select
from xmtl_ray.data.world import PairTruth, pair_truth
from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.events.ontology import m2e2
from xmtl_ray.events.records import Box, DataError, DetectedObject, Entity, Span
from xmtl_ray.report.pseudo_page import judged, sweep, write_pseudo_page

ATTACK, DIE, MEET = "Conflict:Attack", "Life:Die", "Contact:Meet"
WORDS = ("<script>alert(1)</script>", "rebels", "fire", "on", "Rome")
GUN = Box(4, 4, 30, 20)


def pair(name, told, path, shown, asked=True):
    """A sentence that tells ``told`` (or nothing) and an image that shows types with probabilities."""
    tags = ["O", "O", f"B-{told}" if told else "O", "O", "O"]
    arguments = (LabelledArgument(told, Span(2, 3), Span(1, 2), "Attacker", 0.95),) if asked else ()
    objects = (LabelledObject(GUN, "Instrument", 0.9),) if asked else ()
    return LabelledPair(
        *(name, f"{name}.jpg", "a" * 64, WORDS, (Entity(Span(1, 2), "PER"),), (DetectedObject(GUN, "gun", 0.9),)),
        *(None, tuple(tags), path, tuple(shown.get(event_type, 0.0) for event_type in m2e2().types)),
        *(asked, arguments, objects),
    )


KEPT = pair("D_0", ATTACK, 0.9, {ATTACK: 0.97, MEET: 0.85})
UNSURE = pair("D_1", ATTACK, 0.7, {ATTACK: 0.99})
APART = pair("D_2", DIE, 0.99, {MEET: 0.99}, asked=False)
QUIET = pair("D_3", None, 0.99, {}, asked=False)
BROKEN = LabelledPair("D_4", "D_4.jpg", "", WORDS, (), (), "D_4.jpg: image: found 'cut', expected a readable image")
ROWS = [KEPT, UNSURE, APART, QUIET, BROKEN]
TRUTH = {
    "D_0": PairTruth(text=(ATTACK,), image=(ATTACK,)),
    "D_1": PairTruth(text=(DIE,), image=(ATTACK,)),
    "D_2": PairTruth(text=(DIE,), image=(DIE,)),
    "D_3": PairTruth(text=(), image=()),
}


def page_of(path):
    """Its text without markup and style."""
    text = path.read_text(encoding="utf-8")
    return text, " ".join(re.sub(r"<style>.*?</style>|<svg.*?</svg>|<[^>]*>", " ", text, flags=re.DOTALL).split())


@pytest.fixture
def store(pseudo_store, tmp_path):
    """The rows above with the image files of two of them."""
    (tmp_path / "images").mkdir()
    for row in (KEPT, UNSURE):
        Picture.new("RGB", (60, 40), "teal").save(tmp_path / "images" / row.image)
    return pseudo_store(ROWS)


def test_numbers_are_the_selections(store, tmp_path):
    """Each row of the table is what ``select`` keeps at that threshold; quarantine, teachers and pairs are there."""
    text, plain = page_of(write_pseudo_page(tmp_path / "page.html", store))
    for value in (0.5, 0.65, 0.8, 0.95):
        threshold = Thresholds(td=value, ae=value, vc=value, rc=value)
        counts = [len(select(ROWS[:4], threshold, rule).kept) for rule in ("shared", "same", "none")]
        examples = select(ROWS[:4], threshold).examples
        counts += [examples[term] for term in ("td_pseudo", "ae_pseudo", "vc_pseudo", "rc_pseudo")]
        assert f" {value:g} {' '.join(map(str, counts))} " in plain
    assert "5, 1 of them in quarantine" in plain and BROKEN.reason.replace("'", "&#39;") in plain
    assert "0" * 64 in plain and "Truth not known" in plain
    order = [
        plain.index(words) for words in ("D_0 kept", "D_1 not kept: the sides agree", "D_2 not kept: the sides dis")
    ]
    assert order == sorted(order) and "D_3" not in plain
    assert text.count("data:image/jpeg;base64,") == 2 and "no image file" in text


def test_nothing_that_a_row_says_gets_loose(store, tmp_path):
    """A caption is text on the page; there is no script, and nothing is loaded from elsewhere."""
    text, _ = page_of(write_pseudo_page(tmp_path / "page.html", store))
    assert "<script" not in text and "&lt;script&gt;alert(1)" in text
    assert not re.search(r"(src|href)=\"(?!data:|#)", text)


def test_precision_and_recall_by_hand():
    """At 0.8 one pair is kept: its sentence's type is true, of its image's two types one; gold are all three or four.

    At 0.6 the unsure one comes in, whose sentence tells another type than it should.
    """
    rows = ROWS[:4]
    assert judged(select(rows, Thresholds()), rows, TRUTH) == (Prf(1, 1, 3), Prf(1, 2, 3))
    point = next(point for point in sweep(rows, 0.5, TRUTH) if point.threshold == 0.6)
    assert (point.text, point.image) == (Prf(1, 2, 3), Prf(2, 3, 3))
    assert [point.threshold for point in sweep(rows, 0.9)] == [0.9, 0.95, 0.98, 0.99]


def test_a_world_gives_the_truth(pseudo_store, world, tmp_path):
    """Of its own pairs; the truth of another world is an error where it was asked for."""
    truth = pair_truth(world)
    assert len(truth) == 40 and truth == {
        name: PairTruth(**own) for name, own in json.loads((world / "world.json").read_text())["pairs"].items()
    }
    name = next(name for name, own in truth.items() if set(own.text) & set(own.image))
    shared = next(event_type for event_type in truth[name].text if event_type in truth[name].image)
    store = pseudo_store([replace(pair("D_0", shared, 0.9, {shared: 0.97}), id=name)], images=world / "voa" / "images")
    _, plain = page_of(write_pseudo_page(tmp_path / "page.html", store, world))
    assert "Truth known" in plain and " 100.0 " in plain
    other = pseudo_store([KEPT], name="other")
    with pytest.raises(DataError, match="ids of the store's pairs"):
        write_pseudo_page(tmp_path / "page.html", other, world)


def test_nothing_kept_is_a_page_too(pseudo_store, tmp_path):
    """No agreeing pair, and no pair at all but quarantined ones."""
    for number, rows in enumerate(([QUIET], [BROKEN])):
        _, plain = page_of(write_pseudo_page(tmp_path / "page.html", pseudo_store(rows, name=f"s{number}")))
        assert "None is kept" in plain


def test_the_command_writes_it(store, tmp_path):
    """Into the store, or elsewhere; labelling and looking are two runs; a store that is none is named."""

    def xmtl(*arguments):
        return CliRunner().invoke(app, ["pseudo-label", *map(str, arguments)])

    assert xmtl("--report", store).stdout.strip() == str(store / "report.html") and (store / "report.html").is_file()
    assert (
        xmtl("--report", store, "--html", tmp_path / "page.html").exit_code == 0 and (tmp_path / "page.html").is_file()
    )
    for arguments, told in (
        (["--report", store, "xmtl"], "expected STORE alone"),
        (["xmtl"], "expected RECIPE and --out STORE"),
        (["--report", tmp_path / "none"], "found 'nothing'"),
    ):
        done = xmtl(*arguments)
        assert done.exit_code == 2 and done.stderr.startswith("error: ") and told in done.stderr
