"""How the benchmark of a GPU measures: seconds of steps, memory at its peak, and what the card says of itself."""

from __future__ import annotations

import gc
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable
from typing import Any

import torch

GIB = 2**30
ASKED = "clocks.sm,clocks.mem,temperature.gpu,power.draw"


class Stopwatch:
    """Seconds between two moments of a device's work: CUDA events, or a CPU's clock."""

    def __init__(self, device: torch.device) -> None:
        self.cuda = device.type == "cuda"

    def start(self) -> None:
        """From here."""
        if self.cuda:
            self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            self._events[0].record()
        else:
            self._began = time.perf_counter()

    def stop(self) -> float:
        """To here; waits for the device."""
        if not self.cuda:
            return time.perf_counter() - self._began
        self._events[1].record()
        self._events[1].synchronize()
        return self._events[0].elapsed_time(self._events[1]) / 1000


def timed(
    work: Callable[[int], Any], device: torch.device, until: float, most: int = 20, warmup: int = 2, least: int = 3
) -> list[float]:
    """Seconds of each of at most ``most`` calls of ``work(number)``, after ``warmup`` that do not count.

    From the moment ``until`` on (of ``time.time()``) no more than ``least`` are made. The peak of memory is that of
    the calls that count.
    """
    for number in range(warmup):
        work(number)
    forget_peak(device)
    watch, seconds = Stopwatch(device), list[float]()
    while len(seconds) < least or (len(seconds) < most and time.time() < until):
        watch.start()
        work(warmup + len(seconds))
        seconds.append(watch.stop())
    return seconds


def told(seconds: list[float]) -> dict[str, Any]:
    """Median, range and number."""
    return {"s": statistics.median(seconds), "s_range": [min(seconds), max(seconds)], "times": len(seconds)}


def forget_peak(device: torch.device) -> None:
    """Memory's peak begins anew."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()


def peak(device: torch.device) -> dict[str, float | None]:
    """Most memory of tensors, and of what the allocator held for them; None on a CPU, where nobody counts it."""
    if device.type != "cuda":
        return {"peak_gib": None, "reserved_gib": None}
    allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
    return {"peak_gib": allocated / GIB, "reserved_gib": reserved / GIB}


def release(device: torch.device) -> None:
    """Give back what nothing holds any more."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def clocks() -> str | None:
    """What nvidia-smi says now of the first GPU: SM and memory MHz, °C, W; None where there is none."""
    if (command := shutil.which("nvidia-smi")) is None:
        return None
    asked = [command, "--id=0", f"--query-gpu={ASKED}", "--format=csv,noheader"]
    done = subprocess.run(asked, check=False, capture_output=True, text=True)
    return done.stdout.strip() or None


def device_facts(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on."""
    if device.type != "cuda":
        return {"name": "CPU", "threads": torch.get_num_threads()}
    found = torch.cuda.get_device_properties(device)
    return {
        "name": found.name,
        "memory_gib": found.total_memory / GIB,
        "multiprocessors": found.multi_processor_count,
        "capability": f"{found.major}.{found.minor}",
        "cuda": torch.version.cuda,
    }
