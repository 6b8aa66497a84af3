"""Writes what a run writes to a disk that is full, then with room again, and says how that ends; for a namespace of its
own.

``full_disk_writes.py FOLDER index|shard|artifact|plain``: a disk of 8 MiB is mounted at ``FOLDER``. ``plain`` is the
control: a shard written in place, as libraries do.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

MIB = 8


def fill(disk: Path, leave: int) -> Path:
    """A file that takes all room but so many bytes."""
    there = os.statvfs(disk)
    filler = disk / "filler"
    with filler.open("wb") as file:
        file.write(bytes(max(0, there.f_bavail * there.f_frsize - leave)))
    return filler


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def rows(step: int):
    """A shard of pairs that cannot be labelled, some 2 MiB of reasons that do not compress."""
    from xmtl_ray.data.pseudo_labels import LabelledPair

    return [
        LabelledPair(f"{step}-{number}", "a.jpg", "", ("a",), (), (), os.urandom(4000).hex()) for number in range(250)
    ]


def shard(disk: Path) -> dict[str, object]:
    """Of pseudo-labels, in Parquet."""
    from xmtl_ray.data import pseudo_labels

    store = disk / "store"
    pseudo_labels.commit(store, "1" * 64, rows(1))
    filler, error = fill(disk, 300_000), None
    try:
        pseudo_labels.commit(store, "2" * 64, rows(2))
    except ValueError as found:
        error = str(found)
    left = names(store)
    filler.unlink()
    pseudo_labels.commit(store, "2" * 64, rows(2))
    counts = [len(pseudo_labels.read_shard(pseudo_labels.shard_path(store, key * 64))) for key in "12"]
    return {"error": error, "left": left, "loadable": counts[0] == 250, "afterwards": counts == [250, 250]}


def plain(disk: Path) -> dict[str, object]:
    """The same, in place."""
    from xmtl_ray.data import parquet
    from xmtl_ray.data.pseudo_labels import LabelledPair

    store = disk / "store"
    store.mkdir()
    fill(disk, 300_000)
    try:
        parquet.write(store / "shard.parquet", LabelledPair, rows(1))
    except OSError as found:
        return {"error": str(found), "left": names(store)}
    raise AssertionError("it took everything")


def index(disk: Path) -> dict[str, object]:
    """``attempt.json`` of a run's checkpoints, which every start writes anew."""
    from pyarrow import fs

    from xmtl_ray.training.checkpoints import STATE, CheckpointStore
    from xmtl_ray.training.retries import StoreFull

    part = disk.parent / "part"
    part.mkdir()
    (part / "weights").write_bytes(bytes(200_000))

    def store() -> CheckpointStore:
        return CheckpointStore(fs.LocalFileSystem(), str(disk / "run"), "score", keep=2, pause_s=60)

    first = store()
    place = first.start(1)
    name = first.commit(place, 1, {"score": 0.0}, 1, [first.write(place, part)])
    filler, error = fill(disk, 0), None
    try:
        store().begin()
    except StoreFull as found:
        error = str(found)
    left = [one for one in names(disk / "run") if not one.startswith(name)]
    state = json.loads((disk / "run" / STATE).read_text())
    loadable = store().newest() == name and state["attempt"] == 1
    filler.unlink()
    later = store()
    later.begin()
    return {"error": error, "left": left, "loadable": loadable, "afterwards": later.attempt == 2}


def artifact(disk: Path) -> dict[str, object]:
    """Of an MLflow run whose artifacts are on that disk; its journal and database are not."""
    from mlflow import MlflowClient

    from xmtl_ray.tracking.run import Run, Unsent, sync

    folder, uri = disk.parent / "run", f"sqlite:///{disk.parent}/mlflow.db"
    (disk.parent / "mlartifacts").symlink_to(disk)
    run = Run(folder, uri, "experiment", "run", interval_s=0.01)
    (folder / "scores.json").write_text("{}")
    (folder / "model").mkdir()
    (folder / "model" / "weights").write_bytes(bytes(2_000_000))
    run.journal.metrics(1, {"x": 1.0})
    run.journal.artifact("scores.json")
    run.close()
    there, filler, error = names(disk), fill(disk, 300_000), None
    run = Run(folder, uri, "experiment", "run", interval_s=0.01)
    run.journal.metrics(2, {"x": 2.0})
    run.journal.artifact("model")
    run.journal.metrics(3, {"x": 3.0})
    run.journal.status("FINISHED")
    run.close()
    try:
        sync(folder)
    except Unsent as found:
        error = str(found)
    left = [name for name in names(disk) if name not in {*there, "filler"}]
    filler.unlink()
    sync(folder)
    client = MlflowClient(uri)
    run_id = json.loads((folder / "mlflow.json").read_text())["run_id"]
    arrived = {item.path for item in client.list_artifacts(run_id)} == {"scores.json", "model"}
    points = [point.step for point in client.get_metric_history(run_id, "x")]
    sizes = [item.file_size for item in client.list_artifacts(run_id, "model")]
    whole = arrived and points == [1, 2, 3] and sizes == [2_000_000]
    return {"error": error, "left": left, "loadable": bool(there), "afterwards": whole, "points": points}


if __name__ == "__main__":
    place = Path(sys.argv[1]) / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={MIB}m", "tmpfs", str(place)], check=True)
    print(json.dumps({"index": index, "shard": shard, "artifact": artifact, "plain": plain}[sys.argv[2]](place)))
