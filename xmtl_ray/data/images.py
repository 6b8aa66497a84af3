"""Image files: what one holds, its pixels as RGB, its hashes, and canvases that are decoded once.

Files come from anywhere, so the size is looked at before a pixel is decoded, and whatever is wrong with one is a
DataError. The content decides on the format, not the name's ending; an image is turned as its EXIF orientation says
before anything else, so widths, heights and boxes are those that a person sees; of an animation the first frame counts;
16-bit grey is scaled to 8 bits.

A canvas is the whole image squeezed to a square, as CLIP's own resizing does not: cutting the sides off would cut
arguments off. Boxes are therefore fractions of the image's sides.
"""

from __future__ import annotations

import contextlib
import hashlib
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cachetools import LRUCache
from PIL import Image as Picture
from PIL import ImageOps

from xmtl_ray.data.local_files import open_regular
from xmtl_ray.events.records import Box, DataError

FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
"""Decoders that a file may reach; Pillow has forty more, some of which start other programs."""

ENDINGS = {".jpg", ".jpeg", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff"}
"""Names that count as images in a folder; what is in such a file its content says."""

_ORIENTATION = 0x0112
"""EXIF's tag; 5 to 8 turn the image by a quarter."""
_SIDEWAYS = {5, 6, 7, 8}

# What Pillow raises for broken files, by its sources: its readers index, look up and unpack what the file gives them.
_BROKEN = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, AttributeError, ArithmeticError),
    *(struct.error, zlib.error, MemoryError, Picture.DecompressionBombError),
)


@dataclass(frozen=True)
class Limits:
    """How large an image may be. The defaults keep a decoding process within 512 MB."""

    file_mib: int = 64
    """Size of the file."""
    pixels: int = 36_000_000
    """Width times height; half of it for WebP."""
    frames: int = 1000
    """Frames of an animation."""
    all_pixels: int = 200_000_000
    """Width times height times frames: what it costs to decode an animation."""
    ratio: int = 100
    """Longer by shorter side: beyond it a resized image has no pixel left of the shorter one."""


LIMITS = Limits()


@dataclass(frozen=True)
class ImageFacts:
    """What an image file holds: its size in pixels as seen, Pillow's name of its format, its frames."""

    width: int
    height: int
    format: str
    frames: int


def probe(path: Path, limits: Limits = LIMITS, root: Path | None = None, verify: bool = False) -> ImageFacts:
    """What the file's header says, checked against ``limits``; ``verify`` decodes every frame as well.

    Without ``verify`` a file that is cut off or broken after its header passes. A GIF is decoded up to its last frame
    in any case, because only that counts them. Raises DataError.
    """
    with _opened(path, limits, root) as picture, _told(path):
        width, height = _seen_size(picture)
        frames = _count_frames(path, picture, limits)
        if verify:
            for number in range(frames):
                picture.seek(number)
                picture.load()
        return ImageFacts(width, height, str(picture.format), frames)


def read(path: Path, limits: Limits = LIMITS, root: Path | None = None) -> Picture.Image:
    """The first frame as RGB, turned as EXIF says. Raises DataError."""
    with _opened(path, limits, root) as picture, _told(path):
        return _rgb(picture)


def animation(
    path: Path, choose: Callable[[int], Iterable[int]], limits: Limits = LIMITS, root: Path | None = None
) -> Iterator[Picture.Image]:
    """The frames, as RGB, whose numbers ``choose`` picks in ascending order when told how many there are.

    What is transparent keeps the colour that lies under it. Raises DataError.
    """
    with _opened(path, limits, root) as picture:
        with _told(path):
            frames = _count_frames(path, picture, limits)
        for number in choose(frames):
            with _told(path):
                picture.seek(number)
                frame = picture.convert("RGB")
            yield frame


def hashes(path: Path, limits: Limits = LIMITS, root: Path | None = None) -> tuple[str, str]:
    """sha256 of the file's bytes, and the perceptual hash (pHash, 64 bits as 16 hexadecimal digits) of its pixels.

    Near-duplicates (scaled, recompressed) differ in few bits of the second. Raises DataError.
    """
    import imagehash

    digest = content_hash(path, limits, root)
    with _opened(path, limits, root) as picture, _told(path):
        picture.draft("RGB", (256, 256))  # pHash looks at 32 pixels a side
        return digest, str(imagehash.phash(_rgb(picture)))


