"""What predicts documents, in this process or as an actor of Ray: models, detector, named entities and similarity.

A document is always predicted by itself: neither how many there are, nor which stand beside it in a shard, nor which
actor has it can change what is found in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from xmtl_ray.config.schema import Inference
from xmtl_ray.data import detectors, ner
from xmtl_ray.data import images as image_files
from xmtl_ray.data.user_documents import Documents, UserDocument
from xmtl_ray.events.event_lines import DocumentEvents, SourceImage, as_line
from xmtl_ray.events.records import DataError, Entity, Image, Span
from xmtl_ray.inference.coreference import clip_similarity, how
from xmtl_ray.inference.extract import Extractor
from xmtl_ray.models import weights
from xmtl_ray.serving import shards


@dataclass(frozen=True)
class Job:
    """What is predicted with."""

    models: tuple[Path, ...]
    hashes: tuple[str, ...]
    """sha256 of each model's weights."""
    spec: Inference
    detector: detectors.Choice | None = None
    ner: ner.NerChoice | None = None
    gpu: bool = False


class Predictor:
    """Predicts shards of a source's documents and commits each as a file.

    Args:
        job: what to predict with; paths must be reachable here.
        documents: the source.
        parts: folder of the shards' files.

    Raises ModelFolderError, EncoderError, DetectorError, NerError.
    """

    def __init__(self, job: Job, documents: Documents, parts: Path) -> None:
        self.job, self.documents, self.parts = job, documents, parts
        device = torch.device("cuda" if job.gpu else "cpu")
        loaded = [weights.load(folder) for folder in job.models]
        for each in loaded:
            each.model.to(device)
        rule = job.spec.coreference
        similarity = clip_similarity(rule.encoder, rule.threshold, device)
        self.rule = how(similarity)
        self.extract = Extractor(loaded, job.spec, similarity)
        text = self.extract.scorer.by_task.get("td")
        self.codec = None if text is None else text.codec
        self.detector = None if job.detector is None else detectors.load(job.detector)
        self.finder = None if job.ner is None else ner.EntityFinder(job.ner, str(device))

    def __call__(self, batch: shards.Batch) -> shards.Done:
        """Commit each shard that is not there yet."""
        return shards.commit(batch, self.parts, lambda _, names: [self._line(name) for name in names], self.job.gpu)

    def _line(self, name: str) -> str:
        try:
            return as_line(self.predict(self.documents.read(name))) + "\n"
        except DataError as error:
            return shards.refused(name, str(error))

    def predict(self, given: UserDocument) -> DocumentEvents:
        """Everything in one document. Raises DataError, for an image that cannot be read."""
        whole = self._with_candidates(given)
        cut = 0 if self.codec is None else self.codec.cut_words
        found = self.extract([whole.document])
        return DocumentEvents(
            whole.document.id,
            whole.sentences,
            whole.images,
            found.text,
            found.image,
            found.multimedia,
            self.job.hashes,
            self.rule,
            "given" if given.has_entities else "found" if self.finder is not None else "none",
            0 if self.codec is None else self.codec.cut_words - cut,
        )

    def _with_candidates(self, given: UserDocument) -> UserDocument:
        """The document with the entities and objects that its owner has left to be found."""
        document = given.document
        sentences, images, listed = document.sentences, document.images, given.images
        if self.finder is not None and not given.has_entities:
            pairs = zip(sentences, given.sentences, strict=True)
            sentences = tuple(replace(sentence, entities=self._entities(source)) for sentence, source in pairs)
        if self.detector is not None:
            images, listed = _unzip(self._detected(*pair) for pair in zip(document.images, given.images, strict=True))
        document = replace(document, sentences=sentences, images=images)
        return replace(given, document=document, images=listed)

    def _entities(self, source: Any) -> tuple[Entity, ...]:
        assert self.finder is not None
        start = source.characters.start
        return self.finder(source.text, [Span(word.start - start, word.end - start) for word in source.words])

    def _detected(self, image: Image, listed: SourceImage) -> tuple[Image, SourceImage]:
        """The image by itself: what a detector makes of several at once may hang on their sizes."""
        assert self.detector is not None
        if listed.objects != "none" or image.path is None:
            return image, listed
        (found,) = self.detector([image_files.read(image.path)])
        return replace(image, objects=found), replace(listed, objects="found")


def _unzip(pairs: Iterator[tuple[Image, SourceImage]]) -> tuple[tuple[Image, ...], tuple[SourceImage, ...]]:
    both = list(pairs)
    return tuple(image for image, _ in both), tuple(listed for _, listed in both)
