"""The actors of a labelling: triggers (td), types (vc), then roles (ae, rc) of pairs whose sides agree, and the commit.

Each loads only the teachers that it needs. What goes from one to the next is a shard's number, the file with its pairs
and the answers so far, as JSON. The surprising fact: a shard is always cut into the same forward passes, in one thread
on a CPU, so its answers depend neither on the number of actors nor on who labelled what before.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import torch

from xmtl_ray.config.schema import TaskName, Thresholds
from xmtl_ray.data import parquet, pseudo_labels
from xmtl_ray.data.pseudo_labels import LabelledArgument, LabelledObject, LabelledPair
from xmtl_ray.data.pseudo_selection import select
from xmtl_ray.data.remote import Copy
from xmtl_ray.distill.plan import without_folder
from xmtl_ray.events.ontology import m2e2, mentions
from xmtl_ray.events.records import DataError
from xmtl_ray.inference.scorer import Question, Scorer
from xmtl_ray.models import weights

Row = dict[str, Any]
"""A shard on its way: ``key``; ``todo``, a Parquet file of its pairs; ``images``, their folder; what stages add."""


class Stage(ABC):
    """An actor with its teachers, which notes when it was busy.

    Args:
        folders: of the teachers, by task.
        batch: inputs of a forward pass.
        gpu: whether the teachers' weights go to the actor's GPU.
        copy: of the images, if they lie behind a URI.
    """

    name: str

    def __init__(self, folders: dict[TaskName, str], batch: int, gpu: bool, copy: Copy | None = None) -> None:
        if copy is not None:
            copy.ensure()
        if not gpu:
            torch.set_num_threads(1)
        models = {folder: weights.load(Path(folder)) for folder in dict.fromkeys(folders.values())}
        for loaded in models.values():
            loaded.model.to("cuda" if gpu else "cpu")
        self.scorer = Scorer(list(models.values()), batch) if models else None
        self.id, self.ready = uuid4().hex, time.time()

    def __call__(self, row: Row) -> Row:
        """Add this stage's answers, and to ``busy`` its stretch: [stage, actor, ready, start, end], in seconds."""
        start = time.time()
        added = self.answer(row)
        stretches = [*json.loads(row["busy"]), [self.name, self.id, self.ready, start, time.time()]]
        return row | added | {"busy": json.dumps(stretches)}

    @abstractmethod
    def answer(self, row: Row) -> Row:
        """What the stage says of a shard."""


class Triggers(Stage):
    """td: adds ``triggers``, for each pair that can be labelled [tags, probability of the path]."""

    name = "triggers"

    def answer(self, row: Row) -> Row:
        """Ask of every sentence."""
        assert self.scorer is not None
        tags = m2e2().tags
        found = self.scorer.triggers([pair.words for pair in _pairs(row) if pair.reason is None])
        # Eq. 5 in fp32 may pass 1 by its last digit.
        told = [[[tags[tag] for tag in each.tags], min(each.probability, 1.0)] for each in found]
        return {"triggers": json.dumps(told)}


class Types(Stage):
    """vc: adds ``types``, for each pair that can be labelled its probabilities, or why its image cannot be read."""

    name = "types"

    def answer(self, row: Row) -> Row:
        """Ask of every image that can be decoded."""
        assert self.scorer is not None
        pairs = [pair for pair in _pairs(row) if pair.reason is None]
        reasons: dict[str, str] = {}
        for pair in pairs:
            try:
                self.scorer.decode(_path(row, pair), "vc")
            except DataError as error:
                reasons[pair.id] = without_folder(error, Path(row["images"]))
        readable = [pair for pair in pairs if pair.id not in reasons]
        found = dict(
            zip(
                (pair.id for pair in readable),
                self.scorer.types([_path(row, pair) for pair in readable]),
                strict=True,
            )
        )
        return {"types": json.dumps([reasons.get(pair.id) or found[pair.id] for pair in pairs])}


class Roles(Stage):
    """ae and rc of pairs whose sides share a type; commits the shard; adds ``refused``, its quarantine.

    Args:
        store: the folder.
        floor: how sure both sides must be of the type that they share.
        folders, batch, gpu, copy: see ``Stage``; either task, or both, may lack a teacher.
    """

    name = "roles"

    def __init__(
        self,
        store: str,
        floor: float,
        folders: dict[TaskName, str],
        batch: int,
        gpu: bool,
        copy: Copy | None = None,
    ) -> None:
        super().__init__(folders, batch, gpu, copy)
        self.store, self.floor = Path(store), floor

    def answer(self, row: Row) -> Row:
        """Bring the answers together, ask for roles, write."""
        rows = self._roles(row, _labelled(row, self.floor))
        pseudo_labels.commit(self.store, row["key"], rows)
        refused = {pair.id: pair.reason for pair in rows if pair.reason is not None}
        return {"refused": json.dumps(refused), "pairs": len(rows)}

    def _roles(self, row: Row, rows: Sequence[LabelledPair]) -> list[LabelledPair]:
        agreeing = [pair for pair in rows if pair.asked]
        questions = [
            (pair.id, Question(pair.words, entity, trigger, event_type))
            for pair in agreeing
            for event_type, trigger in mentions(pair.tags)
            for entity in dict.fromkeys(entity.span for entity in pair.entities)
            if self._has("ae")
        ]
        candidates = [
            (pair.id, _path(row, pair), box)
            for pair in agreeing
            for box in dict.fromkeys(item.box for item in pair.objects)
            if self._has("rc")
        ]
        arguments: dict[str, list[LabelledArgument]] = {pair.id: [] for pair in agreeing}
        objects: dict[str, list[LabelledObject]] = {pair.id: [] for pair in agreeing}
        if questions:
            assert self.scorer is not None
            answers = self.scorer.argument_roles([question for _, question in questions])
            for (name, asked), answer in zip(questions, answers, strict=True):
                arguments[name].append(LabelledArgument(asked.event_type, asked.trigger, asked.entity, *answer))
        if candidates:
            assert self.scorer is not None
            answers = self.scorer.object_roles([(path, box) for _, path, box in candidates])
            for (name, _, box), answer in zip(candidates, answers, strict=True):
                objects[name].append(LabelledObject(box, *answer))
        return [
            replace(pair, text_arguments=tuple(arguments[pair.id]), image_arguments=tuple(objects[pair.id]))
            if pair.asked
            else pair
            for pair in rows
        ]

    def _has(self, task: TaskName) -> bool:
        return self.scorer is not None and task in self.scorer.by_task


def _labelled(row: Row, floor: float) -> list[LabelledPair]:
    """The shard's pairs with the answers of the first two stages."""
    answers = zip(json.loads(row["triggers"]), json.loads(row["types"]), strict=True)
    rows: list[LabelledPair] = []
    for pair in _pairs(row):
        if pair.reason is not None:
            rows.append(pair)
            continue
        (tags, probability), types = next(answers)
        if isinstance(types, str):
            rows.append(replace(pair, reason=types))
            continue
        labelled = replace(pair, tags=tuple(tags), path_probability=probability, types=tuple(types))
        agree = select([labelled], Thresholds(td=floor, vc=floor)).kept
        rows.append(replace(labelled, asked=bool(agree)))
    return rows


def _pairs(row: Row) -> list[LabelledPair]:
    return list(parquet.stream(Path(row["todo"]), LabelledPair))


def _path(row: Row, pair: LabelledPair) -> Path:
    return Path(row["images"]) / pair.image
