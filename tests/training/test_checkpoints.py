"""Checkpoints: killed while they are written, tampered with, on a full disk, on a store that stutters."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from pyarrow import fs

from xmtl_ray.training import manifest as manifests
from xmtl_ray.training.checkpoints import CheckpointStore, NoValidCheckpoint
from xmtl_ray.training.manifest import MANIFEST, InvalidCheckpoint
from xmtl_ray.training.retries import TRIES, CheckpointError, StoreFull

HERE = Path(__file__).parent


def local(root: Path, keep: int = 10) -> CheckpointStore:
    return CheckpointStore(fs.LocalFileSystem(), str(root), "score", keep, pause_s=0)


def files_of(step: int, folder: Path) -> Path:
    """A rank's files."""
    for name in ("model/weights", "generators_0", "generators_1"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{name} at {step}")
    return folder


def commit(store: CheckpointStore, step: int, folder: Path, score: float = 0.0) -> str:
    place = store.start(step)
    return store.commit(place, step, {"score": score}, 2, [store.write(place, files_of(step, folder))])


def held(store: CheckpointStore, name: str) -> str:
    with store.opened(name) as folder:
        return (folder / "model/weights").read_text()


def test_the_best_and_the_last_are_kept(tmp_path):
    """Scores 3, 1, 2, 0 with two kept: the first and third are the best, the fourth is last; the second is gone."""
    store = local(tmp_path / "run", keep=2)
    names = [commit(store, step, tmp_path / "part", score) for step, score in ((1, 3), (2, 1), (3, 2), (4, 0))]
    assert names[0] == "checkpoint_a0001_s00000001"
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint_*")) == [names[0], names[2], names[3]]
    assert store.newest() == names[3] and store.best("score") == names[0]
    assert held(store, names[3]) == "model/weights at 4"
    with pytest.raises(CheckpointError, match="there already"):
        commit(store, 4, tmp_path / "part")


def test_the_newest_is_the_one_committed_last(tmp_path):
    """A second start that goes back to step 1 and commits step 2 counts as newer than step 9 of the first."""
    first = local(tmp_path / "run")
    for step in (1, 9):
        commit(first, step, tmp_path / "part")
    second = local(tmp_path / "run")
    name = commit(second, 2, tmp_path / "part")
    assert name == "checkpoint_a0002_s00000002" == second.newest()
    with pytest.raises(CheckpointError, match="attempt 2 of this run has begun"):
        commit(first, 10, tmp_path / "part")
    assert second.newest() == name, "who was superseded commits nothing"


def edited(path: Path, change) -> None:
    """A manifest with ``change`` made to it and its own sum made right again."""
    raw = json.loads(path.read_text())
    del raw["sha256"]
    change(raw)
    path.write_text(json.dumps(raw | {"sha256": manifests._own_sum(raw)}))


def naming(path: str):
    """Names the weights by another path, and is otherwise right."""
    return lambda new, old: edited(
        new / MANIFEST, lambda raw: raw["files"].update({path: raw["files"].pop("model/weights")})
    )


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(bytes(content))


def swap(first: Path, second: Path) -> None:
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)


def linked(path: Path) -> None:
    path.rename(path.parent.parent / "elsewhere")
    path.symlink_to(path.parent.parent / "elsewhere")


TAMPERINGS = {
    "folder emptied": lambda new, old: [shutil.rmtree(new), new.mkdir()],
    "main file deleted": lambda new, old: (new / "model/weights").unlink(),
    "main file emptied": lambda new, old: (new / "model/weights").write_text(""),
    "file truncated": lambda new, old: os.truncate(new / "model/weights", 5),
    "one bit flipped": lambda new, old: flip(new / "model/weights"),
    "another step's file": lambda new, old: shutil.copy(old / "model/weights", new / "model/weights"),
    "files of two ranks swapped": lambda new, old: swap(new / "generators_0", new / "generators_1"),
    "a file more": lambda new, old: (new / "model/weights.pt").write_text("pickle"),
    "a file is a link": lambda new, old: linked(new / "generators_0"),
    "the folder is a link": lambda new, old: [new.rename(new.parent / "kept"), new.symlink_to(new.parent / "kept")],
    "manifest deleted": lambda new, old: (new / MANIFEST).unlink(),
    "manifest emptied": lambda new, old: (new / MANIFEST).write_text(""),
    "half a manifest": lambda new, old: os.truncate(new / MANIFEST, 100),
    "manifest of another step": lambda new, old: shutil.copy(old / MANIFEST, new / MANIFEST),
    "manifest edited": lambda new, old: (new / MANIFEST).write_text(
        (new / MANIFEST).read_text().replace('"score": 0.0', '"score": 9.0')
    ),
    "manifest is a list": lambda new, old: (new / MANIFEST).write_text("[1]"),
    "manifest nested without end": lambda new, old: (new / MANIFEST).write_text("[" * 100_000),
    "unknown format": lambda new, old: edited(new / MANIFEST, lambda raw: raw.update(format=2)),
    "absolute path": lambda new, old: naming(str(new.parent / "victim"))(new, old),
    "path out of the folder": naming("../victim"),
    "path with a backslash": naming("..\\victim"),
    "no size": lambda new, old: edited(new / MANIFEST, lambda raw: raw["files"]["generators_0"].pop("size")),
    "another run's": lambda new, old: edited(new / MANIFEST, lambda raw: raw.update(run="other")),
    "another step's folder": lambda new, old: [shutil.rmtree(new), shutil.copytree(old, new)],
}


