"""What workers run in tests of faults: ours, with a fault in it that happens at a chosen moment, once.

What has happened is told by files in the run's folder, which outlive a worker: ``fault_N.json`` is written by who
ends itself, just before, with the step, the time and the newest checkpoint that there is then.
"""

import json
import os
import signal
import time
from pathlib import Path

from ray_runs import committed

POINTS = ("before a step", "within a step", "within a report", "after a report")
KILLS = [(point, rank) for point in POINTS for rank in (0, 1)]
"""Where, and which rank, in the order in which it happens."""
FIRST, EVERY = 5, 11
"""Steps of the first kill and between two: even and odd ones, within epochs and near their ends."""
SKIPS = 2
"""Reports that rank 1 leaves out, each at another start."""


def faults(folder: Path) -> list[dict]:
    """Those that have happened, in their order."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("run/fault_*.json"))]


def _note(folder: Path, number: int, step: int) -> bool:
    """Whether this is the first time that fault ``number`` happens."""
    told = {"step": step, "time": time.time(), "committed": committed(folder), "pid": os.getpid()}
    try:
        held = os.open(folder / "run" / f"fault_{number:02d}.json", os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return False
    os.write(held, json.dumps(told).encode())
    os.fsync(held)
    os.close(held)
    return True


def dying(settings):
    """Runs in each worker: ours, which ends itself by SIGKILL at each of ``KILLS`` in turn."""
    import ray.train

    from xmtl_ray.training import checkpoints, loop, worker

    rank, folder = ray.train.get_context().get_world_rank(), Path(settings["storage_path"])
    at = {"step": 0}

    def reached(point: str) -> None:
        number = len(faults(folder))
        if number < len(KILLS) and KILLS[number] == (point, rank) and at["step"] >= FIRST + EVERY * number:
            _note(folder, number, at["step"])
            os.kill(os.getpid(), signal.SIGKILL)

    plain_step, plain_restore, plain_total = loop._Run.step, loop._Run.restore, loop.total_loss
    plain_write, plain_report = checkpoints.CheckpointStore.write, worker.RayContext.report

    def step(self, *arguments):
        reached("before a step")
        found = plain_step(self, *arguments)
        at["step"] += 1
        return found

    def restore(self):
        position = plain_restore(self)
        at["step"] = position.step
        return position

    def total_loss(*arguments):
        found = plain_total(*arguments)
        reached("within a step")
        return found

    def write(self, *arguments):
        found = plain_write(self, *arguments)
        reached("within a report")
        return found

    def report(self, *arguments):
        plain_report(self, *arguments)
        reached("after a report")

    loop._Run.step, loop._Run.restore, loop.total_loss = step, restore, total_loss
    checkpoints.CheckpointStore.write, worker.RayContext.report = write, report
    return worker.train_worker(settings)


def skipping(settings):
    """Runs in each worker: ours, whose rank 1 leaves the first report out at the first ``SKIPS`` starts."""
    import ray.train

    from xmtl_ray.training import worker

    rank, folder = ray.train.get_context().get_world_rank(), Path(settings["storage_path"])
    plain = worker.RayContext.report
    left = [1] if rank == 1 and len(faults(folder)) < SKIPS else []

    def report(self, metrics, checkpoint):
        if left:
            left.pop()
            _note(folder, len(faults(folder)), int(metrics["step"]))
            return
        plain(self, metrics, checkpoint)

    worker.RayContext.report = report
    return worker.train_worker(settings)
