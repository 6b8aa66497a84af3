"""Signals to a run in one process: it leaves a checkpoint, says how it ended, and goes on as if nothing had been."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pyarrow import fs

from xmtl_ray.config.load import ConfigError, load
from xmtl_ray.tracking.journal import JOURNAL, Journal
from xmtl_ray.training import states, stopping
from xmtl_ray.training.run_lock import LOCK, Holder
from xmtl_ray.training.stopping import Stopped, interruptible


def command(world: Path, folder: Path) -> list[str]:
    return [
        sys.executable, "-m", "xmtl_ray", "train", "xmtl_smoke", "name=run", f"storage_path={folder}",
        f"data.root={world}", "data.test=null", "data.check=none", "cluster.workers=0", "tracking.enabled=false",
        "multitask.strategy=single", "multitask.tasks=[td]", "train.select=dev/trigger_f1", "train.epochs=3",
        "train.global_batch=40", "model.built_text.dropout=0.1",
    ]  # fmt: skip


def lines(folder: Path) -> list[dict]:
    path = folder / "run" / JOURNAL
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")] if path.exists() else []


def losses(folder: Path) -> dict[int, list[float]]:
    """Every loss that was logged for a step: one, unless it was done again."""
    found: dict[int, list[float]] = {}
    for line in lines(folder):
        if "train/loss" in line.get("metrics", {}):
            found.setdefault(line["step"], []).append(line["metrics"]["train/loss"])
    return found


def statuses(folder: Path) -> list[str]:
    return [line["status"] for line in lines(folder) if "status" in line]


def test_a_run_that_is_told_to_stop_leaves_a_checkpoint_and_goes_on_exactly(world, tmp_path, record_property):
    """SIGTERM, then Ctrl-C, each in mid-epoch: status KILLED, no step is done twice, and every loss is that of a run
    never stopped."""
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(command(world, whole), check=True, capture_output=True)
    expected = losses(whole)
    for number in (signal.SIGTERM, signal.SIGINT):
        begun = max(losses(broken), default=0)
        process = subprocess.Popen(command(world, broken), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        end = time.monotonic() + 240
        while max(losses(broken), default=0) < begun + 3:
            assert process.poll() is None and time.monotonic() < end, process.communicate()
            time.sleep(0.02)
        process.send_signal(number)
        told = process.communicate()[0]
        assert process.returncode == 128 + number, told
        assert "with a checkpoint; the same command goes on from there" in told
        last = max(losses(broken))
        assert max((broken / "run/checkpoints").glob("checkpoint_*")).name.endswith(f"_s{last:08d}")
        assert statuses(broken)[-1] == "KILLED"
        assert not (broken / "run" / LOCK).exists()
    assert last < max(expected), "it was stopped before its end"
    subprocess.run(command(world, broken), check=True, capture_output=True)
    record_property("tried", 2)
    record_property("survived", 2)
    record_property("losses_differing", sum(losses(broken).get(step) != each for step, each in expected.items()))
    record_property("steps_redone", sum(len(each) - 1 for each in losses(broken).values()))
    record_property("runs_left_running", int(statuses(broken)[-1] == "RUNNING"))
    assert losses(broken) == expected
    assert statuses(broken) == ["RUNNING", "KILLED", "RUNNING", "KILLED", "RUNNING", "FINISHED"]


def test_who_does_not_stop_in_time_is_left(tmp_path):
    """A worker that hangs: its driver goes when the time is over, and has left the mark."""
    with pytest.raises(Stopped) as stopped:
        interruptible(lambda: raised(60), fs.LocalFileSystem(), str(tmp_path), grace_s=0.5, apart=True)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert (tmp_path / stopping.MARK).exists()


def raised(seconds: float) -> None:
    """Signals its own process, and goes on."""
    signal.raise_signal(signal.SIGTERM)
    time.sleep(seconds)


def test_the_mark_of_the_driver_reaches_rank_0(tmp_path):
    """The file sets the flag within a second or two; the next start begins without either."""
    filesystem = fs.LocalFileSystem()
    with stopping.watching(filesystem, str(tmp_path)):
        assert not stopping.ASKED
        (tmp_path / stopping.MARK).touch()
        end = time.monotonic() + 60
        while not stopping.ASKED:
            assert time.monotonic() < end
            time.sleep(0.05)
    assert interruptible(lambda: bool(stopping.ASKED), filesystem, str(tmp_path), 1, apart=True) == (False, None)
    assert not (tmp_path / stopping.MARK).exists()


def test_runs_whose_driver_died_are_ended_by_the_next(tmp_path, record_property):
    """RUNNING in the journal, and a lock whose process is gone: KILLED; one whose driver lives elsewhere is left."""
    for name, holder in (("dead", Holder("h", "m", 1, "1", "then", "t")), ("alive", Holder("h", "m", 1, "1", "", "t"))):
        journal = Journal(tmp_path / name)
        journal.status("RUNNING")
        journal.close()
        (tmp_path / name / LOCK).write_text(json.dumps(vars(holder)))
    stale = time.time() - 100
    os.utime(tmp_path / "dead" / LOCK, (stale, stale))
    states.reap(str(tmp_path))
    found = {name: [json.loads(line)["status"] for line in (tmp_path / name / JOURNAL).read_text().splitlines()]
             for name in ("dead", "alive")}  # fmt: skip
    record_property("runs_left_running", int(found["dead"][-1] == "RUNNING"))
    assert found == {"dead": ["RUNNING", "KILLED"], "alive": ["RUNNING"]}


def test_workers_that_come_and_go_are_refused():
    """With the reason, and what to do instead."""
    with pytest.raises(ConfigError, match="give the same command with another number"):
        load("xmtl_smoke", ["cluster.workers=[1,2]"])
