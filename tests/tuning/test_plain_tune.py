"""F17's negative control: what Tune alone forgets when its driver is killed."""

import signal
import subprocess
import sys
import time

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]

TRIALS, ITERATIONS = 2, 12
PROGRAM = f"""
import json, sys, tempfile, time
from pathlib import Path
import ray
from ray import tune
ray.init(num_cpus={TRIALS}, include_dashboard=False, log_to_driver=False)
folder = Path(sys.argv[1])
def trial(settings):
    begun = 0
    checkpoint = tune.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as there:
            begun = int((Path(there) / "done").read_text())
    for done in range(begun + 1, {ITERATIONS} + 1):
        with (folder / f"trial-{{settings['number']}}").open("a") as log:
            log.write(f"{{done}}\\n")
        time.sleep(0.7)
        with tempfile.TemporaryDirectory() as there:
            (Path(there) / "done").write_text(str(done))
            tune.report({{"count": done}}, checkpoint=tune.Checkpoint.from_directory(there))
if tune.Tuner.can_restore(str(folder / "plain")):
    tuner = tune.Tuner.restore(str(folder / "plain"), trainable=trial)
else:
    space = {{"number": tune.grid_search(list(range({TRIALS})))}}
    run = tune.RunConfig(name="plain", storage_path=str(folder))
    tuner = tune.Tuner(trial, param_space=space, run_config=run)
assert len(tuner.fit()) == {TRIALS}
"""


def logs(folder):
    """What each trial has begun, iteration by iteration."""
    return [[int(line) for line in path.read_text().split()] for path in sorted(folder.glob("trial-*"))]


def test_trials_at_work_begin_anew(tmp_path, record_property):
    """SIGKILL to the driver when each trial has made some checkpoints, then Tune's own restore: Tune writes down what
    it knows every ten seconds, and trials whose checkpoints it does not know begin with their first iteration."""
    line = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    driver = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    while min((max(log, default=0) for log in logs(tmp_path)), default=0) < 6 or len(logs(tmp_path)) < TRIALS:
        assert driver.poll() is None, "it ended by itself"
        time.sleep(0.05)
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    time.sleep(5)
    subprocess.run(line, check=True, capture_output=True)
    anew = sum(log.count(1) - 1 for log in logs(tmp_path))
    record_property("control.trials_from_zero", anew)
    assert anew > 0 and all(log[-1] == ITERATIONS for log in logs(tmp_path))
