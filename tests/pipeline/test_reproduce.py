"""A reproduction's rows, claims and pages by hand-made numbers; plans of the real tables. Nothing is trained."""

import json

import pytest

from xmtl_ray.config.load import load
from xmtl_ray.evaluation.m2e2 import METRICS
from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.evaluation.seeds import Runs
from xmtl_ray.evaluation.summary import published, published_strategies
from xmtl_ray.pipeline import reproduce
from xmtl_ray.pipeline.reproduce import CLAIMS, ROWS, ReproductionError
from xmtl_ray.report.reproduction import Listing, Reproduction, markdown, write


def runs(*correct, seeds=2):
    """F1 by document: so many of ten right, of every metric, alike in each seed."""
    counts = {f"D{index}": dict.fromkeys(METRICS, Prf(each, 10, 10)) for index, each in enumerate(correct)}
    return Runs(dict.fromkeys(range(seeds), counts))


def by_row(**found):
    return {(row, name): own for row, own in found.items() for name in ("table", "strict")}


def test_table_2_agrees_with_table_1_and_with_what_the_paper_says_of_it():
    """Its X-MTL row is Table 1's; visual arguments decline by 9.5 in alternating training."""
    paper = published_strategies()
    assert paper["xmtl"] == {item.metric: item.f1 for item in published() if item.system == "X-MTL"}
    assert paper["separate"]["image_argument"] - paper["alternating"]["image_argument"] == pytest.approx(9.5)
    assert list(paper) == [row for row in reproduce._PRESENTED] == sorted(paper, key=reproduce._PRESENTED.index)
    assert {row.name for row in ROWS["table2"]} == set(paper)


@pytest.mark.parametrize(
    ("first", "second", "verdict", "difference"),
    [
        (runs(6, 7, 8), runs(5, 6, 7), "holds", 10),
        (runs(5, 6, 7), runs(6, 7, 8), "does not hold", -10),
        (runs(5, 7, 6), runs(6, 6, 6), "cannot be told", 0),
    ],
)
def test_a_claim_is_decided_by_the_interval_of_the_difference(first, second, verdict, difference):
    found = reproduce._claim(CLAIMS[0], "table2", by_row(xmtl=first, joint=second))
    assert found.verdict == verdict
    assert found.differences["table"]["mean"].mean == pytest.approx(difference)
    assert found.paper == pytest.approx(
        (56.6 + 36 + 71.7 + 32.2 + 66.2 + 41.4 - 55.6 - 34 - 63.6 - 26.6 - 56.8 - 35.4) / 6
    )


def test_a_claim_about_one_figure_is_decided_by_that_figure():
    forgets = next(claim for claim in CLAIMS if claim.column == "image_argument")
    found = reproduce._claim(forgets, "table2", by_row(separate=runs(6, 6), alternating=runs(3, 3)))
    assert (found.verdict, found.paper) == ("holds", pytest.approx(9.5))


def test_a_row_without_a_run_has_no_figures_and_decides_nothing():
    found = reproduce._claim(CLAIMS[0], "table2", by_row(xmtl=Runs({}), joint=runs(5, 6)))
    assert found.verdict is None and found.differences == {}


def test_the_pages_say_the_same_figures(tmp_path):
    """Markdown, HTML and JSON; a row that failed is there, and what is put in is escaped."""
    together = by_row(xmtl=runs(6, 7), joint=runs(5, 6), ark=Runs({}))

    class Todo:
        what = "table2"

    rows = tuple(reproduce._row(Todo, row, together) for row in ROWS["table2"] if row.name in {"xmtl", "joint", "ark"})
    claims = tuple(
        reproduce._claim(claim, "table2", together)
        for claim in CLAIMS
        if {claim.first, claim.second} in ({"xmtl", "joint"}, {"joint", "ark"})
    )
    listing = Listing("Weights", ("row", "of <each>"), (("X-MTL", "0.5|1"),), "Note.")
    found = Reproduction("table2", "Table <2>", (("Data", "here"),), rows, claims, (listing,), ("A note.",))
    html, text, data = write(tmp_path, found)
    lines = text.read_text().splitlines()
    assert text.read_text() == markdown(found)
    assert (
        "| X-MTL is above Joint | mean of six | +5.4 | +10.0 (+10.0 to +10.0) | +10.0 (+10.0 to +10.0) | holds |"
        in lines
    )
    assert "| ARK stays below Joint | mean of six | +0.7 |  |  | a row is missing |" in lines
    assert any(line.startswith("| ARK | ours | failed |") for line in lines)
    assert any(line.startswith("| X-MTL | ours | 65.0 (60.0 to 70.0) |") for line in lines)
    assert "| X-MTL | 0.5\\|1 |" in lines
    page = html.read_text()
    assert "Table &lt;2&gt;" in page and "of &lt;each&gt;" in page and "<svg" in page and "65.0" in page
    body = json.loads(data.read_text())
    assert body["rows"]["xmtl"]["ours"]["table"]["text_event"]["mean"] == 65
    assert body["rows"]["ark"]["ours"] == {}
    assert [claim["verdict"] for claim in body["claims"]] == ["holds", None]


@pytest.mark.parametrize(("what", "rows", "stages"), [("table1", 1, 8), ("table2", 7, 25), ("fig3", 8, 31)])
def test_what_a_table_consists_of(world, tmp_path, what, rows, stages):
    """Stages of one seed. Table 2: 4 teachers, a store, 6 trainings, 7 extractions and 7 scores. Figure 3: td and vc
    once, ae for three representations, rc for two; four stores and trainings, eight extractions and scores."""
    plan = reproduce.plan(what, str(world), tmp_path, 2, "xmtl_full_smoke")
    assert len(plan.rows) == rows
    planned = plan.planned()
    assert len(planned) == 2 * stages
    assert {item.state for item in planned} == {"runs", "waits"}
    assert len({item.stage.name for item in planned}) == len(planned)


def test_what_cannot_be_reproduced_is_told(world, tmp_path):
    with pytest.raises(ReproductionError, match="row: found 'flat', expected one of xmtl, without_dwa"):
        reproduce.plan("table2", str(world), tmp_path, 1, only=["flat"])
    with pytest.raises(ReproductionError, match=r"data: .*nowhere is no folder"):
        reproduce.plan("table2", str(tmp_path / "nowhere"), tmp_path, 1)
    with pytest.raises(ReproductionError, match=r"recipe: xmtl_smoke must have multitask\.strategy=xmtl"):
        reproduce.plan("table2", str(world), tmp_path, 1, "xmtl_smoke")


def test_the_recipes_of_a_whole_pipeline_have_the_papers_values(world):
    """Thresholds of 0.8, beta and alpha of 0.5, ten epochs of batches of 64 [Experimental setup]."""
    config = load("xmtl_full", [f"data.root={world}"])
    spec = config.multitask
    assert (spec.strategy, spec.weighting.name, spec.weighting.alpha, spec.pseudo.beta) == ("xmtl", "dwa", 0.5, 0.5)
    assert set(spec.pseudo.threshold.model_dump().values()) == {0.8}
    assert (config.train.epochs, config.train.global_batch) == (10, 64)
