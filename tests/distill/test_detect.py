"""Detection as a Ray Data job: what goes in comes out or is quarantined, once, whoever is killed meanwhile."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import processes
import pytest

from xmtl_ray.data import m2e2, objects
from xmtl_ray.data.detectors import DetectorError
from xmtl_ray.distill.detect import DetectionError, detect
from xmtl_ray.events.records import DataError

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(world, tmp_path_factory):
    """The world's test images with two duplicates, a broken one, a link that leads out and a file of another kind."""
    folder = tmp_path_factory.mktemp("images")
    for image in sorted((world / "m2e2" / "image").iterdir())[:12]:
        shutil.copy(image, folder)
    first, second, third, *_ = sorted(folder.iterdir())
    shutil.copy(first, folder / "copy_1.jpg")
    shutil.copy(second, folder / "copy_2.jpg")
    shutil.copy(third, folder / f"{third.stem}.png")
    (folder / "cut_1.jpg").write_bytes(first.read_bytes()[:500])
    (folder / "link_1.jpg").symlink_to("/etc/hostname")
    (folder / "notes.txt").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def store(cluster, folder, yolo, tmp_path_factory):
    """A store filled by an undisturbed run, and its counts."""
    path = tmp_path_factory.mktemp("store")
    return path, detect(folder, f"yolo:{yolo[0]}", path, shard=8)


def contents(path) -> list[str]:
    """The content of each row of each shard."""
    import pyarrow.parquet as pq

    return [row for shard in path.glob("detections/*/*.parquet") for row in pq.read_table(shard)["sha256"].to_pylist()]


def test_rows_in_are_rows_out_and_quarantined(store, folder):
    """Each image has detections or a reason; of one content or one id the first counts; other files are no rows."""
    path, counts = store
    files = [file for file in folder.iterdir() if file.suffix in {".jpg", ".png"}]
    found = objects.read(path)
    reasons = {row["image"]: row["reason"] for row in map(json.loads, (path / objects.QUARANTINE).open())}
    twice = next(file.name for file in folder.iterdir() if file.suffix == ".png")
    assert set(reasons) == {"cut_1.jpg", "link_1.jpg", twice} or set(reasons) == {
        "cut_1.jpg", "link_1.jpg", twice.replace(".png", ".jpg")
    }  # fmt: skip
    assert len(files) == counts.images == counts.detected + counts.quarantined == len(found) + len(reasons)
    assert counts.duplicates == 3 and counts.new == len(files) - 3 - 1
    assert len(contents(path)) == len(set(contents(path))) == counts.new
    first, *_ = sorted(folder.glob("WORLD*.jpg"))
    assert found["copy_1"] == found[first.stem] and any(found.values())


def test_a_second_run_detects_nothing(store, folder, yolo):
    """No shard is written, nothing is read anew but hashes; what is read back is the same."""
    path, counts = store
    before = {shard: shard.stat().st_mtime_ns for shard in path.rglob("*.parquet") if "detections" in shard.parts}
    found = objects.read(path)
    again = detect(folder, f"yolo:{yolo[0]}", path, shard=8)
    assert (again.new, again.detected, again.quarantined) == (0, counts.detected, counts.quarantined)
    assert before == {shard: shard.stat().st_mtime_ns for shard in before}
    assert objects.read(path) == found


def test_documents_take_the_store(store, world):
    """The reader of documents gives each image what was found in it."""
    found = objects.read(store[0])
    images = [image for document in m2e2.read(world / "m2e2", objects=store[0]) for image in document.images]
    assert any(image.objects for image in images)
    assert all(image.objects == found.get(image.id, ()) for image in images)


def test_a_killed_driver_and_a_killed_actor(store, folder, yolo, cluster, tmp_path, record_property):
    """SIGKILL to a job after its first shard, then to the actor of the next: the end is that of an unbroken run.

    What whole shards hold is not detected again; nothing is lost, nothing there twice.
    """
    path, counts = store
    program = f"""
from pathlib import Path
from xmtl_ray.distill.detect import detect
tell = lambda done, of: print(done, flush=True)
detect(Path({str(folder)!r}), "yolo:{yolo[0]}", Path({str(tmp_path)!r}), shard=1, progress=tell)
"""
    environment = os.environ | {"RAY_ADDRESS": cluster["gcs_address"]}
    driver = subprocess.Popen([sys.executable, "-c", program], env=environment, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None and driver.stdout.readline() == "0\n" and driver.stdout.readline() == "1\n"
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    time.sleep(3)  # its actor dies a little later, and may still commit
    committed = set(contents(tmp_path))
    assert 0 < len(committed) < counts.new, "it was killed before its end"
    with pytest.raises(DataError, match=r"no objects.json"):
        objects.read(tmp_path)

    killed = []

    def kill(done: int, of: int) -> None:
        if done and not killed:
            killed.extend(processes.named("MapWorker"))
            processes.kill(killed)

    again = detect(folder, f"yolo:{yolo[0]}", tmp_path, shard=1, progress=kill)
    assert killed and again.new == counts.new - len(committed)
    record_property("tried", 2)
    record_property("survived", 2)
    record_property("rows_lost", len(objects.read(path).keys() - objects.read(tmp_path).keys()))
    assert sorted(contents(tmp_path)) == sorted(contents(path))
    assert objects.read(tmp_path) == objects.read(path)


def test_what_stops_a_job_is_told(cluster, folder, yolo, tmp_path):
    """Weights that cannot be built are named by the actor's own words; no folder, no such detector: before Ray."""
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(yolo[0].read_bytes().replace(b"Conv", b"Conq"))
    with pytest.raises(DetectionError, match="its architecture cannot be built"):
        detect(folder, f"yolo:{broken}", tmp_path / "store")
    with pytest.raises(DetectorError, match="expected an existing"):
        detect(folder, "yolo:/nowhere.pt", tmp_path / "store")
    with pytest.raises(DataError, match="expected a folder of image files"):
        detect(tmp_path / "nowhere", f"yolo:{yolo[0]}", tmp_path / "store")
