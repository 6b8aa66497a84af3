"""Ray nodes apart from each other: what runs over several of them has the figures of one process, and outlives a node.

In network namespaces with addresses of their own where the machine lets us, see ``ray_nodes``; a folder is shared.
"""

import json
import sys
from pathlib import Path

import pytest
import ray_nodes

sys.path.extend(str(Path(__file__).parents[1] / room) for room in ("training", "distill", "tuning"))

import finetune_runs
import ray_runs
import sure_teachers
import test_loop
import test_ray
import test_sweeps

from xmtl_ray.config.load import dump, load

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(3600)]

APART = ["cluster.workers=2", "cluster.cpus_per_worker=1.5"]
"""Of two CPUs that a node has, a second worker gets none; each has one thread."""


@pytest.fixture(scope="module")
def nodes():
    """A head, where only drivers are, and three nodes of two CPUs."""
    with ray_nodes.cluster(2, 2, 2) as some:
        yield some


def same(found, expected):
    """The same steps, with the same losses to float tolerance."""
    assert set(found) == set(expected)
    for step, metrics in expected.items():
        for name, value in metrics.items():
            if name.startswith("train/loss"):
                assert found[step][name] == pytest.approx(value, rel=2e-3, abs=2e-3), (step, name)


def journal(folder):
    """Step → metrics of a run's journal."""
    lines = [json.loads(line) for line in (folder / "tracking.jsonl").read_text(encoding="utf-8").splitlines()]
    found = {}
    for line in lines:
        if "metrics" in line:
            found.setdefault(line["step"], {}).update(line["metrics"])
    return {step: metrics for step, metrics in found.items() if "train/loss" in metrics}


def test_ddp_over_nodes_outlives_one_of_them(nodes, world, tmp_path):
    """X-MTL with a worker on each of two nodes, one of which is lost in the third epoch: a third takes its place.

    Every loss is that of one process; steps that were done twice have both times the same, digit for digit.
    """
    if nodes.apart:
        assert len({node["node_ip"] for node in nodes.state("nodes")}) == 4
    settings = [*test_ray.common(world), "train.epochs=12", "train.global_batch=32", "name=run"]
    expected, _, _ = test_loop.run(load("xmtl_smoke", [*settings, "cluster.workers=0"]), tmp_path / "one")
    steps = max(expected) // 12

    earlier = nodes.actors("RayTrainWorker")
    driver = nodes.start(
        sys.executable, "-m", "xmtl_ray", "train", "xmtl_smoke", *settings, *APART, f"storage_path={tmp_path}"
    )
    ray_nodes.wait_for(lambda: ray_runs.losses(tmp_path), driver)
    before = nodes.actors("RayTrainWorker") - earlier
    assert sorted(before.values()) == [1, 1], "a worker on each of two nodes"
    lost = next(node for node in nodes.nodes if node.id in before)
    ray_nodes.wait_for(lambda: max(ray_runs.losses(tmp_path), default=0) > 2 * steps + 1, driver)
    lost.kill_raylet()
    assert driver.poll() is None and max(ray_runs.losses(tmp_path)) < max(expected), "lost before the end"
    printed, _ = driver.communicate(timeout=1200)
    assert driver.returncode == 0, printed
    assert lost.id not in nodes.alive()
    after = nodes.actors("RayTrainWorker") - earlier - before
    assert sorted(after.values()) == [1, 1] and lost.id not in after, "and again, elsewhere"
    assert all(len(told) == 1 for told in ray_runs.losses(tmp_path).values())
    same(journal(tmp_path / "run"), expected)


def test_zero_2_over_nodes_equals_one_process(nodes, tmp_path):
    """VideoLLaMA2, adapters on 4 bits, DeepSpeed with a shard of the optimizer's state on each of two nodes."""
    corpus, base = finetune_runs.prepare(tmp_path)
    expected, _, _ = finetune_runs.run(finetune_runs.config(corpus, base, "qlora"), tmp_path / "one")
    engine = ["engine.name=deepspeed", "engine.zero_stage=2"]
    config = finetune_runs.config(corpus, base, "qlora", *APART, *engine, f"storage_path={tmp_path}")
    (tmp_path / "recipe.yaml").write_text(dump(config), encoding="utf-8")
    before = nodes.actors("RayTrainWorker")
    nodes.xmtl("finetune", tmp_path / "recipe.yaml")
    assert sorted((nodes.actors("RayTrainWorker") - before).values()) == [1, 1]
    same(journal(tmp_path / "run"), {step: metrics for step, metrics in expected.items() if "train/loss" in metrics})


