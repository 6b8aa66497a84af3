"""What is proposed, what a sweep's files keep, and what schedulers know after a restart."""

import json
from types import SimpleNamespace

import pytest

from xmtl_ray.tuning import ledger
from xmtl_ray.tuning.domains import Domain
from xmtl_ray.tuning.ledger import About, Report, Trial
from xmtl_ray.tuning.proposals import count, importance, propose
from xmtl_ray.tuning.space import Space

TWO = {
    "a": Domain.model_validate({"uniform": [0, 1]}),
    "b": Domain.model_validate({"choice": ["x", "y"]}),
}


def trial(number, drawn, metric, state="finished", folder=None, epochs=4):
    one = Trial(f"{number:03}", drawn, dict(drawn), folder, state, seconds=40.0)
    one.reports = [Report(epochs, epochs, metric, metric)]
    return one


def test_a_grid_is_every_combination_once():
    space = {"a": Domain.model_validate({"int": [1, 3]}), "b": Domain.model_validate({"grid": ["x", "y"]})}
    assert count("grid", None, space) == 6
    points = [propose("grid", space, 0, number, [], "max") for number in range(6)]
    assert {(point["a"], point["b"]) for point in points} == {(a, b) for a in (1, 2, 3) for b in "xy"}


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_the_same_number_is_proposed_the_same_again(search):
    """A sweep that was killed needs no sampler's state: seed, number and results decide."""
    told = [trial(n, propose("random", TWO, 0, n, [], "max"), float(n)) for n in range(12)]
    first = [propose(search, TWO, 0, number, told, "max") for number in (12, 13)]
    assert first == [propose(search, TWO, 0, number, told, "max") for number in (12, 13)]
    assert first[0] != first[1] != propose(search, TWO, 1, 13, told, "max")


@pytest.mark.parametrize("search", ["random", "tpe"])
def test_few_choices_are_not_tried_twice(search):
    """Of four combinations four trials try each, whatever the seed; a fifth has to repeat one."""
    space = {name: Domain.model_validate({"choice": ["x", "y"]}) for name in "ab"}
    for seed in range(5):
        told = []
        for number in range(5):
            told.append(trial(number, propose(search, space, seed, number, told, "max"), 1.0))
        assert len({(one.drawn["a"], one.drawn["b"]) for one in told[:4]}) == 4
        assert told[4].drawn in [one.drawn for one in told[:4]]


@pytest.mark.parametrize("mode", ["max", "min"])
def test_tpe_goes_where_it_was_best(mode):
    """Of a metric that is best at a=0.3, twelve draws are known; ten proposals are nearer to it than uniform ones."""
    sign = 1 if mode == "max" else -1
    told = []
    for number in range(24):
        drawn = propose("random", TWO, 0, number, [], mode)
        told.append(trial(number, drawn, -sign * abs(drawn["a"] - 0.3)))
    away = [abs(propose("tpe", TWO, 0, number, told, mode)["a"] - 0.3) for number in range(24, 34)]
    assert sum(away) / 10 < 0.15  # of uniform draws it is (0.3² + 0.7²) / 2 = 0.29


def test_importance_is_of_what_decides():
    """The metric is a function of a alone; b has no share, and all shares are 1."""
    told = [(drawn := propose("random", TWO, 0, n, [], "max")) and trial(n, drawn, drawn["a"]) for n in range(24)]
    shares = importance(TWO, told, "max")
    assert shares["a"] > 0.9 and sum(shares.values()) == pytest.approx(1, abs=1e-3)
    assert importance(TWO, told[:3], "max") is None
    assert importance(TWO, [trial(n, one.drawn, 1.0) for n, one in enumerate(told)], "max") is None


def about(**more):
    facts = {"name": "s", "recipe": "r", "metric": "dev/m", "mode": "max", "search": "random", "scheduler": "asha"}
    return About(**{**facts, "seed": 0, "workers_per_trial": 2, "epochs": 10, **more})


def test_a_trial_counts_by_the_checkpoint_that_it_keeps():
    """The run chooses by another metric, whose best is in epoch 2."""
    one = Trial("000", {}, {}, None)
    assert one.metric is None
    one.reports = [Report(1, 10, 50.0, 1.0), Report(2, 20, 40.0, 3.0), Report(3, 30, 60.0, 2.0)]
    assert one.metric == 40.0 and one.epochs == 3


def test_what_stopping_saved_is_reckoned_by_the_trial_s_own_pace():
    """Stopped after 4 of 10 epochs, which took 40 s: 6 epochs of 10 s by 2 workers are 1/30 of an hour."""
    trials = [trial(0, {}, 1.0, epochs=10), trial(1, {}, 0.5, "stopped"), Trial("002", {}, {}, None)]
    assert ledger.budget(about(), trials) == {
        "epochs_run": 14, "epochs_full": 20, "saved_worker_hours": pytest.approx(1 / 30, abs=1e-4),
    }  # fmt: skip


