"""Smoke recipes through the real command line, and what a user is told when something is wrong."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from xmtl_ray.training.launch import LaunchError, check


def xmtl(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "xmtl_ray", *map(str, arguments)], capture_output=True, text=True, check=False
    )


def settings(recipe: str, world: Path) -> list[str]:
    if recipe == "m2e2_text_smoke":
        # Trained and tested on the same documents: the stages matter here, and the data check would refuse it.
        return [f"data.train={world / 'm2e2'}", f"data.test={world / 'm2e2'}", "data.check=none"]
    return [f"data.root={world}"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["xmtl_smoke", "m2e2_text_smoke"])
def test_a_smoke_recipe_leaves_scores_model_report_and_an_mlflow_run(recipe, world, tmp_path):
    """`xmtl train` in local mode; then `xmtl predict` with its model predicts what the run predicted."""
    done = xmtl("train", recipe, f"storage_path={tmp_path}", "cluster.workers=0", *settings(recipe, world))
    assert done.returncode == 0, done.stderr
    run = tmp_path / recipe
    scores = json.loads((run / "scores.json").read_text())
    assert set(scores) == {"table", "strict"} and scores["strict"]["text_event"]["gold"] > 0
    assert "report:" in done.stdout and (run / "report.html").stat().st_size > 10_000

    from mlflow import MlflowClient

    state = json.loads((run / "mlflow.json").read_text())
    client = MlflowClient(state["uri"])
    tracked = client.get_run(state["run_id"])
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params["train.epochs"] == "2"
    assert {"dev/mean_f1", "train/loss/td", "test/strict/text_event_f1"} <= set(tracked.data.metrics)
    assert any(name.startswith("sha256.data.") for name in tracked.data.tags)
    artifacts = {item.path for item in client.list_artifacts(state["run_id"])}
    assert {"config.yaml", "environment.txt", "model", "predictions.json", "scores.json", "report.html"} <= artifacts

    objects = ["--objects", world / "m2e2/image_entity.json"] if recipe == "xmtl_smoke" else []
    form = ["--format", "m2e2", "--out", tmp_path / "again.json"]
    again = xmtl("predict", run / "model", world / "m2e2", *form, *objects)
    assert again.returncode == 0, again.stderr
    first, second = (json.loads(path.read_text()) for path in (run / "predictions.json", tmp_path / "again.json"))
    assert [first[key] for key in ("text", "image", "coref")] == [second[key] for key in ("text", "image", "coref")]


@pytest.mark.slow
def test_the_demo_on_a_small_world(tmp_path):
    """`xmtl demo` makes its world, trains, scores and reports; a second one uses the world again."""
    for _ in range(2):
        done = xmtl("demo", "--out", tmp_path, "--size", "small", "--recipe", "xmtl_smoke", "--workers", 0)
        assert done.returncode == 0, done.stderr
        assert "multimedia event" in done.stdout and "report:" in done.stdout
    assert "drawing" not in done.stdout
    assert 1 <= len(list((tmp_path / "runs").glob("demo-*/report.html"))) <= 2


def test_a_demo_refuses_the_world_of_another_version(tmp_path):
    """Its figures would be those of another world."""
    (tmp_path / "world-small").mkdir()
    (tmp_path / "world-small/world.json").write_text('{"version": "world-0"}')
    done = xmtl("demo", "--out", tmp_path, "--size", "small", "--recipe", "xmtl_smoke", "--workers", 0)
    assert done.returncode == 2 and "found world-0, expected world-" in done.stderr


def test_a_missing_file_is_named_before_anything_starts(tiny, tmp_path):
    with pytest.raises(LaunchError, match=r"data\.ace\.train: .*nowhere\.json does not exist"):
        check(tiny(f"data.ace.train={tmp_path / 'nowhere.json'}"))


def test_another_run_of_the_same_name_is_refused_with_the_differences(tiny, tmp_path):
    """Resources and reporting may change on resumption; what is learnt may not."""
    from xmtl_ray.config.load import dump

    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.yaml").write_text(dump(tiny()))
    check(tiny("cluster.max_failures=7", "tracking.experiment=other"))
    check(tiny("inference.object_confidence=0.1"))
    with pytest.raises(LaunchError, match=r"train\.seed: was 0, is 5"):
        check(tiny("train.seed=5"))
    with pytest.raises(LaunchError, match=r"inference\.trigger_bias: was 0.0, is 1.0"):
        check(tiny("inference.trigger_bias=1"))


def test_an_unwritable_storage_is_refused(tiny, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="storage_path"):
        check(tiny(f"storage_path={tmp_path / 'file' / 'runs'}"))


def test_broken_data_stops_a_run_before_it_begins(world, tmp_path):
    """All that is wrong is told at once: file, record, field, found, expected; and no run was made."""
    broken = tmp_path / "world"
    shutil.copytree(world, broken)
    rows = json.loads((broken / "ace/train.json").read_text())
    rows[3]["golden-event-mentions"] = [{"event_type": "Life:Die", "trigger": {"start": 5, "end": 2}, "arguments": []}]
    (broken / "ace/train.json").write_text(json.dumps(rows))
    image = next((broken / "m2e2/image").glob("*.jpg"))
    image.write_bytes(image.read_bytes()[:40])
    settings = [f"storage_path={tmp_path}", f"data.root={broken}", "cluster.workers=0"]
    done = xmtl("train", "xmtl_smoke", *settings)
    told = " ".join(done.stderr.split())
    assert done.returncode == 2 and "Traceback" not in told
    assert "error: data: 2 errors" in told and "data.check=none" in told
    assert "train.json: record 3: golden-event-mentions.0.trigger" in told
    assert f"missing or unreadable medium (1), e.g. data.test: {image.stem}" in told
    assert not (tmp_path / "xmtl_smoke/tracking.jsonl").exists()
    assert "2 errors" in (tmp_path / "xmtl_smoke/data_check.html").read_text(encoding="utf-8")


def test_bad_data_ends_a_worker_with_one_sentence(world, tmp_path):
    """Without the check, a worker that meets bad data says the same, and the run is marked FAILED."""
    broken = tmp_path / "world"
    shutil.copytree(world, broken)
    rows = json.loads((broken / "ace/train.json").read_text())
    rows[3]["golden-event-mentions"] = [{"event_type": "Life:Die", "trigger": {"start": 5, "end": 2}, "arguments": []}]
    (broken / "ace/train.json").write_text(json.dumps(rows))
    settings = [f"storage_path={tmp_path}", f"data.root={broken}", "cluster.workers=0", "data.check=none"]
    done = xmtl("train", "xmtl_smoke", *settings)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "train.json: record 3: golden-event-mentions.0.trigger" in done.stderr.replace("\n", " ")
    assert '"FAILED"' in (tmp_path / "xmtl_smoke/tracking.jsonl").read_text().splitlines()[-1]
