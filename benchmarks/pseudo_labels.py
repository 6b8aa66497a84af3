"""How fast pairs are labelled, and what a sweep over thresholds costs: ``python benchmarks/pseudo_labels.py [PAIRS]``.

PAIRS (default 1024) of the miniature world are labelled by random teachers of the demo's size on a Ray cluster with two
CPUs, with 1 and 2 actors a stage. ``pairs/s`` is from the first finished shard to the last, so without the actors'
start; ``waiting`` is the share of their time, after they were ready, in which they had nothing to do. A sweep reads the
store and selects at 12 thresholds, and is compared with the quicker of the labellings.
"""

import json
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "distill"))

import sure_teachers

from xmtl_ray.cluster.connection import cluster, set_environment
from xmtl_ray.config.load import load
from xmtl_ray.config.schema import Thresholds
from xmtl_ray.data import pseudo_labels
from xmtl_ray.data.pseudo_selection import select
from xmtl_ray.data.world import write_world
from xmtl_ray.distill.pseudo_label import RUN, label
from xmtl_ray.report.pseudo_page import TRIED


def main(pairs: int) -> None:
    """Print the table and the sweep."""
    os.environ["OMP_NUM_THREADS"] = "1"
    set_environment()
    with tempfile.TemporaryDirectory() as folder, cluster(2):
        root = Path(folder)
        write_world(root / "world", 0, "small", pairs=pairs)
        sure_teachers.make(root / "world", root / "teachers", "xmtl_demo")
        teachers = [f"distill.teachers.{task}={root / 'teachers' / task}" for task in sure_teachers.TASKS]
        print(f"{'actors':>6} {'pairs/s':>8} {'seconds':>8} {'with roles':>10} {'waiting':>8}  by stage")
        quickest, hashes = float("inf"), set()
        for actors in (1, 2):
            settings = [f"data.root={root / 'world'}", "data.pairs.source=voa", f"distill.actors={actors}"]
            told: list[tuple[float, int]] = []
            store = root / f"store-{actors}"
            counts = label(
                load("xmtl_demo", [*settings, *teachers]),
                store,
                lambda done, of, told=told: told.append((time.monotonic(), done)),
            )
            (first, before), (last, after) = told[1], told[-1]
            rate = (after - before) / (last - first)
            share = counts.asked / counts.pairs
            stages = json.loads((store / RUN).read_text())["waiting_by_stage"]
            waited = ", ".join(f"{name} {value:.0%}" for name, value in stages.items())
            print(
                f"{actors:6} {rate:8.1f} {counts.seconds:8.1f} {share:10.0%} {counts.waiting:8.0%}  {waited}",
                flush=True,
            )
            quickest, hashes = min(quickest, counts.seconds), {*hashes, pseudo_labels.read_manifest(store).sha256}
        assert len(hashes) == 1, "the stores differ"
        start = time.monotonic()
        rows = list(pseudo_labels.stream(root / "store-1"))
        read = time.monotonic()
        kept = [len(select(rows, Thresholds(td=each, ae=each, vc=each, rc=each)).kept) for each in TRIED]
        end = time.monotonic()
        print(f"kept at {len(TRIED)} thresholds from {TRIED[0]:g} to {TRIED[-1]:g}: {kept[0]} to {kept[-1]} pairs")
        print(
            f"sweep: {end - read:.3f} s of filters after {read - start:.2f} s of reading; a labelling takes "
            f"{quickest / (end - start):.0f} times as long"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1024)
