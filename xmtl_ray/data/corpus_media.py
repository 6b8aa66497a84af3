"""Videos of the synthetic corpus: the miniature world's scenes set in motion, and files of them.

A frame is drawn as a picture is, from the same chance each time, with the stage moved. The surprising fact: most videos
do not show their scene at once. It comes in from the side, or people who walk by are cut away from it, so who looks at
the first frame alone has seen nothing.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image as Pictures

from xmtl_ray.data import world_things as things
from xmtl_ray.data.world_decoys import UNMAPPED, nothing
from xmtl_ray.data.world_images import Body, Pen
from xmtl_ray.data.world_scenes import INDOOR, SCENES
from xmtl_ray.data.world_stage import Stage

Motion = Literal["enters", "cut", "passes"]
MOTIONS: tuple[Motion, ...] = ("enters", "cut", "passes")
"""The scene comes in from the side; follows after people walking by; moves across the picture all the time."""

WIDTH, HEIGHT = 128, 96
FPS = 8
LENGTHS = (12, 16, 20, 24)
"""Frames of a video."""


@dataclass(frozen=True)
class Film:
    """Drawn frames, the imSitu verb of their scene, and how it moves."""

    frames: tuple[Pictures.Image, ...]
    verb: str
    motion: Motion


class _MovingStage(Stage):
    """A stage whose people sway; ``phase`` goes from 0 to 1 in a second."""

    phase = 0.0

    def person(
        self,
        u: float,
        kind: str = "civilian",
        arms: str = "down",
        facing: int = 1,
        slot: str = "",
        role: str = "",
        posture: str = "standing",
        back: float = 0.0,
        size: float = 1.0,
        foot: float | None = None,
        stride: float | None = None,
    ) -> Body:
        """A person as on a stage that stands still, a little higher or lower."""
        sway = 0.025 * self.adult * math.sin(2 * math.pi * (self.phase + u))
        if posture in {"standing", "kneeling"}:
            foot = (self.ground if foot is None else foot) + sway
        return super().person(u, kind, arms, facing, slot, role, posture, back, size, foot, stride)


def film(rng: random.Random, event_type: str) -> Film:
    """A video of one event, or of a scene without any where ``event_type`` is ''."""
    verb = rng.choice(SCENES[event_type][1]) if event_type else rng.choice(UNMAPPED)
    motion, count, mirrored = rng.choice(MOTIONS), rng.choice(LENGTHS), rng.random() < 0.5
    horizon, inside = HEIGHT * rng.uniform(0.42, 0.6), rng.random() < (0.8 if verb in INDOOR else 0.06)
    behind, scene, before, grain = (rng.getrandbits(32) for _ in range(4))
    noise, start = rng.uniform(1, 3), rng.uniform(0.25, 0.4)

    def frame(number: int) -> Pictures.Image:
        pen, time = Pen(WIDTH, HEIGHT, mirrored), number / (count - 1)
        (things.indoors if inside else things.outdoors)(pen, _chance(behind), horizon)
        if motion == "enters":
            shift = -_ease(1 - (time - start) / 0.35) * WIDTH if time > start else None
        elif motion == "cut":
            shift = 0.0 if time > start else None
        else:
            shift = (time - 0.5) * 0.22 * WIDTH
        if shift is not None:
            stage = _stage(pen, scene, shift, horizon, number)
            SCENES[event_type][0](stage, verb) if event_type else nothing(stage, verb)
        elif motion == "cut":
            nothing(_stage(pen, before, (time - start) * 0.5 * WIDTH, horizon, number), "walking")
        return pen.finish(noise, grain)

    return Film(tuple(frame(number) for number in range(count)), verb, motion)


def _chance(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - a seeded corpus, no secret


def _stage(pen: Pen, seed: int, shift: float, horizon: float, number: int) -> Stage:
    stage = _MovingStage(pen, _chance(seed), shift, WIDTH + shift, horizon, test=False)
    stage.phase = number / FPS
    return stage


def _ease(rest: float) -> float:
    """1 → 0, slowing down towards the end."""
    return max(0.0, rest) ** 2


def write_film(frames: Sequence[Pictures.Image], path: Path) -> None:
    """Write frames as an mp4 file of H.264, by one thread, so that the same frames give the same bytes."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"crf": "20", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = frames[0].width, frames[0].height, "yuv420p"
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.asarray(picture), format="rgb24")))
        container.mux(stream.encode())
