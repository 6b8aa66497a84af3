"""Commits checkpoints in child processes that are killed at random moments, and says what a later start finds.

Run as a program: ``killed_commits.py FOLDER ROUNDS store|naive|fixed``; prints one JSON object. ``naive`` copies
every checkpoint to a name of its own, ``fixed`` all of them to the same. Only children touch pyarrow:
a process that has may not fork.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from pyarrow import fs

from xmtl_ray.training.checkpoints import CheckpointStore
from xmtl_ray.training.manifest import parse_name

FILES, BYTES = 8, 200_000
FIXED = "checkpoint_last"


def content(step: int, file: int) -> bytes:
    """Of a file, which only its step has."""
    return hashlib.sha256(f"{step} {file}".encode()).digest() * (BYTES // 32)


def whole(folder: Path, step: int) -> bool:
    """Whether all of a checkpoint is there, by another measure than its manifest."""
    files = [folder / f"part_{number}" for number in range(FILES)]
    return all(file.is_file() and file.read_bytes() == content(step, number) for number, file in enumerate(files))


def commit_for_ever(root: Path, kind: str, last: int, told: int) -> None:
    store = CheckpointStore(fs.LocalFileSystem(), str(root), "score", keep=2)
    if kind == "store":
        store.begin()
    names = sorted(path.name for path in root.glob("checkpoint_*"))
    step = max(last, 0) if kind == "fixed" else int(names[-1][-8:]) if names else 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        while True:
            step += 1
            for number in range(FILES):
                (folder / f"part_{number}").write_bytes(content(step, number))
            if kind != "store":
                name = f"checkpoint_a0001_s{step:08d}" if kind == "naive" else FIXED
                shutil.copytree(folder, root / name, dirs_exist_ok=True)
            else:
                place = store.start(step)
                store.commit(place, step, {"score": float(step)}, 1, [store.write(place, folder)])
            os.write(told, f"{step}\n".encode())


def judge(root: Path, kind: str, last: int) -> dict[str, int]:
    """What the next start would go on from: torn, or older than what was committed before the kill."""
    if kind != "store":
        names = sorted(path.name for path in root.glob("checkpoint_*"))
        name, unfinished, invalid = (names[-1] if names else None), 0, 0
    else:
        unfinished = len(list(root.glob(".partial_*")))
        store = CheckpointStore(fs.LocalFileSystem(), str(root), "score", keep=2)
        store.begin()
        name, invalid = store.newest(), len(store.invalid)
    if kind == "fixed":  # its name does not say of which step it is
        step = next((one for one in (last, last + 1) if name is not None and whole(root / name, one)), last)
    else:
        step = -1 if name is None else parse_name(name)[1]
    torn = name is not None and not whole(root / name, step)
    left = len(list(root.glob(".partial_*")))
    return {"torn": torn, "lost": step < last, "unfinished": unfinished, "left": left, "invalid": invalid}


def in_child(work) -> int:
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    return child


def main(root: Path, rounds: int, kind: str) -> dict[str, int]:
    drawn = random.Random(0)
    counts: dict[str, int] = {"kills": 0, "commits": 0}
    root.mkdir()
    out = root.parent / "judged.json"
    last = -1
    while counts["kills"] < rounds:
        read, write = os.pipe()
        child = in_child(lambda last=last, write=write: commit_for_ever(root, kind, last, write))
        os.close(write)
        time.sleep(drawn.uniform(0.02, 0.4))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        with os.fdopen(read, "rb") as file:
            steps = [int(line) for line in file.read().split()]
        last = max([last, *steps])
        counts["kills"] += 1
        counts["commits"] += len(steps)
        os.waitpid(in_child(lambda last=last: out.write_text(json.dumps(judge(root, kind, last)))), 0)
        for name, value in json.loads(out.read_text()).items():
            counts[name] = counts.get(name, 0) + int(value)
    return counts


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])))
