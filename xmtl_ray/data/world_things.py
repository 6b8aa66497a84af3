"""Things and places of the miniature news world: vehicles, weapons, papers, money, flames, rooms and streets.

Each function draws one thing with the pen of world_images.py at pixel coordinates; ``size`` is its main extent in
pixels, ``y`` the ground it stands on unless said otherwise. No function knows what the thing is there for.
"""

from __future__ import annotations

import math
import random

from xmtl_ray.data.world_images import (
    DARK,
    PAINTS,
    SHIRTS,
    TEST_LOOKS,
    TEST_PAINTS,
    TEST_SHIRTS,
    Colour,
    Pen,
    Point,
    shade,
)

WOOD: Colour = (150, 105, 62)
STEEL: Colour = (135, 140, 148)
PAPER: Colour = (246, 244, 232)
GLASS: Colour = (165, 205, 225)


def around(x: float, y: float, size: float, *shares: Point) -> list[Point]:
    """Points at ``shares`` of ``size`` from (x, y)."""
    return [(x + across * size, y + down * size) for across, down in shares]


def paint(rng: random.Random, test: bool) -> Colour:
    """A vehicle's colour."""
    return rng.choice(TEST_PAINTS if test and rng.random() < TEST_LOOKS else PAINTS)


def _wheel(pen: Pen, x: float, y: float, radius: float) -> None:
    pen.oval(x, y - radius, radius, radius, DARK)
    pen.oval(x, y - radius, radius * 0.45, radius * 0.45, STEEL)


def car(pen: Pen, x: float, y: float, size: float, colour: Colour) -> None:
    """A car seen from the side, facing right; ``size`` is its length."""
    high = size * 0.2
    pen.shape(
        [
            (x - size * 0.3, y - high * 1.2),
            (x - size * 0.18, y - high * 2),
            (x + size * 0.14, y - high * 2),
            (x + size * 0.28, y - high * 1.2),
        ],
        colour,
    )
    pen.shape(
        [
            (x - size * 0.23, y - high * 1.25),
            (x - size * 0.15, y - high * 1.85),
            (x + size * 0.11, y - high * 1.85),
            (x + size * 0.21, y - high * 1.25),
        ],
        GLASS,
    )
    pen.rect(x - size / 2, y - high * 1.3, x + size / 2, y - high * 0.4, colour)
    pen.rect(x + size * 0.43, y - high * 1.15, x + size / 2, y - high * 0.85, (250, 235, 150))
    for wheel in (-0.29, 0.29):
        _wheel(pen, x + size * wheel, y, size * 0.085)


def truck(pen: Pen, x: float, y: float, size: float, colour: Colour, covered: bool) -> tuple[Point, float]:
    """A truck facing right; returns the middle of its open bed's floor and the bed's length."""
    floor = y - size * 0.17
    bed_x0, bed_x1 = x - size / 2, x + size * 0.2
    pen.rect(bed_x0, floor, bed_x1, floor + size * 0.07, shade(colour, 0.7))
    if covered:
        pen.rect(bed_x0, floor - size * 0.32, bed_x1, floor, (205, 200, 180))
        for k in (0.25, 0.5, 0.75):
            at = bed_x0 + k * (bed_x1 - bed_x0)
            pen.line([(at, floor - size * 0.32), (at, floor)], (160, 155, 140), size * 0.012)
    else:
        pen.line([(bed_x0, floor - size * 0.1), (bed_x0, floor)], shade(colour, 0.7), size * 0.03)
    pen.shape(
        [
            (bed_x1, floor + size * 0.07),
            (bed_x1, floor - size * 0.22),
            (x + size * 0.4, floor - size * 0.22),
            (x + size / 2, floor - size * 0.07),
            (x + size / 2, floor + size * 0.07),
        ],
        colour,
    )
    pen.shape(
        [
            (x + size * 0.29, floor - size * 0.08),
            (x + size * 0.29, floor - size * 0.18),
            (x + size * 0.38, floor - size * 0.18),
            (x + size * 0.45, floor - size * 0.08),
        ],
        GLASS,
    )
    for wheel in (-0.36, -0.2, 0.34):
        _wheel(pen, x + size * wheel, y, size * 0.075)
    return ((bed_x0 + bed_x1) / 2, floor), bed_x1 - bed_x0


