"""Labelling by real small models: the same store whatever the actors and whoever is killed; broken images are counted.

The teachers have random weights, see ``sure_teachers``.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import processes
import pytest
import sure_teachers
from sure_teachers import TASKS

from xmtl_ray.config.load import load
from xmtl_ray.config.schema import Thresholds
from xmtl_ray.data import parquet, pseudo_labels, voa
from xmtl_ray.data.pseudo_selection import select
from xmtl_ray.distill import stages
from xmtl_ray.distill.plan import make_plan, todo_path
from xmtl_ray.distill.pseudo_label import LabellingError, label, waiting_share
from xmtl_ray.distill.teachers import TeacherError, find
from xmtl_ray.events.ontology import m2e2, mentions
from xmtl_ray.events.records import DataError, Pair
from xmtl_ray.inference.scorer import Scorer
from xmtl_ray.models import weights

SHARD = 8
BROKEN, MISSING = 3, 20
"""Places in the source of the pair whose image is cut off, and of the one whose image is not there."""


@pytest.fixture(scope="module")
def source(world, tmp_path_factory):
    """The world's pairs with one broken and one missing image."""
    folder = tmp_path_factory.mktemp("pairs") / "voa"
    shutil.copytree(world / "voa", folder)
    names = [pair.image.path for pair in pairs_of(folder)]
    names[BROKEN].write_bytes(names[BROKEN].read_bytes()[:700])
    names[MISSING].unlink()
    return folder


def pairs_of(folder):
    return voa.read(
        *(folder / f"{name}.json" for name in ("img_dataset", "text_entity", "image_entity")), folder / "images"
    )


@pytest.fixture(scope="module")
def teachers(world, tmp_path_factory):
    """Four single-task models; about half of the pairs agree by them."""
    folder = tmp_path_factory.mktemp("teachers")
    sure_teachers.make(world, folder)
    return folder


@pytest.fixture(scope="module")
def settings(source, teachers, world):
    """Makes configs of a labelling."""

    def make(*overrides, tasks=TASKS):
        own = [f"distill.teachers.{task}={teachers / task}" for task in tasks]
        return load(
            "xmtl_smoke",
            [f"data.root={world}", f"data.pairs.source={source}", f"distill.shard={SHARD}", *own, *overrides],
        )

    return make


@pytest.fixture(scope="module")
def labelled(cluster, settings, tmp_path_factory):
    """The store of one actor a stage, and its counts."""
    store = tmp_path_factory.mktemp("labelled") / "store"
    told = []
    counts = label(settings("distill.max_quarantined=0.05"), store, lambda done, of: told.append((done, of)))
    assert told[0] == (0, 40) and told[-1] == (40, 40) and len(told) == 6
    return store, counts


def files(store):
    """Content of every file that the labels are in, by name."""
    inside = [path for path in store.rglob("*") if path.is_file() and path.name != "run.json"]
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in inside}


ray_and_slow = [pytest.mark.ray, pytest.mark.slow]


