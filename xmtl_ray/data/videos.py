"""What a video file holds, and single frames of it, found out by a child process that can do no harm (video_child.py).

A video comes from anywhere and FFmpeg's demuxers are many, some of which open what a file names: playlists, concat
lists, SDP. So the file's first bytes choose one of four containers, the child gets the open file instead of its name,
and it may open nothing else, write nothing and use no more memory and time than ``Limits`` say. The surprising fact:
frames and seconds are counted, not read from the header, and a header that says otherwise is an error.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TypeVar

from PIL import Image as Picture
from pydantic import JsonValue, PositiveInt, TypeAdapter, ValidationError

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
    with _child(path, limits, root) as (answers, _):
        return _answer(path, answers, _FACTS)


@dataclass(frozen=True)
class VideoFrame:
    """A decoded frame."""

    number: int
    """Place in the order of presentation, from 0."""
    image: Picture.Image
    """RGB, turned as the file's display matrix says in steps of 90 degrees."""
    decoded: int
    """Frames that had to be decoded for this one and those before it."""


def decode(
    path: Path, choose: Callable[[VideoFacts], Sequence[int]], limits: Limits = LIMITS, root: Path | None = None
) -> Iterator[VideoFrame]:
    """The frames that ``choose`` names, each once, in order; see ``probe``.

    Of each stretch between keyframes no more is decoded than up to its last chosen frame. A file whose times say
    nothing about the order of its frames (an AVI with B-frames) is decoded from its start. ``limits`` hold for all
    frames together, and the wall time runs while the caller works on one. Raises DataError.
    """
    with _child(path, limits, root) as (answers, requests):
        facts = _answer(path, answers, _FACTS)
        wanted = sorted(set(choose(facts)))
        assert wanted and wanted[0] >= 0 and wanted[-1] < facts.frames
        with contextlib.suppress(BrokenPipeError):  # a child that has died is noticed below
            requests.write(json.dumps(wanted).encode() + b"\n")
            requests.flush()
        for number in wanted:
            yield _frame(path, number, answers, limits)


@contextlib.contextmanager
def _child(path: Path, limits: Limits, root: Path | None) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """The child's answers, and the pipe from which it reads the numbers of frames; afterwards it is gone."""
    reading, writing = os.pipe()
    with (
        os.fdopen(writing, "wb", buffering=0) as requests,
        os.fdopen(reading) as read_by_child,
        open_regular(path, "video", limits.file_mib << 20, root) as file,
    ):
        container = _container(path, os.pread(file.fileno(), 16, 0))
        process = subprocess.Popen(  # noqa: S603 - our own script; the file's name is not among its arguments
            [sys.executable, "-I", video_child.__file__, container, json.dumps(asdict(limits)), str(reading)],
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(reading,),
            cwd="/",
            env={},
        )
        read_by_child.close()
        late = threading.Event()

        def stop() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(limits.wall_s, stop)
        timer.daemon = True
        timer.start()
        assert process.stdout is not None
        try:
            with process.stdout as answers:
                yield answers, requests
        except _Ended:
            status = process.wait()  # no later than the timer
            if late.is_set():
                raise DataError(path, None, "video", "no end", f"to be read within {limits.wall_s} s") from None
            died = f"its reader died (status {status})"
            expected = f"a video that can be read with {limits.cpu_s} CPU seconds and {limits.memory_mib} MiB"
            raise DataError(path, None, "video", died, expected) from None
        finally:
            timer.cancel()
            process.kill()
            process.wait()


class _Ended(Exception):
    """The child says nothing more, or what it should not say."""


@dataclass(frozen=True)
class _Refusal:
    error: tuple[str, JsonValue, str]


@dataclass(frozen=True)
class _FrameLine:
    frame: int
    width: PositiveInt
    height: PositiveInt
    turn: int
    decoded: int


T = TypeVar("T")
_FACTS = TypeAdapter[VideoFacts | _Refusal](VideoFacts | _Refusal)
_FRAME = TypeAdapter[_FrameLine | _Refusal](_FrameLine | _Refusal)


def _answer(path: Path, answers: IO[bytes], kind: TypeAdapter[T | _Refusal]) -> T:
    """The next line of the child, which a file may have taken over: it is believed as little as the file."""
    try:
        answer = kind.validate_json(answers.readline(1 << 16), strict=True)
    except ValidationError:
        raise _Ended from None
    if isinstance(answer, _Refusal):
        field, found, expected = answer.error
        raise DataError(path, None, field, found, expected)
    return answer


def _frame(path: Path, number: int, answers: IO[bytes], limits: Limits) -> VideoFrame:
    line = _answer(path, answers, _FRAME)
    size = 3 * line.width * line.height
    if line.frame != number or size > 3 * limits.pixels or len(pixels := answers.read(size)) < size:
        raise _Ended
    image = Picture.frombytes("RGB", (line.width, line.height), pixels)
    turn = _TURNS.get(round(line.turn / 90) % 4)
    return VideoFrame(number, image if turn is None else image.transpose(turn), line.decoded)


_TURNS = {1: Picture.Transpose.ROTATE_90, 2: Picture.Transpose.ROTATE_180, 3: Picture.Transpose.ROTATE_270}


def _container(path: Path, start: bytes) -> str:
    """FFmpeg's name of the container whose signature a file begins with."""
    if start.startswith(b"\x1aE\xdf\xa3"):
        return "matroska"  # and webm
    if start.startswith(b"RIFF") and start[8:12] == b"AVI ":
        return "avi"
    if start[4:8] in {b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"}:
        return "mov"  # and mp4
    raise DataError(path, None, "container", start[:16], "an mp4, mov, mkv, webm or avi file")
