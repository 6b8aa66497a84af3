"""Spaces: every file is valid at every end, and what is wrong with one is told before anything starts."""

import configparser
from pathlib import Path

import pytest

from xmtl_ray.config.load import build, load_any
from xmtl_ray.config.schema import Config
from xmtl_ray.tuning import configs, room, space
from xmtl_ray.tuning.domains import Domain
from xmtl_ray.tuning.room import Need
from xmtl_ray.tuning.space import Space, SpaceError

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "tune_spaces").glob("*.yaml"))

GOOD = """\
recipe: xmtl_smoke
name: one
metric: dev/mean_f1
search: random
samples: 2
space:
  train.learning_rate.text: {loguniform: [1.0e-4, 1.0e-2]}
"""


def written(folder, text):
    path = folder / "space.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def checked(sweep):
    return configs.check(sweep, configs.base(sweep))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_shipped_space_builds_a_config_at_every_end(path):
    """Its name is its file's, it is found by it, and it has a twin for two cores."""
    sweep = space.load(path.stem)
    assert sweep.name == path.stem and space.shipped()[path.stem] == path
    assert len(checked(sweep)) >= 2 * len(sweep.drawn)
    assert path.stem.endswith("_smoke") or path.with_name(f"{path.stem}_smoke.yaml").exists()
    assert path.read_text(encoding="utf-8").startswith("# ")


def test_an_installation_has_the_spaces_where_they_are_looked_for():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    assert setup["options.data_files"][f"share/xmtl_ray/{space.FOLDER}"] == f"{space.FOLDER}/*.yaml"


def test_what_is_shipped_covers_what_is_promised():
    names = {path.stem.removesuffix("_smoke") for path in FILES}
    assert names == {"dwa_temperature", "pseudo_threshold", "pseudo_threshold_per_task", "lora_rank_alpha", "bits",
                     "beta", "learning_rates", "xmtl_joint"}  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "line", "told"),
    [
        ("dev/mean_f1", "test/strict/text_trigger_f1", 3, "settings chosen by test scores fit the test set"),
        ("dev/mean_f1", "train/loss", 3, "expected a dev metric"),
        ("samples: 2", "smaples: 2", 5, "no such field"),
        ("samples: 2", "samples: none", 5, "valid integer"),
        ("search: random", "search: bayes", 4, "'random', 'grid', 'tpe' or 'pbt'"),
        ("search: random\nsamples: 2", "search: grid", 6, "found loguniform, expected grid"),
        ("[1.0e-4, 1.0e-2]", "[1.0e-2, 1.0e-4]", 7, "expected the lowest first"),
        ("[1.0e-4, 1.0e-2]", "[0, 1.0e-2]", 7, "expected more than 0"),
        ("{loguniform: [1.0e-4, 1.0e-2]}", "{uniform: [1, 2], int: [1, 2]}", 7, "exactly one of"),
        ("{loguniform: [1.0e-4, 1.0e-2]}", "{choice: [1, 1]}", 7, "listed twice"),
        ("space:", "fixed: {train.learning_rate.text: 1}\nspace:", 6, "is in space too"),
    ],
)
def test_what_is_wrong_is_told_with_line_and_field(tmp_path, old, new, line, told):
    with pytest.raises(SpaceError) as error:
        space.load(written(tmp_path, GOOD.replace(old, new)))
    assert f"line {line}: " in str(error.value) and told in str(error.value)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("train.learning_rate.text:", "train.learning_rates.text:", "did you mean"),
        ("[1.0e-4, 1.0e-2]", "[-1, 1]", "expected more than 0"),
        ("{loguniform: [1.0e-4, 1.0e-2]}", "{uniform: [0, 1]}", "train.learning_rate.text=0.0"),
        ("dev/mean_f1", "dev/mean_accuracy", "expected one of dev/trigger_f1"),
        ("search: random", "search: random\nmode: min", "of which the other is better"),
        ("train.learning_rate.text: {loguniform: [1.0e-4, 1.0e-2]}", "data.test: {choice: [a, b]}", "does not depend"),
        ("recipe: xmtl_smoke", "recipe: xmtl_smokes", "no recipe"),
        # Weights are fixed in this recipe: the temperature of dynamic ones changes nothing.
        ("train.learning_rate.text: {loguniform: [1.0e-4, 1.0e-2]}",
         "multitask.weighting.alpha: {uniform: [0.1, 1]}", "changes nothing that is learnt"),
        ("search: random", "search: pbt", "cluster"),
    ],
)  # fmt: skip
def test_what_no_trial_could_run_by_is_refused(tmp_path, old, new, told):
    text = GOOD.replace(old, new)
    if "pbt" in new:
        text += "fixed: {cluster.workers: 2}\n"
    with pytest.raises(SpaceError, match=told):
        checked(space.load(written(tmp_path, text)))


def test_a_population_may_only_change_what_can_change_while_it_trains(tmp_path):
    text = GOOD.replace("search: random", "search: pbt").replace("train.learning_rate.text", "model.shared.dropout")
    text = text.replace("loguniform: [1.0e-4, 1.0e-2]", "uniform: [0, 0.5]")
    with pytest.raises(SpaceError, match="cannot change while a trial runs"):
        checked(space.load(written(tmp_path, text)))


