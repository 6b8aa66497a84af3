"""What a video file holds, found out by a child process that can do no harm (video_child.py).

A video comes from anywhere and FFmpeg's demuxers are many, some of which open what a file names: playlists, concat
lists, SDP. So the file's first bytes choose one of four containers, the child gets the open file instead of its name,
and it may open nothing else, write nothing and use no more memory and time than ``Limits`` say. The surprising fact:
frames and seconds are counted, not read from the header, and a header that says otherwise is an error.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from xmtl_ray.data import video_child
from xmtl_ray.data.local_files import open_regular
from xmtl_ray.events.records import DataError


@dataclass(frozen=True)
class Limits:
    """How large a video may be, and what looking at it may cost."""

    file_mib: int = 4096
    """Size of the file."""
    seconds: int = 4 * 3600
    """Length of the video."""
    frames: int = 1_000_000
    """Frames in all."""
    pixels: int = 4096 * 2304
    """Width times height."""
    memory_mib: int = 1024
    """Address space of the child."""
    cpu_s: int = 60
    """CPU seconds of the child."""
    wall_s: int = 120
    """Seconds that the child may take."""


LIMITS = Limits()


@dataclass(frozen=True)
class VideoFacts:
    """What a video's first video stream holds: counted frames, seconds from the first to the end of the last."""

    seconds: float
    fps: float
    frames: int
    width: int
    height: int
    codec: str


def probe(path: Path, limits: Limits = LIMITS, root: Path | None = None) -> VideoFacts:
    """Count the frames of an mp4, mov, mkv, webm or avi file and decode the first, in a limited child process.

    Takes a quarter of a second plus the time to read the file; may be called from several threads. ``root`` as in
    ``local_files.open_regular``. Raises DataError.
    """
    with open_regular(path, "video", limits.file_mib << 20, root) as file:
        container = _container(path, os.pread(file.fileno(), 16, 0))
        try:
            done = subprocess.run(  # noqa: S603 - our own script; the file's name is not among its arguments
                [sys.executable, "-I", video_child.__file__, container, json.dumps(asdict(limits))],
                stdin=file,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=limits.wall_s,
                cwd="/",
                env={},
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DataError(path, None, "video", "no end", f"to be read within {limits.wall_s} s") from None
    if done.returncode:
        died = f"its reader died (status {done.returncode})"
        expected = f"a video that can be read with {limits.cpu_s} CPU seconds and {limits.memory_mib} MiB"
        raise DataError(path, None, "video", died, expected)
    answer = json.loads(done.stdout)
    if "error" in answer:
        field, found, expected = answer["error"]
        raise DataError(path, None, field, found, expected)
    return VideoFacts(**answer)


def _container(path: Path, start: bytes) -> str:
    """FFmpeg's name of the container whose signature a file begins with."""
    if start.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"  # and webm
    if start.startswith(b"RIFF") and start[8:12] == b"AVI ":
        return "avi"
    if start[4:8] in {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"}:
        return "mov"  # and mp4
    raise DataError(path, None, "container", start[:16], "an mp4, mov, mkv, webm or avi file")
