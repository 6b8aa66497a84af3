"""What a run has to tell MLflow, as lines in its own folder: nothing is lost while the server is away.

One JSON object a line: parameters, tags, a metric, an artifact's path, the final status. Lines are only ever
appended; ``mlflow.json`` beside them says which MLflow run they belong to and how many bytes of them were sent.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

JOURNAL = "tracking.jsonl"


class Journal:
    """Appends to ``folder/tracking.jsonl``; safe to call from several threads."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / JOURNAL
        self._lock = threading.Lock()
        _drop_torn_line(self.path)
        self._file = self.path.open("ab", buffering=0)
        self._waiting = b""

    def parameters(self, values: Mapping[str, object]) -> None:
        """Settings of the run, once."""
        self._write({"parameters": {name: str(value) for name, value in values.items()}})

    def tags(self, values: Mapping[str, str]) -> None:
        """Facts about the run."""
        self._write({"tags": dict(values)})

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers at ``step``; the time is kept, so sending a line twice changes nothing."""
        self._write({"step": step, "time_ms": int(time.time() * 1000), "metrics": dict(values)})

    def artifact(self, path: str) -> None:
        """A file or folder under the run's folder."""
        self._write({"artifact": path})

    def status(self, status: str, time_ms: int | None = None) -> None:
        """RUNNING, or how the run ended: FINISHED, FAILED or KILLED; at ``time_ms``, None: now."""
        self._write({"status": status, "time_ms": int(time.time() * 1000) if time_ms is None else time_ms})

    def close(self) -> None:
        """No more lines."""
        self._file.close()

    def _write(self, line: dict[str, Any]) -> None:
        """Where the disk is full the line waits for room, for a run's numbers must not end the run."""
        with self._lock:
            self._waiting += json.dumps(line).encode() + b"\n"
            end = os.fstat(self._file.fileno()).st_size
            try:
                if self._file.write(self._waiting) < len(self._waiting):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError as error:
                self._file.truncate(end)
                if self._waiting.count(b"\n") == 1:
                    log.warning("%s: %s; what is to be told waits in memory", self.path, error)
            else:
                self._waiting = b""


def read_from(path: Path, offset: int, limit: int) -> tuple[list[dict[str, Any]], int]:
    """Up to ``limit`` whole lines after byte ``offset``, and the offset behind them."""
    lines: list[dict[str, Any]] = []
    with path.open("rb") as file:
        file.seek(offset)
        while len(lines) < limit and (line := file.readline()).endswith(b"\n"):
            lines.append(json.loads(line))
            offset += len(line)
    return lines, offset


def _drop_torn_line(path: Path) -> None:
    """Cut off what a killed process left unfinished: the next line must start a line of its own."""
    if path.exists():
        whole = path.read_bytes()
        end = whole.rfind(b"\n") + 1
        if end < len(whole):
            with path.open("r+b") as file:
                file.truncate(end)
