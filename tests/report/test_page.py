"""The page of a run: its numbers are the files' numbers, it stands alone, and it puts up with what is missing."""

import json
import re
from dataclasses import replace

import pytest
from PIL import Image as Picture

from xmtl_ray.config.load import build, dump
from xmtl_ray.config.schema import Config
from xmtl_ray.evaluation.m2e2 import score, score_by_document
from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.evaluation.significance import intervals
from xmtl_ray.events.predictions import Predictions, from_gold, write
from xmtl_ray.events.records import (
    Box,
    Document,
    Image,
    MultimediaEvent,
    Sentence,
    Span,
    TextArgument,
    TextEvent,
    VisualArgument,
    VisualEvent,
)
from xmtl_ray.report import figures, run_folder
from xmtl_ray.report.by_type import scores_by_type
from xmtl_ray.report.comparison import Mention, mentions, outcomes, regions
from xmtl_ray.report.gallery import Mark, cards, marked
from xmtl_ray.report.page import duration, write_report
from xmtl_ray.report.pictures import framed

WORDS = ("<script>alert(1)</script>", "police", "killed", "two", "men", ",", "&", "fled")
DIE = TextEvent("Life:Die", Span(2, 3), (TextArgument("Agent", Span(1, 2)), TextArgument("Victim", Span(3, 5))))
GO = TextEvent("Movement:Transport", Span(7, 8))
SEEN = VisualEvent(
    "Life:Die", (VisualArgument("Victim", Box(10, 10, 50, 60)), VisualArgument("Agent", Box(0, 0, 9, 9)))
)


def corpus(picture=None):
    """Two documents; the first has a pair of a sentence and an image."""
    first = Document(
        "D1",
        (Sentence("D1_0", WORDS, events=(DIE, GO), multimedia=True), Sentence("D1_1", ("Nothing", "."))),
        (Image("D1_0", picture, (SEEN,), multimedia=True), Image("D1_1", None)),
        (MultimediaEvent("D1_0", "D1_0", "Life:Die"),),
    )
    return first, Document("D2", (Sentence("D2_0", WORDS, events=(DIE,)),), ())


def with_errors(documents):
    """The gold, with a role missed, a trigger of another type, a box beside the gold and a pair too many."""
    gold = from_gold(documents)
    text = {
        "D1_0": (replace(DIE, arguments=DIE.arguments[:1]), replace(GO, type="Contact:Meet")),
        "D2_0": gold.text["D2_0"],
    }
    moved = VisualEvent("Life:Die", (SEEN.arguments[0], VisualArgument("Agent", Box(50, 50, 60, 60))))
    pairs = (*gold.multimedia, MultimediaEvent("D1_1", "D1_0", "Life:Die"))
    return Predictions(text, {"D1_0": (moved,)}, pairs)


def config(name="run-7", **sections):
    tree = {"name": name, "data": {"train": "/data/m2e2"}, "multitask": {"tasks": ["td", "ae"]}, **sections}
    return build(tree, Config)


def tables(documents, predictions):
    return {
        name: {metric: counts.as_dict() for metric, counts in score(documents, predictions, name).items()}
        for name in ("table", "strict")
    }


