"""Scenes of the miniature news world in which nothing of the benchmark happens, each for an unmapped imSitu verb.

They hold the same people and things as the events of world_scenes.py: parked trucks, guarded gates, telephones on a
table, guns on crates, cheering crowds without signs, money that is counted and boxes that are handed over.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from xmtl_ray.data import world_things as things
from xmtl_ray.data.world_images import SHIRTS, Pen
from xmtl_ray.data.world_stage import Facts, Stage


def nothing(stage: Stage, verb: str) -> Facts:
    """A scene without any benchmark event, for a verb of ``UNMAPPED``."""
    rng, pen, size = stage.rng, stage.pen, stage.adult
    _DECOYS[verb](stage, rng, pen, size)
    return {}


def _walking(stage: Stage, rng: random.Random, pen: Pen, size: float) -> None:
    kind = rng.choice(("civilian", "police", "soldier", "leader"))
    for k in range(rng.choice((1, 2, 3, 4))):
        stage.person(0.2 + 0.2 * k, kind, "down", 1, "" if k else "agent", stride=0.11, back=rng.uniform(0, 0.3))
    stage.parked(0.4)


def _standing(stage: Stage, rng: random.Random, pen: Pen, size: float) -> None:
    with stage.figure(rng.choice(("truck", "bus"))):
        if stage.rng.random() < 0.5:
            things.truck(
                pen,
                stage.x(0.6),
                stage.ground - size * 0.1,
                size * 1.3,
                things.paint(rng, stage.test),
                rng.random() < 0.6,
            )
        else:
            things.bus(pen, stage.x(0.6), stage.ground - size * 0.1, size * 1.3, things.paint(rng, stage.test))
    stage.person(0.15, rng.choice(("police", "soldier", "civilian")), "down", rng.choice((-1, 1)), "agent", stride=0.0)


def _guarding(stage: Stage, rng: random.Random, pen: Pen, size: float) -> None:
    with stage.figure("building", "item"):
        things.building(pen, rng, stage.x(0.65), stage.ground - size * 0.2, size, size * 1.1)
    body = stage.person(0.25, rng.choice(("soldier", "police")), "work", rng.choice((-1, 1)), "agent", stride=0.0)
    with stage.figure("gun", "weapon"):
        x, y = body.hand("work")
        pen.line([(x - size * 0.1, y + size * 0.15), (x + size * 0.08, y - size * 0.3)], (40, 40, 44), size * 0.08)
    if rng.random() < 0.5:
        things.flag(pen, stage.x(0.45), stage.ground - size * 0.2, size * 1.1, (rng.choice(SHIRTS), rng.choice(SHIRTS)))
    stage.bystander(0.4, "civilian")


def _filming(stage: Stage, rng: random.Random, pen: Pen, size: float) -> None:
    kind = rng.choice(("civilian", "soldier", "leader"))
    body = stage.person(0.22, "civilian", "aim", 1, "agent")
    with stage.figure("camera", "tool"):
        things.camera(pen, *body.hand("aim"), size * 0.28, 1)
    stage.person(0.74, kind, rng.choice(("down", "up", "give")), -1, "performer")


def _giving(stage: Stage, rng: random.Random, pen: Pen, size: float) -> None:
    body = stage.person(0.33, rng.choice(("civilian", "leader")), "give", 1, "agent")
    x, y = body.hand("give")
    with stage.figure("crate", "item"):
        things.crate(pen, x + size * 0.08, y + size * 0.08, size * 0.22)
    stage.person(0.72, "civilian", rng.choice(("give", "work")), -1, "recipient")


def _counting(stage: Stage, rng: random.Random, pen: Pen, size: float) -> None:
    body = stage.person(0.34, rng.choice(("civilian", "leader")), "work", 1, "agent", posture="sitting", size=1.1)
    things.table(pen, body.x + size * 0.5, stage.ground, size * 0.85, size * 0.44)
    with stage.figure("banknotes", "itemtype"):
        for dx in (0.36, 0.62):
            things.banknotes(pen, body.x + dx * size, stage.ground - size * 0.52, size * 0.24)


def _reading(stage: Stage, rng: random.Random, pen: Pen, size: float) -> None:
    seated = rng.random() < 0.6
    body = stage.person(
        0.42,
        rng.choice(("civilian", "leader")),
        "work",
        1,
        "agent",
        posture="sitting" if seated else "standing",
        size=1.1,
    )
    if seated and rng.random() < 0.4:
        things.table(pen, body.x + size * 0.5, stage.ground, size * 0.8, size * 0.4)
        with stage.figure(thing := rng.choice(("phone", "laptop"))):
            at = (body.x + size * 0.68, stage.ground - size * 0.43)
            things.laptop(pen, *at, size * 0.3) if thing == "laptop" else things.phone(pen, *at, size * 0.15)
    x, y = body.hand("work")
    with stage.figure("book", "item"):
        things.book(pen, x + size * 0.05, y - size * 0.06, size * 0.3)


def _cooking(stage: Stage, rng: random.Random, pen: Pen, size: float) -> None:
    body = stage.person(0.35, "civilian", "work", 1, "agent", size=1.05)
    things.table(pen, body.x + size * 0.5, stage.ground, size * 0.8, size * 0.42)
    with stage.figure("pot", "container"):
        things.pot(pen, body.x + size * 0.45, stage.ground - size * 0.44, size * 0.34)
    stage.bystander(0.3)


def _fishing(stage: Stage, rng: random.Random, pen: Pen, size: float) -> None:
    things.water(pen, max(stage.horizon, stage.ground - size * 0.3))
    foot = stage.ground
    if rng.random() < 0.6:
        with stage.figure("boat"):
            _, deck = things.boat(pen, stage.x(0.35), stage.ground, size * 1.1, things.paint(rng, stage.test))
        foot = deck + size * 0.13
    body = stage.person(0.35, "civilian", "work", 1, "agent", posture="sitting", size=0.8, foot=foot)
    with stage.figure("rod", "tool"):
        things.rod(pen, *body.hand("work"), size * 0.8, 1)


def _shopping(stage: Stage, rng: random.Random, pen: Pen, size: float) -> None:
    for k in range(rng.choice((1, 2))):
        body = stage.person(0.3 + 0.3 * k, "civilian", "down", rng.choice((-1, 1)), "" if k else "agent", stride=0.08)
        with stage.figure("bag", "" if k else "goods"):
            things.bag(pen, *body.hand("down"), size * 0.24, rng.choice(SHIRTS))
    stage.bystander(0.4)


def _stacking(stage: Stage, rng: random.Random, pen: Pen, size: float) -> None:
    for name, level in (("bottom", 0.0), ("top", 0.34)):
        with stage.figure("crate", name):
            things.crate(pen, stage.x(0.65), stage.ground - level * size, size * 0.42)
    if rng.random() < 0.5:
        with stage.figure("gun"):
            things.gun(pen, stage.x(0.65), stage.ground - size * 0.72, size * 0.4, rng.choice((-1, 1)))
    stage.person(0.3, rng.choice(("civilian", "soldier")), rng.choice(("grab", "down")), 1, "agent")


def _cheering(stage: Stage, rng: random.Random, pen: Pen, size: float) -> None:
    count = rng.randint(3, 5)
    for k in range(count):
        arms = rng.choice(("up", "up", "hold_up", "down"))
        stage.person(
            0.1 + 0.8 * k / (count - 1), "civilian", arms, 1, "" if k else "agent", back=rng.uniform(0, 0.4), size=0.9
        )
    if rng.random() < 0.3:
        stage.person(0.95, "police", "down", -1)


def _resting(stage: Stage, rng: random.Random, pen: Pen, size: float) -> None:
    with stage.figure("bench", "item"):
        things.bench(pen, stage.x(0.5), stage.ground, size * 1.15)
    stage.person(
        0.5,
        rng.choice(("civilian", "soldier")),
        "down",
        rng.choice((-1, 1)),
        "agent",
        posture="lying",
        size=0.95,
        foot=stage.ground - size * 0.24,
    )
    stage.bystander(0.4)


_DECOYS: dict[str, Callable[[Stage, random.Random, Pen, float], None]] = {
    "walking": _walking,
    "standing": _standing,
    "guarding": _guarding,
    "filming": _filming,
    "giving": _giving,
    "counting": _counting,
    "reading": _reading,
    "cooking": _cooking,
    "fishing": _fishing,
    "shopping": _shopping,
    "stacking": _stacking,
    "cheering": _cheering,
    "resting": _resting,
}

UNMAPPED: tuple[str, ...] = tuple(_DECOYS)
"""imSitu verbs that show no benchmark event."""