def test_pseudo_labels_of_several_nodes_are_those_of_one_process(nodes, world, tmp_path):
    """Each byte of the store: shards are labelled wherever there is an actor, and say nothing of it."""
    from xmtl_ray.data import pseudo_labels
    from xmtl_ray.distill import stages, teachers
    from xmtl_ray.distill.plan import make_plan, todo_path

    sure_teachers.make(world, tmp_path)
    settings = [
        f"data.root={world}", f"data.pairs.source={world / 'voa'}", "distill.shard=8", "distill.actors=2",
        *(f"distill.teachers.{task}={tmp_path / task}" for task in sure_teachers.TASKS),
    ]  # fmt: skip
    nodes.xmtl("pseudo-label", "xmtl_smoke", *settings, "--out", tmp_path / "nodes")
    assert set(nodes.actors("MapWorker")) == set(nodes.alive())

    config, store = load("xmtl_smoke", settings), tmp_path / "one"
    found = teachers.find(config.distill.teachers)
    plan = make_plan(config, store, found)
    folders = {task: teacher.folder for task, teacher in found.items()}
    batch, floor = config.inference.batch, config.distill.floor
    some = [
        stages.Triggers({"td": folders["td"]}, batch, False),
        stages.Types({"vc": folders["vc"]}, batch, False),
        stages.Roles(str(store), floor, {task: folders[task] for task in ("ae", "rc")}, batch, False),
    ]
    for key in plan.new:
        row = {"key": key, "todo": str(todo_path(store, key)), "images": str(plan.images), "busy": "[]"}
        for stage in some:
            row = stage(row)
    pseudo_labels.seal(store, plan.keys, found, floor, config.data.pairs.source, plan.source_sha256, plan.images)

    def files(folder):
        inside = [path for path in folder.rglob("*") if path.is_file() and "todo" not in path.parts]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in inside if path.name != "run.json"}

    assert files(tmp_path / "nodes") == files(store)
    assert len(plan.new) > 2


def test_predictions_of_several_nodes_are_those_of_one_process(nodes, world, tmp_path):
    """Each byte, by actors elsewhere than the driver, which has no CPUs; the documents lie in a bucket."""
    from xmtl_ray.serving.predict import predict

    sure_teachers.make(world, tmp_path)
    models = [tmp_path / task for task in sure_teachers.TASKS]
    more = [word for model in models[1:] for word in ("--model", model)]
    before = nodes.actors("MapWorker")
    with nodes.bucket(world / "m2e2") as uri:
        nodes.xmtl("predict", models[0], uri, "--out", tmp_path / "nodes.jsonl", *more, "--actors", 2)
    assert sum((nodes.actors("MapWorker") - before).values()) == 2
    predict(models, world / "m2e2", tmp_path / "one.jsonl", actors=0)
    assert (tmp_path / "nodes.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()


def test_a_sweep_packs_its_trials_over_the_nodes(nodes, world, tmp_path):
    """Four trials of a CPU each, on all nodes that there are; one of them again here has the same losses."""
    space = test_sweeps.made(
        tmp_path, world, search="grid", scheduler="none",
        space={"train.learning_rate.text": {"grid": [1e-3, 2e-3, 3e-3, 4e-3]}},
        fixed={"cluster.workers": 0, "tracking.enabled": False, "train.epochs": 2},
    )  # fmt: skip
    nodes.xmtl("sweep", space)
    trials = nodes.actors("ImplicitFunc")
    assert set(trials) == set(nodes.alive()) and sum(trials.values()) == 4
    folder = tmp_path / "runs" / "tried"
    body = json.loads((folder / "sweep.json").read_text())
    assert [trial["state"] for trial in body["trials"]] == ["finished"] * 4
    trial = next((folder / "trials").glob("tried-*2"))
    expected, _, _ = test_loop.run(load(str(trial / "config.yaml"), []), tmp_path / "one")
    same(journal(trial), {step: metrics for step, metrics in expected.items() if "train/loss" in metrics})
