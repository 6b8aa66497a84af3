"""F1: a worker is killed, at every kind of moment and whatever its rank; the run goes on as if nothing had been."""

import killed_workers
import pytest
from killed_workers import KILLS
from ray_runs import committed, differing, losses, recovery_s, redone, settings_of, starts, statuses

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)]

EVERY = 2
"""Steps between two checkpoints."""


def test_every_rank_killed_at_every_point(world, tmp_path, cluster, whole, nothing_stays, monkeypatch, record_property):
    """Eight SIGKILLs to one run: nothing that was committed is lost, at most two checkpoints' steps are done again, and
    every loss is that of the run that nothing happened to."""
    from xmtl_ray.config.load import load
    from xmtl_ray.training import launch, worker

    monkeypatch.setattr(worker, "train_worker", killed_workers.dying)
    limits = [f"cluster.max_failures={len(KILLS)}", f"train.checkpoint_every_steps={EVERY}"]
    launch.launch(
        load("xmtl_smoke", settings_of(world, tmp_path, "cluster.workers=2", "tracking.enabled=false", *limits))
    )
    faults = killed_workers.faults(tmp_path)
    begins = [lines[0]["step"] for lines in starts(tmp_path)[1:]]
    assert len(faults) == len(begins) == len(KILLS), "each killed it, and each time it went on"
    lost = [fault["committed"] - begin + 1 for fault, begin in zip(faults, begins, strict=True)]
    again = redone(tmp_path)
    record_property("tried", len(KILLS))
    record_property("survived", sum(not steps for steps in lost))
    record_property("committed_steps_lost", sum(max(0, steps) for steps in lost))
    record_property("steps_redone", max(again))
    record_property("losses_differing", differing(losses(tmp_path), whole))
    record_property("recovery_s", recovery_s(tmp_path, [fault["time"] for fault in faults]))
    assert lost == [0] * len(KILLS)
    assert max(again) <= 2 * EVERY
    assert losses(tmp_path) == whole
    assert statuses(tmp_path).count("FINISHED") == 1
    assert committed(tmp_path) == max(whole)
    assert not list((tmp_path / "run/checkpoints").glob(".partial_*"))
