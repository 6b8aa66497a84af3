"""Hundreds of broken files per source: each is read or refused with a DataError, never anything else."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from mutants import Score, targets, tried

from xmtl_ray.data import m2e2
from xmtl_ray.events.records import Annotation, Region, Span

NEEDED = {"I1": 500, "I2": 300, "I3": 300, "I4": 200, "I5": 300}


BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks/mutants.py"


@pytest.fixture(scope="module")
def board():
    """The scoreboard: handled and tried per source, made by a process of its own, and what memory that took."""
    done = subprocess.run([sys.executable, BENCHMARK, "--json"], capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    print(done.stdout)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def scores(board):
    """Of each source."""
    return {name: Score(**score) for name, score in board["scores"].items()}


def test_every_mutant_is_read_or_refused(scores):
    """No other exception, strict or lenient; no misaligned span, empty box or path outside among what was accepted."""
    assert [failure for score in scores.values() for failure in score.failures] == []
    assert all(score.read + score.refused == score.tried for score in scores.values())


def test_there_are_enough_of_them(scores):
    """As many as the reliability plan asks for, of both outcomes."""
    for number, needed in NEEDED.items():
        own = [score for name, score in scores.items() if name.startswith(number)]
        assert sum(score.tried for score in own) >= needed
        assert min(sum(s.read for s in own), sum(s.refused for s in own)) > needed // 20


def test_a_reader_that_fails_is_counted(tmp_path):
    """The negative controls: another exception, and an accepted span of other words, are failures."""

    def broken(folder, on_error):
        raise KeyError("event_type")

    target = replace(targets()["I5 Label Studio"], read=broken, count=5)
    assert len(tried(tmp_path / "a", target).failures) == 10  # strict and lenient
    shifted = Annotation("1", "a chip", regions=(Region("T", ("launch",), "chip", characters=Span(1, 5)),))
    target = replace(target, read=lambda folder, on_error: [shifted])
    assert len(tried(tmp_path / "b", target).failures) == 10


def test_memory_stays_bounded(board):
    """Files of a hundred thousand brackets included."""
    assert board["memory_mib"] < 512


def test_the_unbroken_files_are_read(tmp_path):
    """The mutants' originals are good, so that a refusal is one of the change."""
    for number, target in enumerate(targets().values()):
        folder = tmp_path / str(number)
        folder.mkdir()
        target.prepare(folder)
        for name, value in target.files.items():
            (folder / name).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
        assert target.read(folder, None)


def test_real_files_are_accepted_whole(shared):
    """M2E2's public half: nothing is rejected."""
    rejected = []
    documents = m2e2.read(shared / "data/m2e2", on_error=rejected.append)
    assert rejected == [] and len(documents) == 108
    assert sum(len(document.sentences) for document in documents) == 2894
