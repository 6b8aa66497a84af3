"""A sweep's page: trials from best to worst, what mattered, what was saved; also of one that has hardly begun."""

import json
import re

import pytest

from xmtl_ray.events.records import DataError
from xmtl_ray.report import sweep_page
from xmtl_ray.report.sweep_figures import Scale, told

RATE, ALPHA, NAME = "train.learning_rate.text", "multitask.weighting.alpha", "multitask.weighting.name"


def trial(number, state, metric, rate, alpha, epochs, **more):
    return {
        "id": f"t{number}",
        "state": state,
        "parameters": {RATE: rate, ALPHA: alpha, NAME: "dwa" if number % 2 else "fixed", "adapter.r": 8},
        "metric": metric,
        "history": [] if metric is None else [[epoch, metric * epoch / epochs] for epoch in range(1, epochs + 1)],
        "seconds": 30.0 * epochs,
        "worker_hours": epochs / 60,
        "folder": f"/runs/t{number}",
        "mlflow_run": f"{number}" * 32,
        "why": None,
        **more,
    }


TRIALS = [
    trial(1, "finished", 50.0, 1e-4, 1.0, 4),
    trial(2, "stopped", 20.0, 1e-5, 2.0, 1),
    trial(3, "finished", 61.25, 3e-4, 0.5, 4),
    trial(4, "failed", None, 1e-2, 0.5, 1, why="loss of <td> is not finite"),
]
SWEEP = {
    "name": "a sweep of <b>rates</b>",
    "recipe": "xmtl_world",
    "metric": "dev/mean_f1",
    "mode": "max",
    "search": "tpe",
    "scheduler": "asha",
    "seed": 0,
    "wall_s": 3725.0,
    "workers_per_trial": 2,
    "best": "t3",
    "trials": TRIALS,
    "importance": {RATE: 0.75, ALPHA: 0.2, NAME: 0.05},
    "budget": {"epochs_run": 10, "epochs_full": 16, "saved_worker_hours": 0.1},
}


def page(folder, **changes):
    (folder / "sweep.json").write_text(json.dumps(SWEEP | changes))
    path = sweep_page.write_sweep_page(folder)
    assert path == folder / "report.html"
    return path.read_text(encoding="utf-8")


def seen(html):
    plain = re.sub(r"<style.*?</style>|<[^>]*>", " ", html, flags=re.DOTALL).replace("\u200b", "")
    return re.sub(r"\s+", " ", plain)


def test_trials_stand_from_best_to_worst(tmp_path):
    """The failed one last, with its reason; a parameter that never changes has no column."""
    html = page(tmp_path)
    assert re.findall(r'<th scope="row">(t\d)', html) == ["t3", "t1", "t2", "t4"]
    assert "t4 failed: loss of &lt;td&gt; is not finite" in seen(html)
    assert "adapter.r" not in html and "<b>rates" not in html
    lowest = page(tmp_path, mode="min", best="t2")
    assert re.findall(r'<th scope="row">(t\d)', lowest) == ["t2", "t1", "t3", "t4"]


def test_what_it_cost_and_what_was_saved(tmp_path):
    """Ten worker-minutes, ten of sixteen epochs."""
    text = seen(page(tmp_path))
    for words in (
        "4: 2 finished, 1 stopped, 1 failed",
        "61.25 dev/mean_f1, trial t3",
        "1 h 2 min",
        "0.167, 2 workers a trial",
        "10 of 16, had none been stopped (38 % saved)",
        "0.1 worker-hours",
    ):
        assert words in text, words
    assert "had none been stopped" not in seen(page(tmp_path, scheduler="none"))


def test_importance_is_from_the_largest_to_the_smallest(tmp_path):
    """In percent."""
    html = page(tmp_path).partition('id="importance"')[2].partition("</section>")[0]
    assert re.findall(r'class="value">(\d+) %', html) == ["75", "20", "5"]


def test_each_parameter_has_a_figure_and_stopped_trials_a_cross(tmp_path):
    """Three scatter plots, one set of parallel axes, one of learning curves with a cross where t2 was stopped."""
    html = page(tmp_path)
    labels = re.findall(r'class="plot"[^>]*aria-label="([^"]*)"', html)
    assert labels == [
        "Parameters and mean_f1 of 3 trials, a line each",
        "mean_f1 of each trial against weighting.alpha",
        "mean_f1 of each trial against weighting.name",
        "mean_f1 of each trial against learning_rate.text",
        "dev/mean_f1 of 3 trials by epoch",
    ]
    assert html.partition('id="learning"')[2].count("var(--ae)") > page(
        tmp_path, trials=[item | {"state": "finished"} for item in TRIALS]
    ).partition('id="learning"')[2].count("var(--ae)")


@pytest.mark.parametrize("trials", [[], [{"id": "t0", "state": "waiting"}], TRIALS[3:]])
def test_a_sweep_that_has_nothing_yet_has_a_page(tmp_path, trials):
    """No trial, none that began, none with a metric: a table, and no figures."""
    html = page(tmp_path, trials=trials, best=None, importance=None, budget=None, wall_s=None)
    assert 'id="trials"' in html and "<svg" not in html


def test_a_broken_file_is_named(tmp_path):
    """Without the file, with half of it, with a best that is no trial."""
    with pytest.raises(DataError, match=r"sweep\.json"):
        sweep_page.write_sweep_page(tmp_path)
    (tmp_path / "sweep.json").write_text('{"name": ')
    with pytest.raises(DataError, match=r"sweep\.json"):
        sweep_page.write_sweep_page(tmp_path)
    with pytest.raises(DataError, match=r"best.*t9"):
        page(tmp_path, best="t9")


def test_the_card_has_the_table(tmp_path):
    """Markdown: the best trial is marked, parameters stand by their whole paths."""
    page(tmp_path)
    card = (tmp_path / sweep_page.CARD).read_text()
    assert f"| trial | state | dev/mean_f1 | {ALPHA} | {NAME} | {RATE} | worker-hours |" in card
    assert "| t3 (best) | finished | 61.25 | 0.5 | dwa | 3.0e-04 | 0.0667 |" in card


def test_axes_are_logarithmic_where_values_span_decades():
    """A rate from 1e-5 to 1e-3 is; 1e-4 lies in its middle. Names lie in order; one value in the middle."""
    rates = Scale([1e-5, 1e-3])
    assert rates.log and rates.share(1e-4) == pytest.approx(0.5)
    assert not Scale([0.0, 10.0]).log and Scale([0.0, 10.0]).share(2.5) == 0.25
    assert [Scale(["a", "b", "c"]).share(name) for name in "abc"] == [0, 0.5, 1]
    assert Scale([3, 3]).share(3) == 0.5
    assert [told(value) for value in (0.00012, 0.5, 3, True, None, "x")] == ["1.2e-04", "0.5", "3", "true", "null", "x"]
