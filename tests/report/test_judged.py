"""What a run's page judges and its card tells: roles, calibration, speed, origin; by numbers that can be checked."""

import json
import re
from dataclasses import replace

import pytest

from xmtl_ray.config.load import build, dump
from xmtl_ray.config.schema import Config
from xmtl_ray.data.pseudo_labels import LabelledPair
from xmtl_ray.data.world import PairTruth
from xmtl_ray.evaluation.m2e2 import tables
from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.evaluation.significance import f1_interval
from xmtl_ray.events.ontology import m2e2
from xmtl_ray.events.predictions import CONFIDENCE, Predictions, from_gold, read, read_confidences, write
from xmtl_ray.events.records import (
    Box,
    DataError,
    Document,
    Image,
    Sentence,
    Span,
    TextArgument,
    TextEvent,
    VisualArgument,
    VisualEvent,
)
from xmtl_ray.report import model_card
from xmtl_ray.report.by_type import scores_by_role
from xmtl_ray.report.calibration import of_predictions, of_store
from xmtl_ray.report.measured import measured
from xmtl_ray.report.page import write_report
from xmtl_ray.report.run_folder import Journal, journal_of
from xmtl_ray.report.throughput import throughput

DIE = TextEvent("Life:Die", Span(2, 3), (TextArgument("Agent", Span(1, 2)), TextArgument("Victim", Span(3, 4))))
SEEN = VisualEvent("Life:Die", (VisualArgument("Victim", Box(0, 0, 10, 10)),))
WORDS = ("the", "police", "killed", "men")
DOCUMENTS = (Document("D", (Sentence("D_0", WORDS, events=(DIE,)),), (Image("D_0", None, (SEEN,)),)),)


def sure(event, own, *arguments):
    """The event with confidences of itself and of its arguments."""
    told = tuple(replace(a, confidence=c) for a, c in zip(event.arguments, arguments, strict=True))
    return replace(event, confidence=own, arguments=told)


TWO_BOXES = replace(SEEN, arguments=(*SEEN.arguments, VisualArgument("Agent", Box(50, 50, 60, 60))))
GUESSED = Predictions(
    {"D_0": (sure(DIE, 0.95, 0.85, 0.75), sure(replace(DIE, type="Contact:Meet", arguments=()), 0.55))},
    {"D_0": (sure(TWO_BOXES, 0.9, 0.8, 0.7),)},
    (),
)


def test_confidences_travel_in_a_note(tmp_path):
    """Written to four digits, read back by who asks for them; to others the file says what it said without."""
    write(tmp_path / "sure.json", GUESSED)
    write(tmp_path / "plain.json", from_gold(DOCUMENTS))
    again = read_confidences(tmp_path / "sure.json")
    assert again == GUESSED == read(tmp_path / "sure.json")
    assert [event.confidence for event in again.text["D_0"]] == [0.95, 0.55]
    assert [a.confidence for a in again.image["D_0"][0].arguments] == [0.8, 0.7]
    assert all(event.confidence is None for event in read(tmp_path / "sure.json").text["D_0"])
    assert read_confidences(tmp_path / "plain.json") is None and CONFIDENCE not in (tmp_path / "plain.json").read_text()
    body = json.loads((tmp_path / "sure.json").read_text())
    body[CONFIDENCE]["text"]["D_0"].pop()
    (tmp_path / "sure.json").write_text(json.dumps(body))
    with pytest.raises(DataError, match=r"xmtl\.confidence\.text.*D_0"):
        read_confidences(tmp_path / "sure.json")


def test_predictions_are_right_where_strict_counts_them():
    """A trigger right and one wrong, both arguments right; of two boxes one right."""
    found = {one.task: one.found for one in of_predictions(DOCUMENTS, GUESSED)}
    assert {task: (one.count, one.accuracy) for task, one in found.items()} == {
        "td": (2, 0.5),
        "ae": (2, 1.0),
        "vc": (1, 1.0),
        "rc": (2, 0.5),
    }
    assert found["td"].error == pytest.approx((0.05 + 0.55) / 2)


def test_teachers_are_judged_by_the_truth():
    """td by each type that is told, with its path's probability; vc by the most probable type; unknown pairs not."""
    types = m2e2().types

    def pair(name, tag, path, shown):
        return LabelledPair(
            *(name, f"{name}.jpg", "a" * 64, ("x",), (), (), None, (tag,), path),
            tuple(shown.get(each, 0.0) for each in types),
        )

    rows = [
        pair("a", f"B-{types[0]}", 0.9, {types[1]: 0.8}),
        pair("b", f"B-{types[0]}", 0.7, {types[1]: 0.6}),
        pair("c", "O", 0.99, {types[2]: 0.2}),
        pair("unknown", f"B-{types[0]}", 0.5, {types[0]: 0.5}),
    ]
    known = PairTruth(text=(types[0],), image=(types[1],))
    found = of_store(rows, {"a": known, "b": PairTruth(text=(), image=()), "c": known})
    assert [(one.task, one.found.count, one.found.accuracy) for one in found] == [("td", 2, 0.5), ("vc", 3, 1 / 3)]
    assert found[0].found.confidence == pytest.approx(0.8)


def test_scores_by_role():
    """Each role by itself: the extra box is an Agent, the gold Agent of the text was found."""
    rows = {name: (text, image) for name, text, image in scores_by_role(DOCUMENTS, GUESSED)}
    told = {name: [(c.correct, c.predicted, c.gold) for c in sides] for name, sides in rows.items()}
    assert told == {"Agent": [(1, 1, 1), (0, 1, 0)], "Victim": [(1, 1, 1), (1, 1, 1)]}


