"""Images → what a vision tower takes, exactly as CLIP's and SigLIP's image processors on Pillow make it.

VideoLLaMA2 specification section 8. CLIP: the shorter side becomes S and the middle is cut out; SigLIP: both sides
become S. With ``pad`` the image is first put in the middle of a square of its mean colour, so that neither cuts nor
squeezes. The original pads in fine-tuning and does not in inference. Shapes: n frames, S pixels a side.

The surprising fact: Pillow 13 resizes tall images differently from Pillow 12 (up to 8 levels of 255), so its version
is part of ``Preprocess.identity``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal, Self, get_args

import numpy as np
import torch
from PIL import Image as Picture
from pydantic import BaseModel, ConfigDict, PositiveInt, TypeAdapter
from torch import Tensor

from xmtl_ray.data import images
from xmtl_ray.data.frames import Window, stream_frames
from xmtl_ray.events.records import DataError
from xmtl_ray.events.strict_json import read_json

Family = Literal["clip", "siglip"]
Kind = Literal["image", "video"]
Colour = tuple[float, float, float]

_BUILT_IN: dict[Family, tuple[Colour, Colour]] = {
    "clip": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "siglip": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}

_LONGEST = 12_000
"""Pixels a side that may be padded to a square: 432 MB for the moment of resizing."""
_RATIO = images.LIMITS.ratio


@dataclass(frozen=True)
class Preprocess:
    """How images become pixels for one vision tower."""

    family: Family
    side: int
    """S."""
    pad: bool
    """Put each image on a square of the mean colour first."""
    mean: Colour
    """Per channel, of values between 0 and 1."""
    std: Colour

    @classmethod
    def built_in(cls, family: Family, side: int, pad: bool) -> Self:
        """As openai/clip-vit-large-patch14-336 and google/siglip-so400m-patch14-384 come."""
        mean, std = _BUILT_IN[family]
        return cls(family, side, pad, mean, std)

    @classmethod
    def from_file(cls, path: Path, pad: bool) -> Self:
        """As a tower's ``preprocessor_config.json`` says, old or new. Raises DataError, also for other processors."""
        config = read_json(path, TypeAdapter(_Config))
        name = config.image_processor_type or config.feature_extractor_type or ""
        family: Family = "siglip" if "siglip" in name.lower() else "clip"
        if family not in name.lower():
            raise DataError(path, None, "image_processor_type", name, "an image processor of CLIP or SigLIP")
        square = {"height", "width"}
        found = (
            _sides(config.size, {"shortest_edge"}) | _sides(config.crop_size, square)
            if family == "clip"
            else _sides(config.size, square)
        )
        if len(found) != 1 or not (side := found.pop()):
            sizes = {"size": config.size, "crop_size": config.crop_size}
            raise DataError(path, None, "size", sizes, "one side of a square")
        if family == "clip" and not config.do_center_crop:
            raise DataError(path, None, "do_center_crop", False, "a centre crop, as CLIP has it")
        if abs(255 * config.rescale_factor - 1) > 1e-6:
            raise DataError(path, None, "rescale_factor", config.rescale_factor, "1/255")
        return cls(family, side, pad, config.image_mean, config.image_std)

    def identity(self) -> str:
        """What decides on the pixels, as a part of a cache's key."""
        pillow = version("pillow").partition(".")[0]
        return f"{self.family} {self.side} {'pad' if self.pad else 'raw'} {self.mean} {self.std} pillow {pillow}"

    def __call__(self, frames: Iterable[Picture.Image]) -> Tensor:
        """RGB images → float32 [n, 3, S, S]. Raises ValueError if there are none."""
        levels = torch.from_numpy(np.stack([self._levels(frame) for frame in frames]))
        pixels = levels.permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        mean, std = (torch.tensor(colour).view(3, 1, 1) for colour in (self.mean, self.std))
        return pixels.div_(255).sub_(mean).div_(std)

    def _levels(self, image: Picture.Image) -> np.ndarray:
        """uint8 [S, S, 3]."""
        if self.pad:
            image = _squared(image, self.mean)
        size = (self.side, self.side)
        if self.family == "clip":
            shorter = min(image.size)
            size = (int(self.side * image.width / shorter), int(self.side * image.height / shorter))
        image = image.resize(size, Picture.Resampling.BICUBIC)
        left, top = (image.width - self.side) // 2, (image.height - self.side) // 2
        return np.asarray(image.crop((left, top, left + self.side, top + self.side)))


def _squared(image: Picture.Image, mean: Colour) -> Picture.Image:
    longer = max(image.size)
    square = Picture.new("RGB", (longer, longer), tuple(int(255 * channel) for channel in mean))
    square.paste(image, ((longer - image.width) // 2, (longer - image.height) // 2))
    return square


def load_media(
    path: Path,
    kind: Kind,
    num_frames: int | None,
    preprocess: Preprocess,
    root: Path | None = None,
    window: Window | None = None,
) -> Tensor:
    """A media file → a vision tower's input, float32.

    An image gives [1, 3, S, S], whatever ``num_frames`` is: the model may repeat its features, so one pass of the tower
    is enough. A video gives [T, 3, S, S] with T = ``num_frames``; None: one frame a second, at most 32.

    Args:
        path: an image file; or a video as ``frames.stream_frames`` reads it.
        kind: what the file is to be read as: of a GIF as an image the first frame counts.
        num_frames: 1 to 32, of a video.
        preprocess: of the tower.
        root: the folder that ``path`` may not leave, by default its own.
        window: seconds of a video to take frames from.

    Raises DataError.
    """
    if kind not in get_args(Kind):
        raise ValueError(f"a vision tower takes an image or a video, not {kind!r}")
    frames = [images.read(path, root=root)] if kind == "image" else stream_frames(path, num_frames, window, root=root)
    return preprocess(_of_fair_shape(path, frame, preprocess) for frame in frames)


def _of_fair_shape(path: Path, image: Picture.Image, preprocess: Preprocess) -> Picture.Image:
    shorter, longer = sorted(image.size)
    if longer > _RATIO * shorter or (preprocess.pad and longer > _LONGEST):
        expected = f"sides of at most {_RATIO} : 1" + f" and {_LONGEST} pixels" * preprocess.pad
        raise DataError(path, None, "size", f"{image.width} x {image.height}", expected)
    return image


def _sides(size: int | dict[str, int] | None, names: set[str]) -> set[int | None]:
    """The numbers of a size that has these names or is a plain number; None where it does not."""
    if isinstance(size, dict):
        return set(size.values()) if set(size) == names else {None}
    return {size}


class _Config(BaseModel):
    """A ``preprocessor_config.json``; names that do not matter are ignored."""

    model_config = ConfigDict(frozen=True)

    image_processor_type: str | None = None
    feature_extractor_type: str | None = None
    """The name before transformers 4.26."""
    size: PositiveInt | dict[str, PositiveInt]
    crop_size: PositiveInt | dict[str, PositiveInt] | None = None
    image_mean: Colour
    image_std: Colour
    resample: Literal[3] = 3
    """Bicubic."""
    rescale_factor: float = 1 / 255
    do_resize: Literal[True] = True
    do_rescale: Literal[True] = True
    do_normalize: Literal[True] = True
    do_center_crop: bool = True
    """SigLIP's has none."""