def bus(pen: Pen, x: float, y: float, size: float, colour: Colour) -> None:
    """A bus facing right with a row of windows and a door at its front."""
    pen.rect(x - size / 2, y - size * 0.42, x + size / 2, y - size * 0.07, colour)
    for k in range(4):
        left = x - size * 0.45 + k * size * 0.19
        pen.rect(left, y - size * 0.37, left + size * 0.15, y - size * 0.24, GLASS)
    pen.rect(x + size * 0.34, y - size * 0.37, x + size * 0.46, y - size * 0.09, shade(GLASS, 0.75))
    for wheel in (-0.3, 0.24):
        _wheel(pen, x + size * wheel, y, size * 0.07)


def boat(pen: Pen, x: float, y: float, size: float, colour: Colour) -> Point:
    """A boat; returns the middle of its deck. Its own strip of water is not part of it."""
    deck = y - size * 0.2
    pen.shape([(x - size / 2, deck), (x + size / 2, deck), (x + size * 0.36, y), (x - size * 0.36, y)], colour)
    pen.line([(x - size * 0.47, deck + size * 0.05), (x + size * 0.46, deck + size * 0.05)], PAPER, size * 0.025)
    return x, deck


def water(pen: Pen, y: float) -> None:
    """The sea below ``y``, over the whole picture."""
    pen.rect(-2, y, pen.width + 2, pen.height + 2, (70, 120, 165))
    for k in range(5):
        at = y + 4 + k * (pen.height - y) / 5
        pen.line([(pen.width * (0.1 + 0.15 * k), at), (pen.width * (0.3 + 0.15 * k), at)], (120, 165, 200), 1)


def gun(pen: Pen, x: float, y: float, size: float, facing: int) -> None:
    """A rifle held at (x, y), muzzle towards ``facing``."""
    pen.line([(x - facing * size * 0.45, y + size * 0.1), (x - facing * size * 0.15, y)], (95, 62, 35), size * 0.13)
    pen.line([(x - facing * size * 0.2, y), (x + facing * size * 0.65, y - size * 0.03)], DARK, size * 0.09)
    pen.line([(x + facing * size * 0.1, y), (x + facing * size * 0.05, y + size * 0.2)], DARK, size * 0.08)


def flash(pen: Pen, x: float, y: float, size: float) -> None:
    """A shot's muzzle flash."""
    rays = [
        (x + size * r * math.cos(k * math.pi / 5), y + size * r * math.sin(k * math.pi / 5))
        for k, r in enumerate((1, 0.4) * 5)
    ]
    pen.shape(rays, (255, 220, 90))


def flames(pen: Pen, rng: random.Random, x: float, y: float, size: float) -> None:
    """Fire and smoke rising from (x, y)."""
    for k in range(4):
        grey = rng.randint(70, 110)
        pen.oval(
            x + rng.uniform(-0.2, 0.3) * size, y - size * (0.75 + 0.2 * k), size * 0.2, size * 0.16, (grey, grey, grey)
        )
    for wide, high, colour in ((0.5, 1.0, (225, 80, 25)), (0.34, 0.7, (250, 150, 40)), (0.18, 0.4, (255, 225, 110))):
        tips = [(-1.0, 0.0), (-0.8, 0.6), (-0.45, 0.35), (-0.1, 1.0), (0.3, 0.4), (0.7, 0.75), (1.0, 0.0)]
        pen.shape([(x + u * wide * size, y - v * high * size) for u, v in tips], colour)


