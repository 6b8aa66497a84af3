"""Raw text to sentences and words that know where they stand in it.

Sentences are sentencex's (Wikimedia's rules, some 300 languages), cut at every line break; words are those that BERT's
own tokenizer cuts text into before its word pieces, with each Chinese character a word. The surprising fact: "U.S." is
four such words and "didn't" three; annotated corpora cut otherwise, but a BERT reads the same pieces either way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tokenizers import Regex
from tokenizers.pre_tokenizers import BertPreTokenizer, Split
from tokenizers.pre_tokenizers import Sequence as Steps

from xmtl_ray.events.records import Span

_WORDS = Steps([BertPreTokenizer(), Split(Regex(r"\p{Han}"), "isolated")])


def sentences(text: str, language: str = "en") -> Iterator[Span]:
    """Characters of each sentence that has a word, without the white space around it, in order.

    Args:
        text: any; a line break ends a sentence.
        language: two or three letters; of one that sentencex has no rules for, those of a related one or English.
    """
    from sentencex import get_sentence_boundaries

    start = 0
    for line in text.splitlines(keepends=True):
        for found in get_sentence_boundaries(language, line):
            own = str(found["text"])
            kept = own.strip()
            if kept:
                first = start + len(own) - len(own.lstrip())
                yield Span(first, first + len(kept))
            start += len(own)


def words(text: str) -> tuple[Span, ...]:
    """Characters of each word of a text."""
    return tuple(Span(start, end) for word, (start, end) in _WORDS.pre_tokenize_str(text) if word.strip())


def covered(found: Sequence[Span], characters: Span) -> Span | None:
    """The words (by number) that have a character in ``characters``; None where there is none."""
    inside = [at for at, word in enumerate(found) if word.start < characters.end and characters.start < word.end]
    return Span(inside[0], inside[-1] + 1) if inside else None
