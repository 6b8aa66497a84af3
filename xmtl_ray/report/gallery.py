"""Test documents for the page: which ones, and their sentences, images and pairs with what was found in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from xmtl_ray.evaluation.m2e2 import score_by_document
from xmtl_ray.evaluation.prf import Prf
from xmtl_ray.events.predictions import Predictions
from xmtl_ray.events.records import Document, Image, Sentence, Span
from xmtl_ray.report.comparison import Mention, Outcome, mentions, outcomes, regions
from xmtl_ray.report.pictures import Framed, framed

DOCUMENTS = 8
_SENTENCES, _IMAGES = 14, 6
"""Most of one document that are shown; the page says how many are not."""


@dataclass(frozen=True)
class Mark:
    """A marked stretch of a sentence: what it is, and its text, in which further marks may lie."""

    mentions: tuple[Mention, ...]
    pieces: tuple[Piece, ...]

    @property
    def trigger(self) -> Mention | None:
        """The trigger that colours the stretch, a found one if there is one."""
        triggers = [mention for mention in self.mentions if mention.kind == "trigger"]
        return min(triggers, key=lambda mention: mention.outcome != "correct", default=None)

    @property
    def look(self) -> str:
        """Outcomes of its triggers, or of its arguments if it is no trigger, as CSS classes."""
        kind = "trigger" if self.trigger else "argument"
        return " ".join(sorted({mention.outcome or "found" for mention in self.mentions if mention.kind == kind}))


Piece = str | Mark


@dataclass(frozen=True)
class ShownSentence:
    """A sentence in pieces. ``aside`` are mentions that cannot be marked in it: they cross others or lie outside."""

    number: str
    pieces: tuple[Piece, ...]
    aside: tuple[tuple[str, Mention], ...]


@dataclass(frozen=True)
class ShownImage:
    """An image with its boxes, and the types of its events."""

    number: str
    frame: Framed
    gold: tuple[tuple[str, Outcome], ...]
    predicted: tuple[tuple[str, Outcome], ...]
    marks: Mapping[str, str]
    """Type → the sign of its roles; empty in an image of one event."""


@dataclass(frozen=True)
class Card:
    """A document."""

    id: str
    reason: str
    counts: Mapping[str, Prf]
    sentences: tuple[ShownSentence, ...]
    images: tuple[ShownImage, ...]
    pairs: tuple[tuple[str, str, str, Outcome], ...]
    """Sentence number, image number, type."""
    quiet_sentences: int
    """Without event, gold or predicted: not shown."""
    hidden_sentences: int
    """With events, but over the limit."""
    quiet_images: int
    hidden_images: int


def cards(documents: Sequence[Document], predictions: Predictions, count: int = DOCUMENTS) -> list[Card]:
    """Up to ``count`` documents with something to show: most errors first, of equals those with most gold."""
    scores = score_by_document(documents, predictions, "strict")
    full = [document for document in documents if any(c.predicted or c.gold for c in scores[document.id].values())]
    full.sort(key=lambda document: (-_errors(scores[document.id]), -_gold(scores[document.id])))
    return [
        _card(document, predictions, scores[document.id], _plural(_errors(scores[document.id]), "error"))
        for document in full[:count]
    ]


def marked(
    words: Sequence[str], found: Sequence[Mention], gaps: Sequence[str] | None = None
) -> tuple[tuple[Piece, ...], list[tuple[str, Mention]]]:
    """A sentence in pieces, and with their words the mentions that cannot be marked in it.

    ``gaps`` is what stands before each word; None: what is usual there.
    """
    by_span: dict[Span, list[Mention]] = {}
    for mention in found:
        by_span.setdefault(mention.span, []).append(mention)
    spans, aside = list[Span](), list[tuple[str, Mention]]()
    for span in sorted(by_span, key=lambda span: (span.start, -span.end)):
        crosses = any(other.start < span.start < other.end < span.end for other in spans)
        if crosses or span.end > len(words):
            text = " ".join(words[span.start : span.end]) or f"words {span.start} to {span.end}"
            aside += [(text, mention) for mention in by_span[span]]
        else:
            spans.append(span)
    gaps = list(_gaps(words)) if gaps is None else gaps

    def inside(start: int, end: int, nested: list[Span]) -> tuple[Piece, ...]:
        pieces: list[Piece] = []
        position = start
        while nested:
            span = nested[0]
            inner = [other for other in nested[1:] if other.end <= span.end]
            nested = nested[1 + len(inner) :]
            before = _text(words, gaps, position, span.start, start)
            pieces += [text for text in (before + (gaps[span.start] if span.start > start else ""),) if text]
            pieces.append(Mark(tuple(by_span[span]), inside(span.start, span.end, inner)))
            position = span.end
        return (*pieces, *(text for text in (_text(words, gaps, position, end, start),) if text))

    return inside(0, len(words), spans), aside


def _card(document: Document, predictions: Predictions, counts: Mapping[str, Prf], reason: str) -> Card:
    told = [s for s in document.sentences if s.events or predictions.text.get(s.id)]
    seen = [image for image in document.images if image.events or predictions.image.get(image.id)]
    own = {sentence.id for sentence in document.sentences}
    predicted = [pair for pair in predictions.multimedia if pair.sentence in own]
    pairs = sorted(outcomes(predicted, document.multimedia_events), key=lambda item: item[0])
    return Card(
        document.id,
        reason,
        counts,
        tuple(_sentence(sentence, predictions) for sentence in told[:_SENTENCES]),
        tuple(_image(image, predictions) for image in seen[:_IMAGES]),
        tuple((_number(pair.sentence), _number(pair.image), pair.type, outcome) for pair, outcome in pairs),
        len(document.sentences) - len(told),
        len(told[_SENTENCES:]),
        len(document.images) - len(seen),
        len(seen[_IMAGES:]),
    )


def _sentence(sentence: Sentence, predictions: Predictions) -> ShownSentence:
    pieces, aside = marked(sentence.words, mentions(predictions.text.get(sentence.id, ()), sentence.events))
    return ShownSentence(_number(sentence.id), pieces, tuple(aside))


def _image(image: Image, predictions: Predictions) -> ShownImage:
    predicted = predictions.image.get(image.id, ())
    types = outcomes((event.type for event in predicted), (event.type for event in image.events))
    names = dict.fromkeys(event_type for event_type, _ in types)
    marks = {name: f" {chr(ord('①') + index)}" if len(names) > 1 else "" for index, name in enumerate(names)}
    return ShownImage(
        _number(image.id),
        framed(image.path, regions(predicted, image.events), marks),
        tuple(item for item in types if item[1] != "wrong"),
        tuple(item for item in types if item[1] != "missed"),
        marks,
    )


def _text(words: Sequence[str], gaps: Sequence[str], start: int, end: int, line: int) -> str:
    """Words ``start`` up to ``end`` with the gaps before them; none before ``line``, where the stretch begins."""
    return "".join(("" if index == line else gaps[index]) + words[index] for index in range(start, end))


def _gaps(words: Sequence[str]) -> Iterator[str]:
    """What stands before each word: a space, except before closing and after opening marks."""
    for index, word in enumerate(words):
        closing = word in {",", ".", ";", ":", "!", "?", ")", "]", "'s", "n't", "%", "”"}
        yield "" if index == 0 or closing or words[index - 1] in {"(", "[", "$", "“"} else " "


def _gold(counts: Mapping[str, Prf]) -> int:
    return sum(count.gold for count in counts.values())


def _errors(counts: Mapping[str, Prf]) -> int:
    """Missed and wrong items; arguments of pairs are left out, for they are counted on both sides already."""
    return sum(c.predicted + c.gold - 2 * c.correct for metric, c in counts.items() if metric != "mm_argument")


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _number(mention: str) -> str:
    return mention.rpartition("_")[2]
