"""Events of the miniature news world as pictures: one function per kind of event, and ``draw`` for a whole picture.

A scene is drawn for an imSitu verb on a stage and leaves there each figure with its imSitu slot (the verb's own role
name, for SWiG) and its M2E2 role (for the test documents; '' for none). It returns facts for a caption: which word
class of world.yaml a role's filler belongs to. The one surprising fact: no event is told by one thing alone; every
thing of every event also appears in a scene of world_decoys.py.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from PIL import Image as Pictures

from xmtl_ray.data import world_things as things
from xmtl_ray.data.world_decoys import UNMAPPED, nothing
from xmtl_ray.data.world_images import SHIRTS, Figure, Pen
from xmtl_ray.data.world_stage import Facts, Stage


def attack(stage: Stage, verb: str) -> Facts:
    """Somebody shoots, beats or sets fire; ``verb`` is shooting, aiming, attacking or burning."""
    rng, pen, size = stage.rng, stage.pen, stage.adult
    stage.parked(0.1)
    stage.bystander(0.2, left=0.4)
    kind = rng.choice(("soldier", "soldier", "soldier", "civilian", "civilian", "civilian", "police"))
    facts = {"Attacker": {"soldier": "soldiers", "civilian": "rebels", "police": "soldiers"}[kind]}
    victim = rng.choice(("civilian", "civilian", "civilian", "police", "soldier"))
    target_class = {"civilian": "civilians", "police": "officers", "soldier": "soldiers"}[victim]
    if verb == "burning":
        return facts | _burning(stage, kind)
    if verb == "attacking":
        for u in (0.18, 0.36)[: rng.choice((1, 2))]:
            first = not any(f.slot for f in stage.figures)
            body = stage.person(u, kind, "hold_up", 1, "agent" if first else "", "Attacker", stride=0.1)
            x, y = body.hand("hold_up")
            with stage.figure("club", "weapon" if first else "", "Instrument"):
                pen.line(
                    [(x - size * 0.05, y + size * 0.06), (x + size * 0.16, y - size * 0.2)], things.WOOD, size * 0.07
                )
        posture = rng.choice(("standing", "kneeling", "kneeling"))
        stage.person(0.66, victim, "face", -1, "victim", "Target", posture)
        return facts | {"Target": target_class}
    item = "firearm" if verb == "shooting" else "item"
    for k in range(rng.choice((1, 1, 2))):
        body = stage.person(
            0.2 + 0.14 * k, kind, "aim", 1, "" if k else "agent", "Attacker", back=0.35 * k, stride=0.08
        )
        x, y = body.hand("aim")
        with stage.figure("gun", "" if k else item, "Instrument"):
            things.gun(pen, x, y, size * 0.7, 1)
        if verb == "shooting":
            things.flash(pen, x + size * 0.46, y - size * 0.02, size * 0.17)
            if not k:
                with stage.figure("bullet", "projectile"):
                    pen.line([(x + size * 0.55, y), (x + size * 0.75, y)], (250, 210, 80), 1.6)
    if rng.random() < 0.2:
        with stage.figure("truck", "target", "Target"):
            things.truck(pen, stage.x(0.78), stage.ground, size * 0.95, things.paint(rng, stage.test), True)
        return facts | {"Target": "truck"}
    for k in range(rng.choice((1, 1, 2))):
        arms = rng.choice(("up", "up", "face", "down"))
        stage.person(0.72 + 0.15 * k, victim, arms, -1, "" if k else "target", "Target", stride=0.1)
    return facts | {"Target": target_class}


def _burning(stage: Stage, kind: str) -> Facts:
    rng, pen, size = stage.rng, stage.pen, stage.adult
    house = rng.random() < 0.5
    with stage.figure("building" if house else "car", "target", "Target"):
        if house:
            things.building(pen, rng, stage.x(0.72), stage.ground - size * 0.2, size * 0.9, size * 1.05)
        else:
            things.car(pen, stage.x(0.7), stage.ground - size * 0.1, size * 1.0, things.paint(rng, stage.test))
    things.flames(pen, rng, stage.x(rng.uniform(0.62, 0.8)), stage.ground - size * 0.3, size * 0.6)
    body = stage.person(0.22, kind, "give", 1, "agent", "Attacker", stride=0.08)
    x, y = body.hand("give")
    pen.line([(x, y + size * 0.06), (x + size * 0.03, y - size * 0.1)], things.WOOD, size * 0.05)
    things.flames(pen, rng, x + size * 0.03, y - size * 0.08, size * 0.16)
    return {"Target": "building" if house else "truck"}


def demonstrate(stage: Stage, verb: str) -> Facts:
    """A crowd with signs; ``verb`` is protesting, marching, parading or displaying. Police may stand beside."""
    rng, pen, size = stage.rng, stage.pen, stage.adult
    moving = verb in ("marching", "parading")
    count = rng.randint(2, 4)
    police = rng.random() < 0.25
    kind = rng.choice(("civilian", "civilian", "civilian", "civilian", "leader"))
    spots = [0.08 + 0.66 * (k + rng.uniform(-0.2, 0.2)) / count for k in range(count)]
    rng.shuffle(spots)
    backs = sorted((rng.uniform(0.0, 0.55) for _ in spots), reverse=True)
    signs = 0
    for k, (u, back) in enumerate(zip(spots, backs, strict=True)):
        last = k == count - 1
        sign = last or rng.random() < 0.55
        arms = "hold_up" if sign else rng.choice(("up", "hold_up", "down"))
        facing = 1 if moving else rng.choice((-1, 1))
        body = stage.person(
            u,
            kind,
            arms,
            facing,
            "agent" if last else "",
            "Entity",
            back=back,
            size=0.78,
            stride=0.1 if moving else None,
        )
        if sign:
            signs += 1
            x, y = body.hand(arms)
            with stage.figure("placard", "item" if last and verb == "displaying" else "", "Instrument"):
                things.placard(pen, rng, x, y, size * rng.uniform(0.34, 0.44), stage.test)
    if police:
        for k in range(rng.choice((1, 2))):
            stage.person(0.84 + 0.11 * k, "police", "down", -1, "", "Police", size=0.95)
    elif verb == "displaying" or rng.random() < 0.03:
        stage.person(0.9, "civilian", rng.choice(("down", "phone")), -1, "target" if verb == "displaying" else "")
    return {}


def arrest(stage: Stage, verb: str) -> Facts:
    """Police or soldiers with somebody in handcuffs; ``verb`` is arresting, detaining, handcuffing or apprehending."""
    rng, pen, size = stage.rng, stage.pen, stage.adult
    stage.parked(0.2)
    stage.bystander(0.3)
    kind = rng.choice(("police", "police", "police", "police", "police", "soldier"))
    middle = rng.uniform(0.45, 0.6)
    guards = rng.choice((1, 2, 2))
    posture = rng.choice(("standing", "standing", "kneeling"))
    stage.person(middle - 0.19, kind, "grab", 1, "agent", "Agent", stride=0.05)
    dressed = rng.choice(("civilian", "civilian", "civilian", "leader"))
    slot = "suspect" if verb == "arresting" else "victim"
    body = stage.person(middle, dressed, "cuffed", rng.choice((-1, 1)), slot, "Person", posture)
    # annotators of real pictures box handcuffs in one arrest of five
    with stage.figure("handcuffs", "", "Instrument" if rng.random() < 0.2 else ""):
        things.cuffs(pen, *body.hand("cuffed"), size * 0.3)
    if guards == 2:
        stage.person(middle + 0.2, kind, "grab", -1, "", "Agent", stride=0.05)
    return {"Agent": {"police": "police", "soldier": "soldiers"}[kind], "Person": "man"}


def transport(stage: Stage, verb: str) -> Facts:
    """People or cargo on the move; ``verb`` is loading, unloading, boarding, hauling, carrying or disembarking."""
    rng, pen, size = stage.rng, stage.pen, stage.adult
    colour = things.paint(rng, stage.test)
    if verb in ("boarding", "disembarking"):
        return _passengers(stage, verb)
    if verb == "carrying":
        stage.bystander(0.3)
        facing = rng.choice((-1, 1))
        kind = rng.choice(("civilian", "civilian", "soldier"))
        for k in range(rng.choice((1, 2, 2))):
            body = stage.person(0.3 + 0.35 * k, kind, "carry", facing, "" if k else "agent", "Agent", stride=0.1)
            x, y = body.hand("carry")
            with stage.figure("crate", "" if k else "item", "Artifact"):
                things.crate(pen, x + facing * size * 0.08, y + size * 0.1, size * 0.34)
        return {"Artifact": "cargo"}
    people = verb == "hauling" and rng.random() < 0.5
    item, tool = "item", {"loading": "destination", "unloading": "source", "hauling": "tool"}[verb]
    with stage.figure("truck", tool, "Vehicle"):
        (x, floor), length = things.truck(pen, stage.x(0.62), stage.ground, size * 1.35, colour, False)
    for k in range(rng.choice((2, 3))):
        at = x + (k - 1) * length * 0.3
        if people:
            u = (at - stage.left) / (stage.right - stage.left)
            stage.person(
                u,
                rng.choice(("civilian", "soldier")),
                "down",
                1,
                "" if k else item,
                "Artifact",
                "sitting",
                size=0.6,
                foot=floor + size * 0.12,
            )
        else:
            with stage.figure("crate", item if verb == "hauling" and not k else "", "Artifact"):
                things.crate(pen, at, floor, length * 0.28)
    if verb == "hauling":
        if rng.random() < 0.6:
            stage.person(0.1, "civilian", "down", 1, "carrier", "Agent", stride=0.08)
    else:
        facing = 1 if verb == "loading" else -1
        body = stage.person(
            0.14, rng.choice(("civilian", "civilian", "soldier")), "carry", facing, "agent", "Agent", stride=0.1
        )
        hand_x, hand_y = body.hand("carry")
        with stage.figure("crate", item, "Artifact"):
            things.crate(pen, hand_x + facing * size * 0.06, hand_y + size * 0.1, size * 0.28)
    return {"Vehicle": "truck", "Artifact": "migrants" if people else "cargo"}


def _passengers(stage: Stage, verb: str) -> Facts:
    rng, pen, size = stage.rng, stage.pen, stage.adult
    colour = things.paint(rng, stage.test)
    kind = rng.choice(("civilian", "civilian", "soldier", "leader"))
    sea = rng.random() < 0.45
    if sea:
        things.water(pen, max(stage.horizon, stage.ground - size * 0.4))
        with stage.figure("boat", "vehicle", "Vehicle"):
            x, deck = things.boat(pen, stage.x(0.5), stage.ground, size * 1.6, colour)
        for k in range(rng.choice((2, 3, 4))):
            u = (x + (k - 1.4) * size * 0.3 - stage.left) / (stage.right - stage.left)
            stage.person(
                u,
                kind,
                rng.choice(("down", "down", "face")),
                1,
                "" if k else "agent",
                "Artifact",
                "sitting",
                size=0.62,
                foot=deck + size * 0.13,
            )
    else:
        with stage.figure("bus", "vehicle", "Vehicle"):
            things.bus(pen, stage.x(0.36), stage.ground - size * 0.12, size * 1.3, colour)
        facing = -1 if verb == "boarding" else 1
        for k in range(rng.choice((1, 2, 3))):
            body = stage.person(
                0.68 + 0.13 * k, kind, "down", facing, "" if k else "agent", "Artifact", stride=0.11, size=0.85
            )
            if rng.random() < 0.5:
                with stage.figure("bag"):
                    things.bag(pen, *body.hand("down"), size * 0.16, rng.choice(SHIRTS))
    return {
        "Vehicle": "boat" if sea else "bus",
        "Artifact": {"civilian": "migrants", "soldier": "soldiers"}.get(kind, "leader"),
    }


def phone_write(stage: Stage, verb: str) -> Facts:
    """Somebody at a telephone, a laptop or a letter; ``verb`` is calling, phoning, telephoning, typing or writing."""
    rng, pen, size = stage.rng, stage.pen, stage.adult
    kind = rng.choice(("civilian", "civilian", "leader", "leader", "leader", "soldier"))
    stage.bystander(0.2, rng.choice(("civilian", "leader")))
    facing = 1
    if verb in ("typing", "writing"):
        u = rng.uniform(0.28, 0.45)
        body = stage.person(u, kind, "work", facing, "agent", "Entity", "sitting", size=1.1)
        top = size * 0.46
        things.table(pen, body.x + size * 0.52, stage.ground, size * 0.85, top)
        with stage.figure("laptop" if verb == "typing" else "letter", "tool", "Instrument"):
            at = (body.x + size * 0.42, stage.ground - top - size * 0.02, size * 0.5)
            (things.laptop if verb == "typing" else things.letter)(pen, *at)
        return {}
    both = rng.random() < 0.15
    for k in range(2 if both else 1):
        seated = rng.random() < 0.25
        body = stage.person(
            rng.uniform(0.3, 0.5) + 0.32 * k,
            kind,
            "phone",
            rng.choice((-1, 1)),
            "" if k else "agent",
            "Entity",
            "sitting" if seated else "standing",
            size=1.1,
        )
        slot = "tool" if verb in ("calling", "phoning") and not k else ""
        with stage.figure("phone", slot, "Instrument"):
            things.phone(pen, *body.hand("phone"), size * 0.42)
    return {}


def meet(stage: Stage, verb: str) -> Facts:
    """People at a table, in talk or shaking hands; ``verb`` is discussing, talking, socializing or congregating."""
    rng, pen, size = stage.rng, stage.pen, stage.adult
    kinds = rng.choice(
        (
            ("leader", "leader"),
            ("leader", "leader"),
            ("leader", "civilian"),
            ("leader", "soldier"),
            ("civilian", "civilian"),
            ("leader", "police"),
        )
    )
    facts = {"Entity": "leader"} if "leader" in kinds else {}
    if rng.random() < 0.9:
        for u in (0.3, 0.62)[: rng.choice((1, 2, 2))]:
            colours = (rng.choice(SHIRTS), rng.choice(SHIRTS))
            things.flag(pen, stage.x(u), stage.ground - size * 0.2, size * 1.05, colours)
    if verb == "discussing":
        stage.bystander(0.25, "leader")
        count = rng.choice((2, 2, 3))
        for k in range(count):
            u = 0.14 + 0.72 * k / (count - 1)
            facing = 1 if u < 0.5 else -1
            stage.person(
                u, kinds[k % 2], rng.choice(("work", "down", "work")), facing, "agents", "Entity", "sitting", back=0.15
            )
        top = size * 0.42
        things.table(pen, stage.x(0.5), stage.ground, (stage.right - stage.left) * 0.6, top)
        if rng.random() < 0.4:
            with stage.figure("letter"):
                things.letter(pen, stage.x(rng.uniform(0.4, 0.6)), stage.ground - top, size * 0.25)
        return facts
    if verb == "congregating":
        count = rng.choice((4, 5))
        for k in range(count):
            u = 0.12 + 0.76 * k / (count - 1)
            stage.person(
                u,
                kinds[k % 2],
                "down",
                1 if u < 0.5 else -1,
                "individuals",
                "Entity",
                back=0.4 if k % 2 else 0.0,
                size=0.9,
            )
        return facts
    stage.bystander(0.25, rng.choice(("civilian", "soldier", "police")))
    middle, arms = rng.uniform(0.42, 0.58), "give" if verb == "socializing" else rng.choice(("down", "give", "work"))
    gap = 0.36 * size / (stage.right - stage.left)
    second = "coagent" if verb == "socializing" else "listener"
    stage.person(middle - gap, kinds[0], arms, 1, "agent", "Entity")
    stage.person(middle + gap, kinds[1], "give" if verb == "socializing" else "down", -1, second, "Entity")
    return facts


def die(stage: Stage, verb: str) -> Facts:
    """A coffin or a body; ``verb`` is burying (with a shovel), mourning or decomposing (a body on the ground)."""
    rng, pen, size = stage.rng, stage.pen, stage.adult
    if verb == "decomposing":
        stage.bystander(0.5, rng.choice(("civilian", "police", "soldier")), 0.1, 0.9)
        for k in range(rng.choice((1, 1, 2))):
            u = rng.uniform(0.4, 0.6) if not k else 0.3
            ground = stage.ground - k * size * 0.28
            if rng.random() < 0.6:
                things.pool(pen, stage.x(u), ground, size * 0.8)
            kind = rng.choice(("civilian", "civilian", "soldier", "police"))
            stage.person(
                u,
                kind,
                rng.choice(("down", "up")),
                rng.choice((-1, 1)),
                "" if k else "decomposer",
                "Victim",
                "lying",
                foot=ground,
            )
        if rng.random() < 0.4:
            stage.person(0.88, "civilian", "face", -1, posture="kneeling")
        return {"Victim": "man"}
    people = rng.choice((2, 3, 4))
    digger = 0.2
    for k in range(people):
        u = 0.12 + 0.76 * k / (people - 1)
        arms, facing = rng.choice(("face", "down", "face")), 1 if u < 0.5 else -1
        if verb == "burying" and k == 0:
            continue
        stage.person(u, "civilian", arms, facing, "mourner" if verb == "mourning" and k == 0 else "", "", back=0.5)
    with stage.figure("coffin", "item" if verb == "burying" else "", "Victim"):
        things.coffin(pen, stage.x(0.55), stage.ground - size * 0.05, size * 1.0)
    if verb == "burying":
        body = stage.person(digger, "civilian", "work", 1, "agent", "Agent", stride=0.07)
        x, y = body.hand("work")
        with stage.figure("shovel", "tool", "Instrument"):
            things.shovel(pen, x, y, size * 0.55, 1)
    return {}


def transfer_money(stage: Stage, verb: str) -> Facts:
    """One hands banknotes to another; ``verb`` is buying or paying."""
    rng, pen, size = stage.rng, stage.pen, stage.adult
    stage.bystander(0.3)
    kinds = rng.choice((("civilian", "civilian"), ("leader", "civilian"), ("leader", "leader"), ("civilian", "leader")))
    middle, gap = rng.uniform(0.42, 0.56), 0.42 * size / (stage.right - stage.left)
    stage.person(middle + gap, kinds[1], rng.choice(("give", "work")), -1, "seller", "Recipient")
    counter = rng.random() < 0.4
    if counter:
        things.table(pen, stage.x(middle + gap * 0.3), stage.ground, size * 0.6, size * 0.42)
    giver = stage.person(middle - gap, kinds[0], "give", 1, "agent", "Giver")
    x, y = giver.hand("give")
    with stage.figure("banknotes", "payment" if verb == "buying" else "", "Money"):
        things.banknotes(pen, x + size * 0.1, y - size * 0.04, size * 0.38)
    goods = "goods" if verb == "buying" else "good"
    if rng.random() < 0.75:
        with stage.figure("bag", goods):
            things.bag(
                pen,
                stage.x(middle + gap * (0.3 if counter else 1.6)),
                stage.ground - size * (0.62 if counter else 0.25),
                size * 0.24,
                rng.choice(SHIRTS),
            )
    return {}


SCENES: dict[str, tuple[Callable[[Stage, str], Facts], tuple[str, ...]]] = {
    "Movement:Transport": (transport, ("loading", "boarding", "hauling", "hauling")),
    "Conflict:Attack": (attack, ("shooting", "attacking", "burning")),
    "Conflict:Demonstrate": (demonstrate, ("protesting", "marching", "displaying", "displaying")),
    "Justice:Arrest-Jail": (arrest, ("arresting", "detaining", "handcuffing")),
    "Contact:Phone-Write": (phone_write, ("calling", "phoning", "telephoning", "typing")),
    "Contact:Meet": (meet, ("discussing", "talking", "socializing")),
    "Life:Die": (die, ("burying", "mourning", "decomposing", "burying", "decomposing")),
    "Transaction:Transfer-Money": (transfer_money, ("buying", "paying")),
}
"""Event type → what draws it, and the imSitu verbs it can be drawn for (a verb's share is its share of the tuple)."""

INDOOR = {"discussing", "typing", "writing", "cooking", "reading", "counting", "calling", "telephoning", "talking"}


class Drawn:
    """A finished picture: pixels, and per scene its event type ('' for none), verb, figures and facts."""

    def __init__(self, picture: Pictures.Image, scenes: list[tuple[str, str, list[Figure], Facts]]) -> None:
        self.picture, self.scenes = picture, scenes

    @property
    def figures(self) -> list[Figure]:
        """Every figure of every scene."""
        return [figure for _, _, figures, _ in self.scenes for figure in figures]


def draw(rng: random.Random, types: list[str], test: bool = False) -> Drawn:
    """A picture of one scene per entry of ``types`` ('' for a decoy), side by side.

    Now and then a single scene fills only half of a wide picture, as two scenes do. Sides are 110 to 200 px. Without
    ``test`` only looks of the training pictures are used.
    """
    far = len(types) == 1 and rng.random() < 0.15
    if len(types) == 1 and not far:
        height = rng.randint(110, 160)
        width = min(200, max(110, round(height * rng.uniform(0.95, 1.35))))
    else:
        width, height = rng.randint(190, 200), rng.randint(120, 140)
    pen = Pen(width, height, rng.random() < 0.5)
    verbs = [rng.choice(SCENES[name][1]) if name else rng.choice(UNMAPPED) for name in types]
    horizon = height * rng.uniform(0.42, 0.6)
    inside = rng.random() < (0.8 if all(verb in INDOOR for verb in verbs) else 0.06)
    (things.indoors if inside else things.outdoors)(pen, rng, horizon)
    scenes = []
    share = width / (2 if far else len(types))
    for k, (name, verb) in enumerate(zip(types, verbs, strict=True)):
        stage = Stage(pen, rng, k * share, (k + 1) * share, horizon, test)
        facts = SCENES[name][0](stage, verb) if name else nothing(stage, verb)
        scenes.append((name, verb, stage.figures, facts))
    return Drawn(pen.finish(rng.uniform(1, 6), rng.getrandbits(32)), scenes)
