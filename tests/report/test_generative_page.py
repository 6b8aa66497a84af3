"""The page about generated events: figures, examples that are mere text, types taken for each other."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from PIL import Image as Picture

from xmtl_ray.evaluation.confusion import Confusion
from xmtl_ray.evaluation.generative import score, summary
from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.evaluation.published import OTHER_DATA
from xmtl_ray.events.json_format import dumps
from xmtl_ray.events.records import GenerativeEvent as Event
from xmtl_ray.events.records import GenerativeSample
from xmtl_ray.report import answer_scores
from xmtl_ray.report.confusion_heat import heat
from xmtl_ray.report.generative_page import sections, write_page

BUY = Event("buy", "bought", (("agent", "Labs"), ("thing", "<b>it</b>")))
ATTACK = '<script>alert(1)</script><img src="https://example.org/x.png" onerror=go()>'


class Text(HTMLParser):
    """The page's tags with their attributes, and its text."""

    def __init__(self, page):
        super().__init__()
        self.tags, self.attributes, self.text = set(), set(), ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data):
        self.text += data + " "


def sample(name, language="en", events=(BUY,), modality="text", source="Labs bought <b>it</b>"):
    return GenerativeSample(name, language, source, events, modality)


def page(tmp_path, samples, answers, *models, shown=4, **asked):
    path = tmp_path / "page.html"
    scored = score(samples, answers, asked.get("reason", False))
    write_page(path, "my <model>", scored, summary(scored, **asked), models or ("videollama21",), shown=shown)
    return path.read_text(encoding="utf-8")


def test_figures_stand_beside_the_published(tmp_path):
    """Own 50.00 in English, printed ones by language and overall; the note on the data; rates by group."""
    samples = [sample("a"), sample("b", modality="video"), sample("c", "de", modality="image")]
    answers = {"a": dumps([BUY]), "b": "no", "c": f"Sure: {dumps([BUY])}"}
    found = Text(page(tmp_path, samples, answers, cut={"b"}))
    lines = [" ".join(line.split()) for line in found.text.splitlines()]
    assert "English 50.00 50.00 20.63 18.19 64.38 56.46" in lines
    assert "de 100.00 100.00 – – – –" in lines
    assert "mean of languages 75.00 75.00 24.76 20.88 65.48 53.04" in lines
    assert OTHER_DATA in lines
    assert "all 3 66.67 66.67 33.3 33.3 33.3 33.3" in lines and "video 1 0.00 0.00 0.0 0.0 100.0 100.0" in lines
    both = Text(page(tmp_path, samples, answers, "videollama2", "videollama21"))
    assert "English 50.00 50.00 34.38 28.13 68.13 63.96 20.63 18.19 64.38 56.46" in both.text


def test_it_needs_nothing_else(tmp_path):
    """No script, no link, no address that is fetched, whatever sources and answers say; they are shown as text."""
    samples = [sample(ATTACK, source=ATTACK, events=(Event(ATTACK, ATTACK, ((ATTACK, ATTACK),)),))]
    for answer in (ATTACK, dumps([Event(ATTACK, "x", ((ATTACK, "y"),))])):
        text = page(tmp_path, samples, {ATTACK: answer})
        found = Text(text)
        assert not found.tags & {"script", "img", "link", "iframe", "object"}
        assert not found.attributes & {"src", "href", "onerror", "onclick"}
        assert found.text.count(ATTACK) >= 3
        assert not re.search(r"url\(|@import", text)
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text


def test_examples_by_kind_from_all_groups(tmp_path):
    """Source, gold and answer of each kind; with two to be shown, of both languages; how many there are is told."""
    samples = [sample(f"en{number}") for number in range(3)] + [sample("ru0", "ru"), sample("x", source="")]
    wrong = dumps([Event("sell", "bought", BUY.arguments)])
    answers = {item.id: wrong for item in samples[:4]}
    found = Text(page(tmp_path, samples, answers, shown=2))
    text = " ".join(found.text.split())
    assert "wrong type 2 of 4" in text and "malformed JSON 1 of 1" in text
    assert "en0 English, text" in text and "ru0" in text and "en1" not in text
    assert "sell: bought → buy" in text
    assert "buy: bought (agent: Labs; thing: <b>it</b>)" in text
    assert wrong in text and "no text" in text and "answer none" in text


def test_examples_show_the_images_that_are_at_hand(tmp_path):
    """Of two samples with errors the one whose file there is, once for each kind of error that it shows."""
    Picture.new("RGB", (80, 60), (200, 30, 30)).save(tmp_path / "a.jpg")
    samples = [sample("a", modality="image"), sample("b", modality="image")]
    answers = {name: dumps([replace(BUY, event_type="sell", arguments=())]) for name in "ab"}
    scored = score(samples, answers)
    shown = sections(scored, summary(scored), ("videollama21",), images={"a": tmp_path / "a.jpg"})
    frames = [(item.id, item.frame is not None) for _, _, items in shown["examples"] for item in items]
    assert {name for name, framed in frames if framed} == {"a"} and {name for name, framed in frames if not framed} == {
        "b"
    }
    assert all(item.frame.uri.startswith("data:image/jpeg") for _, _, each in shown["examples"] for item in each[:1])


