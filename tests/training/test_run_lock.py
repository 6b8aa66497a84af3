"""One driver for a run: real processes that hold, die, and come together."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import fs

from xmtl_ray.training import run_lock
from xmtl_ray.training.run_lock import LOCK, RunLocked, held

HOLDS = """
import sys, time
from pyarrow import fs
from xmtl_ray.training.run_lock import RunLocked, held
sys.stdin.readline()
try:
    with held(fs.LocalFileSystem(), sys.argv[1], beat_s=0.1) as earlier_died:
        print("died" if earlier_died else "held", flush=True)
        time.sleep(60)
except RunLocked as error:
    print(error, flush=True)
"""


@pytest.fixture
def begin(tmp_path):
    """Starts a process that tries for the lock once it is told, and holds it for a minute."""
    begun = []

    def one() -> subprocess.Popen[str]:
        line = [sys.executable, "-c", HOLDS, str(tmp_path / "run")]
        begun.append(subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return begun[-1]

    yield one
    for process in begun:
        process.kill()
        process.communicate()


def told(process: subprocess.Popen[str]) -> str:
    return process.stdout.readline().strip()


def go(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()


def test_a_second_driver_is_refused_until_the_first_dies(begin, tmp_path):
    """It is told host and pid; after SIGKILL to the holder the next one has it, and knows that one died."""
    first, second, third = begin(), begin(), begin()
    go(first)
    assert told(first) == "held"
    go(second)
    assert f"driven by pid {first.pid} on {socket.gethostname()} since 20" in told(second)
    first.kill()
    first.wait()
    go(third)
    assert told(third) == "died"
    third.kill()
    third.wait()
    with held(fs.LocalFileSystem(), str(tmp_path / "run")):
        assert json.loads((tmp_path / "run" / LOCK).read_text())["pid"] == os.getpid()
    assert not (tmp_path / "run" / LOCK).exists()


def test_of_several_that_begin_together_one_has_it(begin, tmp_path):
    """Five at once, after one that died: one holds, four are refused, all by its pid."""
    dead = begin()
    go(dead)
    assert told(dead) == "held"
    dead.kill()
    dead.wait()
    processes = [begin() for _ in range(5)]
    go(*processes)
    answers = {process.pid: told(process) for process in processes}
    (winner,) = [pid for pid, answer in answers.items() if answer == "died"]
    assert sum(f"driven by pid {winner} " in answer for answer in answers.values()) == 4


def test_who_is_taken_over_alive_stops(begin, tmp_path):
    """Another's name in the file: the process sends itself SIGTERM, and leaves the file to the other."""
    first = begin()
    go(first)
    assert told(first) == "held"
    other = run_lock.Holder("elsewhere", "m", 1, "1", "now", "t")
    (tmp_path / "run" / LOCK).write_text(json.dumps(asdict(other)))
    assert first.wait(30) == -signal.SIGTERM
    assert json.loads((tmp_path / "run" / LOCK).read_text())["host"] == "elsewhere"


@pytest.mark.parametrize(
    ("machine", "pid", "started", "age_s", "lives"),
    [
        ("here", None, "right", 1e6, True),
        ("here", None, "12345", 0, False),
        ("here", 2**22 + 1, "1", 0, False),
        ("elsewhere", 1, "1", 0, True),
        ("elsewhere", 1, "1", 59, True),
        ("elsewhere", 1, "1", 61, False),
    ],
)
def test_who_counts_as_gone(tmp_path, machine, pid, started, age_s, lives):
    """Here: no process of that number and start time, however old the file; elsewhere: no sign of life for 60 s."""
    pid = os.getpid() if pid is None else pid
    here = run_lock._machine() if machine == "here" else "another boot"
    started = run_lock._started(os.getpid()) if started == "right" else started
    path = tmp_path / LOCK
    path.write_text(json.dumps(asdict(run_lock.Holder("node7", here, pid, started, "then", "t"))))
    now = path.stat().st_mtime
    os.utime(path, (now - age_s, now - age_s))
    with ExitStack() as stack:
        if lives:
            stack.enter_context(pytest.raises(RunLocked, match=f"pid {pid} on node7 since then"))
        assert stack.enter_context(held(fs.LocalFileSystem(), str(tmp_path)))


def test_a_torn_file_is_nobodys(tmp_path):
    """What a machine left that lost its power in mid-write does not stand in the way."""
    (tmp_path / LOCK).write_text('{"host": "no')
    with held(fs.LocalFileSystem(), str(tmp_path)) as earlier_died:
        assert earlier_died


def test_a_run_behind_a_uri(monkeypatch):
    """There, too, a second driver is refused, and the file goes with the first."""
    monkeypatch.setattr(run_lock, "_SETTLES_S", 0)
    memory = MemoryFileSystem()
    memory.store, memory.pseudo_dirs = {}, [""]
    filesystem = fs.PyFileSystem(fs.FSSpecHandler(memory))
    with held(filesystem, "bucket/run"):
        with pytest.raises(RunLocked, match=f"pid {os.getpid()} "), held(filesystem, "bucket/run"):
            pass
        assert memory.exists(f"bucket/run/{LOCK}")
    assert not memory.exists(f"bucket/run/{LOCK}")