@pytest.mark.parametrize("how", TAMPERINGS)
def test_a_checkpoint_that_was_tampered_with_is_passed_over(tmp_path, how, caplog, record_property):
    """The one before it is taken, which is told; nothing outside is read into or removed, whatever is kept."""
    root = tmp_path / "run"
    store = local(root)
    old, new = (commit(store, step, tmp_path / "part") for step in (1, 2))
    (root / "victim").write_text("model/weights at 2")
    TAMPERINGS[how](root / new, root / old)
    later = local(root, keep=1)
    later.begin()
    newest = later.newest()
    record_property("torn_checkpoints_accepted", int(newest != old))
    assert newest == old and held(later, old) == "model/weights at 1"
    assert len(later.invalid) == 1 and new in later.invalid[0]
    assert "the one before is tried" in caplog.text
    commit(later, 3, tmp_path / "part")
    assert (root / "victim").read_text() == "model/weights at 2"


@pytest.mark.parametrize("how", ["flipped", "deleted"])
def test_a_run_without_a_valid_checkpoint_does_not_begin_anew(tmp_path, how):
    """All damaged, or all gone although there were some: an error that names --fresh, not a run from zero."""
    store = local(tmp_path / "run")
    name = commit(store, 1, tmp_path / "part")
    if how == "flipped":
        flip(tmp_path / "run" / name / "model/weights")
    else:
        shutil.rmtree(tmp_path / "run" / name)
    later = local(tmp_path / "run")
    later.begin()
    with pytest.raises(NoValidCheckpoint, match="--fresh"):
        later.newest()


@pytest.mark.parametrize("content", [None, "", '{"attempt": 1, "ru', "[]", '{"attempt": "1", "run": 3}', "[" * 100_000])
def test_the_index_is_made_again_from_the_manifests(tmp_path, content):
    """``attempt.json`` gone, torn or foreign: the newest checkpoint is found all the same, and the count goes on."""
    store = local(tmp_path / "run")
    name = commit(store, 1, tmp_path / "part")
    index = tmp_path / "run" / "attempt.json"
    index.unlink() if content is None else index.write_text(content)
    later = local(tmp_path / "run")
    later.begin()
    assert later.newest() == name and later.attempt == 2 and later.run == store.run
    assert commit(later, 2, tmp_path / "part") == "checkpoint_a0002_s00000002"


def killed(folder: Path, kind: str) -> dict[str, int]:
    line = [sys.executable, str(HERE / "killed_commits.py"), str(folder / kind), "40", kind]
    return json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)


def test_kills_at_random_moments_tear_nothing(tmp_path, record_property):
    """40 SIGKILLs: no torn checkpoint is taken, none committed is lost, nothing unfinished stays; by mere copying
    some are torn, so the measure can tell."""
    counts = killed(tmp_path, "store")
    names = {"tried": "kills", "torn_checkpoints_accepted": "torn", "commits_lost": "lost", "orphans_left": "left"}
    for name, own in names.items():
        record_property(name, counts[own])
    record_property("survived", counts["kills"] - counts["torn"] - counts["lost"])
    assert counts["kills"] == 40 and counts["commits"] > 10
    assert counts["unfinished"] > 0, "some kills were within a commit"
    assert (counts["torn"], counts["lost"], counts["left"], counts["invalid"]) == (0, 0, 0, 0)
    naive = killed(tmp_path, "naive")["torn"]
    record_property("control.torn_checkpoints_accepted", naive)
    assert naive > 0


@pytest.mark.parametrize("limit", ["disk", "file size"])
def test_a_full_disk(tmp_path, limit, record_property):
    """Told at once with path and bytes; nothing of the one that failed is left; the one before it is whole."""
    line = [sys.executable, str(HERE / "full_disk.py"), str(tmp_path), "5" if limit == "disk" else "0"]
    if limit == "disk":
        namespace = ["unshare", "-rm", "--"]
        if shutil.which("unshare") is None or subprocess.run([*namespace, "true"], check=False).returncode:
            pytest.skip("this machine lets nobody mount a small disk")
        line = [*namespace, *line]
    found = json.loads(subprocess.run(line, check=True, capture_output=True, text=True).stdout)
    last = f"checkpoint_a0001_s{found['step'] - 1:08d}"
    partial = [name for name in found["left"] if name.startswith(".")]
    record_property("partial_files_left", len(partial))
    assert found["step"] > 1 and found["newest"] == last and not partial
    wanted = "976.6 KiB" if limit == "disk" else "1.7 MiB"
    assert f"no room for {wanted}" in found["error"] and str(tmp_path) in found["error"]