def test_throughput_is_of_the_median_step_and_pauses_are_told():
    """Steps of 2 s with one pause of 10 s more, and a restart whose gap counts nowhere."""
    times = [(1, step, 1000 * at) for step, at in ((1, 0), (2, 2), (3, 4), (4, 16), (5, 18))]
    times += [(2, 6, 1_000_000), (2, 7, 1_002_000)]
    found = throughput(Journal(steps_ms=times), batch=8)
    assert found.step_s == 2 and found.examples_per_s == 4
    assert found.overall == pytest.approx(8 * 5 / 20) and found.paused_share == pytest.approx(10 / 20)
    assert throughput(Journal(steps_ms=times[:3]), batch=8) is None


@pytest.fixture
def run(tmp_path):
    """The folder of a run that has ended."""
    config = build({"name": "run-7", "data": {"train": "/data/m2e2"}, "multitask": {"tasks": ["td", "ae"]}}, Config)
    (tmp_path / "config.yaml").write_text(dump(config), encoding="utf-8")
    (tmp_path / "scores.json").write_text(json.dumps(tables(DOCUMENTS, GUESSED)))
    write(tmp_path / "predictions.json", GUESSED, coreference="same type")
    lines = [{"status": "RUNNING", "time_ms": 0}]
    lines.append({"tags": {"mlflow.source.git.commit": "c0ffee" * 6, "git.clean": "false", "sha256.data": "ab" * 32}})
    lines += [
        {"step": s, "time_ms": 1000 * s, "metrics": {"train/loss": 1.0, "train/loss/td": 1.0}} for s in range(1, 9)
    ]
    lines += [{"step": 8, "time_ms": 9000, "metrics": {"memory/host_peak_gib": 1.5}}]
    lines += [{"status": "FINISHED", "time_ms": 9000}]
    (tmp_path / "tracking.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (tmp_path / "mlflow.json").write_text(json.dumps({"uri": "sqlite:///x", "experiment": "xmtl", "run_id": "f" * 32}))
    return tmp_path


def test_the_page_has_all_that_can_be_judged(run):
    """Sections in order; the numbers are those above."""
    html = write_report(run, DOCUMENTS).read_text(encoding="utf-8")
    assert re.findall(r'<section id="(\w+)">', html) == [
        *("scores", "curves", "types", "roles", "confusion", "calibration", "documents", "cost", "lineage", "settings")
    ]
    seen = re.sub(r"\s+", " ", re.sub(r"<style.*?</style>|<[^>]*>", " ", html, flags=re.DOTALL))
    assert re.search(r"td : triggers ECE 0\.300 ; 2, 50 % right", seen)
    assert "1.50 GiB" in seen and "with changes that were not committed" in seen and "c0ffeec0ffee" in seen


def test_the_card_says_what_the_page_says(run):
    """Scores with intervals, types, roles, calibration, limits, origin with whole hashes; and no HTML of a name."""
    write_report(run, DOCUMENTS)
    card = (run / model_card.NAME).read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", card, flags=re.M) == [
        *("Details", "Use", "Scores", "Calibration", "Limits", "Where it comes from")
    ]
    assert "| text event | 66.7 (66.7–66.7) | 66.7 (66.7–66.7) |" in card
    assert "| Agent | 100.0 (1/1/1) | 0.0 (0/1/0) |" in card
    assert "| this model, on test documents | td | triggers | 2 | 0.750 | 0.500 | 0.300 |" in card
    assert f"`{'ab' * 32}`" in card and f"`{'f' * 32}`" in card
    again = card
    write_report(run, DOCUMENTS)
    assert (run / model_card.NAME).read_text(encoding="utf-8") == again


def test_a_pipelines_page_is_of_its_training_stage(run, tmp_path_factory):
    """Losses come from the folder of the stage, the stages are listed with their keys, failures with their reasons."""
    whole = tmp_path_factory.mktemp("whole")
    for name in ("config.yaml", "scores.json", "predictions.json"):
        (whole / name).write_bytes((run / name).read_bytes())
    stages = {
        "teacher td": {"state": "before", "key": "1" * 64, "folder": "/gone", "mlflow_run": None},
        "train": {"state": "done", "key": "2" * 64, "folder": str(run), "mlflow_run": "a" * 32},
        "score": {"state": "failed", "key": "3" * 64, "folder": "/gone", "why": "no <disk>"},
    }
    (whole / "pipeline.json").write_text(json.dumps({"stages": stages}))
    html = write_report(whole, DOCUMENTS).read_text(encoding="utf-8")
    assert 'id="curves"' in html and journal_of(run / "tracking.jsonl").last_step == 8
    rows = re.findall(r"<tr><th scope=\"row\">(teacher td|train|score)</th><td class=\"state (\w+)\">", html)
    assert rows == [("teacher td", "before"), ("train", "done"), ("score", "failed")]
    assert "no &lt;disk&gt;" in html and "222222222222" in html


def test_how_sure_a_type_s_score_is():
    """Six documents, four right: the interval lies around it; documents without the type are not drawn from. With four
    documents, or where nothing or all is right, there is none."""
    right, wrong, without = Prf(1, 1, 1), Prf(0, 1, 1), Prf()
    (cell,) = measured("Life:Die", [right] * 4 + [wrong] * 2 + [without] * 50).cells
    assert cell.counts == Prf(4, 6, 6) and cell.interval == f1_interval([right] * 4 + [wrong] * 2)
    assert cell.interval[0] < cell.counts.f1 < cell.interval[1]
    for counts in ([right] * 2 + [wrong] * 2, [wrong] * 9, [right] * 9, []):
        assert measured("Life:Die", counts).cells[0].interval is None
