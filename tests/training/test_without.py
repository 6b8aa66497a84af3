"""Negative controls: the same faults without the mechanism that prevents the loss. Each must show it, else the tests of
the mechanism could not fail."""

import json
import shutil
import subprocess
import sys

import pytest
import torch
from pyarrow import fs
from ray_runs import starts, statuses
from test_checkpoints import HERE, Stuttering, commit
from test_loop import run

from xmtl_ray.config.load import ConfigError, load
from xmtl_ray.training import loop, retries
from xmtl_ray.training.checkpoints import CheckpointStore
from xmtl_ray.training.retries import CheckpointError


def forget_generators(monkeypatch):
    monkeypatch.setattr(torch, "set_rng_state", lambda state: None)


def forget_weighting(monkeypatch):
    plain = loop._Run.restore

    def restore(self):
        fresh = self.learner.weighting.state()
        position = plain(self)
        self.learner.weighting.load(fresh)
        return position

    monkeypatch.setattr(loop._Run, "restore", restore)


def forget_place(monkeypatch):
    plain = loop._Run.restore

    def restore(self):
        position = plain(self)
        position.step_in_epoch -= 1
        return position

    monkeypatch.setattr(loop._Run, "restore", restore)


@pytest.mark.parametrize(
    ("forget", "overrides"),
    [
        (forget_generators, ["model.shared.dropout=0.1"]),
        pytest.param(
            forget_weighting,
            ["multitask.weighting.name=dwa", "multitask.weighting.interval=steps:2"],
            marks=pytest.mark.long,
        ),
        pytest.param(forget_place, [], marks=pytest.mark.long),
    ],
    ids=["random generators", "weights of the losses", "place in the data"],
)
def test_a_resumption_without_it_is_another_run(tiny, tmp_path, monkeypatch, record_property, forget, overrides):
    """F2: generators, DWA's past or the place in the epoch not put back: losses differ, though all else is restored."""
    text = ["multitask.tasks=[td,ae]", "train.select=dev/trigger_f1", "train.global_batch=32"]
    config = tiny("train.epochs=1", "train.checkpoint_every_steps=3", *text, *overrides)
    unbroken, _, _ = run(config, tmp_path / "unbroken")
    before, _, _ = run(config, tmp_path / "broken", stop_at=7)
    shutil.copytree(tmp_path / "broken", tmp_path / "same")
    after, _, _ = run(config, tmp_path / "same")
    assert min(after) == 7 and {**before, **after} == unbroken, "with it, it is the same run"
    forget(monkeypatch)
    after, _, _ = run(config, tmp_path / "broken")
    differing = sum(after[step] != unbroken.get(step) for step in after)
    record_property("control.losses_differing", differing)
    assert differing > 0


def test_a_fixed_name_is_not_offered():
    """F7: no setting gives checkpoints a name; theirs have the start and the step."""
    with pytest.raises(ConfigError, match="checkpoint_dir_name"):
        load("xmtl_smoke", ["train.checkpoint_dir_name=last"])


def test_a_fixed_name_is_torn(tmp_path, record_property):
    """F7: copying each checkpoint to one and the same name, as `checkpoint_dir_name` of Ray's does, and SIGKILLs."""
    line = [sys.executable, str(HERE / "killed_commits.py"), str(tmp_path / "fixed"), "12", "fixed"]
    counts = json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
    record_property("control.torn_checkpoints_accepted", counts["torn"])
    assert counts["torn"] > 0


def test_without_a_second_try_a_moment_ends_it(tmp_path, monkeypatch, record_property):
    """F11: one failure that would have passed ends the run."""
    monkeypatch.setattr(retries, "TRIES", 1)
    handler = Stuttering()
    store = CheckpointStore(fs.PyFileSystem(handler), "bucket/run", "score", 1, pause_s=0)
    store.begin()
    handler.failures = 1
    with pytest.raises(CheckpointError, match="SLOW_DOWN"):
        commit(store, 1, tmp_path / "part")
    record_property("control.commits_lost", 1)


UNLOCKED = """
import contextlib, sys
from xmtl_ray.training import launch
if sys.argv.pop(1) == "unlocked":
    launch.held = lambda *_: contextlib.nullcontext(False)
from xmtl_ray.cli.main import main
import xmtl_ray.training.worker  # takes longer than all that follows
sys.argv[0] = "xmtl"
print("ready", flush=True)
sys.stdin.readline()
main()
"""


def two_drivers(world, folder, lock: str) -> list[tuple[subprocess.Popen, str]]:
    """Two real runs of one name, begun together, and what they have told once both have ended."""
    line = [
        sys.executable, "-c", UNLOCKED, lock, "train", "xmtl_smoke", "name=run", f"storage_path={folder}",
        f"data.root={world}", "data.test=null", "data.check=none", "cluster.workers=0", "tracking.enabled=false",
        "multitask.strategy=single", "multitask.tasks=[td]", "train.select=dev/trigger_f1", "train.epochs=2",
        "train.global_batch=16",
    ]  # fmt: skip
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    begun = [subprocess.Popen(line, **pipes, text=True) for _ in range(2)]
    for process in begun:
        while process.stdout.readline() != "ready\n":
            assert process.poll() is None
    for process in begun:
        process.stdin.write("\n")
        process.stdin.flush()
    return [(process, process.communicate(timeout=400)[0]) for process in begun]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("lock", ["locked", "unlocked"])
def test_two_drivers_of_one_run(world, tmp_path, record_property, lock):
    """F5: one goes on, the other is refused; the control is without the lock: both go on, in one journal."""
    ended = two_drivers(world, tmp_path, lock)
    lines = [line["step"] for begin in starts(tmp_path) for line in begin]
    doubled = len(lines) - len(set(lines))
    if lock == "unlocked":
        record_property("control.interleaved_writes", doubled)
        together = statuses(tmp_path)[:2].count("RUNNING") - 1
        record_property("control.drivers_too_many", together)
        assert together == 1, "whether they do the same steps at once depends on how busy the machine is"
        return
    record_property("interleaved_writes", doubled)
    (first, _), (second, told) = sorted(ended, key=lambda one: one[0].returncode)
    assert (first.returncode, second.returncode) == (0, 2), ended
    assert f"driven by pid {first.pid} " in " ".join(told.split())
    assert doubled == 0 and lines == sorted(lines)
