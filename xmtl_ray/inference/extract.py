"""Documents → text events, visual events and coreferring pairs, by one trained model or one for each task.

Textual argument candidates are the documents' entities, visual ones their detections, as in the paper. Two passes per
modality: events first, then the arguments of the events found. Every prediction carries its probability.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from xmtl_ray.config.schema import Inference
from xmtl_ray.events.ontology import NONE, m2e2
from xmtl_ray.events.predictions import Predictions
from xmtl_ray.events.records import (
    Document,
    Image,
    Sentence,
    TextArgument,
    TextEvent,
    VisualArgument,
    VisualEvent,
)
from xmtl_ray.inference.coreference import Similarity, pairs
from xmtl_ray.inference.scorer import Question, Scorer
from xmtl_ray.models.weights import LoadedModel


class Extractor:
    """Models with the settings that turn their scores into events.

    Args:
        models: tasks that none of them has are not predicted (no td: no text events, and so on).
        spec: thresholds and rules; usually those of the model's own config.
        similarity: image-text similarity for coreference; None lets the same type be enough.
    """

    def __init__(self, models: Sequence[LoadedModel], spec: Inference, similarity: Similarity | None = None) -> None:
        self.scorer, self.spec, self.similarity = Scorer(models, spec.batch), spec, similarity

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
        """Sentence id → events: triggers by the CRF, then a role for every (event, entity).

        An event's confidence is the probability of its sentence's whole tag path.
        """
        if "td" not in self.scorer.by_task:
            return {}
        worded = [sentence for sentence in sentences if sentence.words]
        best = self.scorer.triggers([sentence.words for sentence in worded], self.spec.trigger_bias)
        asked = [
            (sentence, number, entity)
            for sentence, found in zip(worded, best, strict=True)
            for number in range(len(found.mentions))
            for entity in sentence.entities
            if "ae" in self.scorer.by_task
        ]
        by_sentence = {sentence.id: found.mentions for sentence, found in zip(worded, best, strict=True)}
        questions = []
        for sentence, number, entity in asked:
            event_type, trigger = by_sentence[sentence.id][number]
            questions.append(Question(sentence.words, entity.span, trigger, event_type))
        arguments = defaultdict[tuple[str, int], list[TextArgument]](list)
        answers = self.scorer.argument_roles(questions)
        for (sentence, number, entity), answer in zip(asked, answers, strict=True):
            if self._keeps(by_sentence[sentence.id][number][0], answer.role):
                arguments[sentence.id, number].append(TextArgument(answer.role, entity.span, answer.probability))
        return {
            sentence.id: tuple(
                TextEvent(event_type, trigger, tuple(arguments[sentence.id, number]), found.probability)
                for number, (event_type, trigger) in enumerate(found.mentions)
            )
            for sentence, found in zip(worded, best, strict=True)
        }

    def visual_events(self, images: Sequence[Image]) -> dict[str, tuple[VisualEvent, ...]]:
        """Image id → events: every type above the threshold, the surest first, then a role for every detection."""
        if "vc" not in self.scorer.by_task:
            return {}
        types = m2e2().types
        paths = {image.id: image.path for image in images if image.path is not None}
        shown: dict[str, list[tuple[str, float]]] = {}
        for key, row in zip(paths, self.scorer.types(list(paths.values())), strict=True):
            ranked = sorted(range(len(types)), key=lambda index: -row[index])
            shown[key] = [(types[index], row[index]) for index in ranked if row[index] > self.spec.verb_threshold]
        candidates = [
            (image.id, item.box)
            for image in images
            if shown.get(image.id) and "rc" in self.scorer.by_task
            for item in image.objects
            if item.confidence >= self.spec.object_confidence
        ]
        answers = self.scorer.object_roles([(paths[key], box) for key, box in candidates])
        arguments = defaultdict[str, list[VisualArgument]](list)
        for (key, box), answer in zip(candidates, answers, strict=True):
            arguments[key].append(VisualArgument(answer.role, box, confidence=answer.probability))
        return {
            key: tuple(
                VisualEvent(
                    event_type,
                    tuple(
                        argument
                        for argument in arguments[key]
                        if (self.spec.all_types or rank == 0) and self._keeps(event_type, argument.role)
                    ),
                    sure,
                )
                for rank, (event_type, sure) in enumerate(events)
            )
            for key, events in shown.items()
        }

    def _keeps(self, event_type: str, role: str) -> bool:
        return role != NONE and (not self.spec.schema_filter or m2e2().allows(event_type, role))