def content_hash(path: Path, limits: Limits = LIMITS, root: Path | None = None) -> str:
    """sha256 of the file's bytes, which need not be an image. Raises DataError."""
    with open_regular(path, "image", limits.file_mib << 20, root) as file, _told(path):
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def _opened(path: Path, limits: Limits, root: Path | None) -> Iterator[Picture.Image]:
    """The image behind its header, not decoded, of a size within ``limits``."""
    with open_regular(path, "image", limits.file_mib << 20, root) as file:
        with _told(path):
            picture = Picture.open(file, formats=FORMATS)
        with picture:
            _check_size(path, picture, limits)
            yield picture


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """What Pillow raises becomes a DataError; only calls of Pillow stand inside."""
    try:
        yield
    except DataError:
        raise
    except _BROKEN as error:
        reason = str(error).partition("<_io")[0] or type(error).__name__
        raise DataError(path, None, "image", reason, "a readable image") from None


def _check_size(path: Path, picture: Picture.Image, limits: Limits) -> None:
    width, height = picture.size
    most = limits.pixels // 2 if picture.format == "WEBP" else limits.pixels  # its decoder holds three copies more
    if width * height > most:
        raise DataError(path, None, "size", f"{width} x {height}", f"at most {most} pixels")
    if max(width, height) > limits.ratio * min(width, height):
        raise DataError(path, None, "size", f"{width} x {height}", f"sides of at most {limits.ratio} : 1")


def _count_frames(path: Path, picture: Picture.Image, limits: Limits) -> int:
    if not getattr(picture, "is_animated", False):
        return 1

    def refuse(frames: int) -> None:
        width, height = picture.size
        if frames > limits.frames or width * height * frames > limits.all_pixels:
            expected = f"at most {limits.frames} frames and {limits.all_pixels} pixels in all of them"
            raise DataError(path, None, "frames", f"{frames} or more of {width} x {height}", expected)

    if picture.format not in {"GIF", "TIFF"}:
        frames = int(getattr(picture, "n_frames", 1))
        refuse(frames)
        return frames
    # These two have no count in their header: Pillow's n_frames would follow a bomb to its end.
    frames = 1
    while True:
        try:
            picture.seek(frames)
        except EOFError:
            picture.seek(0)
            return frames
        frames += 1
        _check_size(path, picture, limits)  # later frames may be larger than the first
        refuse(frames)


def _seen_size(picture: Picture.Image) -> tuple[int, int]:
    """Width and height after the EXIF rotation; TIFF's reader has applied it already."""
    width, height = picture.size
    turned = picture.format != "TIFF" and picture.getexif().get(_ORIENTATION) in _SIDEWAYS
    return (height, width) if turned else (width, height)


def _rgb(picture: Picture.Image) -> Picture.Image:
    if picture.mode in {"I", "F"}:
        raise ValueError("pixels of 32 bits, which have no agreed white")
    picture.load()
    ImageOps.exif_transpose(picture, in_place=True)
    if picture.mode.startswith("I;16"):
        return Picture.fromarray((np.asarray(picture) >> 8).astype(np.uint8)).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")


@dataclass(frozen=True)
class Canvas:
    """An image as uint8 [side, side, 3], and the size its file has in pixels."""

    array: np.ndarray
    width: int
    height: int

    def fractions(self, box: Box) -> Box:
        """``box`` in the file's pixels → fractions of its sides."""
        return Box(box.x0 / self.width, box.y0 / self.height, box.x1 / self.width, box.y1 / self.height)


class Canvases:
    """Reads images as canvases of ``side`` pixels; keeps up to ``cache_mib`` of them in memory."""

    def __init__(self, side: int, cache_mib: int) -> None:
        self.side = side
        self._cache: LRUCache[Path, Canvas] = LRUCache(
            max(cache_mib << 20, 1), getsizeof=lambda canvas: canvas.array.nbytes
        )

    def __call__(self, path: Path) -> Canvas:
        """The canvas of the file. Raises DataError where it is missing or no readable image."""
        canvas = self._cache.get(path)
        if canvas is None:
            canvas = _canvas(path, self.side)
            if canvas.array.nbytes <= self._cache.maxsize:
                self._cache[path] = canvas
        return canvas


def _canvas(path: Path, side: int) -> Canvas:
    with _opened(path, LIMITS, None) as picture, _told(path):
        width, height = _seen_size(picture)
        # JPEG can be decoded at a fraction of its size; twice the canvas loses nothing that it can show.
        picture.draft("RGB", (2 * side, 2 * side))
        return Canvas(np.asarray(_rgb(picture).resize((side, side), Picture.Resampling.BICUBIC)), width, height)
