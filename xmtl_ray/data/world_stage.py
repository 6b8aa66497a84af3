"""A stage of the miniature news world: part of a picture, and the people and things that a scene puts there."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

from xmtl_ray.data import world_things as things
from xmtl_ray.data.world_images import Body, Figure, Pen, draw_person, dress

Facts = dict[str, str]


class Stage:
    """Part of a picture, from ``left`` to ``right``, on which one scene takes place."""

    def __init__(self, pen: Pen, rng: random.Random, left: float, right: float, horizon: float, test: bool) -> None:
        self.pen, self.rng, self.left, self.right, self.test = pen, rng, left, right, test
        self.horizon = horizon
        self.ground = pen.height * rng.uniform(0.86, 0.94)
        self.adult = min(pen.height * rng.uniform(0.62, 0.70), (right - left) * 0.60)
        self.figures: list[Figure] = []

    def x(self, u: float) -> float:
        """Pixels of ``u`` in 0..1 across the stage."""
        return self.left + u * (self.right - self.left)

    @contextmanager
    def figure(self, label: str, slot: str = "", role: str = "") -> Iterator[None]:
        """What is drawn inside is one figure, unless hardly anything of it is in the picture."""
        with self.pen.figure() as box:
            yield
        x0, y0, x1, y1 = box
        if x1 - x0 >= 4 and y1 - y0 >= 4:  # the rest is out of the picture
            self.figures.append(Figure(label, (x0, y0, x1, y1), slot, role))

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
        """A person at ``u``; ``back`` moves away from the viewer, in adult heights."""
        rng = self.rng
        height = self.adult * size * rng.uniform(0.93, 1.06) * (1 - 0.3 * back)
        ground = (self.ground if foot is None else foot) - back * self.adult * 0.45 + rng.uniform(-1.5, 1.5)
        body = Body(self.x(u + rng.uniform(-0.015, 0.015)), ground, height, facing, posture)
        with self.figure("person", slot, role):
            spread = rng.uniform(0.0, 0.05) if stride is None else stride
            draw_person(self.pen, body, dress(rng, kind, self.test), arms, spread)
        return body

    def bystander(self, chance: float, kind: str = "civilian", left: float = 0.05, right: float = 0.95) -> None:
        """Sometimes somebody behind who has no part in it."""
        if self.rng.random() < chance:
            u, facing = self.rng.uniform(left, right), self.rng.choice((-1, 1))
            self.person(u, kind, "down", facing, back=self.rng.uniform(0.5, 0.8))

    def parked(self, chance: float) -> None:
        """Sometimes a car at the back, with no part in it."""
        if self.rng.random() < chance:
            with self.figure("car"):
                u, back = self.rng.uniform(0.1, 0.9), self.adult * 0.3
                things.car(self.pen, self.x(u), self.ground - back, self.adult * 0.9, things.paint(self.rng, self.test))
