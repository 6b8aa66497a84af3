"""What data jobs share: how far one is, and in whose words it failed."""

from __future__ import annotations

import re
from collections.abc import Callable

Progress = Callable[[int, int], None]
"""Called with what is done, first 0, and all that there is to do; not at all if there is nothing."""


def cause(error: Exception) -> str:
    """What went wrong in an actor, without the frames and Ray's advice around it."""
    lines = [line for line in str(error).splitlines() if re.match(r"[\w.]+(Error|Exception): ", line)]
    own = [line for line in lines if not line.startswith("ray.")]
    return (own or lines or [str(error).strip().splitlines()[-1]])[-1]