def placard(pen: Pen, rng: random.Random, x: float, y: float, size: float, test: bool) -> None:
    """A sign on a stick, held at (x, y)."""
    new = test and rng.random() < TEST_LOOKS
    pen.line([(x, y + size * 0.2), (x, y - size * 0.5)], WOOD, size * 0.07)
    board = rng.choice(TEST_SHIRTS if new else ((246, 244, 232), (250, 225, 90), (240, 240, 240), (220, 70, 60)))
    middle = y - size * 0.75
    if new and rng.random() < 0.5:
        pen.oval(x, middle, size * 0.45, size * 0.38, board)
    elif new:
        pen.shape(
            [(x - size * 0.5, middle + size * 0.3), (x, middle - size * 0.45), (x + size * 0.5, middle + size * 0.3)],
            board,
        )
    else:
        tilt = rng.uniform(-0.06, 0.06) * size
        pen.shape(
            [
                (x - size * 0.5, middle - size * 0.3 + tilt),
                (x + size * 0.5, middle - size * 0.3 - tilt),
                (x + size * 0.5, middle + size * 0.3 - tilt),
                (x - size * 0.5, middle + size * 0.3 + tilt),
            ],
            board,
        )
    for k in (-0.1, 0.08):
        pen.line([(x - size * 0.3, middle + k * size), (x + size * 0.28, middle + k * size)], DARK, size * 0.07)


def cuffs(pen: Pen, x: float, y: float, size: float) -> None:
    """Handcuffs around wrists at (x, y)."""
    pen.oval(x - size * 0.3, y, size * 0.32, size * 0.3, (210, 214, 220))
    pen.oval(x + size * 0.3, y, size * 0.32, size * 0.3, (210, 214, 220))


def phone(pen: Pen, x: float, y: float, size: float) -> None:
    """A telephone with a lit screen, upright around (x, y)."""
    pen.rect(x - size * 0.3, y - size * 0.55, x + size * 0.3, y + size * 0.55, DARK)
    pen.rect(x - size * 0.18, y - size * 0.4, x + size * 0.18, y + size * 0.3, (130, 225, 250))


def laptop(pen: Pen, x: float, y: float, size: float) -> None:
    """An open laptop standing at (x, y), its screen away from the left."""
    pen.shape(around(x, y, size, (0.1, -0.08), (0.3, -0.65), (0.42, -0.65), (0.24, -0.08)), (70, 75, 85))
    pen.line([(x + size * 0.14, y - size * 0.12), (x + size * 0.31, y - size * 0.6)], (130, 225, 250), size * 0.08)
    pen.rect(x - size * 0.45, y - size * 0.1, x + size * 0.25, y, STEEL)


def letter(pen: Pen, x: float, y: float, size: float) -> None:
    """A sheet with lines of writing and a pen on it, lying at (x, y)."""
    pen.shape(around(x, y, size, (-0.45, 0.0), (0.35, 0.0), (0.5, -0.28), (-0.3, -0.28)), PAPER)
    pen.line([(x - size * 0.2, y - size * 0.18), (x + size * 0.2, y - size * 0.18)], (90, 90, 130), size * 0.05)
    pen.line([(x - size * 0.05, y - size * 0.05), (x - size * 0.2, y - size * 0.5)], (30, 40, 140), size * 0.08)


def book(pen: Pen, x: float, y: float, size: float) -> None:
    """An open book held upright around (x, y)."""
    for side in (-1, 1):
        pen.shape(
            [
                (x, y - size * 0.2),
                (x + side * size * 0.45, y - size * 0.35),
                (x + side * size * 0.45, y + size * 0.2),
                (x, y + size * 0.35),
            ],
            (170, 60, 50) if side < 0 else PAPER,
        )