def test_alpha_is_a_ratio_to_the_rank_and_the_method_follows_from_the_bits():
    """Ratio 2 of rank 16 is alpha 32; 16 bits are LoRA, 4 QLoRA."""
    lora, bits = space.load("lora_rank_alpha"), space.load("bits")
    found = configs.settings(lora, {"adapter.r": 16, "adapter.alpha": 2}, configs.base(lora))
    assert found == {"adapter.r": 16, "adapter.alpha": 32}
    methods = {
        value: configs.settings(bits, {"adapter.bits": value}, configs.base(bits))["adapter.method"]
        for value in (4, 8, 16)
    }
    assert methods == {4: "qlora", 8: "qlora", 16: "lora"}


def test_one_threshold_is_given_to_all_tasks():
    sweep = space.load("pseudo_threshold")
    found = configs.settings(sweep, {"multitask.pseudo.threshold.td": 0.7}, configs.base(sweep))
    assert set(found.values()) == {0.7} and len(found) == 4


def test_command_line_settings_are_fixed_and_survive_the_copy(tmp_path):
    """Name and samples are the sweep's own; the copy in its folder says all."""
    sweep = space.load(written(tmp_path, GOOD), ["name=other", "train.epochs=7"], {"samples": 5})
    assert (sweep.name, sweep.samples, sweep.fixed) == ("other", 5, {"train.epochs": 7})
    assert configs.base(sweep).train.epochs == 7
    assert space.load(written(tmp_path, space.dump(sweep))) == sweep
    for path in FILES:
        sweep = space.load(str(path))
        assert space.load(written(tmp_path, space.dump(sweep))) == sweep


def test_trials_never_see_the_test_data_and_name_their_parent(world, tmp_path):
    config = load_any("xmtl_smoke", [f"data.root={world}"])
    own = configs.of_trial(config, {"train.epochs": 3}, "a-000", tmp_path, {"tracking.parent": "p"})
    assert config.data.test is not None and own.data.test is None
    assert (own.name, own.train.epochs, own.tracking.parent) == ("a-000", 3, "p")
    assert build(own.model_dump(mode="json"), Config) == own


def test_dev_metrics_are_those_that_are_reported():
    from xmtl_ray.multitask.dev import METRICS

    assert {task: f"dev/{name}" for task, name in configs.DEV.items()} == METRICS


@pytest.mark.parametrize(
    ("domain", "values", "ends"),
    [
        ({"quniform": [0.5, 0.95, 0.15]}, (0.5, 0.65, 0.8, 0.95), (0.5, 0.95)),
        ({"int": [2, 4]}, (2, 3, 4), (2, 4)),
        ({"choice": [True, "a", None]}, (True, "a", None), (True, "a", None)),
        ({"uniform": [0, 1]}, (), (0.0, 1.0)),
    ],
)
def test_values_and_ends_of_a_domain(domain, values, ends):
    one = Domain.model_validate(domain)
    assert one.listed() == values and one.ends() == ends


def test_a_value_moved_by_a_factor_comes_back_between_the_ends():
    """0.9 × 1.2 is above 0.95; 0.71 is nearest to 0.7 in steps of 0.05."""
    one = Domain.model_validate({"quniform": [0.5, 0.95, 0.05]})
    assert [one.fit(value) for value in (1.08, 0.71, 0.1)] == [0.95, 0.7, 0.5]
    assert Domain.model_validate({"int": [1, 8]}).fit(9.6) == 8


def test_room_is_counted_node_by_node():
    """Three nodes of 3 CPUs have 3 places for workers of 2, not 4: one trial of two workers, not two."""
    nodes = [{"CPU": 3.0}] * 3
    assert room.concurrency(nodes, Need(1, 2.0, 0)) == 3
    assert room.concurrency(nodes, Need(2, 2.0, 0)) == 1
    assert room.concurrency(nodes, Need(1, 1.0, 0), most=4) == 4
    assert room.concurrency([{"CPU": 8.0, "GPU": 2.0}], Need(1, 1.0, 1.0)) == 2
    assert room.concurrency([{"CPU": 0.3}], Need(1, 0.1, 0)) == 3


def test_a_cluster_that_grows_takes_the_user_s_word(caplog):
    """With room for one trial, or for none yet, as many as stated are begun, and the user is told; this machine, which
    does not grow, is counted. Less than there is room for is what it always was."""
    one = Need(2, 2.0, 0)
    for nodes, room_now in (([{"CPU": 4.0}], 1), ([{"CPU": 0.0}], 0)):
        assert room.concurrency(nodes, one, most=8, may_grow=True) == 8
        assert f"8 as stated; the cluster has room for {room_now} now" in caplog.text
    assert room.concurrency([{"CPU": 4.0}], one, most=8) == 1
    assert room.concurrency([{"CPU": 16.0}], one, most=2, may_grow=True) == 2
    with pytest.raises(SpaceError, match="of one that grows, state"):
        room.concurrency([{"CPU": 0.0}], one, may_grow=True)


def test_a_trial_that_fits_no_cluster_is_refused():
    with pytest.raises(SpaceError, match="places for 2 of its 4 workers with 2 CPU and 1 GPU each"):
        room.concurrency([{"CPU": 16.0, "GPU": 1.0}, {"CPU": 2.0, "GPU": 1.0}], Need(4, 2.0, 1.0))


def test_a_space_is_plain_values():
    """What is sent to trials is built again there."""
    for path in FILES:
        sweep = space.load(str(path))
        assert Space.model_validate(space.plain(sweep)) == sweep
