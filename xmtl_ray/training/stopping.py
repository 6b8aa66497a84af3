"""A run that is asked to stop: it finishes its step, leaves a checkpoint, and goes.

SIGTERM and SIGINT to the driver become a file in the run's folder, which rank 0 looks for every second or so; SIGTERM
to a worker (its machine is taken away) becomes a flag in its process. Either way the ranks agree on the step after
which they stop. A second signal to the driver, or the end of the time there is, stops it at once.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TypeVar

from pyarrow import fs

log = logging.getLogger(__name__)

T = TypeVar("T")

MARK = "stop"
"""File in a run's folder: its driver wants it to stop."""
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_LOOKS_S = {True: 1.0, False: 5.0}
"""Between two looks for the mark: on a folder, behind a URI."""


class Interrupted(Exception):
    """A run that stopped when it was asked to, after a checkpoint; ``preempted``: by its machine, not by its driver."""

    def __init__(self, step: int, preempted: bool) -> None:
        super().__init__(step, preempted)
        self.step, self.preempted = step, preempted

    def __str__(self) -> str:
        return f"stopped after step {self.step}, with a checkpoint"


class Stopped(SystemExit):
    """A driver that was told to stop ends with 128 and the signal's number, as shells have it."""

    def __init__(self, number: int) -> None:
        super().__init__(128 + number)
        self.signal = number


class Flag:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self._set = threading.Event()

    def __bool__(self) -> bool:
        return self._set.is_set()

    def set(self) -> None:
        """It was."""
        self._set.set()

    def clear(self) -> None:
        """A new run begins."""
        self._set.clear()


ASKED = Flag()
"""By the user; where the driver is the worker itself, or has left its mark."""
PREEMPTED = Flag()
"""By the machine, in a worker's process."""


def listen_for_preemption() -> None:
    """From now on SIGTERM to this process is a wish; to be called in a worker's main thread."""
    PREEMPTED.clear()
    signal.signal(signal.SIGTERM, lambda number, frame: PREEMPTED.set())


@contextmanager
def watching(filesystem: fs.FileSystem, folder: str) -> Iterator[None]:
    """Within it the driver's mark in ``folder`` sets ``ASKED``; for rank 0."""
    ended = threading.Event()
    interval = _LOOKS_S[isinstance(filesystem, fs.LocalFileSystem)]

    def look() -> None:
        while not ended.wait(interval):
            with suppress(OSError):  # the next look will tell
                if filesystem.get_file_info(f"{folder}/{MARK}").type == fs.FileType.File:
                    ASKED.set()
                    return

    ASKED.clear()
    thread = threading.Thread(target=look, name="stop-mark", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def unmark(filesystem: fs.FileSystem, folder: str) -> None:
    """Forget that an earlier start was asked to stop."""
    with suppress(FileNotFoundError):
        filesystem.delete_file(f"{folder}/{MARK}")


def interruptible(
    work: Callable[[], T], filesystem: fs.FileSystem, folder: str, grace_s: float, apart: bool
) -> tuple[T, int | None]:
    """What ``work`` gives, and the signal that asked it to stop; until ``grace_s`` after that it may go on.

    Args:
        work: trains.
        filesystem: with the run's folder.
        folder: of the run, where the mark is left.
        grace_s: for the last step and its checkpoint.
        apart: ``work`` only waits for others: it runs in a thread, so that waiting can be given up and Ray, which
            listens to signals itself, cannot.

    In another thread than the first, signals are somebody else's business. Raises Stopped where there was no time left.
    """
    unmark(filesystem, folder)
    ASKED.clear()
    if threading.current_thread() is not threading.main_thread():
        return work(), None
    signals: list[int] = []

    def asked(number: int, frame: FrameType | None) -> None:
        signals.append(number)
        ASKED.set()
        if len(signals) > 1 and not apart:
            raise KeyboardInterrupt

    earlier = {number: signal.signal(number, asked) for number in _SIGNALS}
    try:
        result = _waited(work, signals, lambda: _mark(filesystem, folder), grace_s) if apart else work()
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
    return result, signals[0] if signals else None


def _waited(work: Callable[[], T], signals: list[int], mark: Callable[[], None], grace_s: float) -> T:
    outcome: list[tuple[T | None, BaseException | None]] = []

    def run() -> None:
        try:
            outcome.append((work(), None))
        except BaseException as error:  # noqa: BLE001 (raised again by who waits)
            outcome.append((None, error))

    thread = threading.Thread(target=run, name="fit", daemon=True)
    thread.start()
    until: float | None = None
    while thread.is_alive():
        thread.join(0.2)
        if signals and until is None:
            until = time.monotonic() + grace_s
            name = signal.Signals(signals[0]).name
            log.warning("%s: stops after its step, with a checkpoint, within %.0f s; again: at once", name, grace_s)
            mark()
        if until is not None and thread.is_alive() and (len(signals) > 1 or time.monotonic() > until):
            log.warning("stopped at once; the same command goes on from the last checkpoint")
            raise Stopped(signals[-1])
    result, error = outcome[0]
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def _mark(filesystem: fs.FileSystem, folder: str) -> None:
    try:
        with filesystem.open_output_stream(f"{folder}/{MARK}") as stream:
            stream.write(b"")
    except OSError as error:
        log.warning("%s/%s: workers cannot be told to stop: %s", folder, MARK, error)
