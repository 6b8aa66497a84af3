"""Processes that tests end. A process may be over between being found and being asked: that is no failure of a test."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import psutil


def named(words: str, everywhere: bool = False) -> list[psutil.Process]:
    """Those whose command line holds ``words`` and that still run: below this process, or on the whole machine.

    Ray gives its workers command lines that name what they run.
    """
    found = []
    for one in psutil.process_iter() if everywhere else psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # a zombie is one too
            if words in " ".join(one.cmdline()):
                found.append(one)
    return found


def kill(processes: Iterable[psutil.Process]) -> None:
    """SIGKILL to those that still run."""
    for one in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            one.kill()
