"""Examples of several tasks → one batch: text of all text tasks together, images of all image tasks together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from xmtl_ray.config.schema import PSEUDO, TaskName, Term, TextPrompt, VisualPrompt
from xmtl_ray.data.images import Canvases
from xmtl_ray.data.prompts import EntityPrompt, entity_prompt, object_prompt
from xmtl_ray.events.ontology import m2e2
from xmtl_ray.models.inputs import Inputs, TensorRecord, TextCodec, normalise
from xmtl_ray.multitask.examples import ArgumentExample, Example, RoleExample, TriggerExample, VerbExample


@dataclass(frozen=True)
class Batch(TensorRecord):
    """Inputs and, per task, its targets, gold ones first; None where the batch has no example of the task."""

    inputs: Inputs
    td: Tensor | None = None
    """[B, W] tag indices, 0 beyond the sentence."""
    ae: Tensor | None = None
    """[B] role indices."""
    vc: Tensor | None = None
    """[B, types] 1.0 where the image shows the type."""
    rc: Tensor | None = None
    """[B] role indices."""
    gold: Mapping[TaskName, int] = field(default_factory=dict)
    """How many of a task's rows are gold, where the others are pseudo-labels; a task that is not here has only gold."""


class Collate:
    """Makes a :class:`Batch` of the examples of each task and its twin: one pass of an encoder serves all of them."""

    def __init__(
        self,
        codec: TextCodec | None,
        canvases: Canvases | None,
        image_px: int,
        text_prompt: TextPrompt,
        visual_prompt: VisualPrompt,
    ) -> None:
        self.codec, self.canvases, self.image_px = codec, canvases, image_px
        self.text_prompt, self.visual_prompt = text_prompt, visual_prompt

    def __call__(self, examples: Mapping[Term, Sequence[Example]]) -> Batch:
        """Tasks and twins may be missing or empty; a task without either has None for targets."""
        rows = {task: [*examples.get(task, ()), *examples.get(twin, ())] for task, twin in PSEUDO.items()}
        td: Sequence[TriggerExample] = rows["td"]  # type: ignore[assignment]
        ae: Sequence[ArgumentExample] = rows["ae"]  # type: ignore[assignment]
        vc: Sequence[VerbExample] = rows["vc"]  # type: ignore[assignment]
        rc: Sequence[RoleExample] = rows["rc"]  # type: ignore[assignment]
        text = pixels = tags = None
        if td or ae:
            assert self.codec is not None
            text = self.codec([example.words for example in td], [self._prompt(example) for example in ae])
            if td:
                tags = torch.zeros(text.words.shape, dtype=torch.long)
                for row, example in enumerate(td):
                    kept = int(text.word_mask[row].sum())
                    tags[row, :kept] = torch.tensor(example.tags[:kept])
        if vc or rc:
            assert self.canvases is not None
            arrays = [self.canvases(example.path).array for example in vc]
            for example in rc:
                canvas = self.canvases(example.path)
                box = canvas.fractions(example.box)
                mark = self.visual_prompt
                arrays.append(object_prompt(canvas.array, box, mark.line_px, mark.color, mark.kind))
            pixels = normalise(arrays, self.image_px)
        return Batch(
            inputs=Inputs(text, pixels, len(vc)),
            td=tags,
            ae=torch.tensor([example.role for example in ae]) if ae else None,
            vc=_multi_hot([example.types for example in vc]) if vc else None,
            rc=torch.tensor([example.role for example in rc]) if rc else None,
            gold={task: len(examples.get(task, ())) for task, twin in PSEUDO.items() if examples.get(twin)},
        )

    def _prompt(self, example: ArgumentExample) -> EntityPrompt:
        assert self.codec is not None
        prompt, appended = self.text_prompt, self.codec.argument == "concat"
        about = (example.words, example.entity, example.trigger, example.event_type)
        return entity_prompt(*about, prompt.marker, prompt.event_type, appended)


def _multi_hot(rows: Sequence[Sequence[int]]) -> Tensor:
    hot = torch.zeros(len(rows), len(m2e2().types))
    for row, types in enumerate(rows):
        hot[row, list(types)] = 1
    return hot