def banknotes(pen: Pen, x: float, y: float, size: float) -> None:
    """A fan of green notes around (x, y)."""
    for dx, dy in ((-0.12, 0.16), (0.0, 0.0), (0.12, -0.16)):
        pen.rect(
            x + (dx - 0.5) * size, y + (dy - 0.25) * size, x + (dx + 0.5) * size, y + (dy + 0.25) * size, (95, 175, 95)
        )
    pen.oval(x + 0.12 * size, y - 0.16 * size, size * 0.14, size * 0.14, (215, 235, 205))


def crate(pen: Pen, x: float, y: float, size: float) -> None:
    """A wooden box standing at (x, y)."""
    pen.rect(x - size / 2, y - size * 0.8, x + size / 2, y, (186, 138, 84))
    pen.line([(x - size * 0.4, y - size * 0.7), (x + size * 0.4, y - size * 0.1)], shade(WOOD, 0.8), size * 0.09)
    pen.line([(x - size * 0.4, y - size * 0.1), (x + size * 0.4, y - size * 0.7)], shade(WOOD, 0.8), size * 0.09)


def bag(pen: Pen, x: float, y: float, size: float, colour: Colour) -> None:
    """A shopping bag hanging around (x, y)."""
    pen.line([(x - size * 0.2, y), (x, y - size * 0.4), (x + size * 0.2, y)], shade(colour, 0.6), size * 0.08)
    pen.shape(around(x, y, size, (-0.35, 0.0), (0.35, 0.0), (0.42, 0.8), (-0.42, 0.8)), colour)


def table(pen: Pen, x: float, y: float, size: float, height: float) -> None:
    """A table of length ``size`` whose top lies ``height`` above ``y``."""
    for side in (-0.42, 0.42):
        pen.line([(x + side * size, y - height), (x + side * size, y)], shade(WOOD, 0.7), size * 0.05)
    pen.rect(x - size / 2, y - height - size * 0.03, x + size / 2, y - height + size * 0.05, WOOD)


def coffin(pen: Pen, x: float, y: float, size: float) -> None:
    """A closed coffin whose bottom is at ``y``."""
    high = size * 0.26
    pen.shape(
        [
            (x - size / 2, y),
            (x - size * 0.44, y - high),
            (x + size * 0.3, y - high),
            (x + size / 2, y - high * 0.5),
            (x + size * 0.44, y),
        ],
        (112, 66, 38),
    )
    pen.line([(x - size * 0.3, y - high * 0.55), (x + size * 0.25, y - high * 0.55)], (225, 195, 110), size * 0.03)
    pen.line([(x - size * 0.1, y - high * 0.85), (x - size * 0.1, y - high * 0.25)], (225, 195, 110), size * 0.03)


def pool(pen: Pen, x: float, y: float, size: float) -> None:
    """A dark red stain on the ground."""
    pen.oval(x, y, size * 0.5, size * 0.12, (130, 25, 25))


def shovel(pen: Pen, x: float, y: float, size: float, facing: int) -> None:
    """A shovel held at (x, y), its blade on the ground in front."""
    pen.line([(x - facing * size * 0.2, y - size * 0.3), (x + facing * size * 0.3, y + size * 0.45)], WOOD, size * 0.06)
    tip = (x + facing * size * 0.36, y + size * 0.52)
    pen.shape(
        [
            (tip[0] - size * 0.12, tip[1] - size * 0.1),
            (tip[0] + size * 0.1, tip[1] - size * 0.14),
            (tip[0] + size * 0.1, tip[1] + size * 0.16),
        ],
        STEEL,
    )


def rod(pen: Pen, x: float, y: float, size: float, facing: int) -> None:
    """A fishing rod with its line."""
    tip = (x + facing * size * 0.7, y - size * 0.5)
    pen.line([(x - facing * size * 0.1, y + size * 0.1), tip], WOOD, 1.5)
    pen.line([tip, (tip[0], y + size * 0.5)], PAPER, 0.8)