class Stuttering(fs.FSSpecHandler):
    """A store in memory, without renaming, as S3 is; some operations fail as often as it is told."""

    def __init__(self) -> None:
        memory = MemoryFileSystem()
        memory.store = {}
        memory.pseudo_dirs = [""]
        super().__init__(memory)
        self.failures, self.calls, self.error = 0, 0, OSError("SLOW_DOWN")

    def open_output_stream(self, path, metadata):
        self.calls += 1
        if self.failures:
            self.failures -= 1
            raise self.error
        return super().open_output_stream(path, metadata)


@pytest.fixture
def stuttering():
    handler = Stuttering()
    return handler, lambda: CheckpointStore(fs.PyFileSystem(handler), "bucket/run", "score", 1, pause_s=0)


def test_a_store_without_renaming(stuttering, tmp_path):
    """The manifest makes the checkpoint: without it a folder is none, and is swept by the next start."""
    handler, store = stuttering
    first = store()
    one = commit(first, 1, tmp_path / "part")
    place = first.start(2)
    first.write(place, files_of(2, tmp_path / "part"))
    assert first.newest() == one and handler.fs.exists(place)
    second = store()
    second.begin()
    assert not handler.fs.exists(place)
    assert second.newest() == one and held(second, one) == "model/weights at 1"
    two = commit(second, 3, tmp_path / "part", score=1)
    assert second.newest() == two and not handler.fs.exists(f"bucket/run/{one}"), "one is kept"
    with handler.fs.open(f"bucket/run/{two}/model/weights", "wb") as file:
        file.write(b"model/weights at 4")
    with pytest.raises(InvalidCheckpoint), second.opened(two):
        pass
    with pytest.raises(NoValidCheckpoint):
        store().newest()


def test_a_store_that_stutters_is_tried_again_and_not_for_ever(stuttering, tmp_path, record_property):
    """Two failures are passed over; one that stays ends it after five tries, with its words; no room at once."""
    handler, store = stuttering
    ours = store()
    ours.begin()
    handler.failures = 2
    assert commit(ours, 1, tmp_path / "part") == ours.newest()
    handler.failures, handler.calls = 10**6, 0
    with pytest.raises(CheckpointError, match=f"failed {TRIES} times, last with: SLOW_DOWN"):
        commit(ours, 2, tmp_path / "part")
    assert handler.calls == TRIES
    handler.error, handler.calls = OSError(errno.ENOSPC, "no space"), 0
    with pytest.raises(StoreFull, match="no room"):
        commit(ours, 3, tmp_path / "part")
    assert handler.calls == 1
    record_property("tried", 3)
    record_property("survived", 3)


@pytest.fixture(scope="module")
def s3():
    """An S3 server on loopback with a bucket."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    filesystem = fs.S3FileSystem(
        access_key="test", secret_key="test", region="us-east-1", scheme="http",
        endpoint_override=f"{host}:{port}", allow_bucket_creation=True,
    )  # fmt: skip
    filesystem.create_dir("bucket")
    yield filesystem
    server.stop()


def test_checkpoints_on_s3(s3, tmp_path):
    """The manifest comes last; what a killed start left is swept, what is damaged is passed over; one is kept."""

    def store() -> CheckpointStore:
        return CheckpointStore(s3, "bucket/runs/run/checkpoints", "score", 1, pause_s=0)

    first = store()
    one = commit(first, 1, tmp_path / "part")
    first.write(first.start(2), files_of(2, tmp_path / "part"))
    second = store()
    second.begin()
    assert second.newest() == one and held(second, one) == "model/weights at 1" and second.attempt == 2
    two = commit(second, 3, tmp_path / "part", score=-1)
    listed = s3.get_file_info(fs.FileSelector("bucket/runs/run/checkpoints"))
    assert {info.base_name for info in listed} == {one, two, "attempt.json"}
    with s3.open_output_stream(f"bucket/runs/run/checkpoints/{two}/generators_1") as file:
        file.write(b"generators_1 at 4")
    third = store()
    third.begin()
    assert third.newest() == one and len(third.invalid) == 1


def test_a_run_on_s3_has_one_driver(s3):
    """A second is refused; the next finds nothing in its way."""
    from xmtl_ray.training.run_lock import RunLocked, held

    with (
        held(s3, "bucket/runs/run"),
        pytest.raises(RunLocked, match=f"pid {os.getpid()} "),
        held(s3, "bucket/runs/run"),
    ):
        pass
    with held(s3, "bucket/runs/run") as earlier_died:
        assert not earlier_died
