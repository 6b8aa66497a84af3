"""Conversations made ready for a model: what it is told and should answer, how long that is, and what had to be cut."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from xmtl_ray.events.records import Conversation, Turn
from xmtl_ray.models.splice import IGNORED, Row


@dataclass(frozen=True)
class Sample:
    """One conversation as token ids."""

    conversation: Conversation
    row: Row
    """Ids of all of it, with tags for media, and labels."""
    asked: tuple[int, ...]
    """Ids of the first prompt alone, which the model is to answer."""
    length: int
    """Places of the whole sequence, visual tokens included."""

    @property
    def learnt(self) -> int:
        """Places that are predicted; the first of a sequence never is."""
        return sum(label != IGNORED for label in self.row.labels[1:])


@dataclass(frozen=True)
class Cut:
    """What the longest sequence allowed has cost."""

    samples: int = 0
    """Conversations whose first prompt lost words at its end."""
    tokens: int = 0
    """Tokens that they lost in all."""
    dropped: tuple[str, ...] = ()
    """Ids of conversations that would not fit without any word of the prompt; they are left out."""


def encode_all(
    conversations: Iterable[Conversation], encode: Callable[[Conversation], Sample], most: int
) -> tuple[list[Sample], Cut]:
    """Samples of at most ``most`` places; answers are never cut, so that no half of one is learnt."""
    samples, cut = list[Sample](), Cut()
    for conversation in conversations:
        sample = encode(conversation)
        if sample.length > most:
            shorter = _shortened(sample, encode, most)
            if shorter is None:
                cut = replace(cut, dropped=(*cut.dropped, conversation.id))
                continue
            cut = replace(cut, samples=cut.samples + 1, tokens=cut.tokens + sample.length - shorter.length)
            sample = shorter
        samples.append(sample)
    return samples, cut


def _shortened(sample: Sample, encode: Callable[[Conversation], Sample], most: int) -> Sample | None:
    """The longest beginning of the first prompt with which the conversation fits, by halving; None if none does."""
    first, *others = sample.conversation.turns

    def with_letters(count: int) -> Sample:
        turns: Sequence[Turn] = (Turn(first.prompt[:count].rstrip(), first.answer), *others)
        return encode(replace(sample.conversation, turns=tuple(turns)))

    fits, least, most_letters = None, 0, len(first.prompt)
    while least < most_letters:
        middle = (least + most_letters) // 2
        found = with_letters(middle)
        if found.length <= most:
            fits, least = found, middle + 1
        else:
            most_letters = middle
    return fits
