"""Checkpoints under DeepSpeed that fit any number of workers, and never make a run begin anew."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def losses(tmp_path_factory):
    """By start: two ranks; one that goes on from their third step; two that go on from its third; two, likewise."""
    folder = tmp_path_factory.mktemp("zero")

    def run(world: int, source: str, target: str) -> dict[str, list[float]]:
        line = [sys.executable, str(HERE / "zero_ranks.py"), str(folder)]
        ranks = [
            subprocess.Popen([*line, str(rank), str(world), source, target], stdout=subprocess.PIPE, text=True)
            for rank in range(world)
        ]
        printed = [rank.communicate()[0] for rank in ranks]
        assert not any(rank.returncode for rank in ranks)
        return json.loads(printed[0].splitlines()[-1])

    return {
        "two": run(2, "-", "a"),
        "one after two": run(1, "a", "b"),
        "two after one": run(2, "b", "c"),
        "two after two": run(2, "a", "d"),
    }, folder


@pytest.mark.parametrize("stage", ["0", "1", "2", "3"])
def test_another_number_of_workers_goes_on(losses, stage):
    """Two ranks, then one, then two: each start repeats the three losses that the one before went on to, to float
    tolerance; with the same number of ranks digit for digit."""
    found, _ = losses
    two, one, again = (found[name][stage] for name in ("two", "one after two", "two after one"))
    assert len(set(two)) == 6
    assert one[:3] == pytest.approx(two[3:], rel=1e-5)
    assert found["two after two"][stage][:3] == two[3:]
    assert again[:3] == pytest.approx(one[3:], rel=1e-5)


def test_the_files_are_plain_and_do_not_depend_on_the_number_of_ranks(losses):
    """Safetensors and JSON; two ranks and one write the same names."""
    _, folder = losses
    names = {start: sorted(path.name for path in (folder / start / "2").iterdir()) for start in ("a", "b")}
    assert names["a"] == names["b"] == ["step", "weights", "zero.json", "zero_00000.safetensors"]


def test_a_missing_part_is_an_error(losses):
    """Nothing is begun anew for want of a file."""
    _, folder = losses
    (folder / "a/2/zero_00000.safetensors").unlink()
    line = [sys.executable, str(HERE / "zero_ranks.py"), str(folder), "0", "1", "a", "e"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "zero_00000.safetensors" in done.stderr


def test_deepspeed_itself_begins_anew(tmp_path, record_property):
    """F19's control: without its file ``latest`` DeepSpeed loads nothing and raises nothing; the next step is the
    first."""
    program = """
import os, sys, warnings
from pathlib import Path
import deepspeed, torch
os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
torch.distributed.init_process_group("gloo", init_method=f"file://{sys.argv[1]}/meet", rank=0, world_size=1)
folder = Path(sys.argv[1]) / "checkpoint"
def engine():
    model = torch.nn.Linear(3, 2)
    config = {"train_batch_size": 2, "optimizer": {"type": "SGD", "params": {"lr": 0.1}}}
    return deepspeed.initialize(model=model, model_parameters=model.parameters(), config=config)[0]
first = engine()
for _ in range(3):
    first.backward(first(torch.ones(2, 3)).sum())
    first.step()
first.save_checkpoint(folder)
(folder / "latest").unlink()
later = engine()
path, _ = later.load_checkpoint(folder)
print(path, first.global_steps, later.global_steps)
"""
    environment = os.environ | {"DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "None 3 0"
    record_property("control.starts_from_zero", 1)
