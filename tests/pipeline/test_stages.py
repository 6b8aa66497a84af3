"""The engine with small functions on real files: what runs, what does not, and what the plan says of it. No Ray."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from xmtl_ray.pipeline.hashing import Hashes
from xmtl_ray.pipeline.performing import Job, holder, perform
from xmtl_ray.pipeline.stages import LOG, RECORD, Demand, Stage, StageError, Stages


def add(numbers: Path, factor: int):
    """A stage that sums a file's numbers, and one that adds one to that."""

    def total(work):
        print("adding up")
        (work.folder / "sum").mkdir(exist_ok=True)
        (work.folder / "sum/total").write_text(str(factor * sum(map(int, numbers.read_text().split()))))

    def more(work):
        (work.folder / "more").write_text(str(1 + int((work.before["sum"] / "sum/total").read_text())))

    first = Stage("sum", {"factor": factor}, total, ("sum",), {"numbers": numbers})
    return Stage("more", {}, more, ("more",), {}, {"sum": first})


def do(stages: Stages, wanted: Stage) -> list[str]:
    """Runs in this process what the plan would run, in its order; returns the kinds."""
    ran = []
    for planned in stages.plan([wanted]):
        if stages.reason(planned.stage) is not None:
            outcome = perform(job(stages, planned.stage))
            assert outcome.state == "done", outcome
            ran.append(planned.stage.kind)
    return ran


def job(stages: Stages, stage: Stage) -> Job:
    return Job(
        stages.root,
        stages.folder(stage),
        stages.definition(stage).model_copy(update={"read": stages.read(stage)}),
        stage.run,
        stage.outputs,
        {name: stages.folder(other) for name, other in stage.before.items()},
        None,
    )


def told(stages: Stages, wanted: Stage) -> list[tuple[str, str, str]]:
    return [(planned.stage.kind, planned.state, planned.why) for planned in stages.plan([wanted])]


@pytest.fixture
def numbers(tmp_path):
    path = tmp_path / "numbers.txt"
    path.write_text("1 2 3")
    return path


def test_a_finished_stage_is_not_run_again_and_a_setting_reruns_it_and_what_depends_on_it(tmp_path, numbers):
    """Also by another process, which knows nothing but the files; and going back finds the first outputs again."""
    root = tmp_path / "stages"
    assert told(Stages(root), add(numbers, 2)) == [
        ("sum", "runs", "never run"),
        ("more", "waits", "never run; depends on sum"),
    ]
    assert do(Stages(root), add(numbers, 2)) == ["sum", "more"]
    assert do(Stages(root), add(numbers, 2)) == []
    assert told(Stages(root), add(numbers, 2)) == [(kind, "done", "nothing has changed") for kind in ("sum", "more")]
    assert told(Stages(root), add(numbers, 3)) == [
        ("sum", "runs", "setting factor was 2, is 3"),
        ("more", "waits", "another sum; depends on sum"),
    ]
    stages = Stages(root)
    assert do(stages, add(numbers, 3)) == ["sum", "more"]
    assert (stages.folder(add(numbers, 3)) / "more").read_text() == "19"
    assert do(Stages(root), add(numbers, 2)) == []


def test_a_changed_input_is_noticed_and_one_that_is_only_touched_is_not(tmp_path, numbers):
    root = tmp_path / "stages"
    do(Stages(root), add(numbers, 2))
    os.utime(numbers)
    assert do(Stages(root), add(numbers, 2)) == []
    numbers.write_text("1 2 4")
    assert told(Stages(root), add(numbers, 2))[0] == ("sum", "runs", "input numbers has changed")
    assert do(Stages(root), add(numbers, 2)) == ["sum", "more"]
    numbers.unlink()
    with pytest.raises(StageError, match=r"sum: numbers: .*numbers\.txt does not exist"):
        told(Stages(root), add(numbers, 2))


