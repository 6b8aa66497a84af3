"""Documents → text events, visual events and coreferring pairs, by a trained model.

Textual argument candidates are the documents' entities, visual ones their detections, as in the paper. Two passes per
modality: events first, then the arguments of the events found.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor

from xmtl_ray.config.schema import Config
from xmtl_ray.data.images import Canvases
from xmtl_ray.data.prompts import EntityPrompt, entity_prompt, object_prompt
from xmtl_ray.events.ontology import NONE, m2e2, mentions
from xmtl_ray.events.predictions import Predictions
from xmtl_ray.events.records import (
    DetectedObject,
    Document,
    Entity,
    Image,
    Sentence,
    TextArgument,
    TextEvent,
    VisualArgument,
    VisualEvent,
)
from xmtl_ray.inference.coreference import Similarity, pairs
from xmtl_ray.models.heads import favour_events
from xmtl_ray.models.inputs import Inputs, normalise
from xmtl_ray.models.weights import LoadedModel

T = TypeVar("T")


class Extractor:
    """A loaded model with the settings that turn its scores into events.

    Args:
        loaded: the model; tasks that it lacks are not predicted (no td: no text events, and so on).
        config: a run's settings, for ``inference`` and prompts; usually the model's own.
        similarity: image-text similarity for coreference; None lets the same type be enough.
    """

    def __init__(self, loaded: LoadedModel, config: Config, similarity: Similarity | None = None) -> None:
        self.model, self.codec = loaded.model.eval(), loaded.codec
        self.spec, self.data = config.inference, config.data
        self.similarity = similarity
        self.canvases = Canvases(config.data.visual_prompt.canvas_px, config.data.image_cache_mib)
        self.device = next(self.model.parameters()).device

    @torch.inference_mode()
    def __call__(self, documents: Sequence[Document]) -> Predictions:
        """Predict every sentence and image of ``documents``; an image without a file gets no prediction."""
        sentences = [sentence for document in documents for sentence in document.sentences]
        images = [image for document in documents for image in document.images]
        text, image = self.text_events(sentences), self.visual_events(images)
        found = [pair for document in documents for pair in pairs(document, text, image, self.similarity)]
        return Predictions(
            {key: events for key, events in text.items() if events},
            {key: events for key, events in image.items() if events},
            tuple(found),
        )

    def text_events(self, sentences: Sequence[Sentence]) -> dict[str, tuple[TextEvent, ...]]:
        """Sentence id → events: triggers by the CRF, then a role for every (event, entity)."""
        if "td" not in self.model.tasks:
            return {}
        assert self.codec is not None
        tags, found = m2e2().tags, dict[str, list[TextEvent]]()
        # Like lengths together: less padding, and padding changes no output.
        for some in _batches(sorted((s for s in sentences if s.words), key=lambda s: len(s.words)), self.spec.batch):
            inputs = Inputs(self.codec([sentence.words for sentence in some]), None).to(self.device)
            assert inputs.text is not None
            scores = favour_events(self.model(inputs)["td"], self.spec.trigger_bias)
            _, best = self.model.crf(scores, inputs.text.word_mask)
            for sentence, path, length in zip(some, best.tolist(), inputs.text.word_mask.sum(1).tolist(), strict=True):
                found[sentence.id] = [
                    TextEvent(event_type, span) for event_type, span in mentions([tags[i] for i in path[:length]])
                ]
        if "ae" not in self.model.tasks:
            return {key: tuple(events) for key, events in found.items()}
        questions = [
            (sentence, number, entity)
            for sentence in sentences
            for number in range(len(found.get(sentence.id, ())))
            for entity in sentence.entities
        ]
        arguments = defaultdict[tuple[str, int], list[TextArgument]](list)
        for some_questions in _batches(questions, self.spec.batch):
            prompts = [self._text_prompt(s, found[s.id][number], entity) for s, number, entity in some_questions]
            scores = self.model(Inputs(self.codec([], prompts), None).to(self.device))["ae"]
            for (sentence, number, entity), role in zip(some_questions, self._roles(scores), strict=True):
                if self._keeps(found[sentence.id][number].type, role):
                    arguments[sentence.id, number].append(TextArgument(role, entity.span))
        return {
            key: tuple(
                TextEvent(event.type, event.trigger, tuple(arguments[key, number]))
                for number, event in enumerate(events)
            )
            for key, events in found.items()
        }

    def visual_events(self, images: Sequence[Image]) -> dict[str, tuple[VisualEvent, ...]]:
        """Image id → events: every type above the threshold, then a role for every detection."""
        if "vc" not in self.model.tasks:
            return {}
        types, shown = m2e2().types, dict[str, list[str]]()
        for some in _batches([image for image in images if image.path is not None], self.spec.batch):
            pixels = normalise([self.canvases(image.path).array for image in some], self.model.image_px)
            probability = self.model(Inputs(None, pixels, len(some)).to(self.device))["vc"].sigmoid()
            for image, row in zip(some, probability.tolist(), strict=True):
                ranked = sorted(range(len(types)), key=lambda index: -row[index])
                shown[image.id] = [types[index] for index in ranked if row[index] > self.spec.verb_threshold]
        arguments = defaultdict[str, list[tuple[str, DetectedObject]]](list)
        if "rc" in self.model.tasks:
            for some_objects in _batches(list(self._candidates(images, shown)), self.spec.batch):
                pixels = normalise([self._marked(image, item) for image, item in some_objects], self.model.image_px)
                scores = self.model(Inputs(None, pixels, 0).to(self.device))["rc"]
                for (image, item), role in zip(some_objects, self._roles(scores), strict=True):
                    arguments[image.id].append((role, item))
        return {
            key: tuple(
                VisualEvent(
                    event_type,
                    tuple(
                        VisualArgument(role, item.box)
                        for role, item in arguments[key]
                        if (self.spec.all_types or rank == 0) and self._keeps(event_type, role)
                    ),
                )
                for rank, event_type in enumerate(event_types)
            )
            for key, event_types in shown.items()
        }

    def _candidates(
        self, images: Sequence[Image], shown: dict[str, list[str]]
    ) -> Iterator[tuple[Image, DetectedObject]]:
        for image in images:
            if shown.get(image.id):
                for item in image.objects:
                    if item.confidence >= self.spec.object_confidence:
                        yield image, item

    def _marked(self, image: Image, item: DetectedObject) -> object:
        assert image.path is not None
        canvas, prompt = self.canvases(image.path), self.data.visual_prompt
        return object_prompt(canvas.array, canvas.fractions(item.box), prompt.line_px, prompt.color, prompt.kind)

    def _text_prompt(self, sentence: Sentence, event: TextEvent, entity: Entity) -> EntityPrompt:
        assert self.codec is not None
        prompt, appended = self.data.text_prompt, self.codec.argument == "concat"
        about = (sentence.words, entity.span, event.trigger, event.type)
        return entity_prompt(*about, prompt.marker, prompt.event_type, appended)

    def _roles(self, scores: Tensor) -> list[str]:
        roles = m2e2().roles
        return [roles[index] for index in scores.argmax(1).tolist()]

    def _keeps(self, event_type: str, role: str) -> bool:
        return role != NONE and (not self.spec.schema_filter or m2e2().allows(event_type, role))


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