def test_a_killed_sweep_is_read_from_its_files(tmp_path):
    """The driver was killed with three trials at work: one had finished since, one waits with what it has reported (a
    line was torn, an epoch made twice), one was stopped before."""
    trials_at = tmp_path / ledger.TRIALS
    trials = [trial(n, {"a": n}, 1.0, state, trials_at / f"t{n}") for n, state in enumerate(["running"] * 2)]
    trials.append(trial(2, {"a": 2}, 3.0, "stopped", trials_at / "t2"))
    ledger.write_outcome(trials_at / "t0", "finished")
    for report in (Report(1, 5, 1.0, 1.0), Report(2, 10, 2.0, 2.0), Report(2, 10, 2.5, 2.5)):
        ledger.append_report(trials_at / "t1", report)
    with (trials_at / "t1" / ledger.REPORTS).open("a") as file:
        file.write('{"epoch": 3, "st')
    ledger.write_sweep(tmp_path, about(), trials, 12.0, {"001": "m"}, {"a": 1.0})
    found, wall_s = ledger.read_sweep(tmp_path)
    assert [one.state for one in found] == ["finished", "waiting", "stopped"] and wall_s == 12.0
    assert [(one.epoch, one.metric) for one in found[1].reports] == [(1, 1.0), (2, 2.5)]
    assert found[1].drawn == {"a": 1} and found[1].seconds == 40.0
    body = json.loads((tmp_path / "sweep.json").read_text())
    assert body["trials"][1]["mlflow_run"] == "m" and body["trials"][0]["worker_hours"] == pytest.approx(
        80 / 3600, 1e-3
    )


def sweep(**more):
    facts = {"recipe": "xmtl_smoke", "name": "s", "metric": "dev/mean_f1", "search": "random", "samples": 4}
    return Space.model_validate({**facts, "space": {"train.weight_decay": {"uniform": [0, 1]}}, **more})


def test_asha_knows_after_a_restart_what_was_reported_before():
    """A trial below nine earlier ones is stopped at the first rung; without their memory it is the best so far."""
    from xmtl_ray.tuning.searching import scheduler

    asha = sweep(scheduler={"asha": {"grace": 1, "reduction": 3}})
    earlier = []
    for number in range(9):
        one = Trial(f"{number:03}", {}, {}, None, "finished")
        one.reports = [Report(1, 1, 50.0 + number, 1.0)]
        earlier.append(one)
    decisions = []
    for known in (earlier, []):
        found = scheduler(asha, 9, known)
        new = SimpleNamespace(trial_id="new")
        found.on_trial_add(None, new)
        decisions.append(found.on_trial_result(None, new, {"epoch": 1, "dev/mean_f1": 40.0}))
    assert decisions == ["STOP", "CONTINUE"]


def test_asha_lets_a_trial_that_has_come_to_its_last_epoch_finish():
    """Rungs of 9 epochs are 1 and 3: at 9, where it would end anyway, nothing is stopped that could leave a model."""
    from xmtl_ray.tuning.plan import rungs
    from xmtl_ray.tuning.searching import scheduler

    asha = sweep(scheduler={"asha": {"grace": 1, "reduction": 3}})
    assert rungs(asha, 9) == [1, 3]
    found = scheduler(asha, 9, [])
    names = [SimpleNamespace(trial_id=name) for name in "abc"]
    for one in names:
        found.on_trial_add(None, one)
    for value, one in zip((3.0, 2.0, 1.0), names, strict=True):
        assert found.on_trial_result(None, one, {"epoch": 9, "dev/mean_f1": value}) == "CONTINUE" or value < 3.0
    late = SimpleNamespace(trial_id="late")
    found.on_trial_add(None, late)
    assert found.on_trial_result(None, late, {"epoch": 2, "dev/mean_f1": 9.0}) == "CONTINUE"
    assert found.on_trial_result(None, late, {"epoch": 9, "dev/mean_f1": 9.0}) == "CONTINUE"


def test_a_member_that_is_given_another_s_config_stays_itself():
    """As a population does; Tune numbers its trials at the end of their ids."""
    from xmtl_ray.tuning.trial import whose

    members = [{"id": "000", "name": "s-000", "folder": "f"}, {"id": "001", "name": "s-001", "folder": "f"}]
    cloned = {"trial": {"drawn": {"a": 0.3}}}
    assert whose("a6bdb_00001", cloned, members) == {"drawn": {"a": 0.3}, **members[1]}
    assert whose("a6bdb_00007", {"trial": {"id": "9"}}, []) == {"id": "9"}


def test_weights_of_another_trial_are_gone_on_with_at_one_s_own_rates(tmp_path):
    """As a population does: state is loaded, settings are kept."""
    import torch

    from xmtl_ray.config.run import Optimisation
    from xmtl_ray.training.engine import Ddp

    def engine(rate):
        torch.manual_seed(int(rate * 10))
        objective = torch.nn.Module()
        objective.model = torch.nn.Linear(2, 1)
        groups = [{"params": list(objective.parameters()), "lr": rate, "peak": rate, "weight_decay": rate / 10}]
        return Ddp(objective, Optimisation(), groups, torch.device("cpu"), True, lambda name: True)

    other, own = engine(0.1), engine(0.5)
    other.objective.model(torch.ones(1, 2)).sum().backward()
    other.optimizer.step()
    other.save(tmp_path)
    own.load(tmp_path, other.objective.model.state_dict)
    group = own.optimizer.param_groups[0]
    assert (group["peak"], group["weight_decay"]) == (0.5, 0.05)
    assert own.optimizer.state_dict()["state"][0]["step"] == 1
    assert torch.equal(own.objective.model.weight, other.objective.model.weight)
