"""Checkpoints under DeepSpeed that fit any number of workers, and never make a run begin anew."""

import json
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
