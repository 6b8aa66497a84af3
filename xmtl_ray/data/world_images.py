"""Pictures of the miniature news world: the pen, people and things. What they do together is in world_scenes.py.

Everything is drawn with PIL at twice the final size and then reduced. Each figure's box is the hull of what the pen
drew for it, so boxes are tight. The one surprising fact: ``test=True`` adds clothes, hats, colours and placard shapes
that no training picture has, and takes none away.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from PIL import Image as Pictures
from PIL import ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Point = tuple[float, float]

SCALE = 2
TEST_LOOKS = 0.08
"""How often a figure of a test picture wears what no training picture shows."""

SKIN: tuple[Colour, ...] = ((238, 200, 168), (205, 154, 112), (150, 102, 70), (102, 68, 48))
HAIR: tuple[Colour, ...] = ((35, 28, 25), (92, 60, 35), (150, 148, 145), (196, 150, 82))
SHIRTS: tuple[Colour, ...] = ((190, 60, 50), (225, 200, 110), (150, 90, 150), (205, 130, 70), (125, 170, 190))
TEST_SHIRTS: tuple[Colour, ...] = ((236, 120, 170), (60, 200, 190), (170, 220, 60), (110, 40, 60))
TROUSERS: tuple[Colour, ...] = ((95, 80, 65), (85, 85, 90))
PAINTS: tuple[Colour, ...] = (
    (200, 50, 45),
    (235, 235, 235),
    (60, 95, 170),
    (95, 100, 105),
    (60, 120, 75),
    (215, 185, 70),
)
TEST_PAINTS: tuple[Colour, ...] = ((240, 130, 30), (130, 70, 160), (70, 205, 205))
DARK: Colour = (32, 32, 36)


@dataclass(frozen=True, slots=True)
class Figure:
    """Something drawn: its coarse class, its box in final pixels, its imSitu slot and its M2E2 role ('' for none)."""

    label: str
    box: tuple[int, int, int, int]
    slot: str = ""
    role: str = ""


def shade(colour: Colour, factor: float) -> Colour:
    """``colour`` made darker (below 1) or lighter (above 1)."""
    red, green, blue = (max(0, min(255, int(part * factor))) for part in colour)
    return red, green, blue


class Pen:
    """Draws in final pixels and remembers the hull of what it drew since ``figure`` began."""

    def __init__(self, width: int, height: int, mirrored: bool) -> None:
        self.width, self.height, self.mirrored = width, height, mirrored
        self.picture = Pictures.new("RGB", (width * SCALE, height * SCALE))
        self._draw = ImageDraw.Draw(self.picture)
        self._hull: list[float] = []

    def _at(self, points: Sequence[Point], margin: float = 0.0) -> list[Point]:
        placed = [((self.width - x if self.mirrored else x), y) for x, y in points]
        for x, y in placed:
            self._hull += (x - margin, y - margin, x + margin, y + margin)
        return [(x * SCALE, y * SCALE) for x, y in placed]

    def shape(self, points: Sequence[Point], fill: Colour) -> None:
        """A filled polygon with a darker rim."""
        self._draw.polygon(self._at(points), fill=fill, outline=shade(fill, 0.6))

    def oval(self, x: float, y: float, rx: float, ry: float, fill: Colour) -> None:
        """A filled ellipse around (x, y)."""
        (x0, y0), (x1, y1) = self._at([(x - rx, y - ry), (x + rx, y + ry)])
        self._draw.ellipse((min(x0, x1), y0, max(x0, x1), y1), fill=fill, outline=shade(fill, 0.6))

    def line(self, points: Sequence[Point], fill: Colour, width: float) -> None:
        """A thick line with round joints."""
        placed = self._at(points, width / 2)
        self._draw.line(placed, fill=fill, width=max(1, round(width * SCALE)), joint="curve")

    def rect(self, x0: float, y0: float, x1: float, y1: float, fill: Colour) -> None:
        """A filled rectangle."""
        self.shape([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], fill)

    @contextmanager
    def figure(self) -> Iterator[list[int]]:
        """Collect the hull of what is drawn inside; the list holds x0, y0, x1, y1 afterwards, clipped."""
        before, self._hull = self._hull, []
        box: list[int] = []
        yield box
        hull, self._hull = self._hull, before
        x0, y0 = max(0, math.floor(min(hull[0::2]))), max(0, math.floor(min(hull[1::2])))
        x1, y1 = min(self.width, math.ceil(max(hull[0::2]))), min(self.height, math.ceil(max(hull[1::2])))
        x0, y0 = min(x0, self.width - 2), min(y0, self.height - 2)
        box += [x0, y0, max(x1, x0 + 2), max(y1, y0 + 2)]

    def finish(self, noise: float, seed: int) -> Pictures.Image:
        """The picture at its final size, a little soft and grainy."""
        small = self.picture.reduce(SCALE)
        if noise > 4.5:
            small = small.filter(ImageFilter.GaussianBlur(0.5))
        grain = np.random.Generator(np.random.PCG64(seed)).normal(0, noise, (self.height, self.width, 1))
        pixels = np.clip(np.asarray(small, dtype=np.float32) + grain, 0, 255).astype(np.uint8)
        return Pictures.fromarray(pixels)


@dataclass(frozen=True)
class Outfit:
    """What a person wears."""

    shirt: Colour
    trousers: Colour
    skin: Colour
    hair: Colour
    hat: str = ""
    hat_colour: Colour = DARK
    stripes: bool = False


def dress(rng: random.Random, kind: str, test: bool) -> Outfit:
    """Clothes of a civilian, leader, police officer or soldier; every choice comes from ``rng``."""
    new = test and rng.random() < TEST_LOOKS
    skin, hair = rng.choice(SKIN), rng.choice(HAIR)
    if kind == "police":
        if new:
            return Outfit((120, 150, 205), (25, 35, 80), skin, hair, "cap", (20, 25, 60))
        return Outfit(shade((40, 60, 140), rng.uniform(0.85, 1.2)), (25, 30, 65), skin, hair, "cap", (20, 25, 70))
    if kind == "soldier":
        if new:
            return Outfit((185, 160, 110), (165, 140, 95), skin, hair, "beret", (150, 40, 40))
        green = shade((85, 100, 55), rng.uniform(0.85, 1.2))
        return Outfit(green, shade(green, 0.85), skin, hair, "helmet", shade(green, 0.75))
    if kind == "leader":
        suit = rng.choice(((35, 38, 48), (60, 62, 72), (45, 50, 90)) if not new else ((120, 30, 45), (150, 140, 120)))
        return Outfit(suit, shade(suit, 0.9), skin, hair, "tie", (190, 40, 50))
    hat = rng.choice(("straw", "beanie", "")) if new else rng.choice(("", "", "", "scarf"))
    shirt = rng.choice(TEST_SHIRTS if new else SHIRTS)
    return Outfit(shirt, rng.choice(TROUSERS), skin, hair, hat, rng.choice(SHIRTS), new and rng.random() < 0.5)


ARMS: dict[str, tuple[tuple[Point, Point], tuple[Point, Point]]] = {
    # elbow and hand of the far and the near arm; x towards the front, y upwards, in body heights
    "down": (((-0.17, 0.62), (-0.17, 0.46)), ((0.17, 0.62), (0.17, 0.46))),
    "aim": (((0.12, 0.70), (0.36, 0.74)), ((0.18, 0.66), (0.40, 0.74))),
    "up": (((-0.22, 0.92), (-0.18, 1.08)), ((0.22, 0.92), (0.18, 1.08))),
    "hold_up": (((-0.18, 0.62), (-0.14, 0.48)), ((0.20, 0.90), (0.17, 1.08))),
    "cuffed": (((-0.20, 0.60), (0.03, 0.50)), ((0.20, 0.60), (0.05, 0.50))),
    "phone": (((-0.17, 0.62), (-0.15, 0.46)), ((0.24, 0.70), (0.12, 0.88))),
    "give": (((-0.17, 0.62), (-0.15, 0.48)), ((0.18, 0.62), (0.36, 0.64))),
    "carry": (((0.10, 0.58), (0.28, 0.56)), ((0.18, 0.56), (0.32, 0.54))),
    "grab": (((0.12, 0.66), (0.30, 0.62)), ((0.20, 0.62), (0.36, 0.58))),
    "work": (((0.10, 0.58), (0.26, 0.50)), ((0.16, 0.58), (0.30, 0.49))),
    "face": (((-0.14, 0.64), (0.04, 0.80)), ((0.18, 0.64), (0.07, 0.80))),
}


class Body:
    """One person on the canvas: maps body coordinates (front, up; in heights) to pixels."""

    def __init__(self, x: float, foot: float, height: float, facing: int, posture: str) -> None:
        self.x, self.foot, self.height, self.facing, self.posture = x, foot, height, facing, posture

    def at(self, front: float, up: float) -> Point:
        """Pixels of a body coordinate."""
        if self.posture == "lying":
            return self.x + self.facing * (up - 0.5) * self.height, self.foot - (0.1 + 0.8 * front) * self.height
        return self.x + self.facing * front * self.height, self.foot - up * self.height

    def hand(self, arms: str) -> Point:
        """Where the near hand is."""
        return self.at(*ARMS[arms][1][1])


def draw_person(pen: Pen, body: Body, outfit: Outfit, arms: str, stride: float) -> None:
    """Head, torso and limbs. ``stride`` spreads the legs; sitting and kneeling bodies bend them."""
    size, at = body.height, body.at
    width = 0.085 * size
    (far_elbow, far_hand), (near_elbow, near_hand) = ARMS[arms]
    pen.line([at(-0.12, 0.77), at(*far_elbow), at(*far_hand)], shade(outfit.shirt, 0.8), width * 0.8)
    pen.oval(*at(*far_hand), width * 0.45, width * 0.45, outfit.skin)
    if body.posture == "sitting":
        pen.line([at(-0.02, 0.47), at(0.2, 0.45), at(0.2, 0.18)], outfit.trousers, width * 1.3)
    elif body.posture == "kneeling":
        pen.line([at(0.0, 0.47), at(0.14, 0.22), at(-0.12, 0.20)], outfit.trousers, width * 1.4)
    else:
        for side in (-1, 1):
            pen.line([at(side * 0.06, 0.48), at(side * (0.06 + stride), 0.02)], outfit.trousers, width * 1.1)
            pen.oval(*at(side * (0.06 + stride) + 0.03, 0.02), width * 0.7, width * 0.4, DARK)
    pen.shape([at(-0.15, 0.79), at(0.15, 0.79), at(0.11, 0.45), at(-0.11, 0.45)], outfit.shirt)
    if outfit.stripes:
        for up in (0.72, 0.62, 0.52):
            pen.line([at(-0.11, up), at(0.11, up)], shade(outfit.shirt, 1.7), width * 0.35)
    if outfit.hat == "tie":
        pen.shape([at(-0.04, 0.79), at(0.05, 0.79), at(0.01, 0.62)], (240, 240, 240))
        pen.line([at(0.01, 0.77), at(0.01, 0.62)], outfit.hat_colour, width * 0.4)
    pen.line([at(0.12, 0.77), at(*near_elbow), at(*near_hand)], shade(outfit.shirt, 0.92), width * 0.85)
    pen.oval(*at(*near_hand), width * 0.5, width * 0.5, outfit.skin)
    _head(pen, body, outfit)


def _head(pen: Pen, body: Body, outfit: Outfit) -> None:
    size, at = body.height, body.at
    radius = 0.095 * size
    x, y = at(0.01, 0.89)
    pen.oval(x, y, radius, radius * 1.08, outfit.skin)
    if outfit.hat in ("", "tie", "scarf"):
        pen.shape([at(-0.10, 0.89), at(-0.09, 0.97), at(0.0, 1.0), at(0.09, 0.97), at(0.08, 0.93)], outfit.hair)
        if outfit.hat == "scarf":
            pen.line([at(-0.1, 0.81), at(0.1, 0.80)], outfit.hat_colour, 0.05 * size)
    elif outfit.hat == "cap":
        pen.shape([at(-0.10, 0.93), at(-0.11, 1.0), at(0.11, 1.01), at(0.10, 0.93)], outfit.hat_colour)
        pen.line([at(0.0, 0.93), at(0.16, 0.92)], DARK, 0.03 * size)
        pen.oval(*at(0.03, 0.975), 0.018 * size, 0.018 * size, (235, 205, 80))
    elif outfit.hat == "helmet":
        pen.shape(
            [at(-0.13, 0.90), at(-0.11, 0.98), at(-0.04, 1.02), at(0.05, 1.02), at(0.11, 0.98), at(0.13, 0.90)],
            outfit.hat_colour,
        )
    elif outfit.hat == "beret":
        pen.shape([at(-0.13, 0.95), at(-0.10, 1.02), at(0.08, 1.0), at(0.10, 0.93), at(-0.08, 0.93)], outfit.hat_colour)
    elif outfit.hat == "straw":
        pen.line([at(-0.17, 0.94), at(0.17, 0.94)], (225, 200, 120), 0.03 * size)
        pen.shape([at(-0.09, 0.95), at(-0.07, 1.03), at(0.07, 1.03), at(0.09, 0.95)], (225, 200, 120))
    else:
        pen.shape([at(-0.10, 0.91), at(-0.06, 1.02), at(0.06, 1.02), at(0.10, 0.91)], outfit.hat_colour)
