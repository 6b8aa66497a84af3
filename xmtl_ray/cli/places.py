"""What a verb reads, named by a path or by a URI: what lies behind one is fetched to this machine's cache first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xmtl_ray.data.remote import Copy


def place(text: str) -> Path | str:
    """A URI as it is, all else as a path: the ``parser`` of an argument that takes both."""
    from xmtl_ray.config.uris import is_uri

    return text if is_uri(text) else Path(text)


class Brought:
    """What a verb has fetched, and its actors on other machines will."""

    def __init__(self) -> None:
        self.copies: list[Copy] = []

    def folder(self, given: Path | str) -> Path:
        """A folder on this machine. Raises FetchError."""
        from xmtl_ray.data.remote import bring

        if isinstance(given, Path):
            return given
        self.copies.append(bring(given))
        return self.copies[-1].place

    def file(self, given: Path | str, alone: bool) -> Path:
        """A file on this machine; not ``alone``: with all that lies in its folder. Raises FetchError."""
        from xmtl_ray.data.remote import bring_file

        if isinstance(given, Path):
            return given
        copy, path = bring_file(given, alone)
        self.copies.append(copy)
        return path
