"""F10: a disk that is full while a run writes to it, each time with room again afterwards."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def on_a_small_disk(tmp_path, what: str) -> dict:
    """What ``full_disk_writes`` says."""
    namespace = ["unshare", "-rm", "--"]
    if shutil.which("unshare") is None or subprocess.run([*namespace, "true"], check=False).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    line = [*namespace, sys.executable, str(HERE / "full_disk_writes.py"), str(tmp_path), what]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("what", "told", "left"),
    [
        ("index", "run/.attempt.json: no room for 64 B (0 B free): No space left on device", {"attempt.json"}),
        ("shard", "'No space left on device after ", {f"shards/{'1' * 64}.parquet"}),
        pytest.param("artifact", "later: xmtl sync ", set(), marks=pytest.mark.long),
    ],
)
def test_what_does_not_fit_is_told_and_removed(tmp_path, record_property, what, told, left):
    """The index of checkpoints, a shard of pseudo-labels, an artifact: one sentence with the path, no file that is not
    whole, what was there before is as it was; with room the same is done again, and all is there."""
    found = on_a_small_disk(tmp_path, what)
    record_property("partial_files_left", len(set(found["left"]) - left))
    assert str(tmp_path) in found["error"] and "No space left on device" in found["error"]
    if what != "artifact":  # what is to be done is told beside it
        assert told in found["error"]
    assert set(found["left"]) == left
    assert found["loadable"] and found["afterwards"]


def test_what_is_written_in_place_stays_half(tmp_path, record_property):
    """The control: Parquet as libraries write it leaves a file that nobody can read, which keeps the disk full."""
    found = on_a_small_disk(tmp_path, "plain")
    record_property("control.partial_files_left", len(found["left"]))
    assert found["left"] == ["shard.parquet"]
