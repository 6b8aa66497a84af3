"""Which conversations have a medium that can be read: found out once, before the first step.

The original puts a random other sample in the place of one that cannot be loaded, silently and each time anew. Here it
is left out from the beginning, counted and told with its reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch.distributed as dist

from xmtl_ray.data import frames, images
from xmtl_ray.data.local_files import open_regular
from xmtl_ray.events.records import Conversation, DataError, Media

THREADS = 4


class Refused(NamedTuple):
    """A conversation that is left out."""

    id: str
    medium: str
    reason: str


def readable(
    conversations: Sequence[Conversation],
    media: Path,
    check: Literal["full", "quick", "none"],
    most: float,
    rank: int = 0,
    world_size: int = 1,
) -> list[Refused]:
    """Conversations whose medium cannot be read, the same list on every rank, each of which looks at its share.

    Args:
        conversations: of all splits.
        media: folder that their media lie below, and may not leave.
        check: full decodes images, counts the frames of videos and decodes one, quick reads images' headers and opens
            videos, none looks at nothing.
        most: largest share that may be left out.
        rank: of this worker.
        world_size: workers.

    Raises ValueError where more are refused than ``most`` allows, with the first of them.
    """
    having = [one for one in conversations if one.media is not None]
    if check == "none" or not having:
        return []
    with ThreadPoolExecutor(THREADS) as pool:
        mine = having[rank::world_size]
        reasons = list(pool.map(lambda one: _reason(one.media, media, check == "full"), mine))
    found = [
        Refused(one.id, one.media.path, reason)
        for one, reason in zip(mine, reasons, strict=True)
        if reason is not None and one.media is not None
    ]
    parts: list[Any] = [found]
    if world_size > 1:
        parts = [None] * world_size
        dist.all_gather_object(parts, found)
    refused = sorted((Refused(*one) for part in parts for one in part), key=lambda one: one.id)
    if len(refused) > most * len(conversations):
        raise ValueError(
            f"data.max_quarantined: {len(refused)} of {len(conversations)} conversations have a medium that cannot be "
            f"read, at most {most:.1%} may; first: {refused[0].id}: {refused[0].reason}"
        )
    return refused


def _reason(medium: Media | None, root: Path, full: bool) -> str | None:
    assert medium is not None
    path = root / medium.path
    try:
        if medium.kind == "image":
            images.probe(path, root=root, verify=full)
        elif medium.kind == "video":
            if path.is_dir():
                frames.read_frames(path, frames.MOST_FRAMES if full else 1, root=root)
            elif full:
                frames.read_frames(path, 1, root=root)
            else:
                open_regular(path, "video", frames.LIMITS.file_mib << 20, root).close()
        else:
            return f"{path}: found a sound, expected an image or a video: the models here do not hear"
    except DataError as error:
        return str(error)
    return None
