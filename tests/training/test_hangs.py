"""F8: a worker that is stopped and one that skips a report: told by name within the limit, then begun again."""

import os
import subprocess
import time

import killed_workers
import psutil
import pytest
from ray_runs import command, differing, losses, recovery_s, settings_of, statuses, wait_for, workers_at_work

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(1800)]

LIMIT_S = 15


def stop_one(folder, beyond: int) -> float:
    """SIGSTOP to a worker when a step later than ``beyond`` is done; seconds until Ray has ended it."""
    wait_for(lambda: max(losses(folder), default=0) > beyond, 600)
    wait_for(lambda: len(workers_at_work()) == 2, 300)
    stopped = workers_at_work()[-1]
    stopped.suspend()
    begun = time.monotonic()
    wait_for(lambda: not psutil.pid_exists(stopped.pid), 20 * LIMIT_S)
    return time.monotonic() - begun


def test_a_stopped_worker_is_found_and_replaced(world, tmp_path, cluster, whole, nothing_stays, record_property):
    """SIGSTOP twice, with one failure allowed: first the run goes on, then it ends with the worker and the setting;
    the same command then ends it with the losses of a run that nothing happened to."""
    environment = os.environ | {"RAY_ADDRESS": cluster["gcs_address"]}
    limits = [f"cluster.worker_timeout_s={LIMIT_S}", "cluster.max_failures=1", "train.checkpoint_every_steps=5"]
    line = command(world, tmp_path, "cluster.workers=2", "tracking.enabled=false", *limits)
    driver = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    times, struck = [stop_one(tmp_path, 6)], time.time() - LIMIT_S
    times.append(stop_one(tmp_path, max(losses(tmp_path)) + 6))
    told, _ = driver.communicate(timeout=600)
    assert driver.returncode == 2, told
    told = " ".join(told.split())
    assert f"no answer for {LIMIT_S} s (cluster.worker_timeout_s)" in told
    assert statuses(tmp_path)[-1] in {"KILLED", "FAILED"}
    subprocess.run(line, env=environment, check=True)
    record_property("tried", 2)
    record_property("survived", 2)
    record_property("detection_s", [round(one, 1) for one in times])
    record_property("recovery_s", recovery_s(tmp_path, [struck]))
    record_property("losses_differing", differing(losses(tmp_path), whole))
    assert losses(tmp_path) == whole


def test_by_rays_own_limit_it_is_not_found(world, tmp_path, cluster, nothing_stays, record_property):
    """The control: with the ten minutes that Ray gives a worker nothing is noticed in three times as long."""
    environment = os.environ | {"RAY_ADDRESS": cluster["gcs_address"]}
    limits = ["cluster.worker_timeout_s=600", "train.checkpoint_every_steps=5"]
    line = command(world, tmp_path, "cluster.workers=2", "tracking.enabled=false", *limits)
    driver = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    wait_for(lambda: max(losses(tmp_path), default=0) > 6, 600)
    stopped = workers_at_work()[-1]
    stopped.suspend()
    before = losses(tmp_path)
    time.sleep(3 * LIMIT_S)
    unnoticed = driver.poll() is None and psutil.pid_exists(stopped.pid) and len(losses(tmp_path)) <= len(before) + 1
    record_property("control.hangs_unnoticed", int(unnoticed))
    driver.kill()
    driver.wait()
    stopped.kill()
    assert unnoticed


def test_a_skipped_report_is_found(world, tmp_path, cluster, whole, nothing_stays, monkeypatch, record_property):
    """Rank 1 leaves a checkpoint out and goes on, at two starts, with one failure allowed: it is begun again, then
    it is told; the same command then ends it with the losses of a run that nothing happened to."""
    from xmtl_ray.config.load import load
    from xmtl_ray.training import launch, worker

    limits = [f"cluster.collective_timeout_s={LIMIT_S}", "cluster.max_failures=1", "train.checkpoint_every_steps=5"]
    config = load("xmtl_smoke", settings_of(world, tmp_path, "cluster.workers=2", "tracking.enabled=false", *limits))
    monkeypatch.setattr(worker, "train_worker", killed_workers.skipping)
    with pytest.raises(launch.TrainingError) as error:
        launch.launch(config)
    ended = time.time()
    assert statuses(tmp_path)[-1] == "FAILED"
    faults = killed_workers.faults(tmp_path)
    assert len(faults) == killed_workers.SKIPS
    print(error.value)
    assert "worker" in str(error.value)
    launch.launch(config)
    record_property("tried", 2)
    record_property("survived", 2)
    record_property("detection_s", [round(ended - faults[-1]["time"], 1)])
    record_property("losses_differing", differing(losses(tmp_path), whole))
    assert losses(tmp_path) == whole
