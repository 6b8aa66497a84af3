"""F18's negative controls: what Ray Data by itself loses and doubles, with the faults of ``test_pseudo_label``."""

import os
import signal
import subprocess
import sys

import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.long, pytest.mark.timeout(900)]

ROWS, BLOCKS = 2000, 40
PROGRAM = """
import sys, time
import ray
ray.init(address="auto", log_to_driver=False)
def slow(row):
    time.sleep(0.01)
    return row
print("begins", flush=True)
ray.data.range({rows}, override_num_blocks={blocks}).map(slow).write_parquet(sys.argv[1], mode="append")
"""


def test_one_bad_row_takes_its_block_along(cluster, record_property):
    """With ``max_errored_blocks`` the job ends well, and fifty rows are gone for one; ours quarantines that one."""
    import ray
    from ray.data import DataContext

    def poisoned(row):  # within the test: workers do not find this file
        if row["id"] == 777:
            raise ValueError("poison")
        return row

    context = DataContext.get_current()
    before, context.max_errored_blocks = context.max_errored_blocks, 1
    try:
        rows = ray.data.range(ROWS, override_num_blocks=BLOCKS).map(poisoned).take_all()
    finally:
        context.max_errored_blocks = before
    lost = ROWS - 1 - len(rows)
    record_property("control.rows_lost", lost)
    assert lost == ROWS // BLOCKS - 1


def test_a_driver_killed_and_run_again_doubles_rows(cluster, tmp_path, record_property):
    """SIGKILL after the first files, then the same again in Ray's append mode: rows are there twice; ours commits a
    shard under its content's name."""
    out = tmp_path / "out"
    program = PROGRAM.format(rows=ROWS, blocks=BLOCKS)
    environment = os.environ | {"RAY_ADDRESS": cluster["gcs_address"]}
    line = [sys.executable, "-c", program, str(out)]
    driver = subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None and driver.stdout.readline() == "begins\n"
    while not list(out.glob("*.parquet")):
        assert driver.poll() is None
    driver.send_signal(signal.SIGKILL)
    driver.wait()
    subprocess.run(line, env=environment, check=True, capture_output=True)
    ids = [row for path in out.glob("*.parquet") for row in pq.read_table(path)["id"].to_pylist()]
    record_property("control.rows_doubled", len(ids) - len(set(ids)))
    assert len(ids) > len(set(ids)) == ROWS