class TestOnRay:
    """Ray's actors with real models."""

    pytestmark = ray_and_slow

    def test_pairs_in_are_pairs_labelled_and_quarantined(self, labelled, source, record_property):
        """In the source's order; the cut and the missing image with their reasons, named below the images' folder."""
        store, counts = labelled
        ids = [pair.id for pair in pairs_of(source)]
        rows, refused = list(pseudo_labels.stream(store)), pseudo_labels.quarantine(store)
        record_property("rows_lost", len(set(ids) - {row.id for row in rows} - set(refused)))
        assert [row.id for row in rows] == [name for name in ids if name not in refused]
        assert list(refused) == [ids[BROKEN], ids[MISSING]]
        assert "expected a readable image" in refused[ids[BROKEN]] and "no such file" in refused[ids[MISSING]]
        assert all(reason.startswith(f"{name}.jpg: ") for name, reason in refused.items())
        assert (counts.pairs, counts.labelled, counts.quarantined, counts.new) == (40, 38, 2, 40)
        assert counts.asked == sum(row.asked for row in rows) and 5 < counts.asked < 35
        assert 0 <= counts.waiting <= 1 and not (store / "todo").exists()
        run = json.loads((store / "run.json").read_text())
        assert set(run["waiting_by_stage"]) == {"triggers", "types", "roles"} and run["actors"] == 1

    def test_answers_are_the_scorers(self, labelled, settings, source):
        """One pair asked alone, in this process: the same tags, types and roles, probabilities but for padding."""
        store, _ = labelled
        scorer = Scorer(
            [weights.load(Path(teacher.folder)) for teacher in find(settings().distill.teachers).values()], 8
        )
        row = next(row for row in pseudo_labels.stream(store) if row.text_arguments and row.image_arguments)
        pair = next(pair for pair in pairs_of(source) if pair.id == row.id)
        (told,) = scorer.triggers([pair.sentence.words])
        assert [m2e2().tags[tag] for tag in told.tags] == list(row.tags)
        assert row.path_probability == pytest.approx(told.probability, abs=1e-3)
        assert row.types == pytest.approx(scorer.types([pair.image.path])[0], abs=1e-3)
        found = scorer.object_roles([(pair.image.path, each.box) for each in row.image_arguments])
        assert [answer.role for answer in found] == [each.role for each in row.image_arguments]
        assert {each.box for each in row.image_arguments} == {
            item.box for item in pair.image.objects if item.confidence >= 0.5
        }
        assert len(row.text_arguments) == len(mentions(row.tags)) * len(pair.sentence.entities)

    def test_killed_and_then_with_two_actors_it_writes_the_same_bytes(
        self, labelled, settings, cluster, tmp_path, record_property
    ):
        """SIGKILL to the driver after its first shard; then two actors a stage go on, one of which is killed, too.

        What was committed is not labelled again, nothing is lost, nothing there twice, and every file of the store is
        that of an unbroken run with one actor a stage, in another folder.
        """
        store, (whole, _) = tmp_path / "store", labelled
        recipe = tmp_path / "recipe.json.yaml"
        recipe.write_text(json.dumps(settings().model_dump(mode="json")))
        program = f"""
from pathlib import Path
from xmtl_ray.config.load import load
from xmtl_ray.distill.pseudo_label import label
label(load({str(recipe)!r}), Path({str(store)!r}), lambda done, of: print(done, flush=True))
"""
        environment = os.environ | {"RAY_ADDRESS": cluster["gcs_address"]}
        driver = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
        assert driver.stdout is not None and driver.stdout.readline() == "0\n" and driver.stdout.readline()
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        # What it had committed, some of it lost again: on two cores all may be done before the kill.
        shutil.rmtree(store / "todo", ignore_errors=True)
        time.sleep(2)
        for path in sorted((store / "shards").glob("*.parquet"))[1:]:
            path.unlink()
        with pytest.raises(DataError, match=r"no store.json"):
            pseudo_labels.read_manifest(store)
        (committed,) = (store / "shards").glob("*.parquet")
        before = committed.stat().st_mtime_ns
        killed = []

        def kill(done: int, of: int) -> None:
            if done and not killed:
                killed.append(processes.named("MapWorker")[0])
                processes.kill(killed)

        counts = label(settings("distill.actors=2"), store, kill)
        assert killed and counts.new == 40 - SHARD
        assert committed.stat().st_mtime_ns == before
        rows = [row.id for path in (store / "shards").iterdir() for row in pseudo_labels.read_shard(path)]
        record_property("tried", 2)
        record_property("survived", 2)
        record_property("rows_lost", 40 - len(set(rows)))
        record_property("rows_doubled", len(rows) - len(set(rows)))
        assert files(store) == files(whole)
        assert len(rows) == len(set(rows)) == 40

    def test_a_finished_store_and_a_sweep_run_no_teacher(self, labelled, settings, monkeypatch):
        """The same again needs no actor, and any threshold is a filter: a teacher that were asked would raise."""
        store, counts = labelled
        content = files(store)

        def never(*_):
            raise AssertionError("a teacher was run")

        monkeypatch.setattr("xmtl_ray.distill.pseudo_label._run", never)
        for ask in ("triggers", "types", "argument_roles", "object_roles"):
            monkeypatch.setattr(Scorer, ask, never)
        again = label(settings(), store)
        assert (again.new, again.labelled, again.asked, again.waiting) == (0, counts.labelled, counts.asked, 0)
        assert files(store) == content
        rows = list(pseudo_labels.stream(store))
        kept = [len(select(rows, Thresholds(td=value, vc=value)).kept) for value in (0.5, 0.8, 0.99, 1)]
        assert kept[0] == counts.asked and kept == sorted(kept, reverse=True) and kept[-1] == 0


