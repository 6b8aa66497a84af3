"""Draws the pictures and videos of a synthetic corpus into files, by several processes.

All chance comes from the seed, the corpus and the record's id, so neither the number of processes nor the other records
change a file, but for one rule: what would look nearly like something to be avoided is drawn anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from xmtl_ray.data import images
from xmtl_ray.data.corpus_media import film, write_film
from xmtl_ray.data.corpus_plan import Shown
from xmtl_ray.data.leaks import Images
from xmtl_ray.data.world import Run, save
from xmtl_ray.data.world_scenes import draw
from xmtl_ray.data.world_text import chance_of

BLOCK = 40
"""Media drawn by one process at a time."""


class Drawing(Protocol):
    """A record whose medium is to be drawn."""

    @property
    def id(self) -> str:
        """Its name, on which all chance rests."""

    @property
    def modality(self) -> Shown:
        """Image or video."""

    @property
    def types(self) -> tuple[str, ...]:
        """The event to be seen, or none."""


@dataclass(frozen=True)
class Drawn:
    """A medium that was written: the imSitu verb of its scene, how a video moves, and its picture's hashes.

    A video's picture is its last frame; ``images.hashes`` tells what the hashes are.
    """

    id: str
    verb: str
    motion: str
    digest: str
    perceptual: str


def file_of(name: str, modality: Shown) -> str:
    """Where the medium of a record lies in its corpus's folder."""
    return f"images/{name}.jpg" if modality == "image" else f"videos/{name}.mp4"


def draw_all(
    run: Run, folder: Path, space: str, seed: int, wanted: Iterable[Drawing], avoid: Sequence[Drawn] = ()
) -> list[Drawn]:
    """Draw what is ``wanted`` into ``folder``.

    Args:
        run: of ``world.pool``.
        folder: gets ``images`` and ``videos``.
        space: sets the chance of a corpus apart from that of others with the same seed.
        seed: of the corpus.
        wanted: records with a medium.
        avoid: what nothing drawn may look nearly like.
    """
    for name in ("images", "videos"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    rows = list(wanted)
    blocks = [(folder, space, seed, rows[at : at + BLOCK], avoid) for at in range(0, len(rows), BLOCK)]
    return [drawn for block in run(_draw_block, blocks) for drawn in block]


def _draw_block(folder: Path, space: str, seed: int, block: Sequence[Drawing], avoid: Sequence[Drawn]) -> list[Drawn]:
    known = Images()
    for other in avoid:
        known.remember(other.id, other.digest, other.perceptual)
    found = []
    for one in block:
        attempt = 0
        drawn = _draw(folder, f"{space} media {one.id}", seed, one, attempt)
        while known.like(drawn.digest, drawn.perceptual) is not None:
            attempt += 1
            drawn = _draw(folder, f"{space} media {one.id}", seed, one, attempt)
        found.append(drawn)
    return found


def _draw(folder: Path, space: str, seed: int, one: Drawing, attempt: int) -> Drawn:
    rng, path = chance_of(seed, f"{space} {attempt}"), folder / file_of(one.id, one.modality)
    event_type = one.types[0] if one.types else ""
    if one.modality == "image":
        shown = draw(rng, [event_type])
        save(shown.picture, path)
        return Drawn(one.id, shown.scenes[0][1], "", *images.hashes(path))
    moving = film(rng, event_type)
    write_film(moving.frames, path)
    still = path.with_suffix(".jpg")
    save(moving.frames[-1], still)
    digest, perceptual = images.hashes(still)
    still.unlink()
    return Drawn(one.id, moving.verb, moving.motion, digest, perceptual)
