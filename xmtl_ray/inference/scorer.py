"""What models say of sentences, images and argument candidates, each answer with its probability.

One model for all tasks or one for each. Decides nothing: which answers become events is ``extract``'s business, which
become pseudo-labels is a selection's.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from xmtl_ray.config.schema import TaskName
from xmtl_ray.data.images import Canvases
from xmtl_ray.data.prompts import EntityPrompt, entity_prompt, object_prompt
from xmtl_ray.events.ontology import m2e2, mentions
from xmtl_ray.events.records import Box, Span
from xmtl_ray.models.heads import favour_events
from xmtl_ray.models.inputs import Inputs, TextCodec, normalise
from xmtl_ray.models.weights import LoadedModel

T = TypeVar("T")


class Triggers(NamedTuple):
    """The best tag path of a sentence."""

    mentions: tuple[tuple[str, Span], ...]
    """(event type, trigger)."""
    tags: tuple[int, ...]
    """One index a word; words that were cut off are O."""
    probability: float
    """Of the whole path, Eq. 5."""


class Question(NamedTuple):
    """Which role does an entity have in an event?"""

    words: Sequence[str]
    entity: Span
    trigger: Span
    event_type: str


class Answer(NamedTuple):
    """The most probable role (``None`` included) and its probability."""

    role: str
    probability: float


class Scorer:
    """Models that answer for the tasks they have; of two with one task the last.

    Each model gets its inputs as it was trained: its own prompts, canvas and length.

    Args:
        models: in evaluation mode after this, on one device.
        batch: inputs per forward pass. Padding changes no answer but the last digits of its probability.
    """

    def __init__(self, models: Sequence[LoadedModel], batch: int) -> None:
        self.by_task: dict[TaskName, LoadedModel] = {task: loaded for loaded in models for task in loaded.model.tasks}
        for loaded in models:
            loaded.model.eval()
        self.batch = batch
        self.device = next(models[0].model.parameters()).device
        self._canvases: dict[int, Canvases] = {}

    @torch.inference_mode()
    def triggers(self, sentences: Sequence[Sequence[str]], bias: float = 0.0) -> list[Triggers]:
        """td: the best path of every sentence; ``bias`` as ``inference.trigger_bias``. A sentence needs a word."""
        model, codec = self._text("td")
        tags, found = m2e2().tags, dict[int, Triggers]()
        # Like lengths together: less padding.
        for some in _batches(sorted(range(len(sentences)), key=lambda index: len(sentences[index])), self.batch):
            inputs = Inputs(codec([sentences[index] for index in some]), None).to(self.device)
            assert inputs.text is not None
            mask = inputs.text.word_mask
            probability, best = model.crf(favour_events(model(inputs)["td"], bias), mask)
            rows = zip(some, best.tolist(), mask.sum(1).tolist(), probability.tolist(), strict=True)
            for index, padded, length, sure in rows:
                path = padded[:length] + [0] * (len(sentences[index]) - length)
                found[index] = Triggers(tuple(mentions([tags[tag] for tag in path])), tuple(path), sure)
        return [found[index] for index in range(len(sentences))]

    @torch.inference_mode()
    def argument_roles(self, questions: Sequence[Question]) -> list[Answer]:
        """ae: the role of each entity in each event."""
        if not questions:
            return []
        _, codec = self._text("ae")
        prompt, appended = self.by_task["ae"].config.data.text_prompt, codec.argument == "concat"
        answers: list[Answer] = []
        for some in _batches(questions, self.batch):
            prompts: list[EntityPrompt] = [
                entity_prompt(*question, prompt.marker, prompt.event_type, appended) for question in some
            ]
            answers += _answers(self.by_task["ae"].model(Inputs(codec([], prompts), None).to(self.device))["ae"])
        return answers

    @torch.inference_mode()
    def types(self, images: Sequence[Path]) -> list[list[float]]:
        """vc: the probability of each of the ontology's types, for each image."""
        model, canvases = self._image("vc")
        rows: list[list[float]] = []
        for some in _batches(images, self.batch):
            pixels = normalise([canvases(path).array for path in some], model.image_px)
            rows += model(Inputs(None, pixels, len(some)).to(self.device))["vc"].sigmoid().tolist()
        return rows

    def decode(self, path: Path, task: TaskName) -> None:
        """Read an image ahead, as ``task`` will need it: raises DataError where that cannot be done."""
        _, canvases = self._image(task)
        canvases(path)

    @torch.inference_mode()
    def object_roles(self, objects: Sequence[tuple[Path, Box]]) -> list[Answer]:
        """rc: the role of each object in its image."""
        if not objects:
            return []
        model, canvases = self._image("rc")
        prompt = self.by_task["rc"].config.data.visual_prompt
        answers: list[Answer] = []
        for some in _batches(objects, self.batch):
            marked = []
            for path, box in some:
                canvas = canvases(path)
                where = canvas.fractions(box)
                marked.append(object_prompt(canvas.array, where, prompt.line_px, prompt.color, prompt.kind))
            pixels = normalise(marked, model.image_px)
            answers += _answers(model(Inputs(None, pixels, 0).to(self.device))["rc"])
        return answers

    def _text(self, task: TaskName) -> tuple[torch.nn.Module, TextCodec]:
        loaded = self.by_task[task]
        assert loaded.codec is not None
        return loaded.model, loaded.codec

    def _image(self, task: TaskName) -> tuple[torch.nn.Module, Canvases]:
        loaded = self.by_task[task]
        side, memory = loaded.config.data.visual_prompt.canvas_px, loaded.config.data.image_cache_mib
        return loaded.model, self._canvases.setdefault(side, Canvases(side, memory))


def _answers(scores: Tensor) -> list[Answer]:
    """Logits [B, roles] → the most probable role of each row, Eq. 7 and 11."""
    roles = m2e2().roles
    probability, best = scores.float().softmax(1).max(1)
    return [Answer(roles[index], sure) for index, sure in zip(best.tolist(), probability.tolist(), strict=True)]


def _batches(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
