"""What two corpora have in common: the same ids, the same text or image, and nearly the same ones.

Texts are compared by their three-word shingles (found by datasketch's MinHash), images by perceptual hash (ImageHash);
only the side that is remembered costs memory, so remember the smaller one, usually the test documents.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from datasketch import MinHash, MinHashLSH

NEAR_TEXT = 0.8
"""Jaccard similarity of shingles from which texts are nearly the same."""
NEAR_IMAGE_BITS = 4
"""Bits of 64 in which perceptual hashes of nearly the same image differ at most."""
_PERMUTATIONS = 64
_CANDIDATES = 0.6
"""Similarity from which MinHash proposes a text; whether it is near is then told from the shingles themselves."""
_SHINGLE = 3
_SHORTEST = 8
"""Words below which likeness says nothing: "He was arrested on Monday" may be told of many."""

Likeness = Literal["same", "near"]


@dataclass(frozen=True)
class Match:
    """Something remembered that is like what was asked for."""

    id: str
    likeness: Likeness


def text_key(words: Sequence[str]) -> str:
    """The same for texts that differ in case, white space, punctuation or Unicode form only."""
    return hashlib.sha256(" ".join(_plain(words)).encode()).hexdigest()


class Texts:
    """Texts that are remembered, to be asked for others like them."""

    def __init__(self) -> None:
        self._same: dict[str, str] = {}
        self._near = MinHashLSH(threshold=_CANDIDATES, num_perm=_PERMUTATIONS)
        self._shingles: dict[str, set[bytes]] = {}

    def remember(self, name: str, words: Sequence[str]) -> None:
        """Keep a text; of equal texts the first name."""
        key = text_key(words)
        if key in self._same:
            return
        self._same[key] = name
        if len(words) >= _SHORTEST:
            self._shingles[name] = _shingles(words)
            self._near.insert(name, _sketch(self._shingles[name]), check_duplication=False)

    def like(self, words: Sequence[str]) -> Match | None:
        """A remembered text that is the same, else one that is nearly so."""
        found = self._same.get(text_key(words))
        if found is not None:
            return Match(found, "same")
        if not self._same or len(words) < _SHORTEST:
            return None
        own = _shingles(words)
        for name in sorted(self._near.query(_sketch(own))):
            other = self._shingles[name]
            if len(own & other) >= NEAR_TEXT * len(own | other):
                return Match(name, "near")
        return None


class Images:
    """Images that are remembered by the hashes of their files and pixels."""

    def __init__(self) -> None:
        self._same: dict[str, str] = {}
        # Two hashes that differ in four bits of 64 agree in one of five stretches of them (pigeonhole).
        self._near: list[dict[int, list[tuple[int, str]]]] = [{} for _ in range(NEAR_IMAGE_BITS + 1)]

    def remember(self, name: str, digest: str, perceptual: str | None) -> None:
        """Keep an image: sha256 of its file and, as 16 hexadecimal digits, its perceptual hash."""
        if digest in self._same:
            return
        self._same[digest] = name
        if perceptual is not None:
            bits = int(perceptual, 16)
            for stretch, own in zip(self._near, _stretches(bits), strict=True):
                stretch.setdefault(own, []).append((bits, name))

    def like(self, digest: str, perceptual: str | None) -> Match | None:
        """A remembered image with the same bytes, else one that looks nearly the same."""
        found = self._same.get(digest)
        if found is not None:
            return Match(found, "same")
        if perceptual is None:
            return None
        bits = int(perceptual, 16)
        for stretch, own in zip(self._near, _stretches(bits), strict=True):
            for other, name in stretch.get(own, ()):
                if (bits ^ other).bit_count() <= NEAR_IMAGE_BITS:
                    return Match(name, "near")
        return None


def _plain(words: Sequence[str]) -> list[str]:
    text = unicodedata.normalize("NFKC", " ".join(words)).casefold()
    return "".join(letter if letter.isalnum() else " " for letter in text).split()


def _shingles(words: Sequence[str]) -> set[bytes]:
    plain = _plain(words)
    return {" ".join(plain[i : i + _SHINGLE]).encode() for i in range(max(1, len(plain) - _SHINGLE + 1))}


def _sketch(shingles: set[bytes]) -> MinHash:
    sketch = MinHash(num_perm=_PERMUTATIONS)
    sketch.update_batch(sorted(shingles))
    return sketch


def _stretches(bits: int) -> list[int]:
    size = -(-64 // (NEAR_IMAGE_BITS + 1))
    return [bits >> (size * index) & (1 << size) - 1 for index in range(NEAR_IMAGE_BITS + 1)]