def camera(pen: Pen, x: float, y: float, size: float, facing: int) -> None:
    """A camera held at (x, y), lens towards ``facing``."""
    pen.rect(x - size * 0.4, y - size * 0.35, x + size * 0.4, y + size * 0.3, (60, 60, 66))
    pen.rect(
        min(x + facing * size * 0.4, x + facing * size * 0.7),
        y - size * 0.2,
        max(x + facing * size * 0.4, x + facing * size * 0.7),
        y + size * 0.15,
        DARK,
    )
    pen.oval(x, y - size * 0.02, size * 0.12, size * 0.12, (220, 60, 60))


def pot(pen: Pen, x: float, y: float, size: float) -> None:
    """A steaming pot standing at (x, y)."""
    pen.rect(x - size * 0.4, y - size * 0.5, x + size * 0.4, y, (90, 95, 105))
    pen.line([(x - size * 0.5, y - size * 0.4), (x + size * 0.5, y - size * 0.4)], (60, 62, 70), size * 0.1)
    for dx in (-0.15, 0.15):
        pen.line(
            [(x + dx * size, y - size * 0.6), (x + (dx + 0.08) * size, y - size * 1.0)], (225, 228, 232), size * 0.08
        )


def dog(pen: Pen, x: float, y: float, size: float, colour: Colour) -> None:
    """A dog facing right."""
    for leg in (-0.3, -0.2, 0.2, 0.3):
        pen.line([(x + leg * size, y - size * 0.3), (x + leg * size, y)], shade(colour, 0.8), size * 0.08)
    pen.oval(x, y - size * 0.38, size * 0.4, size * 0.17, colour)
    pen.oval(x + size * 0.42, y - size * 0.55, size * 0.17, size * 0.15, colour)
    pen.line([(x - size * 0.38, y - size * 0.42), (x - size * 0.52, y - size * 0.65)], colour, size * 0.07)


def bench(pen: Pen, x: float, y: float, size: float) -> None:
    """A park bench whose seat is at a third of its length."""
    for side in (-0.4, 0.4):
        pen.line([(x + side * size, y - size * 0.26), (x + side * size, y)], STEEL, size * 0.05)
    pen.rect(x - size / 2, y - size * 0.3, x + size / 2, y - size * 0.23, (120, 90, 60))
    pen.rect(x - size / 2, y - size * 0.52, x + size / 2, y - size * 0.43, (120, 90, 60))


def building(pen: Pen, rng: random.Random, x: float, y: float, wide: float, high: float) -> None:
    """A house with windows and a door."""
    wall = rng.choice(((176, 160, 145), (160, 164, 170), (190, 182, 162)))
    pen.rect(x - wide / 2, y - high, x + wide / 2, y, wall)
    columns, rows = max(2, int(wide / 14)), max(1, int(high / 18))
    for row in range(rows):
        for column in range(columns):
            left = x - wide / 2 + (column + 0.25) * wide / columns
            top = y - high + (row + 0.25) * high / (rows + 0.6)
            pen.rect(left, top, left + wide / columns * 0.5, top + high / (rows + 0.6) * 0.5, (125, 135, 145))
    pen.rect(x - wide * 0.08, y - min(16, high * 0.3), x + wide * 0.08, y, shade(wall, 0.5))


def flag(pen: Pen, x: float, y: float, size: float, colours: tuple[Colour, Colour]) -> None:
    """A flag on a pole of height ``size`` that stands at (x, y)."""
    pen.line([(x, y), (x, y - size)], STEEL, size * 0.035)
    for k, colour in enumerate(colours):
        pen.rect(x, y - size * (1 - 0.17 * k), x + size * 0.42, y - size * (0.83 - 0.17 * k), colour)


def tree(pen: Pen, rng: random.Random, x: float, y: float, size: float) -> None:
    """A tree of height ``size``."""
    pen.line([(x, y), (x, y - size * 0.5)], (96, 66, 42), size * 0.1)
    for dx, dy in ((-0.16, 0.58), (0.16, 0.58), (0.0, 0.78)):
        green = shade((70, 120, 60), rng.uniform(0.8, 1.2))
        pen.oval(x + dx * size, y - dy * size, size * 0.22, size * 0.2, green)