def test_a_perfect_model_has_no_errors(tmp_path):
    """Sections without content are left out; so it is without samples."""
    text = page(tmp_path, [sample("a")], {"a": dumps([BUY])})
    assert 'id="errors"' not in text and 'id="examples"' not in text and 'id="confusion"' in text
    empty = page(tmp_path, [], {})
    assert not [name for name in ("confusion", "scores", "types", "roles") if f'id="{name}"' in empty]


def test_scores_are_told_with_how_sure_they_are(tmp_path):
    """Eight samples, four of them right: half, with an interval around it, of the type and of its roles too; a mean of
    two languages has its own; of a type in two samples there is no interval, and what only answers have comes last."""
    rare = Event("meet", "met", ())
    samples = [sample(f"{number}", "en" if number % 2 else "ru") for number in range(8)]
    samples += [sample("r0", events=(rare,)), sample("r1", events=(rare,))]
    answers = {f"{number}": dumps([BUY if number < 4 else replace(BUY, event_type="sell")]) for number in range(8)}
    text = page(tmp_path, samples, {**answers, "r0": dumps([rare]), "r1": dumps([rare])})
    found = " ".join(Text(text).text.split())
    shown = answer_scores.scores(score(samples, {**answers, "r0": dumps([rare]), "r1": dumps([rare])}))
    lines = {line.name: line.sides for line in shown.lines}
    assert list(lines) == ["all", "ru", "en", "overall", "text"]
    trigger, argument = lines["ru"]
    assert trigger.accuracy == 50 and trigger.accuracy_interval[0] < 50 < trigger.accuracy_interval[1]
    assert argument.accuracy == 100 and argument.accuracy_interval == (100, 100)
    assert lines["overall"][0].accuracy == pytest.approx((50 + 100 * 4 / 6) / 2) and lines["overall"][0].counts is None
    buy, meet, other = shown.types
    assert (buy.name, buy.cells[0].counts) == ("buy", Prf(4, 4, 8)) and buy.cells[0].interval[0] < 100 * 2 / 3
    assert (meet.name, meet.cells[0].interval) == ("meet", None) and other.name == "1 other event type"
    assert f"buy 66.7 4 / 4 / 8 {buy.cells[0].interval[0]:.1f}–{buy.cells[0].interval[1]:.1f}" in found
    assert "agent 100.0 8 / 8 / 8 thing" in found


def test_reasoned_answers_are_a_column(tmp_path):
    """Only where reasoning was asked for."""
    answers = {"a": f"So.\n{dumps([BUY])}"}
    assert "reasoned" in Text(page(tmp_path, [sample("a")], answers, reason=True)).text
    assert "reasoned" not in Text(page(tmp_path, [sample("a")], answers)).text


def test_the_heat_table():
    """Frequent types first, in one order on both sides; each row's shares are of its sum; missed last, extra below."""
    found = heat(Confusion(types={"a": {"a": 3, "b": 1}, "b": {"b": 1}}, missed={"a": 4, "c": 1}, extra={"d": 2}))
    assert found.columns == ("a", "b", "d", "missed")
    assert [(name, [cell.count for cell in cells]) for name, cells in found.rows] == [
        ("a", [3, 1, 0, 4]), ("b", [0, 1, 0, 0]), ("c", [0, 0, 0, 1]), ("extra", [0, 0, 2]),
    ]  # fmt: skip
    assert [cell.share for cell in found.rows[0][1]] == [37.5, 12.5, 0, 50]
    assert [(cell.own) for _, cells in found.rows for cell in cells].count(True) == 2
    assert found.rows[0][1][0].own and found.rows[1][1][1].own
    assert heat(Confusion(types={}, missed={}, extra={})) is None


@pytest.mark.parametrize("count", [1, 3, 5])
def test_rare_types_are_counted_together(count):
    """Nothing is lost: all cells together are all events; types named like our own columns are types."""
    names = ["missed", "extra", "", "1 other", "z"][:count]
    types = {name: {name: 1, "y": 2} for name in names}
    found = heat(Confusion(types=types, missed=dict.fromkeys(names, 1), extra=dict.fromkeys(names, 1)), most=2)
    assert sum(cell.count for _, cells in found.rows for cell in cells) == 5 * count
    assert len(found.columns) <= 4 and len(found.rows) <= 4
    if count == 5:
        assert found.columns[2] == "4 others" and found.rows[2][0] == "3 others"
