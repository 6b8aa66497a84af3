"""Copies that all workers of a machine read: made once, whole, and gone afterwards, whoever was killed meanwhile."""

import os
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from pyarrow import fs

from xmtl_ray.training.checkpoints import CheckpointStore
from xmtl_ray.training.node_copies import copied
from xmtl_ray.training.retries import CheckpointError


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """The machine's temporary folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def folders(tmp_path):
    """Copies that are there."""
    return [path for path in tmp_path.glob("xmtl-*/*") if path.is_dir()]


def test_four_workers_have_one_copy_which_goes_with_the_last(tmp_path):
    """One fetches it while three wait; each reads all of it, also those that stay when others have gone."""
    fetched, together = [], threading.Barrier(4)

    def fetch(folder):
        fetched.append(folder)
        (folder / "a").write_text("all of it")

    def work(_):
        together.wait()
        with copied("checkpoint 1", fetch) as folder:
            together.wait()  # until all have it
            assert (folder / "a").read_text() == "all of it"
        return folder

    with ThreadPoolExecutor(4) as pool:
        places = set(pool.map(work, range(4)))
    assert len(places) == len(fetched) == 1
    assert folders(tmp_path) == []


def test_many_who_come_and_go_always_find_it_whole():
    """Two hundred readings by eight workers, which leave at any moment: a copy is never read while it goes."""

    def work(_):
        with copied("checkpoint 1", lambda folder: (folder / "a").write_text("x" * 1000)) as folder:
            return (folder / "a").read_text()

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(work, range(200))) == {"x" * 1000}


def test_a_copy_that_failed_is_tried_by_the_next(tmp_path):
    """Half of it is not taken for all of it."""

    def fail(folder):
        (folder / "a").write_text("half")
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"), copied("checkpoint 1", fail):
        raise AssertionError("never here")
    assert folders(tmp_path) == []
    with copied("checkpoint 1", lambda folder: (folder / "b").write_text("whole")) as folder:
        assert [path.name for path in folder.iterdir()] == ["b"]


def test_what_a_killed_worker_left_is_removed_by_the_next(tmp_path):
    """Its own copy is taken up; that of another checkpoint goes. One that is being read stays."""
    code = """
import os, sys, tempfile
from xmtl_ray.training.node_copies import copied
from xmtl_ray.training.retries import CheckpointError
tempfile.tempdir = sys.argv[1]
with copied(sys.argv[2], lambda folder: (folder / "a").write_text(sys.argv[2])):
    os.kill(os.getpid(), 9)
"""
    for what in ("checkpoint 1", "checkpoint 2"):
        assert subprocess.run([sys.executable, "-c", code, tmp_path, what], check=False).returncode == -9
    assert len(folders(tmp_path)) == 1, "the second has removed the first's"
    there = copied("checkpoint 2", lambda _: pytest.fail("it is there"))
    with there as two, copied("checkpoint 3", lambda folder: (folder / "a").write_text("3")):
        assert (two / "a").read_text() == "checkpoint 2" and len(folders(tmp_path)) == 2
    assert folders(tmp_path) == []


def test_a_folder_that_another_user_could_have_made_is_not_used(tmp_path):
    """A link, and one that all may write to."""
    own = tmp_path / f"xmtl-{os.getuid()}"
    (tmp_path / "elsewhere").mkdir()
    own.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="expected a folder of this user alone"), copied("x", lambda _: None):
        raise AssertionError("never here")
    own.unlink()
    own.mkdir()
    own.chmod(0o777)
    with pytest.raises(CheckpointError), copied("x", lambda _: None):
        raise AssertionError("never here")


def test_a_checkpoint_behind_a_uri_is_fetched_once_for_all_workers(tmp_path, monkeypatch):
    """Two workers open it at the same time; the store is read once for each file, after it was checked."""
    import buckets

    with buckets.server() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        buckets.make(environment, "copies")
        filesystem, root = fs.FileSystem.from_uri("s3://copies/run")
        store = CheckpointStore(filesystem, f"{root}/checkpoints", "dev/f1", 2)
        (tmp_path / "made").mkdir()
        (tmp_path / "made" / "weights").write_bytes(b"w" * 1000)
        place = store.start(7)
        name = store.commit(place, 7, {"dev/f1": 1.0}, 1, [store.write(place, tmp_path / "made")])
        gets, together = [], threading.Barrier(2)
        stores = [CheckpointStore(filesystem, f"{root}/checkpoints", "dev/f1", 2) for _ in range(2)]
        for one in stores:
            plain = one.files.get
            monkeypatch.setattr(one.files, "get", lambda *a, plain=plain: gets.append(a[0]) or plain(*a))

        def work(one):
            together.wait()
            with one.opened(name) as folder:
                together.wait()
                return (folder / "weights").read_bytes()

        with ThreadPoolExecutor(2) as pool:
            assert list(pool.map(work, stores)) == [b"w" * 1000] * 2
        assert len(gets) == 1 and Path(gets[0]).name == "weights"
    assert folders(tmp_path) == []
