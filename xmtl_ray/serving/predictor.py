"""What predicts documents, in this process or as an actor of Ray: models, detector, named entities and similarity.

A document is always predicted by itself: neither how many there are, nor which stand beside it in a shard, nor which
actor has it can change what is found in it. The surprising fact: a broken document is no exception here but a line of
its shard, so that one of a hundred thousand does not stop a job whose owner has said that it may be left out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from xmtl_ray.config.schema import Inference
from xmtl_ray.data import detectors, ner
from xmtl_ray.data import images as image_files
from xmtl_ray.data.objects import write_whole
from xmtl_ray.data.user_documents import Documents, UserDocument
from xmtl_ray.events.event_lines import DocumentEvents, SourceImage, as_line
from xmtl_ray.events.records import DataError, Entity, Image, Span
from xmtl_ray.inference.coreference import clip_similarity, how
from xmtl_ray.inference.extract import Extractor
from xmtl_ray.models import weights


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


def shard_path(parts: Path, key: str) -> Path:
    """The file of a shard: a line for each of its documents."""
    return parts / f"{key}.jsonl"


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

    def __call__(self, shards: dict[str, Any]) -> dict[str, list[Any]]:
        """Commit each shard that is not there yet.

        Returns for each shard its key, how many documents it has, and of the broken ones the first's words.
        """
        if not self.job.gpu:
            # Sums over another number of threads differ in their last digits, and so would the file.
            threads = torch.get_num_threads()
            torch.set_num_threads(1)
            try:
                return self._shards(shards)
            finally:
                torch.set_num_threads(threads)
        return self._shards(shards)

    def _shards(self, shards: dict[str, Any]) -> dict[str, list[Any]]:
        keys, counts, broken = [], [], []
        for key, names in zip(shards["key"], shards["names"], strict=True):
            path, found = shard_path(self.parts, key), ""
            # A shard whose actor died after it was committed comes again.
            if not path.exists():
                lines = [self._line(str(name)) for name in names]
                write_whole(path, lambda file, lines=lines: file.write_text("".join(lines), encoding="utf-8"))
            with path.open(encoding="utf-8") as file:
                found = next((reason for line in file if (reason := refusal(line)) is not None), "")
            keys.append(key)
            counts.append(len(names))
            broken.append(found)
        return {"key": keys, "documents": counts, "broken": broken}

    def _line(self, name: str) -> str:
        try:
            return as_line(self.predict(self.documents.read(name))) + "\n"
        except DataError as error:
            return json.dumps({"refused": name, "reason": str(error)}, ensure_ascii=False) + "\n"

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


def refusal(line: str) -> str | None:
    """Why the document of a shard's line was refused; None for one that was predicted."""
    return str(json.loads(line)["reason"]) if line.startswith('{"refused":') else None
