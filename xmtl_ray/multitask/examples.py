"""Records → the examples that each task learns from.

td: a sentence with BIO tags. ae: an (event, entity) of a sentence with its role or None. vc: an image with its event
types. rc: an (image, object) with its role or None. Numbers are indices into the ontology's labels.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from xmtl_ray.config.schema import Config, TaskName, Term
from xmtl_ray.data import ace05, imsitu, m2e2, world
from xmtl_ray.events import ontology
from xmtl_ray.events.records import Box, DataError, Image, Sentence, Span

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class TriggerExample:
    """td: words and one tag index each."""

    words: tuple[str, ...]
    tags: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ArgumentExample:
    """ae: an entity of a sentence, an event in it, and the entity's role index."""

    words: tuple[str, ...]
    entity: Span
    trigger: Span
    event_type: str
    role: int


@dataclass(frozen=True, slots=True)
class VerbExample:
    """vc: an image and the indices of the types it shows."""

    path: Path
    types: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RoleExample:
    """rc: an object of an image and its role index."""

    path: Path
    box: Box
    role: int


Example = TriggerExample | ArgumentExample | VerbExample | RoleExample


@dataclass(frozen=True)
class Examples:
    """Training and dev examples per task, in the order of ``multitask.tasks``; pseudo-label twins after them."""

    train: dict[Term, Sequence[Example]] = field(default_factory=dict)
    dev: dict[TaskName, Sequence[Example]] = field(default_factory=dict)
    sentences: Sequence[Sequence[str]] = ()
    """Words of every training sentence: what a built tokenizer learns from."""


def read(config: Config) -> Examples:
    """Read the sources that ``config.data`` names. Raises DataError or ValueError for a task without examples."""
    tasks, data, seed = config.multitask.tasks, config.data, config.train.seed
    train: dict[TaskName, Sequence[Example]] = {}
    dev: dict[TaskName, Sequence[Example]] = {}
    words: list[tuple[str, ...]] = []
    if {"td", "ae"} & set(tasks):
        train_sentences, dev_sentences = _sentences(config)
        if data.world_sentences:
            train_sentences = (*train_sentences, *world.sentences(data.world_sentences, seed))
        words = [sentence.words for sentence in train_sentences]
        for name, make in (("td", trigger_examples), ("ae", argument_examples)):
            train[name], dev[name] = make(train_sentences), make(dev_sentences)
    if {"vc", "rc"} & set(tasks):
        assert data.imsitu is not None
        source = data.imsitu
        verbs = ontology.verb_map(source.verb_map)

        def images(annotations: Path, boxes: Path) -> tuple[Image, ...]:
            situations = imsitu.read(annotations, boxes, source.images, source.space)
            return imsitu.refine(situations, verbs, source.keep_unmapped, seed)

        train_images = images(source.train, source.train_boxes)
        if source.dev is not None and source.dev_boxes is not None:
            dev_images = images(source.dev, source.dev_boxes)
        else:
            train_images, dev_images = hold_out(train_images, lambda image: image.id, data.dev_fraction, seed)
        if missing := imsitu.missing_images((*train_images, *dev_images)):
            raise DataError(
                source.images, None, f"{len(missing)} images", missing[0].name, "a file of each annotated image"
            )
        for name, make in (("vc", verb_examples), ("rc", role_examples)):
            train[name], dev[name] = make(train_images), make(dev_images)
    train, dev = ({name: side[name] for name in tasks} for side in (train, dev))
    for name in tasks:
        if not train[name] or not dev[name]:
            side = "training" if not train[name] else "dev"
            raise ValueError(f"multitask.tasks: {name} has no {side} example in the data that the config names")
    log.info("examples: %s", ", ".join(f"{n} {len(train[n])} train {len(dev[n])} dev" for n in tasks))
    return Examples(train, dev, words)


def hold_out(
    records: Sequence[T], key: Callable[[T], str], fraction: float, seed: int
) -> tuple[tuple[T, ...], tuple[T, ...]]:
    """Split by ``key`` (all records of one key stay together): (the rest, about ``fraction`` of the keys).

    Which keys are held out depends on the keys and the seed alone, not on their order.
    """
    ranked = sorted({key(record) for record in records}, key=lambda k: hashlib.sha256(f"{seed}:{k}".encode()).digest())
    held = set(ranked[: max(1, round(fraction * len(ranked)))])
    return (
        tuple(record for record in records if key(record) not in held),
        tuple(record for record in records if key(record) in held),
    )


def trigger_examples(sentences: Iterable[Sentence]) -> list[TriggerExample]:
    """One example per sentence that has words; of overlapping triggers the first stays."""
    index = {tag: number for number, tag in enumerate(ontology.m2e2().tags)}
    examples = []
    for sentence in sentences:
        tags = [0] * len(sentence.words)
        for event in sorted(sentence.events, key=lambda event: event.trigger):
            span = event.trigger
            if not any(tags[span.start : span.end]):
                tags[span.start] = index[f"B-{event.type}"]
                tags[span.start + 1 : span.end] = [index[f"I-{event.type}"]] * (span.end - span.start - 1)
        if tags:
            examples.append(TriggerExample(sentence.words, tuple(tags)))
    return examples


def argument_examples(sentences: Iterable[Sentence]) -> list[ArgumentExample]:
    """One example per event and entity of its sentence, ``None`` where the entity takes no part."""
    index = {role: number for number, role in enumerate(ontology.m2e2().roles)}
    examples = []
    for sentence in sentences:
        for event in sentence.events:
            role_of = {argument.span: argument.role for argument in event.arguments}
            for entity in sentence.entities:
                role = index[role_of.get(entity.span, ontology.NONE)]
                examples.append(ArgumentExample(sentence.words, entity.span, event.trigger, event.type, role))
    return examples


def verb_examples(images: Iterable[Image]) -> list[VerbExample]:
    """One example per image."""
    index = {name: number for number, name in enumerate(ontology.m2e2().types)}
    return [
        VerbExample(image.path, tuple(sorted({index[event.type] for event in image.events})))
        for image in images
        if image.path is not None
    ]


def role_examples(images: Iterable[Image]) -> list[RoleExample]:
    """One example per object, ``None`` where it fills no role of the image's events."""
    index = {role: number for number, role in enumerate(ontology.m2e2().roles)}
    examples = []
    for image in images:
        role_of = {argument.box: argument.role for event in image.events for argument in event.arguments}
        for box in dict.fromkeys(found.box for found in image.objects):
            if image.path is not None:
                examples.append(RoleExample(image.path, box, index[role_of.get(box, ontology.NONE)]))
    return examples


def _sentences(config: Config) -> tuple[Sequence[Sentence], Sequence[Sentence]]:
    data, seed = config.data, config.train.seed
    if data.ace is not None:
        train: Sequence[Sentence] = ace05.read(data.ace.train, data.ace.extent)
        if data.ace.dev is not None:
            return train, ace05.read(data.ace.dev, data.ace.extent)
        return hold_out(train, lambda sentence: sentence.id, data.dev_fraction, seed)
    assert data.train is not None
    sentences = [sentence for document in m2e2.read(data.train) for sentence in document.sentences]
    return hold_out(sentences, lambda sentence: sentence.document, data.dev_fraction, seed)