def test_an_output_that_was_edited_or_lost_is_made_again_and_what_read_it_only_if_it_differs(tmp_path, numbers):
    """The sum comes out as it was, so that what depends on it need not run."""
    root = tmp_path / "stages"
    do(Stages(root), add(numbers, 2))
    wanted = add(numbers, 2)
    total = Stages(root).folder(wanted.before["sum"]) / "sum/total"
    total.write_text("13")
    assert told(Stages(root), wanted) == [
        ("sum", "runs", "output sum/total was altered"),
        ("more", "waits", "depends on sum; not if that comes out as it was"),
    ]
    assert do(Stages(root), add(numbers, 2)) == ["sum"]
    assert total.read_text() == "12"
    total.unlink()
    assert told(Stages(root), add(numbers, 2))[0][2] == "output sum/total is missing"
    assert do(Stages(root), add(numbers, 2)) == ["sum"]


def test_what_comes_out_otherwise_is_read_again(tmp_path):
    """A stage that is not the same each time: its dependent runs again although no setting changed."""
    root, drawn = tmp_path / "stages", iter("abc")

    def draw(work):
        (work.folder / "letter").write_text(letter)

    def copy(work):
        (work.folder / "copy").write_text((work.before["draw"] / "letter").read_text())

    def wanted():
        return Stage("copy", {}, copy, ("copy",), before={"draw": Stage("draw", {}, draw, ("letter",))})

    letter = next(drawn)
    do(Stages(root), wanted())
    letter = next(drawn)
    stages, again = Stages(root), wanted()
    (stages.folder(again.before["draw"]) / "letter").unlink()
    assert do(stages, again) == ["draw", "copy"]
    assert (stages.folder(again) / "copy").read_text() == "b"


def test_a_record_that_is_broken_counts_as_none(tmp_path, numbers):
    root = tmp_path / "stages"
    do(Stages(root), add(numbers, 2))
    record = Stages(root).folder(add(numbers, 2)) / RECORD
    record.write_text(record.read_text()[:40])
    assert told(Stages(root), add(numbers, 2))[1][1:] == ("runs", "was begun and not finished; goes on")
    assert do(Stages(root), add(numbers, 2)) == ["more"]


def test_a_failure_is_an_outcome_with_its_cause_and_a_log_and_the_stage_is_not_done(tmp_path):
    """Of a user's error its sentence, of a bug also its kind and place; an output that is not there is one, too."""

    def fails(error):
        def run(work):
            print("so far")
            if error is not None:
                raise error

        return run

    stages = Stages(tmp_path)
    for error, cause in (
        (ValueError("data.train: no such file"), r"^data\.train: no such file$"),
        (KeyError("x"), r"^KeyError: 'x' \(test_stages\.py, line \d+\)$"),
        (None, r"out: not there, though the stage has ended"),
    ):
        stage = Stage("fails", {"of": str(error)}, fails(error), ("out",))
        outcome = perform(job(stages, stage))
        assert outcome.state == "failed"
        assert re.search(cause, outcome.why)
        text = (stages.folder(stage) / LOG).read_text()
        assert "so far" in text and "Traceback" in text
        assert stages.record(stage) is None


def test_what_a_stage_prints_goes_to_its_log_and_no_longer_than_it_runs(tmp_path, capfd):
    """Also what a child process writes, past Python."""

    def run(work):
        print("by Python")
        subprocess.run(["echo", "by a child"], check=True)
        (work.folder / "out").write_text("")

    stages, stage = Stages(tmp_path), Stage("says", {}, run, ("out",))
    assert perform(job(stages, stage)).state == "done"
    print("afterwards")
    assert capfd.readouterr().out == "afterwards\n"
    text = (stages.folder(stage) / LOG).read_text()
    assert "by Python" in text and "by a child" in text and "afterwards" not in text


