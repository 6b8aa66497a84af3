"""Command lines that are looked at and not run: what is wrong with them, and which of their paths are relative."""

import pytest

from xmtl_ray.cli.command_line import CommandError, inspect, refuse_addresses, refuse_lost
from xmtl_ray.cli.main import app


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("trian xmtl", "did you mean 'train'"),
        ("train", "missing argument"),
        ("train xmtl --fast", "no such option: --fast"),
        ("train xmtl_smoke train.epohcs=2", "did you mean 'epochs'"),
        ("train xmtl_smok", "did you mean 'xmtl_smoke'"),
        ("train xmtl_smoke train.epochs=many", "train.epochs"),
        ("train videollama2", "xmtl finetune"),
        ("finetune xmtl", "xmtl train"),
        ("sweep dwa_temperatur", "did you mean"),
        ("sweep dwa_temperature train.epohcs=2", "epohcs"),
        ("reproduce table2 train.epohcs=2 --data /d --out /o", "epohcs"),
        ("reproduce table7", "table7"),
        ("data", "expected a verb"),
        ("train none.yaml", "no such file"),
        ("predict m d --out o --actors x", "actors"),
    ],
)
def test_what_is_wrong_is_told_as_the_verb_would(line, told):
    """Unknown verbs, options, settings and values, before anything is started."""
    with pytest.raises(ValueError, match="(?i)" + told):
        inspect(app, line.split())


@pytest.mark.parametrize(
    ("line", "outputs", "inputs"),
    [
        ("train xmtl_smoke data.root=/d storage_path=/r", {}, {}),
        ("train xmtl_smoke data.root=/d storage_path=s3://b/r", {}, {}),
        ("train xmtl_smoke data.root=s3://b/d storage_path=/r", {}, {}),
        ("predict /m s3://b/d --out /o", {}, {}),
        ("generate /m s3://b/d/test.json --media gs://b/m --out /o", {}, {}),
        ("train xmtl_smoke data.root=/d", {"storage_path": "runs"}, {}),
        ("run xmtl_full_smoke data.root=/d", {"storage_path": "runs"}, {}),
        ("sweep dwa_temperature_smoke data.root=/d", {"storage_path": "runs"}, {}),
        ("sweep dwa_temperature_smoke data.root=/d storage_path=/r", {}, {}),
        ("pseudo-label xmtl_full_smoke data.root=/d --out labels", {"--out": "labels"}, {}),
        ("predict models:/x@champion /d --out /o", {}, {}),
        ("predict run/model docs --out o --html /h", {"--out": "o"}, {"MODEL": "run/model", "DOCUMENTS": "docs"}),
        ("data objects images --detector hf:detr --out d", {"--out": "d"}, {"IMAGES": "images", "--detector": "detr"}),
        ("finetune videollama2 model.path=base data.root=/d storage_path=/r", {}, {"model.path": "base"}),
        ("reproduce table2 --data /d", {"--out": "reproduction"}, {}),
        ("world w", {"OUT": "w"}, {}),
    ],
)
def test_relative_paths_are_found_by_option_and_by_setting(line, outputs, inputs, tmp_path, monkeypatch):
    """Also those that nobody wrote, which are a recipe's defaults; a model's name is a path where there is a folder."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").mkdir()
    found = inspect(app, line.split())
    assert (found.outputs, found.inputs) == (outputs, inputs)


def test_relative_data_is_found_leaf_by_leaf(tmp_path, monkeypatch):
    """Under a relative root every file of the data section is relative; a recipe of one's own is a file, too."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("")
    found = inspect(app, ["train", "xmtl_smoke", "data.root=w", "storage_path=/r", "data.test=/elsewhere"])
    assert found.inputs["data.root"] == "w" and found.inputs["data.ace.train"] == "w/ace/train.json"
    assert "data.test" not in found.inputs
    from importlib.resources import files

    (tmp_path / "own.yaml").write_text((files("xmtl_ray") / "recipes" / "xmtl_smoke.yaml").read_text())
    assert inspect(app, ["train", "own.yaml", "data.root=/d", "storage_path=/r"]).inputs == {"RECIPE": "own.yaml"}


def test_outputs_that_would_go_with_the_job_are_refused():
    """All are named at once."""
    with pytest.raises(CommandError, match=r"storage_path runs: relative, .* Ray deletes with the job"):
        refuse_lost(inspect(app, ["train", "xmtl_smoke", "data.root=/d"]))
    refuse_lost(inspect(app, ["train", "xmtl_smoke", "data.root=/d", "storage_path=gs://b/r"]))


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("predict /m /d --out s3://b/o.jsonl", "--out: found 's3://b/o.jsonl', expected a path, for it is moved"),
        ("pseudo-label xmtl --out gs://b/labels", "--out: found 'gs://b/labels'"),
        ("data check s3://b/train.json", "SOURCES: found 's3://b/train.json', expected a path; bring it here first"),
        ("predict /m /d --objects s3://b/o --out /o", "--objects: found 's3://b/o'"),
    ],
)
def test_an_address_where_a_path_is_taken_is_told(line, told):
    """Else it would be a folder called ``s3:`` here. Models of MLflow, tracking servers and settings are no paths."""
    with pytest.raises(CommandError) as error:
        refuse_addresses(app, line.split())
    assert told in str(error.value)
    with pytest.raises(CommandError):
        inspect(app, line.split())
    for good in (
        "predict models:/x@champion s3://b/d --out /o --tracking http://h:5000",
        "train xmtl data.root=s3://b/d",
    ):
        refuse_addresses(app, good.split())
    refuse_addresses(app, ["trian", "s3://b/d"])