def lamp(pen: Pen, x: float, y: float, size: float) -> None:
    """A street lamp."""
    pen.line([(x, y), (x, y - size), (x + size * 0.2, y - size)], (70, 72, 76), max(1.2, size * 0.04))
    pen.oval(x + size * 0.2, y - size * 0.96, size * 0.06, size * 0.05, (250, 240, 180))


SKIES: tuple[tuple[Colour, Colour], ...] = (
    ((165, 200, 230), (215, 225, 230)),
    ((190, 195, 200), (220, 220, 215)),
    ((225, 195, 165), (235, 215, 190)),
)
GROUNDS: tuple[Colour, ...] = ((165, 160, 152), (150, 165, 115), (195, 175, 135))
WALLS: tuple[Colour, ...] = ((215, 205, 180), (190, 200, 205), (215, 190, 170))


def outdoors(pen: Pen, rng: random.Random, horizon: float) -> None:
    """Sky, ground, and some of houses, trees and lamps behind."""
    top, low = rng.choice(SKIES)
    bands = 8
    for k in range(bands):
        mix = k / bands
        colour = (
            round(top[0] + mix * (low[0] - top[0])),
            round(top[1] + mix * (low[1] - top[1])),
            round(top[2] + mix * (low[2] - top[2])),
        )
        pen.line(
            [(-2, horizon * (k + 0.5) / bands), (pen.width + 2, horizon * (k + 0.5) / bands)],
            colour,
            horizon / bands + 1,
        )
    ground = shade(rng.choice(GROUNDS), rng.uniform(0.85, 1.1))
    pen.rect(-2, horizon, pen.width + 2, pen.height + 2, ground)
    for _ in range(rng.randint(0, 14)):
        x, y = rng.uniform(0, pen.width), rng.uniform(horizon + 3, pen.height)
        pen.line([(x, y), (x + rng.uniform(3, 12), y)], shade(ground, rng.choice((0.85, 1.12))), 1)
    for _ in range(rng.choice((0, 0, 1, 1))):
        building(pen, rng, rng.uniform(0, pen.width), horizon + 1, rng.uniform(25, 60), rng.uniform(0.3, 0.9) * horizon)
    for _ in range(rng.choice((0, 0, 0, 1))):
        tree(pen, rng, rng.uniform(0, pen.width), horizon + rng.uniform(1, 6), rng.uniform(0.4, 0.8) * horizon)
    if rng.random() < 0.12:
        lamp(pen, rng.uniform(0, pen.width), horizon + 8, horizon * 0.9)


def indoors(pen: Pen, rng: random.Random, horizon: float) -> None:
    """A wall with a window, a picture or wallpaper, and a floor."""
    wall, floor = rng.choice(WALLS), shade(rng.choice((WOOD, (120, 120, 125), (150, 130, 120))), rng.uniform(0.8, 1.2))
    pen.rect(-2, -2, pen.width + 2, horizon, wall)
    pen.rect(-2, horizon, pen.width + 2, pen.height + 2, floor)
    if rng.random() < 0.4:
        step = rng.uniform(8, 18)
        for k in range(int(pen.width / step) + 1):
            pen.line([(k * step, 0), (k * step, horizon)], shade(wall, 0.93), 1.5)
    if rng.random() < 0.6:
        x, wide = rng.uniform(0.1, 0.9) * pen.width, rng.uniform(18, 34)
        pen.rect(x - wide / 2, horizon * 0.15, x + wide / 2, horizon * 0.55, (185, 215, 235))
        pen.line([(x, horizon * 0.15), (x, horizon * 0.55)], PAPER, 1.5)
    if rng.random() < 0.4:
        x = rng.uniform(0.05, 0.95) * pen.width
        pen.rect(x - 7, horizon * 0.2, x + 7, horizon * 0.42, shade(rng.choice(SHIRTS), 0.8))
