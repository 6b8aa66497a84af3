"""Recipes, overrides and the errors that a typo gets."""

import pytest

from xmtl_ray.config.load import ConfigError, build, dump, flatten, load, load_any, recipes
from xmtl_ray.config.schema import Config

NEEDS = {"m2e2_text": ["data.train=x"], "m2e2_text_smoke": ["data.train=x"]}
"""What a recipe cannot name for everybody."""


@pytest.mark.parametrize("name", recipes())
def test_every_recipe_loads_and_its_dump_gives_it_back(name):
    config = load_any(name, NEEDS.get(name, []))
    import yaml

    assert build(yaml.safe_load(dump(config)), type(config)) == config


@pytest.mark.parametrize("name", [name for name in recipes() if not name.endswith("_smoke")])
def test_every_real_recipe_has_a_smoke_twin(name):
    twin = {
        "xmtl_demo": "xmtl_smoke",
        "xmtl_world": "xmtl_full_smoke",
        "corpus_base": "videollama21_smoke",
        "corpus_qlora": "videollama21_smoke",
    }.get(name, f"{name}_smoke")
    assert twin in recipes()


def test_defaults_are_the_papers_values():
    """Paper A, Experimental setup."""
    config = load("xmtl")
    assert (config.model.shared.layers, config.model.shared.width) == (2, 1024)
    rates = config.train.learning_rate
    assert (rates.text, rates.image, rates.other) == (1e-4, 1e-5, 1e-3)
    assert (config.train.epochs, config.train.global_batch, config.model.max_tokens) == (10, 64, 300)
    assert (config.inference.object_confidence, config.inference.coreference.threshold) == (0.8, 0.2)
    defaults = Config(name="x", data={"train": "x"}, multitask={"tasks": ["td"]})
    assert defaults.train == config.train and defaults.model == config.model


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.epoch=3", r"train\.epoch: no such field; did you mean 'epochs'\?"),
        ("train.learning_rate.txt=1", r"train\.learning_rate\.txt: no such field; did you mean 'text'\?"),
        ("data.imsitu.trian=3", r"data\.imsitu\.trian: no such field; did you mean 'train'\?"),
        ("train.epochs=many", r"train\.epochs: found 'many', expected a valid integer"),
        ("train.epochs=0", r"train\.epochs: found 0, expected greater than or equal to 1"),
        ("train.learning_rate.text=.nan", r"train\.learning_rate\.text: found nan, expected a finite number"),
        ("multitask.tasks=[td,xx]", r"multitask\.tasks\.1: found 'xx', expected 'td'"),
        ("multitask.tasks=[td,td]", r"multitask: tasks lists one twice"),
        ("engine.zero_stage=2", r"zero_stage 2 needs engine\.name=deepspeed"),
        ("train.global_batch=3", r"train\.global_batch: 3 is too small: 4 tasks"),
        ("data.ace=null", r"data\.train: td and ae need data\.train"),
        ("data.train=x", r"both data\.train and data\.ace"),
        ("train.epochs.x=2", r"train\.epochs is a value and has no field 'x'"),
        ("train.epochs", r"expected path\.to\.field=value"),
        ("name=../x", r"name: found '\.\./x'"),
    ],
)
def test_errors_name_the_dotted_path_and_the_nearest_field(override, message):
    with pytest.raises(ConfigError, match=message):
        load("xmtl", [override])


@pytest.mark.parametrize("override", ["storage_path=s3://bucket/runs", "engine.name=deepspeed"])
def test_what_only_ray_workers_can_do_is_refused_without_them(override):
    assert load("xmtl", [override, "cluster.workers=1"])
    with pytest.raises(ConfigError, match=r"cluster\.workers of at least 1"):
        load("xmtl", [override, "cluster.workers=0"])


def test_an_unknown_recipe_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'xmtl'"):
        load("xmlt")


def test_yaml_floats_and_doubled_keys(tmp_path):
    """``1e-4`` is a number, not YAML 1.1's string; a key set twice is an error."""
    assert load("xmtl", ["train.learning_rate.text=1e-4"]).train.learning_rate.text == 1e-4
    recipe = tmp_path / "r.yaml"
    recipe.write_text("name: a\nname: b\n")
    with pytest.raises(ConfigError, match="'name' is set twice"):
        load(str(recipe))
    recipe.write_text("- a\n")
    with pytest.raises(ConfigError, match="found list, expected a mapping"):
        load(str(recipe))


def test_data_paths_are_absolute_under_root(tmp_path):
    """Ray changes a worker's folder, so no relative path may survive."""
    config = load("xmtl", [f"data.root={tmp_path}"])
    assert config.data.ace.train == tmp_path / "ace/train.json"
    assert flatten(config)["data.ace.train"] == str(tmp_path / "ace/train.json")
    assert config.storage_path.startswith("/")
    assert load("xmtl", ["storage_path=s3://bucket/runs"]).storage_path == "s3://bucket/runs"
