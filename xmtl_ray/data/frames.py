"""Which frames of a video a vision tower sees, and those frames as images (VideoLLaMA2 specification section 8).

A video is a container file (videos.py), a GIF (taken as 25 frames a second) or a folder of images (sorted by name,
3 a second); the content says which, not the name. Of n wanted frames the video gives the centres of n equal stretches;
a video of fewer frames gives some of them twice.

Where the original is odd, ours is what a person would expect. Images and videos are turned as their files say, since
that is what an annotator saw; the original turns no image. A GIF's frames are repeated like any video's; the original
drops the repeats and appends black frames (``fill``). More than 32 frames are an error where they are asked for by
number; the original takes the first 32 of them.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image as Picture

from xmtl_ray.data import images, videos
from xmtl_ray.data.local_files import open_regular
from xmtl_ray.events.records import DataError

MOST_FRAMES = 32
"""No model input has more."""

LIMITS = videos.Limits(cpu_s=240, wall_s=480)
"""Decoding costs more than ``videos.probe``: 16 frames may lie 250 frames behind their keyframes each."""

_GIF_FPS, _FOLDER_FPS = 25.0, 3.0

Window = tuple[float | None, float | None]
"""First and last second of a part of the video; None: its start, its end."""


def uniform(duration: int, wanted: int) -> list[int]:
    """The centres of ``wanted`` equal segments of [0, duration - 1], ties upward; ``duration``: frames there are."""
    segment = (duration - 1) / wanted
    return [round((segment * place + segment * (place + 1)) / 2 + 1e-6) for place in range(wanted)]


def one_per_second(duration: int, fps: float) -> list[int]:
    """Every floor(fps)-th frame from the middle of the first second on; of a video below one second, the middle one."""
    step = max(min(math.floor(fps), duration), 1)
    return list(range(step // 2, duration, step))


def in_window(duration: int, fps: float, window: Window) -> range:
    """The frames of a part of the video; none where it ends before the part starts.

    Where both ends are given, negative ones become 0, they are swapped if the first is larger, and a part of no
    length gets a second. A part's frames start and end one frame early, as in the original.
    """
    start, end = window
    if any(second is not None and not math.isfinite(second) for second in window):
        raise ValueError(f"a window of finite seconds is needed, not {window}")
    if start is not None and end is not None:
        start, end = sorted((max(start, 0.0), max(end, 0.0)))
        if start == end:
            end = start + 1
    first = 0 if start is None else max(int(start * fps) - 1, 0)
    last = duration - 1 if end is None else min(int(end * fps) - 1, duration - 1)
    return range(first, last + 1)


def choose(duration: int, fps: float, num_frames: int | None, window: Window | None = None) -> list[int]:
    """Numbers of the frames to take, ascending, some of them possibly twice; empty for an empty window.

    Args:
        duration: frames in the video.
        fps: its frames a second.
        num_frames: how many to take, at most 32; None: one a second, the first 32 of them.
        window: the part of the video to take them from.
    """
    if num_frames is not None and not 1 <= num_frames <= MOST_FRAMES:
        raise ValueError(f"1 to {MOST_FRAMES} frames can be taken, not {num_frames}")
    part = range(duration) if window is None else in_window(duration, fps, window)
    if not part:
        return []
    places = one_per_second(len(part), fps) if num_frames is None else uniform(len(part), num_frames)
    return [part[place] for place in places[:MOST_FRAMES]]


def read_frames(
    path: Path,
    num_frames: int | None,
    window: Window | None = None,
    limits: videos.Limits = LIMITS,
    root: Path | None = None,
    original: bool = False,
) -> list[Picture.Image]:
    """All of ``stream_frames`` at once: up to 32 full frames in memory."""
    return list(stream_frames(path, num_frames, window, limits, root, original))


def stream_frames(
    path: Path,
    num_frames: int | None,
    window: Window | None = None,
    limits: videos.Limits = LIMITS,
    root: Path | None = None,
    original: bool = False,
) -> Iterator[Picture.Image]:
    """The chosen frames of a video as RGB images, one in memory at a time.

    Args:
        path: a container file, a GIF or a folder of images.
        num_frames: see ``choose``.
        window: see ``choose``.
        limits: of a container file; GIFs and images have those of ``images.Limits``.
        root: see ``local_files.open_regular``.
        original: treat a GIF's repeated frames as the original does.

    Raises DataError.
    """

    def numbers(duration: int, fps: float) -> list[int]:
        chosen = choose(duration, fps, num_frames, window)
        if not chosen:
            raise DataError(path, None, "window", f"{duration} frames, {fps:g} a second", f"some in {window} s")
        return chosen

    if path.is_dir():
        files = _image_files(path)
        for number in numbers(len(files), _FOLDER_FPS):
            yield images.read(files[number], root=root)
        return
    if _is_gif(path, limits, root):
        if original:
            distinct = images.animation(path, lambda count: sorted(set(numbers(count, _GIF_FPS))), root=root)
            yield from fill(list(distinct), num_frames, original=True)
        else:
            yield from images.animation(path, lambda count: numbers(count, _GIF_FPS), root=root)
        return
    chosen: list[int] = []

    def of_video(facts: videos.VideoFacts) -> list[int]:
        chosen.extend(numbers(facts.frames, facts.fps))
        return chosen

    for frame in videos.decode(path, of_video, limits, root):
        for _ in range(chosen.count(frame.number)):
            yield frame.image


def check(path: Path, root: Path | None = None) -> None:
    """Read the header of a container file, a frame of a GIF or a folder. Raises DataError where that does not go."""
    if path.is_dir() or _is_gif(path, LIMITS, root):
        read_frames(path, 1, root=root)
    else:
        videos.probe(path, root=root)


def fill(frames: Sequence[Picture.Image], wanted: int | None, original: bool = False) -> list[Picture.Image]:
    """At most 32 frames, black ones appended where there are fewer than ``wanted``; for frames that are not sampled.

    A black frame has the size of the last frame. In the original it has the transposed size of the frame before it, so
    that every other black frame lies on its side.
    """
    filled = list(frames)
    while len(filled) < (wanted or 0):
        width, height = filled[-1].size
        filled.append(Picture.new("RGB", (height, width) if original else (width, height)))
    return filled[:MOST_FRAMES]


def content_hash(path: Path, limits: videos.Limits = LIMITS, root: Path | None = None) -> str:
    """sha256 of a media file's bytes; of a folder, of its images' names and bytes. Raises DataError."""
    if not path.is_dir():
        with open_regular(path, "media", limits.file_mib << 20, root) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for frame in _image_files(path):
        digest.update(f"{frame.name}\0{images.content_hash(frame, root=root)}\0".encode())
    return digest.hexdigest()


def _image_files(folder: Path) -> list[Path]:
    """Files that images.ENDINGS names, by name; other files in the folder are no frames."""
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in images.ENDINGS)
    if not files:
        raise DataError(folder, None, "frames", "no image", "a folder of images")
    return files


def _is_gif(path: Path, limits: videos.Limits, root: Path | None) -> bool:
    with open_regular(path, "video", limits.file_mib << 20, root) as file:
        return file.read(6) in {b"GIF87a", b"GIF89a"}
