"""Image files as square arrays in memory, decoded once while the cache holds them.

A canvas is the whole image squeezed to a square, as CLIP's own resizing does not: cutting the sides off would cut
arguments off. Boxes are therefore fractions of the image's sides.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cachetools import LRUCache
from PIL import Image as Picture
from PIL import UnidentifiedImageError

from xmtl_ray.events.records import Box, DataError


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
            canvas = _read(path, self.side)
            if canvas.array.nbytes <= self._cache.maxsize:
                self._cache[path] = canvas
        return canvas


def _read(path: Path, side: int) -> Canvas:
    try:
        with Picture.open(path) as picture:
            # JPEG can be decoded at a fraction of its size; twice the canvas loses nothing that it can show.
            size = picture.size
            picture.draft("RGB", (2 * side, 2 * side))
            array = np.asarray(picture.convert("RGB").resize((side, side), Picture.Resampling.BICUBIC))
    except FileNotFoundError:
        raise DataError(path, None, "image", "no such file", "an image file") from None
    except (UnidentifiedImageError, OSError, ValueError, Picture.DecompressionBombError) as error:
        raise DataError(path, None, "image", str(error), "a readable image") from None
    return Canvas(array, *size)
