"""Processes of MLflow that tests start and wait for."""

import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def wait_for(url: str, process: subprocess.Popen, log: Path) -> None:
    """Until it answers."""
    until = time.monotonic() + 300
    while time.monotonic() < until:
        if process.poll() is not None:
            raise AssertionError(log.read_text())
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(log.read_text())


def stop(process: subprocess.Popen) -> None:
    """At once, with all that it has started: a server would wait for connections that are kept open."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait(60)
