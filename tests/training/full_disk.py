"""Commits checkpoints until the disk is full, and says how that ends; a program for a namespace of its own.

``full_disk.py FOLDER MIB``: a disk of that size is mounted there; 0: files may not be larger than half a MiB instead.
"""

import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

from pyarrow import fs

from xmtl_ray.training.checkpoints import CheckpointStore
from xmtl_ray.training.retries import StoreFull


def main(folder: Path, mib: int) -> dict[str, object]:
    if mib:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={mib}m", "tmpfs", str(folder)], check=True)
    store = CheckpointStore(fs.LocalFileSystem(), str(folder / "checkpoints"), "score", keep=100, pause_s=60)
    with tempfile.TemporaryDirectory() as temporary:
        for number in range(4):
            (Path(temporary) / f"part_{number}").write_bytes(bytes(250_000))
        for step in range(1, 10):
            if not mib and step == 3:
                (Path(temporary) / "part_0").write_bytes(bytes(1_000_000))
                resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
            place = store.start(step)
            try:
                store.commit(place, step, {"score": 0.0}, 1, [store.write(place, Path(temporary))])
            except StoreFull as error:
                store.discard(place)
                left = sorted(path.name for path in (folder / "checkpoints").iterdir())
                return {"step": step, "error": str(error), "newest": store.newest(), "left": left}
    raise AssertionError("it took everything")


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), int(sys.argv[2]))))