SLOW = """
import sys, time
from pathlib import Path
from xmtl_ray.pipeline.performing import perform, Job
from xmtl_ray.pipeline.stages import Stage, Stages

def run(work):
    steps = work.folder / "steps"
    for _ in range(3):
        done = len(steps.read_text()) if steps.exists() else 0
        if done >= 3:
            break
        with steps.open("a") as file:
            file.write("x")
        time.sleep(float(sys.argv[2]))
    (work.folder / "out").write_text(steps.read_text())

stages = Stages(Path(sys.argv[1]))
stage = Stage("slow", {}, run, ("out",))
definition = stages.definition(stage)
print(perform(Job(stages.root, stages.folder(stage), definition, run, ("out",), {}, None)).state, flush=True)
"""


def slow(root: Path, pause: float) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", SLOW, root, str(pause)], stdout=subprocess.PIPE, text=True)


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_stage_whose_process_is_killed_goes_on_from_what_it_left(tmp_path):
    """SIGKILL after the first of three steps: the folder is unfinished, nobody holds it, and two steps remain."""
    first = slow(tmp_path, 30)
    until(lambda: any(tmp_path.glob("slow-*/steps")))
    (folder,) = tmp_path.glob("slow-*")
    assert "process" in (holder(tmp_path, folder) or "")
    first.kill()
    first.wait()
    assert holder(tmp_path, folder) is None and not (folder / RECORD).exists()
    assert slow(tmp_path, 0).communicate()[0] == "done\n"
    assert (folder / "out").read_text() == "xxx"
    assert json.loads((folder / RECORD).read_text())["outputs"].keys() == {"out"}


def test_two_processes_do_not_run_one_stage_at_a_time(tmp_path):
    """The second waits, and then finds it done."""
    first = slow(tmp_path, 0.5)
    until(lambda: any(tmp_path.glob("slow-*/steps")))
    second = slow(tmp_path, 0)
    assert first.communicate()[0] == "done\n"
    assert second.communicate()[0] == "elsewhere\n"
    (folder,) = tmp_path.glob("slow-*")
    assert (folder / "out").read_text() == "xxx"


def test_what_was_begun_from_other_inputs_is_thrown_away(tmp_path):
    """An unfinished folder is gone on with only if what it read is what there is now."""

    def run(work):
        had = (work.folder / "part").exists()
        (work.folder / "part").write_text("")
        (work.folder / "out").write_text(str(had))

    stages, stage = Stages(tmp_path), Stage("parts", {}, run, ("out",))
    folder = stages.folder(stage)
    folder.mkdir()
    (folder / "part").write_text("")
    (folder / "begun.json").write_text('{"teacher": "other"}')
    assert perform(job(stages, stage)).state == "done"
    assert (folder / "out").read_text() == "False"


def test_a_stage_that_fits_nowhere_is_not_hidden_by_equal_ones(tmp_path):
    """Two stages of the same definition are one in a plan, whatever they are called."""

    def run(work):
        (work.folder / "out").write_text("")

    same = [Stage("same", {"a": 1}, run, ("out",), demand=Demand(2), title=title) for title in ("one", "two")]
    assert [planned.stage.name for planned in Stages(tmp_path).plan(same)] == ["one"]


def test_a_folders_hash_is_of_names_and_contents_and_is_remembered(tmp_path):
    """It changes with a name, a content or a new file, not with times; and a change of the same size is seen."""
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    (folder / "a").write_text("1")
    (folder / "sub/b").write_text("2")
    hashes = Hashes(tmp_path / "cache")
    first = hashes.of(folder)
    os.utime(folder / "a")
    assert hashes.of(folder) == first == Hashes(tmp_path / "elsewhere").of(folder)
    seen = {first}
    for change in (
        lambda: (folder / "a").write_text("3"),
        lambda: (folder / "a").rename(folder / "c"),
        lambda: (folder / "sub/d").write_text(""),
    ):
        change()
        seen.add(hashes.of(folder))
    assert len(seen) == 4
    (next((tmp_path / "cache").iterdir())).write_text("{broken")
    assert hashes.of(folder) in seen