def journal(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def lines_of_a_run(status="FINISHED"):
    steps = [
        {"step": step, "time_ms": 1_000_000 + step * 1000, "metrics": {"train/loss/td": 8.0 / step, "train/loss": 9.0}}
        for step in range(1, 31)
    ]
    dev = [
        {
            "step": step,
            "time_ms": 1_031_000,
            "metrics": {"dev/trigger_f1": f1, "dev/argument_f1": 40.0, "dev/mean_f1": f1},
        }
        for step, f1 in ((10, 51.2), (20, 63.7), (30, 60.4))
    ]
    return [
        {"status": "RUNNING", "time_ms": 1_000_000},
        {"tags": {"sha256.data.test": "ab12cd", "stage.kind": "train", "version.torch": "2.14.0", "python": "3.11.7"}},
        *steps,
        *dev,
        {"status": status, "time_ms": 1_095_000},
    ]


@pytest.fixture
def run(tmp_path):
    """A finished run's folder with its documents and predictions."""
    picture = tmp_path / "D1_0.jpg"
    Picture.new("RGB", (80, 60), (200, 30, 30)).save(picture)
    documents = corpus(picture)
    predictions = with_errors(documents)
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(dump(config()), encoding="utf-8")
    (folder / "summary.json").write_text(json.dumps({"epochs": 3, "steps": 1234, "dev": {}, "scores": {}}))
    (folder / "scores.json").write_text(json.dumps(tables(documents, predictions)))
    write(folder / "predictions.json", predictions, coreference="cosine > 0.2 by <b>clip</b>", run="run-7")
    journal(folder / "tracking.jsonl", lines_of_a_run())
    return folder, documents, predictions


def render(folder, documents=None):
    path = write_report(folder, documents)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


def text_of(html):
    """What a reader sees, roughly: tags out, spaces one."""
    return re.sub(r"\s+", " ", re.sub(r"<style.*?</style>|<[^>]*>", " ", html, flags=re.DOTALL))


def section(html, name):
    return html.partition(f'<section id="{name}">')[2].partition("</section>")[0]


def test_scores_are_those_of_the_file(run):
    """Each metric's P, R, F1, interval and counts under both protocols, and table's F1 minus strict's."""
    folder, documents, predictions = run
    scores = json.loads((folder / "scores.json").read_text())
    rows = re.findall(r"<tr>(.*?)</tr>", section(render(folder, documents), "scores"), flags=re.DOTALL)[2:]
    assert len(rows) == 6
    ends = {name: intervals(score_by_document(documents, predictions, name)) for name in scores}
    for row, metric in zip(rows, scores["table"], strict=True):
        cells = [text_of(cell).strip() for cell in re.findall(r"<td.*?</td>", row, flags=re.DOTALL)]
        expected = []
        for protocol in ("table", "strict"):
            values = scores[protocol][metric]
            expected += [f"{values[name]:.1f}" for name in ("P", "R", "F1")]
            low, high = ends[protocol][metric]
            expected.append(f"{low:.1f}–{high:.1f}")
            expected.append(f"{values['correct']} / {values['predicted']} / {values['gold']}")
        difference = scores["table"][metric]["F1"] - scores["strict"][metric]["F1"]
        assert cells == [*expected, f"{difference:+.1f}" if difference else "0.0"], metric


def test_nothing_to_count_is_a_dash(run):
    """A metric without gold and predictions has dashes, not zeros; its inflation too."""
    folder, _, _ = run
    nothing = Prf().as_dict()
    some = Prf(0, 3, 4).as_dict()
    both = {"text_event": some, "image_event": nothing}
    (folder / "scores.json").write_text(json.dumps({"table": both, "strict": both}))
    rows = re.findall(r"<tr>(.*?)</tr>", section(render(folder), "scores"), flags=re.DOTALL)[2:]
    text, image = (re.findall(r"<td.*?>(.*?)</td>", row) for row in rows)
    assert text[:4] == ["0.0", "0.0", "0.0", "0 / 3 / 4"]
    assert image == ["–"] * 9


def test_heading(run):
    """Name, tasks, encoder, workers, engine, epochs, steps, when, how long, and how pairs were decided."""
    folder, _, _ = run
    seen = text_of(render(folder).partition("</header>")[0])
    for words in (
        "run-7",
        "trigger detection, argument extraction",
        "bert-base-uncased (text)",
        "1 of Ray, each on a CPU",
        "DDP",
        "3 of 10",
        "1,234, each of 64 examples",
        "01 Jan 1970, 00:16 UTC",
        "1 min 35 s",
        "cosine &gt; 0.2 by",
    ):
        assert words in seen, words
    assert "clip-vit" not in seen  # no image task uses it


def test_a_restart_is_told_and_its_pause_not_counted(tmp_path):
    """Ten seconds, a pause, five seconds; a step done twice keeps its later value, a half-written line is left out."""
    (tmp_path / "config.yaml").write_text(dump(config()))
    lines = [
        {"status": "RUNNING", "time_ms": 0},
        {"step": 1, "time_ms": 10_000, "metrics": {"train/loss/td": 5.0}},
        {"status": "RUNNING", "time_ms": 100_000},
        {"step": 1, "time_ms": 105_000, "metrics": {"train/loss/td": 4.0, "dev/mean_f1": float("nan")}},
    ]
    journal(tmp_path / "tracking.jsonl", lines)
    with (tmp_path / "tracking.jsonl").open("a") as file:
        file.write('{"step": 2, "ti')
    story = run_folder.read(tmp_path).journal
    assert (story.running_s, story.metrics) == (15.0, {"train/loss/td": {1: 4.0}})
    seen = text_of(render(tmp_path))
    assert "15 s, resumed 1 time" in seen
    assert "running" in seen


def test_curves(run):
    """The best checkpoint is the step of the highest selected metric; values there stand beside the figure."""
    folder, _, _ = run
    html = section(render(folder), "curves")
    assert "best checkpoint by mean F1: step 20" in text_of(html)
    assert "63.7" in text_of(html)
    assert html.count('<svg class="plot"') == 2  # loss of td, dev F1; the journal has no learning rate and no ae loss
    assert "var(--td)" in html
    assert "#a7b3c" not in html


def trained(folder, strategy, lines, tags=None, **multitask):
    """The page of a run of ``strategy`` that tracked ``lines``, (step, metrics)."""
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(
        dump(config(multitask={"tasks": ["td", "ae"], "strategy": strategy, **multitask})), encoding="utf-8"
    )
    tracked = [{"step": step, "time_ms": step, "metrics": metrics} for step, metrics in lines]
    journal(folder / "tracking.jsonl", [*([{"tags": tags}] if tags else []), *tracked])
    return render(folder)


def captions(html):
    """The words above each figure."""
    return [text_of(each).strip() for each in re.findall(r"<figcaption>.*?</figcaption>", html, flags=re.DOTALL)]


FIXED = {"weighting": {"name": "fixed"}}
TEACHERS = {"sha256.pseudo.store": "a" * 64, "sha256.pseudo.source": "b" * 64, "sha256.pseudo.teacher.td": "c" * 64}


def test_twins_are_drawn_with_their_tasks(tmp_path):
    """xmtl: a panel a task with its twin's last value, the weighted sum, and weights as stairs up to the last step."""
    lines = [
        (step, {"train/loss/td": 4.0, "train/loss/td_pseudo": 2.0, "train/loss/ae": 1.5, "train/loss": 9.0})
        for step in range(1, 21)
    ]
    lines += [
        (1, {"train/weight/td": 1.0, "train/weight/td_pseudo": 0.5, "train/weight/ae": 1.0}),
        (9, {"train/weight/td": 0.75, "train/weight/td_pseudo": 0.625, "train/weight/ae": 1.25}),
    ]
    html = trained(tmp_path, "xmtl", lines)
    assert captions(section(html, "curves")) == [
        "trigger detection 4, pseudo 2",
        "argument extraction 1.5",
        "weighted sum 9",
        "weights of the losses dashed: of pseudo-labels",
    ]
    seen = text_of(section(html, "curves"))
    assert "dashed: from pseudo-labels" in seen
    assert "highest 1.25 ; in the last step: trigger detection 0.75 , pseudo 0.62 argument extraction 1.25" in seen
    assert "never changed" not in seen
    assert section(html, "curves").count("stroke-dasharray") == 2  # the twin's loss and its weight


def test_tasks_in_turn_have_gaps_and_weights_that_never_change_are_told(tmp_path):
    """alternating: no sum over losses of different steps; no figure of flat lines."""
    lines = [
        (step, {f"train/loss/{task}": 4.0, "train/loss": 4.0, f"train/weight/{task}": 1.0})
        for step in range(1, 41)
        for task in ["td" if (step - 1) // 10 % 2 == 0 else "ae"]
    ]
    html = section(trained(tmp_path, "alternating", lines, **FIXED), "curves")
    assert captions(html) == ["trigger detection 4", "argument extraction 4"]
    assert "weights never changed: trigger detection 1; argument extraction 1." in text_of(html)


def test_the_teacher_of_ark_has_a_panel(tmp_path):
    """ARK's consistency beside the tasks, with its weight."""
    lines = [
        (
            step,
            {
                "train/loss/td": 4.0,
                "train/loss/consistency": 0.25,
                "train/weight/td": 1.0,
                "train/weight/consistency": 2.0,
            },
        )
        for step in range(1, 5)
    ]
    html = section(trained(tmp_path, "ark", lines, **FIXED), "curves")
    assert captions(html) == ["trigger detection 4", "consistency with the average 0.25"]
    assert "consistency with the average 2." in text_of(html)


def test_a_hole_is_drawn_where_it_would_be_seen():
    """Steps that are missing cut a line; of 1000 steps every fourth one is a whole line."""
    assert figures.stretches({1: 5.0, 2: 4.0, 9: 3.0}, 10) == [{1: 5.0, 2: 4.0}, {9: 3.0}]
    assert len(figures.stretches(dict.fromkeys(range(1, 1000, 4), 1.0), 1000)) == 1
    assert figures.stretches({}, 10) == []


def test_a_weight_holds_until_it_changes():
    """Between two changes the earlier value, and after the last one that one: 1, 1, 3, 3, 3 at steps 2 to 6."""
    assert figures._held({2: 1.0, 4: 3.0}, range(2, 7)) == [1.0, 1.0, 3.0, 3.0, 3.0]
    assert figures.weights_window({1: 1.0, 5: 2.0}, 2000) == 1
    restless = {step: 1.0 + step % 2 for step in range(1, 2001)}
    assert figures.weights_window(restless, 2000) == figures.window(2000)
    assert len(figures.weights({"td": restless, "td_pseudo": restless}, 2000)) < 120_000


def test_heading_tells_how_was_learnt(tmp_path):
    """Strategy, weighting, thresholds, and the store of pseudo-labels with its teachers; a pipeline's settings name no
    store, but its training has tracked it."""
    threshold = {"td": 0.9, "ae": 0.8, "vc": 0.8, "rc": 0.8}
    pseudo = {"threshold": threshold, "agreement": "same", "beta": 0.25, "schema_filter": False}
    weighting = {"name": "dwa", "alpha": 0.5, "interval": "steps:4"}
    html = trained(tmp_path / "run", "xmtl", [], TEACHERS, pseudo=pseudo, weighting=weighting)
    seen = text_of(html.partition("</header>")[0])
    for words in (
        "xmtl: every step learns from all tasks and from pseudo-labels",
        "dwa, alpha 0.5, anew every 4 steps",
        "surer than 0.9 (td), 0.8 (ae), text and image have the same types, roles outside the schema too; beta 0.25",
        "a store that is not named store aaaaaaaaaaaa pairs bbbbbbbbbbbb teacher of td cccccccccccc",
    ):
        assert words in seen, words
    assert "d" * 12 not in seen
    with (tmp_path / "run" / "tracking.jsonl").open("a") as file:
        file.write(json.dumps({"parameters": {"multitask.pseudo.store": "/stages/<store>"}}) + "\n")
    assert "/stages/&lt;store&gt; store aaaaaaaaaaaa" in text_of(render(tmp_path / "run"))
    for strategy, words in (("alternating", "tasks in turn, each all its data"), ("ark", "momentum 0.999, weight 1")):
        seen = text_of(trained(tmp_path / "run", strategy, [], TEACHERS, **FIXED).partition("</header>")[0])
        assert words in seen
        assert "Pseudo-labels" not in seen


def test_smoothing():
    """Ends average over what there is; a window of 1 changes nothing; the window is odd."""
    assert figures.smooth([0.0, 3.0, 6.0, 3.0], 3) == [1.5, 3.0, 4.0, 4.5]
    assert figures.smooth([1.0, 7.0], 1) == [1.0, 7.0]
    assert [figures.window(steps) for steps in (1, 29, 30, 300)] == [1, 1, 3, 21]


def test_long_runs_are_thinned_but_keep_their_peaks():
    """100,000 steps make a figure of some kilobytes in which the one spike still stands."""
    series = {step: (50.0 if step == 77_777 else 1.0 + step % 7) for step in range(100_000)}
    steps, values = figures._thinned(list(series), list(series.values()))
    assert len(steps) <= 402
    assert 77_777 in steps
    assert max(values) == 50.0
    assert len(figures.losses("td", "", {"td": series}, 100_000)) < 60_000


def test_scores_by_type(run):
    """By hand: Die found 2 of 2 in text and 1 of 1 in images, Transport missed, Meet made up."""
    folder, documents, predictions = run
    rows = scores_by_type(documents, predictions)
    assert rows == [
        ("Movement:Transport", Prf(0, 0, 1), Prf()),
        ("Contact:Meet", Prf(0, 1, 0), Prf()),
        ("Life:Die", Prf(2, 2, 2), Prf(1, 1, 1)),
    ]
    total = score(documents, predictions, "strict")
    for index, metric in ((1, "text_event"), (2, "image_event")):
        assert sum((row[index] for row in rows), Prf()) == total[metric]
    seen = text_of(section(render(folder, documents), "types"))
    assert "Die Life 100.0 2 / 2 / 2 100.0 1 / 1 / 1" in seen
    assert "differ" not in seen


def test_other_documents_than_the_scored_are_told(run):
    """scores.json counted two documents; only one is given."""
    folder, documents, _ = run
    assert "counts differ from scores.json" in text_of(render(folder, documents[:1]))


def test_outcomes_use_up_gold():
    """Gold once, predicted twice: one correct, one wrong; the other way round one is missed."""
    assert outcomes("aa", "a") == [("a", "correct"), ("a", "wrong")]
    assert outcomes("a", "aab") == [("a", "correct"), ("a", "missed"), ("b", "missed")]


def test_outcomes_count_as_the_scorer_does(run):
    """Summed over all documents, correct, missed and wrong are the scorer's strict counts."""
    _, documents, predictions = run
    total = score(documents, predictions, "strict")

    def counted(found):
        correct, missed, wrong = (sum(item == name for item in found) for name in ("correct", "missed", "wrong"))
        return Prf(correct, correct + wrong, correct + missed)

    told = [m for d in documents for s in d.sentences for m in mentions(predictions.text.get(s.id, ()), s.events)]
    seen = [r.outcome for d in documents for i in d.images for r in regions(predictions.image.get(i.id, ()), i.events)]
    pairs = outcomes(predictions.multimedia, [pair for d in documents for pair in d.multimedia_events])
    assert counted([m.outcome for m in told if m.kind == "trigger"]) == total["text_event"]
    assert counted([m.outcome for m in told if m.kind == "argument"]) == total["text_argument"]
    assert counted(seen) == total["image_argument"] == Prf(1, 2, 2)
    assert counted([outcome for _, outcome in pairs]) == total["mm_event"] == Prf(1, 2, 1)


def test_an_iou_of_exactly_half_is_wrong():
    """As under strict: the gold is missed and the prediction wrong."""
    gold = VisualEvent("Life:Die", (VisualArgument("Agent", Box(0, 0, 20, 10)),))
    guess = VisualEvent("Life:Die", (VisualArgument("Agent", Box(0, 0, 10, 10)),))
    assert [region.outcome for region in regions([guess], [gold])] == ["missed", "wrong"]


def test_marks_nest_and_what_crosses_stands_aside():
    """[1,4) holds [2,3); [3,5) crosses [1,4); [5,9) ends outside the sentence of six words."""

    def mention(start, end):
        return Mention("argument", "Place", "Life:Die", Span(start, end), "correct")

    outer, inner, crossing, outside = mention(1, 4), mention(2, 3), mention(3, 5), mention(5, 9)
    pieces, aside = marked(("a", "b", "c", "d", ",", "e"), [outer, inner, crossing, outside])
    assert pieces == ("a ", Mark((outer,), ("b ", Mark((inner,), ("c",)), " d")), ", e")
    assert aside == [("d ,", crossing), ("e", outside)]


def test_gallery(run):
    """The document with errors comes first; signs and words tell what was found, missed and wrong."""
    folder, documents, predictions = run
    first, second = cards(documents, predictions)
    assert (first.id, first.reason, first.quiet_sentences, first.quiet_images) == ("D1", "6 errors", 1, 1)
    assert (second.id, second.reason) == ("D2", "0 errors")
    assert [outcome for *_, outcome in first.pairs] == ["correct", "wrong"]
    html = section(render(folder, documents), "documents")
    card = text_of(html.partition("<article>")[2].partition("</article>")[0])
    assert "6 errors · text events 1 of 2 found, 1 wrong · visual events 1 of 1 found · pairs 1 of 1 found" in card
    for words in ("○ missed Victim", "✓ correct Agent", "○ missed Transport", "✗ wrong Meet", "✗ wrong s 1"):
        assert words.replace("s 1", "s1") in card, words
    assert html.count("data:image/jpeg;base64,") == 1
    assert html.count('class="line correct dashed"') == 1
    assert html.count('class="line missed"') == 1
    assert html.count('class="line wrong dashed"') == 1


def test_gallery_takes_most_errors_first():
    """Of ten documents eight are shown: those with most errors, whether they have pairs or not."""
    documents, predictions = [], Predictions({}, {}, ())
    for number in range(10):
        sentences = tuple(Sentence(f"N{number}_{i}", WORDS, events=(DIE,)) for i in range(number + 1))
        pairs = (MultimediaEvent(f"N{number}_0", f"N{number}_0", "Life:Die"),) if number < 6 else ()
        documents.append(Document(f"N{number}", sentences, (Image(f"N{number}_0", None, (SEEN,)),), pairs))
    assert [card.id for card in cards(documents, predictions)] == ["N9", "N8", "N7", "N6", "N5", "N4", "N3", "N2"]


def test_thumbnails(tmp_path, caplog):
    """At most 360 pixels wide, boxes in its scale; an unreadable file gives an empty frame and a warning."""
    wide = tmp_path / "wide.jpg"
    Picture.new("RGB", (1440, 720)).save(wide)
    gold = [VisualEvent("Life:Die", (VisualArgument("Agent", Box(400, 100, 800, 300)),))]
    frame = framed(wide, regions([], gold), {"Life:Die": ""})
    assert (frame.width, frame.height) == (360, 180)
    (outline,) = frame.outlines
    assert (outline.x, outline.y, outline.width, outline.height, outline.predicted) == (100, 25, 100, 50, False)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    assert framed(broken, regions([], gold), {"Life:Die": ""}).uri is None
    assert "broken.jpg" in caplog.text


def test_hostile_words_are_escaped(run):
    """Markup in a sentence, a document's id, a note, a tag or a metric's name is text on the page."""
    folder, documents, predictions = run
    scores = tables(documents, predictions)
    scores["strict"]["<img src=x onerror=1>"] = Prf(1, 1, 1).as_dict()
    (folder / "scores.json").write_text(json.dumps(scores))
    journal(folder / "tracking.jsonl", [*lines_of_a_run(), {"tags": {"python": "<script>2</script>"}}])
    evil = Document("<script>3", (Sentence("<script>3_0", WORDS, events=(DIE,)),), ())
    html = render(folder, [*documents, evil])
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert "<script" not in html
    assert "<img" not in html
    assert "<b>clip" not in html


def test_stands_alone(run):
    """No address is fetched: sources are data URIs or parts of the page, and the policy forbids anything else."""
    folder, documents, _ = run
    html = render(folder, documents)
    assert "http://" not in html
    assert "https://" not in html
    references = re.findall(r"(?:src|href)\s*=\s*[\"']?([^\"'\s>]+)|url\(([^)]*)\)", html)
    assert references
    assert all(a.startswith(("data:image/jpeg;base64,", "#")) or b.startswith("#") for a, b in references)
    assert "@import" not in html
    assert "<link" not in html
    assert "default-src 'none'" in html
    identifiers = re.findall(r'\bid="([^"]*)"', html)
    assert len(identifiers) == len(set(identifiers))


def test_the_same_input_gives_the_same_page(run):
    """Byte for byte: a report can be compared with an earlier one."""
    folder, documents, _ = run
    assert render(folder, documents) == render(folder, documents)


def test_settings_and_fingerprints(run):
    """Every dotted path with its value, the data's hashes, the versions."""
    folder, _, _ = run
    seen = text_of(section(render(folder), "settings"))
    for words in (
        "train.learning_rate.text 0.0001",
        "data.train /data/m2e2",
        "data.test ab12cd",
        "Stage kind train Versions torch 2.14.0",
    ):
        assert words in seen, words


def test_a_run_that_just_began(tmp_path):
    """With config.yaml alone there are a heading and settings, nothing else, with or without documents."""
    (tmp_path / "config.yaml").write_text(dump(config()))
    for documents in (None, (), corpus()):
        assert re.findall(r'<section id="(\w+)">', render(tmp_path, documents)) == ["settings"]


def test_without_documents_and_without_journal(run):
    """Scores stand by themselves; what is judged, curves and lineage need what is not there."""
    folder, documents, _ = run
    (folder / "tracking.jsonl").unlink()
    assert re.findall(r'<section id="(\w+)">', render(folder)) == ["scores", "settings"]
    (folder / "scores.json").unlink()
    assert re.findall(r'<section id="(\w+)">', render(folder, documents)) == [
        *("types", "roles", "confusion", "documents", "settings")
    ]


def test_text_only_documents(run):
    """Documents without images, a system without predictions: all is missed, nothing crashes."""
    folder, documents, _ = run
    write(folder / "predictions.json", Predictions({}, {}, ()))
    html = render(folder, documents[1:])
    assert "✓" not in text_of(section(html, "documents").partition("<article>")[2])
    assert "<image" not in html
    assert re.search(r"Die\s+Life\s+0.0\s+0 / 0 / 1\s+–", text_of(section(html, "types")))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", "name: [\n"),
        ("config.yaml", "name: run\ntrain: {epochs: none}\n"),
        ("config.yaml", b"\xff\xfe"),
        ("summary.json", '{"epochs": 3'),
        ("summary.json", '{"epochs": "many", "steps": 2}'),
        ("scores.json", "[]"),
        ("scores.json", '{"table": {"text_event": {"correct": 1}}}'),
        ("scores.json", '{"table": {"text_event": {"correct":1,"predicted":1,"gold":1,"P":NaN,"R":1,"F1":1}}}'),
        ("predictions.json", '{"format": "other"}'),
        ("predictions.json", '{"format": "m2e2-pred-1", "coreference": 3}'),
        ("tracking.jsonl", '{"status": "RUNNING", "time_ms": 1}\nnot json\n'),
        ("tracking.jsonl", '{"step": 1, "metrics": {"train/loss": "high"}}\n'),
        ("tracking.jsonl", "[1]\n"),
    ],
)
def test_broken_files_are_named(run, name, content):
    """A ValueError that begins with the file; no page is written."""
    folder, documents, _ = run
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=re.escape(str(folder / name))):
        write_report(folder, documents)
    assert not (folder / "report.html").exists()


def test_no_run_folder(tmp_path):
    """A folder without config.yaml is none."""
    with pytest.raises(ValueError, match=r"config\.yaml"):
        write_report(tmp_path, None)


def test_durations():
    """The largest two units."""
    assert [duration(seconds) for seconds in (0.4, 59, 95, 3725)] == ["0 s", "59 s", "1 min 35 s", "1 h 2 min"]