def staged(config, store):
    """The rows of all shards by the stages' own code, one after another in this process."""
    found = find(config.distill.teachers)
    plan = make_plan(config, store, found)
    own = {task: teacher.folder for task, teacher in found.items()}
    common = {"batch": config.inference.batch, "gpu": False}
    roles = {task: folder for task, folder in own.items() if task in {"ae", "rc"}}
    actors = [
        stages.Triggers({"td": own["td"]}, **common),
        stages.Types({"vc": own["vc"]}, **common),
        stages.Roles(str(store), config.distill.floor, roles, **common),
    ]
    for key in plan.new:
        row = {"key": key, "todo": str(todo_path(store, key)), "images": str(plan.images), "busy": "[]"}
        for actor in actors:
            row = actor(row)
    return [row for key in plan.keys for row in pseudo_labels.read_shard(pseudo_labels.shard_path(store, key))]


def test_roles_are_asked_only_of_pairs_whose_sides_agree(settings, tmp_path, monkeypatch):
    """Forward passes are counted: as many questions as the agreeing pairs have, no other image or sentence in them."""
    asked = {"ae": [], "rc": []}
    for name, task in (("argument_roles", "ae"), ("object_roles", "rc")):
        real = getattr(Scorer, name)

        def counting(self, questions, real=real, task=task):
            asked[task] += questions
            return real(self, questions)

        monkeypatch.setattr(Scorer, name, counting)
    rows = [row for row in staged(settings(), tmp_path) if row.reason is None]
    agree = [row for row in rows if row.asked]
    assert 0 < len(agree) < len(rows)
    for row in rows:
        told = {name for name, _ in mentions(row.tags)} if row.path_probability > 0.5 else set()
        shown = {name for name, sure in zip(m2e2().types, row.types, strict=True) if sure > 0.5}
        assert row.asked == bool(told & shown)
        assert row.asked or not (row.text_arguments or row.image_arguments)
    assert len(asked["ae"]) == sum(len(mentions(row.tags)) * len(row.entities) for row in agree)
    assert {question.words for question in asked["ae"]} <= {row.words for row in agree}
    assert len(asked["rc"]) == sum(len(row.objects) for row in agree)
    assert {path.name for path, _ in asked["rc"]} == {row.image for row in agree if row.objects}


def test_without_a_teacher_of_roles_none_are_labelled(settings, tmp_path):
    """td and vc are enough for types; who asks the store for roles is told."""
    rows = staged(settings(tasks=("td", "vc")), tmp_path)
    assert any(row.asked for row in rows) and not any(row.text_arguments or row.image_arguments for row in rows)


def test_parquet_pairs_are_labelled_alike(settings, source, tmp_path):
    """A Parquet file of the same pairs, with its folder of images named: the same rows, so the same shards."""
    parquet.write(tmp_path / "pairs.parquet", Pair, pairs_of(source))
    plain = make_plan(settings(), tmp_path / "a", find(settings().distill.teachers))
    other = settings(f"data.pairs.source={tmp_path}/pairs.parquet", f"data.pairs.images={source}/images")
    assert make_plan(other, tmp_path / "b", find(other.distill.teachers)).keys == plain.keys


def test_a_parquet_files_paths_may_not_leave_its_folder(settings, source, tmp_path):
    """Without a folder of images: below the file's own, or quarantined with the way out; so are bad spans and words."""
    first, second, third, *_ = pairs_of(source)
    shutil.copy(first.image.path, tmp_path / "first.jpg")
    pairs = [
        replace(first, image=replace(first.image, path=Path("first.jpg"))),
        replace(second, id="out", image=replace(second.image, path=Path("../secret.jpg"))),
        third,
        replace(first, id="none", image=replace(first.image, path=None)),
        replace(first, id="mute", sentence=replace(first.sentence, words=(), entities=())),
        replace(first, id="short", sentence=replace(first.sentence, words=("One",))),
    ]
    parquet.write(tmp_path / "pairs.parquet", Pair, pairs)
    config = settings(f"data.pairs.source={tmp_path}/pairs.parquet")
    plan = make_plan(config, tmp_path / "store", find(config.distill.teachers))
    assert list(plan.refused) == ["out", third.id, "none", "mute", "short"]
    assert plan.refused[third.id].endswith("name its folder by data.pairs.images")
    with pytest.raises(LabellingError, match=r"5 of 6 pairs cannot be labelled, .*max_quarantined=0.05 .*\n  out: "):
        label(config, tmp_path / "store")
    parquet.write(tmp_path / "pairs.parquet", Pair, [first, first])
    with pytest.raises(DataError, match="twice"):
        make_plan(config, tmp_path / "store", {})


def test_too_large_a_share_in_quarantine_fails(settings, source, tmp_path):
    """One missing image of 40 is more than a fiftieth; the message has the count and the reason. Nothing is sealed."""
    with pytest.raises(LabellingError, match=r"1 of 40 pairs .*max_quarantined=0.02 allows.*\n  WORLD.*no such file"):
        label(settings("distill.max_quarantined=0.02"), tmp_path)
    assert not (tmp_path / "store.json").exists()


def test_a_store_of_detections_takes_the_place_of_the_sources_own(settings, source, tmp_path):
    """Only those sure enough, by image id; an image that the store lacks has none."""
    from xmtl_ray.data import objects

    first, *_ = pairs_of(source)
    objects.write_voa(tmp_path / "found.json", {first.image.id: first.image.objects[:1]})
    config = settings(f"data.pairs.objects={tmp_path}/found.json", "inference.object_confidence=0.01")
    plan = make_plan(config, tmp_path / "store", find(config.distill.teachers))
    rows = list(parquet.stream(todo_path(tmp_path / "store", plan.keys[0]), pseudo_labels.LabelledPair))
    assert [row.objects for row in rows[:2]] == [first.image.objects[:1], ()]


def test_teachers_are_checked_before_anything_starts(settings, teachers, tmp_path):
    """No folder, no model, another task, another ontology: the setting is named, and what was expected."""

    def refused(*overrides, tasks=TASKS):
        with pytest.raises(TeacherError, match=r"^distill\.teachers\.") as error:
            label(settings(*overrides, tasks=tasks), tmp_path / "store")
        return str(error.value)

    assert "distill.teachers.vc: found none" in refused(tasks=("td", "ae"))
    assert "found no config.yaml" in refused(f"distill.teachers.td={tmp_path}")
    assert "found a model of rc, expected one of ae" in refused(f"distill.teachers.ae={teachers / 'rc'}")
    shutil.copytree(teachers / "td", tmp_path / "old")
    labels = json.loads((tmp_path / "old" / "labels.json").read_text())
    (tmp_path / "old" / "labels.json").write_text(json.dumps({**labels, "version": "m2e2-0"}))
    assert "labels of ontology 'm2e2-0'" in refused(f"distill.teachers.td={tmp_path / 'old'}")
    assert not (tmp_path / "store").exists()


def test_another_teacher_has_another_hash(teachers, tmp_path):
    """Of every file's name and content; where the folder lies makes no difference."""
    from xmtl_ray.data.fingerprint import of_folder

    shutil.copytree(teachers / "td", tmp_path / "td")
    same = of_folder(tmp_path / "td")
    assert same == of_folder(teachers / "td") != of_folder(teachers / "ae")
    (tmp_path / "td" / "labels.json").write_text("{}")
    assert of_folder(tmp_path / "td") != same


def test_waiting_is_what_is_not_work():
    """By hand: ready at 0 and 2, the end at 10; 4 s and 2 s of work in 18 s."""
    stretches = [("a", "1", 0.0, 1.0, 5.0), ("a", "2", 2.0, 8.0, 10.0)]
    assert waiting_share(stretches) == pytest.approx(12 / 18, abs=1e-4)
    assert waiting_share(stretches[:1], 10.0) == pytest.approx(0.6)
    assert waiting_share([]) == 0
